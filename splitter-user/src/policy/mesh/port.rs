//! Ports of services: what they speak, told from words, and that they can be told apart.
//!
//! Rules for HTTP, TLS and opaque TCP reach different ports, and nobody looks into a connection
//! here: what the documents say of a port is all there is.

use std::collections::HashMap;
use std::hash::Hash;

use super::resource::{Application, ServicePort, Transport};
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Span};
use crate::policy::reader::Reader;
use crate::policy::words::{quote, suggest};
use crate::policy::yaml::NodeId;

/// Istio's names of protocols, in any case.
const PROTOCOLS: &[(&str, Application)] = &[
    ("HTTP", Application::Http),
    ("HTTP2", Application::Http),
    ("HTTP_PROXY", Application::Http),
    ("GRPC", Application::Http),
    ("GRPC-WEB", Application::Http),
    ("HTTPS", Application::Tls),
    ("TLS", Application::Tls),
    ("TCP", Application::Tcp),
    ("MONGO", Application::Tcp),
    ("MYSQL", Application::Tcp),
    ("REDIS", Application::Tcp),
    ("UDP", Application::Tcp),
];

/// Names that Kubernetes gives to protocols in `appProtocol`.
const STANDARD: &[(&str, Application)] = &[
    ("kubernetes.io/h2c", Application::Http),
    ("kubernetes.io/ws", Application::Http),
    ("kubernetes.io/wss", Application::Tls),
];

/// Of mail, names and two databases: the server speaks first, so Istio never waits for the client's first
/// bytes to tell the protocol, and takes them for opaque.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

fn named(word: &str) -> Option<Application> {
    let found = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    found.map(|(_, application)| *application)
}

/// What a port of a Service speaks: by `appProtocol`, else by its name up to the first `-`, else by
/// its number.
pub(in crate::policy) fn application(
    app_protocol: Option<&str>,
    name: Option<&str>,
    number: u16,
) -> Application {
    let word = app_protocol.or(name).unwrap_or_default();
    if let Some((_, application)) = STANDARD.iter().find(|(name, _)| *name == word) {
        return *application;
    }
    let prefix = word.split_once('-').map_or(word, |(prefix, _)| prefix);
    let by_number =
        if SERVER_FIRST.contains(&number) { Application::Tcp } else { Application::Unknown };
    // `grpc-web` needs no look of its own: `grpc` is HTTP as well.
    named(prefix).unwrap_or(by_number)
}

/// Reads `protocol` of a `ServiceEntry`'s port; an empty one is unknown.
pub(in crate::policy) fn read_protocol(
    reader: &mut Reader<'_>,
    node: NodeId,
) -> Option<(Transport, Application)> {
    let word = reader.string(node, "a protocol")?;
    if word.is_empty() {
        return Some((Transport::Tcp, Application::Unknown));
    }
    let transport = if word.eq_ignore_ascii_case("UDP") { Transport::Udp } else { Transport::Tcp };
    let application = named(word);
    if application.is_none() {
        let known: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
        let message = format!("{} is not a protocol", quote(word));
        let help = suggest(word, &known, "the protocols are");
        let at = reader.span(node);
        reader.push(Diagnostic::new(&code::UNKNOWN_WORD, at, message).with_help(help));
    }
    Some((transport, application?))
}

/// Reports ports that have a name or a number, as `number` has it, in common with an earlier one,
/// and leaves them out.
pub(in crate::policy) fn unique<N: Eq + Hash>(
    reader: &mut Reader<'_>,
    ports: Vec<ServicePort>,
    number: impl Fn(&ServicePort) -> N,
) -> Vec<ServicePort> {
    let (mut names, mut numbers) = (HashMap::new(), HashMap::new());
    let is_new = |port: &ServicePort| {
        let name = port.name.as_deref().unwrap_or_default();
        let same_name = names.insert(name.to_owned(), port.at).filter(|_| !name.is_empty());
        if let Some(first) = same_name {
            duplicate(reader, &format!("the port name {}", quote(name)), port.at, first);
        }
        let same_number = numbers.insert(number(port), port.at);
        if let Some(first) = same_number {
            duplicate(reader, &format!("the port {}", port.number), port.at, first);
        }
        same_name.is_none() && same_number.is_none()
    };
    let mut ports = ports;
    ports.retain(is_new);
    ports
}

fn duplicate(reader: &mut Reader<'_>, what: &str, at: Span, first: Span) {
    reader.push(
        Diagnostic::new(&code::DUPLICATE_ENTRY, at, format!("{what} is given twice"))
            .with_label("again here")
            .with_secondary(first, "first here")
            .with_help("delete one of the two, or give it a name and number of its own"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_services() {
        for (app, name, number, expected) in [
            (None, Some("http"), 80, Application::Http),
            (None, Some("http-web"), 80, Application::Http),
            (None, Some("grpc-web-x"), 80, Application::Http),
            (None, Some("HTTP2"), 80, Application::Http),
            (None, Some("https-web"), 443, Application::Tls),
            (None, Some("tcp"), 80, Application::Tcp),
            (None, Some("mysql-a"), 1, Application::Tcp),
            (None, Some("web-http"), 80, Application::Unknown),
            (None, None, 80, Application::Unknown),
            (None, None, 3306, Application::Tcp),
            (None, Some("smtp"), 25, Application::Tcp),
            (None, Some("http-smtp"), 25, Application::Http),
            (Some("kubernetes.io/h2c"), Some("tcp"), 80, Application::Http),
            (Some("kubernetes.io/wss"), None, 80, Application::Tls),
            (Some("tcp"), Some("http"), 80, Application::Tcp),
            (Some("example.com/own"), Some("http"), 80, Application::Unknown),
        ] {
            assert_eq!(application(app, name, number), expected, "{app:?} {name:?} {number}");
        }
    }
}
