//! What a socket is matched by: its network namespace, mark, and type of service.

use splitter_common::abi::DSCP;

use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::model::{Mark, NETNS_NAMES, NetnsName};
use crate::policy::reader::Reader;
use crate::policy::words::quote;
use crate::policy::yaml::{NodeId, Value};

pub(super) fn read_netns(reader: &mut Reader<'_>, node: NodeId) -> Option<NetnsName> {
    let name = reader.string(node, "a network namespace")?;
    let found = parse_netns(name);
    if found.is_none() {
        let message = format!("{} is not a network namespace", quote(name));
        let help = "write a name of `ip netns`, an absolute path such as /run/docker/netns/NAME, or \
                    `net:[4026531840]` as `readlink /proc/PID/ns/net` shows it; files of processes, \
                    below /proc, come and go and are not looked at";
        let at = reader.span(node);
        reader.push(Diagnostic::new(&code::BAD_NETNS, at, message).with_help(help));
    }
    found
}

/// A name of `ip netns`, an absolute path, or `net:[INODE]`.
pub(crate) fn parse_netns(text: &str) -> Option<NetnsName> {
    if let Some(inode) = text.strip_prefix("net:[") {
        let inode = inode.strip_suffix(']')?.parse().ok()?;
        return Some(NetnsName::Inode(inode)).filter(|_| inode > 0);
    }
    let path = if text.starts_with('/') { text.to_owned() } else { format!("{NETNS_NAMES}{text}") };
    let is_name = text.starts_with('/') || !text.contains('/');
    let mut parts = path.split('/').skip(1);
    let is_clean = parts.all(|part| !matches!(part, "" | "." | ".."));
    let is_plain = !text.chars().any(char::is_control) && !text.starts_with("/proc/");
    (is_name && is_clean && is_plain).then_some(NetnsName::Path(path))
}

pub(super) fn read_mark(reader: &mut Reader<'_>, node: NodeId) -> Option<Mark> {
    let Value::Scalar(scalar) = reader.value(node) else {
        return reader.wrong_type(node, "a mark", "a number", "write `mark: 0x2a`");
    };
    let (value, mask) = scalar.text.split_once('/').unwrap_or((&scalar.text, "0xffffffff"));
    let (help, message) = match (parse_number(value), parse_number(mask)) {
        (Some(_), Some(0)) => ("write `0xff`, or leave the mask out", "the mask has no bits"),
        (Some(value), Some(mask)) if value & !mask == 0 => return Some(Mark { value, mask }),
        (Some(_), Some(_)) => (
            "no socket would fit: leave these bits out of the mark, or put them into the mask",
            "the mark has bits that are not in its mask",
        ),
        _ => (
            "write a number of 32 bits, with a mask or without: `0x2a`, `42`, `0x2a/0xff`",
            "this is not a mark",
        ),
    };
    let at = reader.span(node);
    let message = format!("{message}: {}", quote(&scalar.text));
    reader.push(Diagnostic::new(&code::BAD_MARK, at, message).with_help(help));
    None
}

pub(super) fn read_tos(reader: &mut Reader<'_>, node: NodeId) -> Option<u8> {
    let Value::Scalar(scalar) = reader.value(node) else {
        return reader.wrong_type(node, "`tos`", "a number", "write `tos: 0x28`");
    };
    let number = parse_number(&scalar.text);
    let tos = number.filter(|number| number & !DSCP == 0).and_then(|tos| u8::try_from(tos).ok());
    if tos.is_none() {
        let message = format!("{} is not a type of service that is matched", quote(&scalar.text));
        let help = match number {
            Some(number @ 0..=0xff) => {
                let below = number & DSCP;
                format!("the low two bits are the kernel's, for congestion: write {below:#x}")
            }
            _ => "write the value of IP_TOS, a multiple of 4 such as `0x28`; it is four times the \
                  DSCP"
                .to_owned(),
        };
        let at = reader.span(node);
        reader.push(Diagnostic::new(&code::BAD_TOS, at, message).with_help(help));
    }
    tos
}

/// A decimal or hexadecimal number.
pub(crate) fn parse_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).ok()
        }
        None if text.bytes().all(|digit| digit.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_networks() {
        let path = |path: &str| Some(NetnsName::Path(path.to_owned()));
        assert_eq!(parse_netns("web"), path("/run/netns/web"));
        assert_eq!(parse_netns("/run/docker/netns/x"), path("/run/docker/netns/x"));
        assert_eq!(parse_netns("net:[4026531840]"), Some(NetnsName::Inode(4_026_531_840)));
        for text in [
            "",
            "a/b",
            "/",
            "/a/",
            "/a/../b",
            "..",
            "net:[]",
            "net:[0]",
            "net:[1",
            "a\n",
            "/proc/1/ns/net",
        ] {
            assert_eq!(parse_netns(text), None, "{text}");
        }
    }

    #[test]
    fn numbers() {
        for (text, number) in [("0", 0), ("42", 42), ("0x2a", 42), ("0xffffffff", u32::MAX)] {
            assert_eq!(parse_number(text), Some(number), "{text}");
        }
        for text in ["", "0x", "-1", "+1", "0x+1", "4294967296", "x"] {
            assert_eq!(parse_number(text), None, "{text}");
        }
    }
}
