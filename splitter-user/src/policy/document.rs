//! Which form a document is in, and what every form leaves behind.

use super::code;
use super::diagnostic::{Diagnostic, Report, Span};
use super::mesh::resource::{ClientSelector, Resource};
use super::model::{ClientMatch, Frontend, Service};
use super::reader::Reader;
use super::words::{list, nearest, quote};
use super::yaml::{self, NodeId, Value};
use super::{Reading, gateway_api, istio, kubernetes, mesh, native};

/// The group of the native form.
pub(super) const GROUP: &str = "splitter.dev";
/// The `apiVersion` of the native form.
pub(super) const API_VERSION: &str = "splitter.dev/v1";
/// The `kind` of a native service.
pub(super) const KIND: &str = "Split";
/// The `kind` of what clients may reach besides the services.
pub(super) const EGRESS: &str = "Egress";

/// What a document, or an item of a list, holds.
pub(super) enum Document {
    /// A native service.
    Service(Box<Draft>),
    /// A part of services, to be put together with others.
    Resource(Box<Resource>),
}

/// A service as read, with the places that rules between services and routes point at.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) service: Service,
    pub(super) places: Places,
}

/// Where the parts of a service stand.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    pub(super) name: Span,
    /// Namespace of the document, where it has one or is read in one.
    pub(super) namespace: String,
    /// Every frontend of the text, duplicates included, in its order.
    pub(super) frontends: Vec<(Frontend, Span)>,
    /// In parallel to the service's subsets.
    pub(super) subsets: Vec<SubsetPlaces>,
    /// In parallel to the service's routes.
    pub(super) routes: Vec<RoutePlaces>,
    /// Where it says which datagrams are split, if it does.
    pub(super) datagrams: Option<Span>,
    /// Whether every route of the text was understood, so that what is missing is missing.
    pub(super) routes_complete: bool,
}

/// Where the parts of a subset stand.
#[derive(Clone, Debug)]
pub(super) struct SubsetPlaces {
    pub(super) name: Span,
    /// In parallel to the subset's backends.
    pub(super) backends: Vec<Span>,
    /// Where it says which address connections are made from, if it does.
    pub(super) source: Option<Span>,
    /// Where it says what becomes of connections beyond a limit, if it does.
    pub(super) over_limit: Option<Span>,
}

/// Where the parts of a route stand.
#[derive(Clone, Debug)]
pub(super) struct RoutePlaces {
    pub(super) route: Span,
    /// In parallel to the route's matches.
    pub(super) matches: Vec<MatchPlace>,
    /// Where it says what becomes of the share of a subset without backends, if it does.
    pub(super) on_empty: Option<Span>,
}

/// A match as it is written, and where.
#[derive(Clone, Debug)]
pub(super) struct MatchPlace {
    /// What is said of the client itself.
    pub(super) client: ClientMatch,
    /// Labels that stand for the cgroups of clients that other documents describe.
    pub(super) selector: Option<ClientSelector>,
    pub(super) at: Span,
}

/// Reads one object. `None` where it is in error.
type Read = fn(&mut Reader<'_>, NodeId, &Reading) -> Option<Document>;

/// A kind of object that is known.
pub(super) struct Kind {
    /// Its `kind`.
    pub(super) name: &'static str,
    /// Its API group; empty for Kubernetes' core.
    pub(super) group: &'static str,
    /// Versions of the group that have it in this form.
    pub(super) versions: &'static [&'static str],
    /// What becomes of it.
    pub(super) fate: KindFate,
}

/// What becomes of objects of a kind.
pub(super) enum KindFate {
    /// It is read.
    Read(Read),
    /// It is not about connections; deployments mix it in.
    Inert,
    /// It asks for something that is not done.
    NotEnforced,
}

const NATIVE: &[&str] = &["v1"];
const KINDS: &[Kind] = &[
    Kind { name: KIND, group: GROUP, versions: NATIVE, fate: KindFate::Read(native::read) },
    Kind {
        name: "Workload",
        group: GROUP,
        versions: NATIVE,
        fate: KindFate::Read(mesh::workload::read),
    },
    Kind {
        name: EGRESS,
        group: GROUP,
        versions: NATIVE,
        fate: KindFate::Read(native::read_egress),
    },
];

fn kinds() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().chain(istio::KINDS).chain(kubernetes::KINDS).chain(gateway_api::KINDS)
}

/// Reads a document of any accepted kind, or every item of a list of such.
pub(super) fn read(
    document: &yaml::Document<'_>,
    report: &mut Report,
    reading: &Reading,
) -> Vec<Document> {
    let mut reader = Reader::new(&document.tree, report);
    read_object(&mut reader, document.root, reading)
}

fn read_object(reader: &mut Reader<'_>, node: NodeId, reading: &Reading) -> Vec<Document> {
    if is_list(reader, node) {
        return read_items(reader, node, reading);
    }
    let Some(kind) = find_kind(reader, node) else { return Vec::new() };
    match &kind.fate {
        KindFate::Read(read) => read(reader, node, reading).into_iter().collect(),
        KindFate::Inert => Vec::new(),
        KindFate::NotEnforced => {
            not_enforced(reader, node, kind);
            Vec::new()
        }
    }
}

/// `v1` `List`, and the typed lists that API servers answer.
fn is_list(reader: &Reader<'_>, node: NodeId) -> bool {
    let kind = reader.peek(node, "kind").and_then(|kind| reader.text(kind));
    let is_sequence =
        |items| matches!(reader.value(items), Value::Sequence(_)) || reader.is_null(items);
    kind.is_some_and(|kind| kind.ends_with("List"))
        && reader.peek(node, "items").is_some_and(is_sequence)
}

fn read_items(reader: &mut Reader<'_>, node: NodeId, reading: &Reading) -> Vec<Document> {
    let keys = ["apiVersion", "kind", "metadata", "items"];
    let Some(fields) = reader.fields(node, "the list", &keys) else { return Vec::new() };
    let items = fields.value("items").map_or(&[][..], |items| match reader.value(items) {
        Value::Sequence(items) => items,
        _ => &[],
    });
    items.iter().flat_map(|item| read_object(reader, *item, reading)).collect()
}

/// Looks at group and kind alone, since the other keys of a foreign kind are its own affair. A
/// document that does not say what it is, is taken for a service, which has the messages about it.
fn find_kind(reader: &mut Reader<'_>, node: NodeId) -> Option<&'static Kind> {
    let given = |name| reader.peek(node, name).filter(|node| !reader.is_null(*node));
    match (given("kind"), given("apiVersion")) {
        (None, None) => KINDS.first(),
        (None, Some(version)) => without_kind(reader, node, version),
        (Some(kind), None) => without_version(reader, node, kind),
        (Some(kind), Some(version)) => {
            let word = reader.string(kind, "`kind`");
            let text = reader.string(version, "`apiVersion`");
            look_up(reader, (kind, word?), (version, text?))
        }
    }
}

fn look_up(
    reader: &mut Reader<'_>,
    (kind, word): (NodeId, &str),
    (version, text): (NodeId, &str),
) -> Option<&'static Kind> {
    let (group, number) = text.rsplit_once('/').unwrap_or(("", text));
    let of_kind = of_kind(word);
    let found = of_kind.iter().find(|known| known.group == group).copied();
    if of_kind.is_empty() && !kinds().any(|known| known.group == group) {
        skipped(reader, version, word, group);
    } else if of_kind.is_empty() {
        unknown_kind(reader, kind, word, Some(group));
    } else if !found.is_some_and(|known| known.versions.contains(&number)) {
        unknown_version(reader, version, word, text, &of_kind);
    }
    found
}

fn without_kind(reader: &mut Reader<'_>, node: NodeId, version: NodeId) -> Option<&'static Kind> {
    let text = reader.string(version, "`apiVersion`")?;
    if text == API_VERSION {
        return KINDS.first();
    }
    let group = text.rsplit_once('/').map_or("", |(group, _)| group);
    let at = reader.span(node);
    reader.missing(at, "the document", "kind", &kinds_help(Some(group)));
    None
}

fn without_version(reader: &mut Reader<'_>, node: NodeId, kind: NodeId) -> Option<&'static Kind> {
    let word = reader.string(kind, "`kind`")?;
    if word == KIND {
        return KINDS.first();
    }
    let of_kind = of_kind(word);
    if of_kind.is_empty() {
        unknown_kind(reader, kind, word, None);
    } else {
        let at = reader.span(node);
        reader.missing(at, "the document", "apiVersion", &versions_help(&of_kind));
    }
    None
}

/// Tools of all sorts keep their documents beside those of a mesh.
fn skipped(reader: &mut Reader<'_>, version: NodeId, word: &str, group: &str) {
    let message = format!("{} of the group {} is skipped", quote(word), quote(group));
    let at = reader.span(version);
    reader.push(Diagnostic::new(&code::KIND_SKIPPED, at, message).with_help(
        "the group is not one of splitter, Istio, Kubernetes or the Gateway API, so this is taken \
         to be another tool's",
    ));
}

fn of_kind(word: &str) -> Vec<&'static Kind> {
    kinds().filter(|known| known.name == word).collect()
}

/// The kinds of a group; what there is at all where it has none.
pub(super) fn kinds_help(group: Option<&str>) -> String {
    let of_group = kinds().filter(|known| Some(known.group) == group);
    let of_group: Vec<&str> = of_group.map(|known| known.name).collect();
    match of_group[..] {
        [] => {
            let native: Vec<&str> = KINDS.iter().map(|known| known.name).collect();
            format!(
                "this loads {}, and kinds of Istio, Kubernetes and the Gateway API; see \
                 docs/policy.md",
                list(&native)
            )
        }
        [only] => format!("write `kind: {only}`"),
        _ => format!("the kinds of this group are: {}", list(&of_group)),
    }
}

/// What to write as `apiVersion` of one of some kinds.
fn versions_help(known: &[&'static Kind]) -> String {
    let full = |kind: &&'static Kind| {
        let prefix = if kind.group.is_empty() { String::new() } else { format!("{}/", kind.group) };
        kind.versions.iter().map(|version| format!("{prefix}{version}")).collect::<Vec<_>>()
    };
    let all: Vec<String> = known.iter().flat_map(full).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    match all[..] {
        [only] => format!("write `apiVersion: {only}`"),
        _ => format!("write one of: {}", list(&all)),
    }
}

fn unknown_kind(reader: &mut Reader<'_>, node: NodeId, word: &str, group: Option<&str>) {
    let message = format!("unknown kind {}", quote(word));
    let help = match nearest(word, kinds().map(|known| known.name)) {
        Some(guess) => format!("did you mean `{guess}`?"),
        None => kinds_help(group),
    };
    let at = reader.span(node);
    reader.push(Diagnostic::new(&code::UNKNOWN_KIND, at, message).with_help(help));
}

fn unknown_version(
    reader: &mut Reader<'_>,
    node: NodeId,
    word: &str,
    version: &str,
    known: &[&'static Kind],
) {
    let message = format!("unknown apiVersion {} for `kind: {word}`", quote(version));
    let at = reader.span(node);
    reader.push(
        Diagnostic::new(&code::UNKNOWN_API_VERSION, at, message).with_help(versions_help(known)),
    );
}

fn not_enforced(reader: &mut Reader<'_>, node: NodeId, kind: &Kind) {
    let at = reader.peek(node, "kind").map_or(reader.span(node), |kind| reader.span(kind));
    let message = format!("`kind: {}` is skipped: what it asks for is not enforced", kind.name);
    let help = "splitter chooses where connections go and does not see what is in them";
    reader.push(Diagnostic::new(&code::KIND_NOT_ENFORCED, at, message).with_help(help));
}

/// Reads documents that are known to be right, for tests of readers.
#[cfg(test)]
pub(super) fn read_resources(text: &str) -> Vec<Resource> {
    let mut report = Report::default();
    let mut documents = yaml::Documents::new(text, 0, 0);
    let mut resources = Vec::new();
    while let Some(document) = documents.next(&mut report) {
        for found in read(&document, &mut report, &Reading::default()) {
            let Document::Resource(resource) = found else { continue };
            resources.push(*resource);
        }
    }
    let problems = report.finish();
    assert!(problems.as_ref().is_ok_and(Vec::is_empty), "{problems:?}");
    resources
}
