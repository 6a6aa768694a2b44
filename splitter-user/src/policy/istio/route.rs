//! `route` of a rule: weighted destinations.

use super::rules::Form;
use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::fields::{Field, meaningless, read as field};
use crate::policy::mesh::resource::{At, RouteDestination};
use crate::policy::reader::{Entry, Fields, Reader};
use crate::policy::yaml::NodeId;

const EXAMPLE: &str = "write `route: [{destination: {host: HOST}}]`";

/// `HTTPRouteDestination`.
const HTTP: &[Field] = &[
    field("destination"),
    field("weight"),
    meaningless("headers", "what is sent over a connection is not changed: do it in the server"),
];

/// `RouteDestination`.
const TCP: &[Field] = &[field("destination"), field("weight")];

/// `Destination`.
const DESTINATION: &[Field] = &[field("host"), field("subset"), field("port")];

/// `PortSelector`.
const PORT: &[Field] = &[field("number")];

/// Reads the destinations; those in error are left out.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId, form: Form) -> Vec<RouteDestination> {
    let nodes = reader.items(node, "`route`");
    let (destinations, is_good) = reader.watch(|reader| {
        let read = |node: &NodeId| read_destination(reader, *node, form);
        nodes.iter().filter_map(read).collect::<Vec<_>>()
    });
    if nodes.is_empty() {
        reader.empty(reader.span(node), "`route`", EXAMPLE);
    } else if is_good {
        check_weights(reader, node, &destinations);
    }
    destinations
}

fn read_destination(reader: &mut Reader<'_>, node: NodeId, form: Form) -> Option<RouteDestination> {
    let table = if form == Form::Http { HTTP } else { TCP };
    let fields = reader.object(node, "a route's entry", table)?;
    let weight = fields.value("weight").and_then(|node| {
        let value = reader.int32(node, "a weight")?;
        Some(At { value, at: reader.span(node) })
    });
    let help = "write `destination: {host: HOST, subset: SUBSET}`";
    let destination = reader.required(&fields, "destination", help)?;
    let fields = reader.object(destination, "a destination", DESTINATION)?;
    let host = read_host(reader, &fields);
    let subset = fields.value("subset").and_then(|node| reader.dns_label(node, "a subset"));
    let port = fields.get("port").and_then(|entry| read_port(reader, entry));
    Some(RouteDestination { at: reader.span(node), host: host?, subset, port, weight })
}

fn read_host(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<At<String>> {
    let node = reader.required(fields, "host", "write the name of a service")?;
    let host = reader.host(node, "a host")?;
    if host.value.starts_with('*') {
        let message = "a destination is one host, not a wildcard";
        let diagnostic = Diagnostic::new(&code::BAD_HOST, host.at, message);
        reader.push(diagnostic.with_help("write the full name of a service"));
        return None;
    }
    Some(host)
}

/// Reads a `PortSelector`.
pub(super) fn read_port(reader: &mut Reader<'_>, entry: Entry<'_>) -> Option<At<u16>> {
    let fields = reader.object(entry.value, "the port", PORT)?;
    let node = reader.required(&fields, "number", "write `port: {number: 80}`")?;
    reader.port_at(node)
}

/// Checks the sum of several weights, where an absent one is 0. One destination alone gets every
/// connection, whatever its weight is.
fn check_weights(reader: &mut Reader<'_>, node: NodeId, destinations: &[RouteDestination]) {
    let weight =
        |destination: &RouteDestination| destination.weight.as_ref().map_or(0, |w| w.value);
    let sum: u64 = destinations.iter().map(|destination| u64::from(weight(destination))).sum();
    let at = reader.span(node);
    if destinations.len() > 1 && sum == 0 {
        let message = "the weights of the route are all 0";
        let help = "write `weight: 1` or more at one of them; beside others, a destination \
                    without a weight gets nothing";
        reader.push(Diagnostic::new(&code::ZERO_SUM, at, message).with_help(help));
    } else if sum > u64::from(u32::MAX) {
        let message = format!("the weights of the route sum to {sum}, more than {}", u32::MAX);
        let diagnostic = Diagnostic::new(&code::SUM_OVERFLOW, at, message);
        reader.push(diagnostic.with_help("divide them by a common factor"));
    }
}
