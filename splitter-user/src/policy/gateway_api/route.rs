//! `HTTPRoute`, `TCPRoute` and `UDPRoute`.
//!
//! Of the rules of a route one is in force: the first that takes every connection. A rule that
//! looks into requests is an error, so that none is dropped without a word.

use splitter_common::abi::MAX_SPLIT;

use super::refs::{read_backends, read_parents};
use super::{filter, matches};
use crate::policy::diagnostic::{Diagnostic, Span};
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, meaningless, read, refused};
use crate::policy::mesh::meta::read_object;
use crate::policy::mesh::resource::{BackendRef, GatewayRoute, GatewayRule, Resource, RouteKind};
use crate::policy::reader::{Fields, Reader};
use crate::policy::yaml::NodeId;
use crate::policy::{Reading, code};

/// Most rules that a route may have, where it may have several.
const MAX_RULES: usize = 16;

const DOCUMENT: &[Field] =
    &[inert("apiVersion"), inert("kind"), inert("metadata"), read("spec"), inert("status")];

const DEFAULT_GATEWAYS: Field = refused(
    "useDefaultGateways",
    &code::NOT_ENFORCED,
    "name the Gateway in `parentRefs`; until then the route attaches to nothing else",
);
/// `HTTPRouteSpec`.
const HTTP_SPEC: &[Field] =
    &[read("parentRefs"), DEFAULT_GATEWAYS, inert("hostnames"), read("rules")];
/// `TCPRouteSpec`, `UDPRouteSpec`.
const L4_SPEC: &[Field] = &[read("parentRefs"), DEFAULT_GATEWAYS, read("rules")];

/// `HTTPRouteRule`.
const HTTP_RULE: &[Field] = &[
    read("name"),
    read("matches"),
    read("filters"),
    read("backendRefs"),
    meaningless("timeouts", "a request's time is the client's own affair: set it there"),
    meaningless("retry", "a failed connection is the client's to repeat: set it there"),
    meaningless(
        "sessionPersistence",
        "requests of one connection stay together anyway; for more, `affinity` of `kind: Split` \
         keeps a client on its subset",
    ),
];
/// `TCPRouteRule`, `UDPRouteRule`.
const L4_RULE: &[Field] = &[read("name"), read("backendRefs")];

const SPEC_HELP: &str = "write `spec:` with `parentRefs` and `rules` below it";
const RULES_HELP: &str = "write `rules: [{backendRefs: [{name: NAME, port: 8080}]}]`";
const BACKENDS_HELP: &str = "write `backendRefs: [{name: NAME, port: 8080}]`";

/// Reads an `HTTPRoute`.
pub(super) fn read_http(
    reader: &mut Reader<'_>,
    node: NodeId,
    reading: &Reading,
) -> Option<Document> {
    read_route(reader, node, reading, RouteKind::Http)
}

/// Reads a `TCPRoute`.
pub(super) fn read_tcp(
    reader: &mut Reader<'_>,
    node: NodeId,
    reading: &Reading,
) -> Option<Document> {
    read_route(reader, node, reading, RouteKind::Tcp)
}

/// Reads a `UDPRoute`.
pub(super) fn read_udp(
    reader: &mut Reader<'_>,
    node: NodeId,
    reading: &Reading,
) -> Option<Document> {
    read_route(reader, node, reading, RouteKind::Udp)
}

fn read_route(
    reader: &mut Reader<'_>,
    node: NodeId,
    reading: &Reading,
    kind: RouteKind,
) -> Option<Document> {
    let object = read_object(reader, node, reading, DOCUMENT)?;
    let spec = reader.required(&object.fields, "spec", SPEC_HELP)?;
    let table = if kind == RouteKind::Http { HTTP_SPEC } else { L4_SPEC };
    let spec = reader.object(spec, "the spec", table)?;
    let parents = read_parents(reader, &spec, &object.meta.namespace);
    let version = reader.peek(node, "apiVersion").and_then(|node| reader.text(node));
    let is_stable = version.is_some_and(|version| version.ends_with("/v1"));
    let max_rules = if is_stable && kind != RouteKind::Http { 1 } else { MAX_RULES };
    let rules = Rules { kind, namespace: &object.meta.namespace, max: max_rules };
    let rule = rules.read(reader, &spec);
    let route = GatewayRoute { kind, meta: object.meta, parents, rule };
    Some(Document::Resource(Box::new(Resource::Route(route))))
}

/// What the rules of a route depend on.
struct Rules<'m> {
    kind: RouteKind,
    /// Of the route, and of references that name none.
    namespace: &'m str,
    /// Most rules in this version of the form.
    max: usize,
}

impl Rules<'_> {
    /// The rule in force, where it was understood.
    fn read(&self, reader: &mut Reader<'_>, spec: &Fields<'_>) -> Option<GatewayRule> {
        let Some(node) = spec.value("rules") else { return self.absent(reader, spec) };
        let items = reader.items(node, "`rules`");
        if items.is_empty() {
            reader.empty(reader.span(node), "`rules`", RULES_HELP);
        }
        if let Some(beyond) = items.get(self.max) {
            self.too_many(reader, *beyond, items.len());
        }
        let mut first: Option<(Span, Option<GatewayRule>)> = None;
        for item in items.iter().take(self.max) {
            let at = reader.span(*item);
            let (takes_all, rule) = self.read_rule(reader, *item);
            match &first {
                Some((first, _)) => unreachable(reader, at, *first),
                None if takes_all => first = Some((at, rule)),
                None => {}
            }
        }
        let (_, rule) = first?;
        if let Some(rule) = rule.as_ref().filter(|_| self.kind == RouteKind::Http) {
            note_split(reader, rule);
        }
        rule
    }

    /// Of an `HTTPRoute`, one rule that takes everything and has no backend is assumed.
    fn absent(&self, reader: &mut Reader<'_>, spec: &Fields<'_>) -> Option<GatewayRule> {
        if self.kind == RouteKind::Http && !spec.may_mean(&["rules"]) {
            return Some(GatewayRule { name: None, at: spec.span(), backends: Vec::new() });
        }
        reader.required(spec, "rules", RULES_HELP);
        None
    }

    fn too_many(&self, reader: &mut Reader<'_>, beyond: NodeId, count: usize) {
        let message = format!("the route has {count} rules; at most {} are allowed here", self.max);
        let help = "keep the rule that shall be in force: without matches, it takes everything";
        let at = reader.span(beyond);
        reader.push(Diagnostic::new(&code::OUT_OF_RANGE, at, message).with_help(help));
    }

    /// Whether a rule takes every connection, and the rule where it was understood.
    fn read_rule(&self, reader: &mut Reader<'_>, node: NodeId) -> (bool, Option<GatewayRule>) {
        let table = if self.kind == RouteKind::Http { HTTP_RULE } else { L4_RULE };
        let Some(fields) = reader.object(node, "a rule", table) else { return (false, None) };
        let takes_all = fields.value("matches").is_none_or(|node| matches::take_all(reader, node));
        if let Some(node) = fields.value("filters") {
            filter::check_all(reader, node);
        }
        let name = fields.value("name").map(|node| reader.kube_name(node, "a rule"));
        let backends = self.read_rule_backends(reader, &fields);
        let rule = backends.map(|backends| GatewayRule {
            name: name.flatten().map(str::to_owned),
            at: fields.span(),
            backends,
        });
        (takes_all, rule)
    }

    /// `None` where not all were understood, since shares are about all of them.
    fn read_rule_backends(
        &self,
        reader: &mut Reader<'_>,
        rule: &Fields<'_>,
    ) -> Option<Vec<BackendRef>> {
        // A rule of an HTTPRoute may have none: it rejects everything.
        let is_optional = self.kind == RouteKind::Http && !rule.has_unknown();
        let Some(node) = rule.value("backendRefs") else {
            if is_optional {
                return Some(Vec::new());
            }
            reader.required(rule, "backendRefs", BACKENDS_HELP);
            return None;
        };
        let items = reader.list(node, "`backendRefs`", "begin each entry with `- `")?;
        if items.is_empty() && !is_optional {
            reader.empty(reader.span(node), "`backendRefs`", BACKENDS_HELP);
            return None;
        }
        if let Some(beyond) = items.get(MAX_SPLIT as usize) {
            too_wide(reader, *beyond, items.len());
        }
        let kept = items.get(..MAX_SPLIT as usize).unwrap_or(items);
        read_backends(reader, kept, self.kind, self.namespace)
    }
}

fn too_wide(reader: &mut Reader<'_>, beyond: NodeId, count: usize) {
    let message = format!("`backendRefs` has {count} entries; at most {MAX_SPLIT} are allowed");
    let at = reader.span(beyond);
    let help = "let one Service select the pods of several";
    reader.push(Diagnostic::new(&code::SPLIT_TOO_WIDE, at, message).with_help(help));
}

fn unreachable(reader: &mut Reader<'_>, at: Span, first: Span) {
    let message = "this rule takes nothing: an earlier one takes every connection";
    reader.push(
        Diagnostic::new(&code::RULE_UNREACHABLE, at, message)
            .with_secondary(first, "this one takes every connection")
            .with_help("delete the rule, or move its `backendRefs` to the first"),
    );
}

fn note_split(reader: &mut Reader<'_>, rule: &GatewayRule) {
    let mut served = rule.backends.iter().filter(|backend| backend.weight > 0);
    if served.nth(1).is_none() {
        return;
    }
    let message = "the weights split connections, not requests";
    let help = "all requests of a connection go one way: clients that keep few connections for \
                long shift the ratio of requests";
    reader.push(Diagnostic::new(&code::PER_CONNECTION, rule.at, message).with_help(help));
}
