//! `matches` of a rule of an `HTTPRoute`: the one match that takes everything, and errors.

use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::fields::{Field, read, unseen};
use crate::policy::reader::Reader;
use crate::policy::words::quote;
use crate::policy::yaml::NodeId;

const HELP: &str = "give what it selects a Service of its own, or keep this rule in a proxy";

/// `HTTPRouteMatch`.
const MATCH: &[Field] =
    &[read("path"), unseen("headers", HELP), unseen("queryParams", HELP), unseen("method", HELP)];
/// What of it no connection shows.
const UNSEEN: [&str; 3] = ["headers", "queryParams", "method"];

/// `HTTPPathMatch`.
const PATH: &[Field] = &[read("type"), read("value")];
const TYPES: [(&str, bool); 3] =
    [("PathPrefix", true), ("Exact", false), ("RegularExpression", false)];

/// Whether every match of a list takes everything. Others are reported.
pub(super) fn take_all(reader: &mut Reader<'_>, node: NodeId) -> bool {
    let Some(items) = reader.list(node, "`matches`", "begin each match with `- `") else {
        return false;
    };
    let mut all = true;
    for item in items {
        all &= takes_all(reader, *item);
    }
    all
}

fn takes_all(reader: &mut Reader<'_>, node: NodeId) -> bool {
    let Some(fields) = reader.object(node, "a match", MATCH) else { return false };
    let is_set = |name: &&str| {
        let value = reader.peek(node, name);
        value.is_some_and(|value| !reader.is_null(value) && !reader.is_unset(value))
    };
    let is_plain = !UNSEEN.iter().any(is_set) && !fields.has_unknown();
    fields.value("path").is_none_or(|path| is_every_path(reader, path)) && is_plain
}

/// Whether a path match is the default, `PathPrefix` of `/`.
fn is_every_path(reader: &mut Reader<'_>, node: NodeId) -> bool {
    let Some(fields) = reader.object(node, "a path", PATH) else { return false };
    let is_prefix = fields.value("type").map(|node| (node, reader.word(node, "a type", &TYPES)));
    let value = fields.value("value").map(|node| (node, reader.string(node, "`value`")));
    if let Some((node, Some(false))) = is_prefix {
        refuse(reader, node, "a match on the whole path");
        return false;
    }
    if let Some((node, Some(path))) = value.filter(|(_, value)| *value != Some("/")) {
        refuse(reader, node, &format!("a match on the path {}", quote(path)));
        return false;
    }
    is_prefix.is_none_or(|(_, word)| word.is_some()) && value.is_none_or(|(_, text)| text.is_some())
}

fn refuse(reader: &mut Reader<'_>, node: NodeId, what: &str) {
    let at = reader.span(node);
    let message = format!("{what}: {}", code::L7_MATCH.title);
    reader.push(Diagnostic::new(&code::L7_MATCH, at, message).with_help(HELP));
}
