//! `http`, `tcp` and `tls` of a `VirtualService`: what a rule does with the connections it takes,
//! and which rules of a list take none.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{fault, matching, retries, route};
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Span};
use crate::policy::fields::{Field, meaningless, proxied, read as field};
use crate::policy::mesh::resource::{At, Labels, Match, Rule, RuleAction};
use crate::policy::reader::{Fields, Reader};
use crate::policy::yaml::NodeId;

/// Which list a rule is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Http,
    Tcp,
    Tls,
}

const MIRROR: &str = "a connection has one end: copy requests in a proxy or in the client";
const BYTES: &str = "what is sent over a connection is not changed: do it in the server or a proxy";

/// `HTTPRoute`.
const HTTP: &[Field] = &[
    field("name"),
    field("match"),
    field("route"),
    proxied(
        "redirect",
        "answer it in the server, or give the clients the other host; `reject` of a native route \
         fails connections",
    ),
    proxied(
        "directResponse",
        "answer it in the server; `reject` of a native route fails connections",
    ),
    field("delegate"),
    meaningless("rewrite", BYTES),
    field("timeout"),
    field("retries"),
    field("fault"),
    meaningless("mirror", MIRROR),
    meaningless("mirrors", MIRROR),
    meaningless("mirrorPercent", MIRROR),
    meaningless("mirrorPercentage", MIRROR),
    meaningless("corsPolicy", "answer with CORS headers in the server"),
    meaningless("headers", BYTES),
];

/// `TCPRoute` and `TLSRoute`.
const TCP: &[Field] = &[field("match"), field("route")];

/// `Delegate`.
const DELEGATE: &[Field] = &[field("name"), field("namespace")];

/// Reads one of the lists; `hosts` are the document's.
pub(super) fn read_list(
    reader: &mut Reader<'_>,
    spec: &Fields<'_>,
    form: Form,
    hosts: &[At<String>],
) -> Vec<Rule> {
    let Some(entry) = spec.get(form.key()) else { return Vec::new() };
    let nodes = reader.items(entry.value, form.key());
    let mut rules = Vec::with_capacity(nodes.len());
    for node in nodes {
        let (rule, is_complete) = reader.watch(|reader| read(reader, *node, form, hosts));
        rules.extend(rule.map(|rule| Rule { complete: is_complete, ..rule }));
    }
    check_order(reader, &rules);
    rules
}

impl Form {
    /// Key of the list.
    fn key(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Http => "an http rule",
            Self::Tcp => "a tcp rule",
            Self::Tls => "a tls rule",
        }
    }
}

fn read(reader: &mut Reader<'_>, node: NodeId, form: Form, hosts: &[At<String>]) -> Option<Rule> {
    let table = if form == Form::Http { HTTP } else { TCP };
    let fields = reader.object(node, form.what(), table)?;
    let name = fields.value("name").and_then(|node| {
        let value = reader.string(node, "the name of a rule")?.to_owned();
        Some(At { value, at: reader.span(node) })
    });
    let matches = matching::read_all(reader, &fields, form, hosts);
    let action = read_action(reader, node, &fields, form);
    check_request_policies(reader, node, &fields);
    let fault = fields.value("fault").and_then(|node| fault::read(reader, node));
    Some(Rule { name, at: reader.span(node), matches, action, fault, complete: false })
}

/// `node` is the rule with the fields that were refused.
fn read_action(
    reader: &mut Reader<'_>,
    node: NodeId,
    fields: &Fields<'_>,
    form: Form,
) -> RuleAction {
    reader.exclude(fields, ["route", "delegate"], "delete one of the two");
    if let Some(node) = fields.value("route") {
        let destinations = route::read(reader, node, form);
        let is_empty = destinations.is_empty();
        return if is_empty { RuleAction::Unknown } else { RuleAction::Route(destinations) };
    }
    if let Some(node) = fields.value("delegate") {
        return read_delegate(reader, node).map_or(RuleAction::Unknown, RuleAction::Delegate);
    }
    let is_refused = ["redirect", "directResponse"]
        .iter()
        .any(|name| reader.peek(node, name).is_some_and(|value| !reader.is_null(value)));
    if !is_refused && !fields.may_mean(&["route", "delegate"]) {
        let message = format!("{} does not say where connections go", form.what());
        let help = "write `route: [{destination: {host: HOST}}]`";
        let diagnostic = Diagnostic::new(&code::NO_ACTION, reader.span(node), message);
        reader.push(diagnostic.with_help(help));
    }
    RuleAction::Unknown
}

fn read_delegate(reader: &mut Reader<'_>, node: NodeId) -> Option<At<(Option<String>, String)>> {
    let fields = reader.object(node, "a delegate", DELEGATE)?;
    let namespace = fields.value("namespace").map(|node| reader.name(node, "a namespace"));
    let help = "write the name of a virtual service without `hosts`";
    let name = reader.required(&fields, "name", help)?;
    let name = reader.kube_name(name, "a delegate")?.to_owned();
    let namespace = match namespace {
        Some(namespace) => Some(namespace?.to_owned()),
        None => None,
    };
    Some(At { value: (namespace, name), at: reader.span(node) })
}

/// Checks what would be done to requests; `node` is the rule with the fields that were refused.
fn check_request_policies(reader: &mut Reader<'_>, node: NodeId, fields: &Fields<'_>) {
    if let Some(entry) = fields.get("timeout") {
        retries::check_timeout(reader, entry);
    }
    if let Some(entry) = fields.get("retries") {
        retries::check(reader, entry);
    }
    let given = |name| reader.peek(node, name).filter(|value| !reader.is_null(*value));
    if let (Some(mirror), Some(mirrors)) = (given("mirror"), given("mirrors")) {
        let (first, second) = (reader.span(mirror), reader.span(mirrors));
        let message = "`mirror` and `mirrors` exclude each other";
        reader.push(
            Diagnostic::new(&code::EXCLUSIVE_KEYS, second, message)
                .with_secondary(first, "the other one")
                .with_help("delete one of the two"),
        );
    }
}

// ---- Rules of one list ----

/// A match without its places.
type Pattern = (Option<u16>, Labels, Option<String>, Vec<String>, Vec<(IpAddr, u8)>, Vec<String>);

fn pattern(found: &Match) -> Pattern {
    (
        found.port,
        found.source_labels.clone(),
        found.source_namespace.clone(),
        found.gateways.clone(),
        found.destination_subnets.iter().map(|net| (net.value.ip, net.value.prefix)).collect(),
        found.sni_hosts.iter().map(|host| host.value.clone()).collect(),
    )
}

/// Warns of rules and matches that take nothing, because earlier ones take it all. A delegate may
/// let connections through, so it takes nothing for sure.
fn check_order(reader: &mut Reader<'_>, rules: &[Rule]) {
    let everything = Pattern::default();
    let mut seen: BTreeMap<Pattern, Span> = BTreeMap::new();
    let mut catch_all: Option<Span> = None;
    for rule in rules.iter().filter(|rule| rule.complete) {
        if let Some(first) = catch_all {
            unreachable_rule(reader, rule.at, first);
            continue;
        }
        let is_delegate = matches!(rule.action, RuleAction::Delegate(_));
        let mut is_catch_all = rule.matches.is_empty();
        for found in rule.matches.iter().filter(|_| !is_delegate) {
            let pattern = pattern(found);
            is_catch_all |= pattern == everything;
            match seen.get(&pattern) {
                Some(first) => repeated_match(reader, found.at, *first),
                None => _ = seen.insert(pattern, found.at),
            }
        }
        catch_all = (is_catch_all && !is_delegate).then_some(rule.at);
    }
}

fn unreachable_rule(reader: &mut Reader<'_>, at: Span, first: Span) {
    let message = "the rule takes no connection: an earlier one takes them all";
    reader.push(
        Diagnostic::new(&code::RULE_UNREACHABLE, at, message)
            .with_secondary(first, "takes every connection")
            .with_help("put the rule without a match last"),
    );
}

fn repeated_match(reader: &mut Reader<'_>, at: Span, first: Span) {
    let message = "the match takes no connection: an earlier one is the same";
    reader.push(
        Diagnostic::new(&code::RULE_REPEATED, at, message)
            .with_label("again here")
            .with_secondary(first, "first here")
            .with_help("delete one of the two"),
    );
}
