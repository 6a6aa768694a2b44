//! Names of cgroups: a path, a unit, a container, or a pod.

use crate::policy::code::{self, Code};
use crate::policy::diagnostic::Diagnostic;
use crate::policy::model::CgroupName;
use crate::policy::native::route::exclusive;
use crate::policy::reader::{Fields, Reader};
use crate::policy::words::quote;
use crate::policy::yaml::NodeId;

/// The keys, of which one is given at most.
pub(in crate::policy) const KEYS: [&str; 4] = ["cgroup", "unit", "container", "pod"];
/// Longest path that the kernel resolves, with its terminating zero.
const PATH_MAX: usize = 4096;
/// Longest name of a unit.
const UNIT_MAX: usize = 255;
/// Kinds of units that have processes, or others below them.
const UNIT_KINDS: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];
/// Digits of a container's id, and how many of them tools show.
const ID_DIGITS: usize = 64;
const SHORT_ID_DIGITS: usize = 12;

/// The name at one of the keys. `None` where there is none, `Some(None)` where it is wrong.
#[expect(clippy::option_option, reason = "absent and wrong differ, and both are no value")]
pub(in crate::policy) fn read(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
) -> Option<Option<CgroupName>> {
    let mut given = KEYS.iter().filter_map(|key| fields.get(key));
    let first = given.next()?;
    if let Some(second) = given.next() {
        exclusive(reader, second, first, "each of them says which cgroup it is: keep one");
        return Some(None);
    }
    Some(match first.name {
        "cgroup" => read_path(reader, first.value).map(CgroupName::Path),
        "unit" => read_unit(reader, first.value).map(CgroupName::Unit),
        "container" => read_container(reader, first.value).map(CgroupName::Container),
        _ => read_pod(reader, first.value).map(CgroupName::Pod),
    })
}

fn read_path(reader: &mut Reader<'_>, node: NodeId) -> Option<String> {
    let path = reader.string(node, "a cgroup")?;
    let Some(help) = path_fault(path) else { return Some(path.to_owned()) };
    let message = format!("{} is not a cgroup path", quote(path));
    let at = reader.span(node);
    reader.push(Diagnostic::new(&code::BAD_CGROUP, at, message).with_help(help));
    None
}

/// What to do about a path that is not clean.
fn path_fault(path: &str) -> Option<String> {
    let Some(inside) = path.strip_prefix('/') else {
        return Some(format!("begin at the root of the cgroup2 hierarchy: \"/{path:.60}\""));
    };
    if path.starts_with("/sys/fs/cgroup") {
        return Some("leave the mount point /sys/fs/cgroup out".to_owned());
    }
    let help = if path.len() >= PATH_MAX {
        "the kernel resolves paths of at most 4095 bytes"
    } else if path.chars().any(char::is_control) {
        "cgroup names have no control characters"
    } else if inside.ends_with('/') {
        "remove the `/` at its end"
    } else if inside.split('/').any(|part| matches!(part, "." | ".."))
        || inside.contains("//")
        || inside.starts_with('/')
    {
        "write the path without `.`, `..` and `//`"
    } else {
        return None;
    };
    Some(help.to_owned())
}

fn read_unit(reader: &mut Reader<'_>, node: NodeId) -> Option<String> {
    let name = reader.string(node, "a unit")?;
    let refusal = (&code::BAD_UNIT, "a unit that has a cgroup");
    accept(reader, node, name, parse_unit(name), refusal)
}

fn read_container(reader: &mut Reader<'_>, node: NodeId) -> Option<String> {
    let id = reader.string(node, "a container's id")?;
    let refusal = (&code::BAD_CONTAINER, "the id of a container");
    accept(reader, node, id, parse_container(id), refusal)
}

fn read_pod(reader: &mut Reader<'_>, node: NodeId) -> Option<String> {
    let uid = reader.string(node, "a pod's uid")?;
    accept(reader, node, uid, parse_pod(uid), (&code::BAD_CONTAINER, "the uid of a pod"))
}

/// The name where it is good, and else a diagnostic with what to do.
fn accept(
    reader: &mut Reader<'_>,
    node: NodeId,
    name: &str,
    parsed: Result<String, String>,
    (code, what): (&'static Code, &str),
) -> Option<String> {
    match parsed {
        Ok(name) => Some(name),
        Err(help) => {
            let at = reader.span(node);
            let message = format!("{} is not {what}", quote(name));
            reader.push(Diagnostic::new(code, at, message).with_help(help));
            None
        }
    }
}

/// The name of a unit, or what to do about it.
pub(crate) fn parse_unit(name: &str) -> Result<String, String> {
    let (manager, unit) = match name.split_once('/') {
        Some((manager, unit)) => (Some(manager), unit),
        None => (None, name),
    };
    match manager.and_then(manager_fault).or_else(|| unit_fault(unit)) {
        Some(help) => Err(help),
        None => Ok(name.to_owned()),
    }
}

fn manager_fault(manager: &str) -> Option<String> {
    let user = manager.strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service"));
    let is_user = user.is_some_and(|user| user.parse::<u32>().is_ok());
    let help = "before a `/` stands the manager of a user: `user@1000.service/web.service`; for \
                other paths, write `cgroup: /...`";
    (!is_user).then(|| help.to_owned())
}

fn unit_fault(unit: &str) -> Option<String> {
    let is_plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
    let kind = UNIT_KINDS.iter().find(|kind| unit.ends_with(*kind));
    let name = kind.and_then(|kind| unit.strip_suffix(kind));
    match name {
        _ if unit.len() > UNIT_MAX => Some("names of units have at most 255 bytes".to_owned()),
        _ if !unit.chars().all(is_plain) => Some(
            "write the name as `systemctl` shows it: `systemd-escape` escapes other characters"
                .to_owned(),
        ),
        None => Some(format!("write it with its kind, such as `{unit:.60}.service`")),
        Some("" | "-") => Some("leave it out: every client is in the root".to_owned()),
        Some(template) if template.ends_with('@') => Some(format!(
            "a template has no processes: name an instance, `{template:.60}1.service`"
        )),
        Some(_) => None,
    }
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// The id of a container, or what to do about it.
pub(crate) fn parse_container(id: &str) -> Result<String, String> {
    if let Some((runtime, id)) = id.split_once("://") {
        return Err(format!("leave `{runtime:.20}://` out: `{id:.64}`"));
    }
    if is_digits(id) && (SHORT_ID_DIGITS..=ID_DIGITS).contains(&id.len()) {
        return Ok(id.to_owned());
    }
    let help = "write its id, 64 hexadecimal digits or the first 12 or more of them, as `docker ps \
                --no-trunc`, `podman ps --no-trunc` and `crictl ps --no-trunc` show it; names are \
                known to the runtime alone";
    Err(help.to_owned())
}

/// The uid of a pod, or what to do about it.
pub(crate) fn parse_pod(uid: &str) -> Result<String, String> {
    let lengths: Vec<usize> = uid.split('-').map(str::len).collect();
    let is_uid = matches!(lengths[..], [8, 4, 4, 4, 12] | [32]);
    if is_uid && uid.split('-').all(is_digits) {
        return Ok(uid.to_owned());
    }
    let help = "write `metadata.uid` of the pod, for static pods its annotation \
                `kubernetes.io/config.hash`; names are known to Kubernetes alone";
    Err(help.to_owned())
}
