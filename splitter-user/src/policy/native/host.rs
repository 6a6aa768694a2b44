//! Names of hosts that the node resolves.
//!
//! Each is one whole name: what a name server is asked for. What it stands for is not known here.

use std::net::IpAddr;

use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::mesh::read::is_host;
use crate::policy::reader::Reader;
use crate::policy::words::quote;
use crate::policy::yaml::NodeId;

/// Why text is not a name, and what to write instead.
struct Fault {
    what: &'static str,
    help: String,
}

/// Reads a name, to lower case and without the dot at its end.
pub(super) fn read_host(reader: &mut Reader<'_>, node: NodeId) -> Option<String> {
    let text = reader.string(node, "a host name")?;
    match parse_host(text) {
        Ok(name) => Some(name),
        Err(Fault { what, help }) => {
            let message = format!("{} is {what}", quote(text));
            let at = reader.span(node);
            reader.push(Diagnostic::new(&code::NOT_RESOLVABLE, at, message).with_help(help));
            None
        }
    }
}

fn parse_host(text: &str) -> Result<String, Fault> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    let fault = |what, help: &str| Err(Fault { what, help: help.to_owned() });
    if is_numeric(text) {
        return Err(Fault { what: "no host name but an address", help: as_cidr(text) });
    }
    if name.contains('*') {
        return fault(
            "a pattern of names, which no name server resolves",
            "the kernel sees addresses and no names: write every name, or the networks with `cidr`",
        );
    }
    if !is_host(name) {
        return fault(
            "not a host name",
            "write a DNS name such as `api.example.com`: letters, digits and hyphens, with dots \
             between; names of other scripts as `xn--...`",
        );
    }
    if !name.contains('.') {
        return fault(
            "not the full name of a host",
            "write all of it, such as `api.example.com`: what a short name means depends on the \
             domains that each client searches",
        );
    }
    Ok(name.to_owned())
}

/// Whether text is an address, a range of them, or meant to be one: no domain ends with a number.
fn is_numeric(text: &str) -> bool {
    let ip = text.split_once('/').map_or(text, |(ip, _)| ip);
    let last = ip.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    ip.parse::<IpAddr>().is_ok()
        || !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())
}

fn as_cidr(text: &str) -> String {
    format!(
        "write `cidr: {}`",
        if text.contains(':') { format!("\"{text}\"") } else { text.into() }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_has_one_form() {
        for text in ["api.example.com", "API.Example.COM", "api.example.com.", "Api.example.com."] {
            assert_eq!(parse_host(text).ok().as_deref(), Some("api.example.com"), "{text}");
        }
        for text in ["xn--bcher-kva.example", "_tcp.db-1.internal", "1.2.3.example", "a.b"] {
            assert_eq!(parse_host(text).ok().as_deref(), Some(text));
        }
    }

    #[test]
    fn what_is_no_name_is_told_apart() {
        let long = format!("{}.com", "a".repeat(64));
        for (text, what) in [
            ("10.0.0.1", "address"),
            ("10.0.0.0/8", "address"),
            ("10.0.0.256", "address"),
            ("fd00::1", "address"),
            ("fd00::/8", "address"),
            ("*.example.com", "pattern"),
            ("*", "pattern"),
            ("api.*.com", "pattern"),
            ("localhost", "full name"),
            ("com.", "full name"),
            ("", "not a host name"),
            (".", "not a host name"),
            ("a..b", "not a host name"),
            ("api.example.com:443", "not a host name"),
            ("https://api.example.com/", "not a host name"),
            ("b\u{fc}cher.example", "not a host name"),
            (&long, "not a host name"),
        ] {
            let fault = parse_host(text).expect_err(text);
            assert!(fault.what.contains(what), "{text}: {}", fault.what);
        }
    }
}
