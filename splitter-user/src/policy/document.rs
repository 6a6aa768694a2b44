//! Which form a document is in, and what every form leaves behind.

use super::code;
use super::diagnostic::{Diagnostic, Report, Span};
use super::model::{ClientMatch, Frontend, Service};
use super::native;
use super::reader::{Fields, Reader};
use super::words::{nearest, quote};
use super::yaml::{Document, NodeId};

/// The `apiVersion` of the native form.
pub(super) const API_VERSION: &str = "splitter.dev/v1";
/// The `kind` of the native form.
pub(super) const KIND: &str = "Split";

/// Kinds that people will try, and whose fate is worth a sentence.
const UNLOADED_KINDS: [&str; 11] = [
    "DestinationRule",
    "Egress",
    "EndpointSlice",
    "GRPCRoute",
    "Gateway",
    "HTTPRoute",
    "Service",
    "ServiceEntry",
    "TCPRoute",
    "VirtualService",
    "Workload",
];

/// A service as read, with the places that rules between services and routes point at.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) service: Service,
    pub(super) places: Places,
}

/// Where the parts of a service stand.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) name: Span,
    /// Every frontend of the text, duplicates included, in its order.
    pub(super) frontends: Vec<(Frontend, Span)>,
    /// In parallel to the service's subsets.
    pub(super) subsets: Vec<SubsetPlaces>,
    /// In parallel to the service's routes.
    pub(super) routes: Vec<RoutePlaces>,
    /// Whether every route of the text was understood, so that what is missing is missing.
    pub(super) routes_complete: bool,
}

/// Where the parts of a subset stand.
#[derive(Debug)]
pub(super) struct SubsetPlaces {
    pub(super) name: Span,
    /// In parallel to the subset's backends.
    pub(super) backends: Vec<Span>,
}

/// Where the parts of a route stand.
#[derive(Debug)]
pub(super) struct RoutePlaces {
    pub(super) route: Span,
    /// Matches and their places.
    pub(super) matches: Vec<(ClientMatch, Span)>,
}

/// Reads a document of any accepted kind.
pub(super) fn read(document: &Document<'_>, report: &mut Report) -> Option<Draft> {
    let mut reader = Reader::new(&document.tree, report);
    let keys = ["apiVersion", "kind", "metadata", "spec"];
    if !is_accepted_kind(&mut reader, document.root) {
        return None;
    }
    let fields = reader.fields(document.root, "the document", &keys)?;
    check_api_version(&mut reader, &fields);
    native::read(&mut reader, &fields)
}

/// Looks at the kind alone, since the other keys of a foreign kind are its own affair.
fn is_accepted_kind(reader: &mut Reader<'_>, root: NodeId) -> bool {
    let Some(kind) = reader.peek(root, "kind") else { return true };
    let Some(word) = reader.string(kind, "`kind`") else { return false };
    if word == KIND {
        return true;
    }
    let at = reader.span(kind);
    let diagnostic = if UNLOADED_KINDS.contains(&word) {
        Diagnostic::new(&code::UNLOADED_KIND, at, format!("`kind: {word}` is not loaded"))
            .with_help("this version loads only `kind: Split`; see docs/policy.md for its form")
    } else {
        let message = format!("unknown kind {}", quote(word));
        let help = match nearest(word, [KIND]) {
            Some(_) => "did you mean `Split`?",
            None => "this version loads only `kind: Split`",
        };
        Diagnostic::new(&code::UNKNOWN_KIND, at, message).with_help(help)
    };
    reader.push(diagnostic);
    false
}

fn check_api_version(reader: &mut Reader<'_>, fields: &Fields<'_>) {
    reader.required(fields, "kind", "write `kind: Split`");
    let help = format!("write `apiVersion: {API_VERSION}`");
    let Some(node) = reader.required(fields, "apiVersion", &help) else { return };
    let Some(version) = reader.string(node, "`apiVersion`") else { return };
    if version != API_VERSION {
        let message = format!("unknown apiVersion {} for `kind: Split`", quote(version));
        let at = reader.span(node);
        reader.push(Diagnostic::new(&code::UNKNOWN_API_VERSION, at, message).with_help(help));
    }
}
