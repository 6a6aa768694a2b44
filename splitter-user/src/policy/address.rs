//! Addresses as policies write them.
//!
//! Stricter than the standard library's parser where leniency hides mistakes: octal-looking
//! parts, ports with a sign, scope ids, and addresses that nobody can be dialled at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::code::{self, Code};
use super::model::{Frontend, Protocol};
use super::words::quote;

/// What is wrong with an address, still without a place.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) code: &'static Code,
    pub(super) message: String,
    pub(super) help: String,
}

fn fault<T>(code: &'static Code, message: String, help: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { code, message, help: help.into() })
}

/// Text is not a frontend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {help}")]
pub struct NotAFrontend {
    message: String,
    help: String,
}

impl FromStr for Frontend {
    type Err = NotAFrontend;

    /// Reads `ADDR:PORT`, `ADDR:PORT/tcp` or `ADDR:PORT/udp`, by the rules of the policy.
    fn from_str(text: &str) -> Result<Self, NotAFrontend> {
        parse_frontend(text)
            .map_err(|fault| NotAFrontend { message: fault.message, help: fault.help })
    }
}

/// Reads `ADDR:PORT`, `ADDR:PORT/tcp` or `ADDR:PORT/udp`.
pub(super) fn parse_frontend(text: &str) -> Result<Frontend, Fault> {
    let (endpoint, protocol) = match text.rsplit_once('/') {
        Some((endpoint, protocol)) => (endpoint, parse_protocol(protocol)?),
        None => (text, Protocol::Tcp),
    };
    Ok(Frontend { addr: parse_endpoint(endpoint)?, protocol })
}

/// Reads `ADDR:PORT` of a backend.
pub(super) fn parse_backend(text: &str) -> Result<SocketAddr, Fault> {
    if let Some((endpoint, _)) = text.rsplit_once('/') {
        return fault(
            &code::BACKEND_PROTOCOL,
            format!("a backend has no protocol of its own: {}", quote(text)),
            format!("write {}; the protocol is that of the frontend dialled", quote(endpoint)),
        );
    }
    parse_endpoint(text)
}

/// Reads `tcp` or `udp`.
pub(super) fn parse_protocol(text: &str) -> Result<Protocol, Fault> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => fault(
            &code::BAD_PROTOCOL,
            format!("{} is not a protocol that can be split", quote(text)),
            "write `tcp` or `udp`, in lower case; `tcp` is the default",
        ),
    }
}

fn parse_endpoint(text: &str) -> Result<SocketAddr, Fault> {
    let (host, port) = split_port(text)?;
    let ip = parse_ip(host)?;
    Ok(SocketAddr::new(ip, parse_port(port)?))
}

/// Separates host and port; brackets of IPv6 are taken off the host.
fn split_port(text: &str) -> Result<(&str, &str), Fault> {
    if let Some(inside) = text.strip_prefix('[') {
        let Some((host, rest)) = inside.split_once(']') else {
            return fault(
                &code::MALFORMED_ADDRESS,
                format!("{} has no closing bracket", quote(text)),
                "write IPv6 as \"[::1]:8080\"",
            );
        };
        if !host.contains(':') {
            return fault(
                &code::MALFORMED_ADDRESS,
                format!("{} has brackets around something that is not IPv6", quote(text)),
                "write IPv4 without brackets: \"127.0.0.1:8080\"",
            );
        }
        return rest.strip_prefix(':').map_or_else(|| no_port(text), |port| Ok((host, port)));
    }
    if text.parse::<Ipv6Addr>().is_ok() || text.matches(':').count() > 1 {
        return fault(
            &code::MALFORMED_ADDRESS,
            format!("IPv6 without brackets: {}", quote(text)),
            "put the address into brackets, so that the port can be told apart: \"[::1]:8080\"",
        );
    }
    text.split_once(':').map_or_else(|| no_port(text), Ok)
}

fn no_port<T>(text: &str) -> Result<T, Fault> {
    fault(
        &code::NO_PORT,
        format!("{} has no port", quote(text)),
        "write the address and the port: \"127.0.0.1:8080\" or \"[::1]:8080\"",
    )
}

/// Reads a port, given as text of its own or behind an address.
pub(super) fn parse_port(text: &str) -> Result<u16, Fault> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    match text.parse::<u16>() {
        Ok(port) if digits => Ok(port),
        _ => fault(
            &code::BAD_PORT,
            format!("{} is not a port", quote(text)),
            "write a number from 1 to 65535, without leading zeros; service names such as `http` \
             are not looked up",
        ),
    }
}

/// Reads an address without a port; v4-mapped IPv6 becomes IPv4.
pub(super) fn parse_ip(text: &str) -> Result<IpAddr, Fault> {
    if text.contains('%') {
        return fault(
            &code::SCOPE_ID,
            format!("{} has a scope id", quote(text)),
            "use an address that is valid on every interface: global, unique local or loopback",
        );
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return check_reachable(ip.to_canonical());
    }
    not_an_ip(text)
}

/// Says why text is not an address.
fn not_an_ip(text: &str) -> Result<IpAddr, Fault> {
    if text.parse::<SocketAddr>().is_ok() {
        return fault(
            &code::MALFORMED_ADDRESS,
            format!("{} has a port", quote(text)),
            "write the address alone: the port has a key of its own",
        );
    }
    let parts: Vec<&str> = text.split('.').collect();
    let numeric = parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    if numeric
        && parts.len() == 4
        && parts.iter().any(|part| part.len() > 1 && part.starts_with('0'))
    {
        return fault(
            &code::OCTAL_ADDRESS,
            format!("{} has a part with a leading zero", quote(text)),
            "write the parts in decimal without leading zeros: some programs read them as octal",
        );
    }
    if numeric || text.contains(':') {
        return fault(
            &code::MALFORMED_ADDRESS,
            format!("{} is not an IP address", quote(text)),
            "write IPv4 as four numbers from 0 to 255, IPv6 as \"[2001:db8::1]\"",
        );
    }
    fault(
        &code::NOT_AN_ADDRESS,
        format!("{} is not an IP address", quote(text)),
        "write an address: names are not looked up, because the answer may change under a \
         running policy",
    )
}

fn check_reachable(ip: IpAddr) -> Result<IpAddr, Fault> {
    if ip.is_unspecified() {
        return fault(
            &code::UNSPECIFIED,
            format!("`{ip}` is no address that a client dials or a server is reached at"),
            "write the one address that is meant, for example \"127.0.0.1\"; list several \
             frontends for several addresses",
        );
    }
    if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return fault(
            &code::MULTICAST,
            format!("`{ip}` is a multicast or broadcast address"),
            "write a unicast address: connections have one peer",
        );
    }
    Ok(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(text: &str) -> &'static str {
        parse_frontend(text).expect_err(text).code.id
    }

    #[test]
    fn good_frontends() {
        let frontend = |text| parse_frontend(text).expect(text);
        assert_eq!(frontend("127.0.0.1:80").protocol, Protocol::Tcp);
        assert_eq!(frontend("[::1]:80/udp").addr, "[::1]:80".parse().expect("v6"));
        assert_eq!(frontend("[::ffff:127.0.0.1]:80/tcp"), frontend("127.0.0.1:80"));
    }

    #[test]
    fn bad_frontends() {
        for (text, code) in [
            ("localhost:80", "SP0301"),
            ("", "SP0303"),
            ("010.0.0.1:80", "SP0302"),
            ("127.0.0.1", "SP0303"),
            ("[::1]", "SP0303"),
            ("127.0.0.1:", "SP0304"),
            ("127.0.0.1:0", "SP0304"),
            ("127.0.0.1:+80", "SP0304"),
            ("127.0.0.1:080", "SP0304"),
            ("127.0.0.1:65536", "SP0304"),
            ("0.0.0.0:80", "SP0305"),
            ("[::]:80", "SP0305"),
            ("[::ffff:0.0.0.0]:80", "SP0305"),
            ("224.0.0.1:80", "SP0306"),
            ("[ff02::1]:80", "SP0306"),
            ("255.255.255.255:80", "SP0306"),
            ("[fe80::1%eth0]:80", "SP0307"),
            ("127.0.0.1:80/TCP", "SP0308"),
            ("127.0.0.1:80/", "SP0308"),
            ("::1", "SP0310"),
            ("::1:80", "SP0310"),
            ("[::1", "SP0310"),
            ("256.0.0.1:80", "SP0310"),
            ("1.2.3:80", "SP0310"),
            ("[127.0.0.1]:80", "SP0310"),
        ] {
            assert_eq!(code_of(text), code, "{text}");
        }
    }
}
