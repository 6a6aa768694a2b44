//! `match` of a route: which clients it takes.

mod cgroup;
mod labels;
mod socket;

use splitter_common::abi::COMMAND_LEN;

use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::document::MatchPlace;
use crate::policy::mesh::resource::ClientSelector;
use crate::policy::model::ClientMatch;
use crate::policy::reader::Reader;
use crate::policy::words::quote;
use crate::policy::yaml::{NodeId, Value};
pub(in crate::policy) use cgroup::{KEYS as CGROUP_KEYS, read as read_cgroup_name};
pub(crate) use cgroup::{parse_container, parse_pod, parse_unit};
pub(super) use labels::{KEYS as LABEL_KEYS, read as read_selector};
pub(crate) use socket::{parse_netns, parse_number};

const EMPTY_HELP: &str = "leave `match` out to take every client";
/// What the client is by itself, and what its socket is.
const OWN_KEYS: [&str; 3] = ["uid", "gid", "command"];
const SOCKET_KEYS: [&str; 3] = ["netns", "mark", "tos"];

/// Reads one match or a list of them, of a document of a namespace. `None` where one is wrong.
pub(super) fn read_all(
    reader: &mut Reader<'_>,
    node: NodeId,
    namespace: &str,
) -> Option<Vec<MatchPlace>> {
    let value = reader.value(node);
    if let Value::Sequence([]) = value {
        reader.empty(reader.span(node), "`match`", EMPTY_HELP);
        return None;
    }
    let mut read = |node: &NodeId| {
        let (client, selector) = read(reader, *node, namespace)?;
        Some(MatchPlace { client, selector, at: reader.span(*node) })
    };
    match value {
        Value::Sequence(nodes) => {
            let matches: Vec<_> = nodes.iter().filter_map(&mut read).collect();
            (matches.len() == nodes.len()).then_some(matches)
        }
        _ => Some(vec![read(&node)?]),
    }
}

fn read(
    reader: &mut Reader<'_>,
    node: NodeId,
    namespace: &str,
) -> Option<(ClientMatch, Option<ClientSelector>)> {
    let keys = [&OWN_KEYS[..], &cgroup::KEYS, &labels::KEYS, &SOCKET_KEYS].concat();
    let fields = reader.fields(node, "a match", &keys)?;
    let [uid, gid, command] = OWN_KEYS.map(|key| fields.value(key));
    let [netns, mark, tos] = SOCKET_KEYS.map(|key| fields.value(key));
    let uid = uid.map(|node| read_id(reader, node, "uid"));
    let gid = gid.map(|node| read_id(reader, node, "gid"));
    let command = command.map(|node| read_command(reader, node));
    let cgroup = cgroup::read(reader, &fields);
    let selector = labels::read(reader, &fields, namespace);
    let netns = netns.map(|node| socket::read_netns(reader, node));
    let mark = mark.map(|node| socket::read_mark(reader, node));
    let tos = tos.map(|node| socket::read_tos(reader, node));
    if fields.is_empty() {
        if fields.has_unknown() {
            return None;
        }
        let diagnostic = Diagnostic::new(&code::EMPTY_MATCH, fields.span(), "a match has no field");
        reader.push(diagnostic.with_help(EMPTY_HELP));
        return None;
    }
    let client = ClientMatch {
        uid: given(uid)?,
        gid: given(gid)?,
        command: given(command)?,
        cgroup: given(cgroup)?,
        netns: given(netns)?,
        mark: given(mark)?,
        tos: given(tos)?,
    };
    Some((client, given(selector)?))
}

/// Tells a field that is absent (`Some(None)`) from one that is wrong (`None`).
#[expect(clippy::option_option, reason = "absent and wrong differ, and both are no value")]
fn given<T>(field: Option<Option<T>>) -> Option<Option<T>> {
    match field {
        None => Some(None),
        Some(value) => value.map(Some),
    }
}

fn read_id(reader: &mut Reader<'_>, node: NodeId, what: &str) -> Option<u32> {
    if let Value::Sequence(_) = reader.value(node) {
        let help =
            format!("for several, write a list of matches: `[{{{what}: 1}}, {{{what}: 2}}]`");
        return reader.wrong_type(node, &format!("a {what}"), "a number", &help);
    }
    if matches!(reader.value(node), Value::Scalar(scalar) if is_word(&scalar.text)) {
        let help = "write the number, as `id NAME` shows it: names differ between containers";
        return reader.wrong_type(node, &format!("a {what}"), "a number", help);
    }
    reader.number(node, &format!("a {what}"))
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

fn read_command(reader: &mut Reader<'_>, node: NodeId) -> Option<String> {
    let command = reader.string(node, "a command")?;
    let longest = COMMAND_LEN - 1;
    let (message, help) = if command.is_empty() {
        ("the command is empty".to_owned(), "leave it out to take every command".to_owned())
    } else if command.chars().any(char::is_control) {
        let message = format!("the command {} has control characters", quote(command));
        (message, "write the name as /proc/PID/comm shows it".to_owned())
    } else if command.len() > longest {
        let message = format!("the command {} has {} bytes", quote(command), command.len());
        let cut = command.floor_char_boundary(longest);
        let help = format!(
            "the kernel keeps {longest} bytes of a command's name: write `{}`",
            command.get(..cut).unwrap_or_default()
        );
        (message, help)
    } else {
        return Some(command.to_owned());
    };
    let at = reader.span(node);
    reader.push(Diagnostic::new(&code::BAD_COMMAND, at, message).with_help(help));
    None
}
