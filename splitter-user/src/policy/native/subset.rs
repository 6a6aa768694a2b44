//! `spec.subsets`: named groups of backends.

use std::collections::HashMap;
use std::net::SocketAddr;

use splitter_common::abi::{MAX_BACKENDS, MAX_SUBSETS};

use super::connection;
use super::health;
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Span};
use crate::policy::document::SubsetPlaces;
use crate::policy::model::{Backend, Balance, ClientKey, Connection, Subset};
use crate::policy::reader::{Entry, Reader};
use crate::policy::words::quote;
use crate::policy::yaml::{NodeId, Value};

/// The words for what stands for the client in a hash.
pub(super) const CLIENT_KEYS: [(&str, ClientKey); 6] = [
    ("uid", ClientKey::Uid),
    ("gid", ClientKey::Gid),
    ("command", ClientKey::Command),
    ("cgroup", ClientKey::Cgroup),
    ("process", ClientKey::Process),
    ("netns", ClientKey::Netns),
];

/// What plain `clientHash` hashes.
pub(super) const DEFAULT_CLIENT_KEY: ClientKey = ClientKey::Netns;

const KEYS: [&str; 17] = [
    "backends",
    "balance",
    "maxConnections",
    "maxPending",
    "overLimit",
    "avoidPrevious",
    "requireListener",
    "connectTimeout",
    "keepalive",
    "idleTimeout",
    "maxLifetime",
    "congestionControl",
    "pacingRate",
    "mark",
    "source",
    "eject",
    "health",
];
const BALANCES: [(&str, Balance); 4] = [
    ("roundRobin", Balance::RoundRobin),
    ("random", Balance::Random),
    ("leastConnections", Balance::LeastConnections),
    ("clientHash", Balance::ClientHash(DEFAULT_CLIENT_KEY)),
];

/// Reads all subsets. `None` where not even their names can be read.
pub(super) fn read_all(
    reader: &mut Reader<'_>,
    node: NodeId,
) -> (Option<Vec<Subset>>, Vec<SubsetPlaces>) {
    let Some(entries) = reader.entries(node, "`subsets`") else { return (None, Vec::new()) };
    let limit = MAX_SUBSETS as usize;
    if let Some(beyond) = entries.get(limit) {
        let message = format!("the service has {} subsets; at most {limit} fit", entries.len());
        reader.push(
            Diagnostic::new(&code::TOO_MANY_SUBSETS, beyond.key, message)
                .with_help("spread them over several services with frontends of their own"),
        );
    }
    let (subsets, places) = entries.iter().take(limit).map(|entry| read(reader, *entry)).unzip();
    (Some(subsets), places)
}

/// Reads one subset. It exists for the routes whatever is wrong with its inside.
fn read(reader: &mut Reader<'_>, entry: Entry<'_>) -> (Subset, SubsetPlaces) {
    reader.check_name(entry.name, entry.key, "a subset");
    let mut subset = Subset {
        name: entry.name.to_owned(),
        backends: Vec::new(),
        balance: Balance::default(),
        connection: Connection::default(),
        eject: None,
        health: None,
    };
    let mut places =
        SubsetPlaces { name: entry.key, backends: Vec::new(), source: None, over_limit: None };
    let Some(fields) = reader.fields(entry.value, "a subset", &KEYS) else {
        return (subset, places);
    };
    let help = "write `backends: [\"127.0.0.1:9001\"]`, or `[]` for none yet";
    if let Some(node) = reader.required(&fields, "backends", help) {
        let backends = read_backends(reader, node, entry);
        (subset.backends, places.backends) = backends.unwrap_or_default().into_iter().unzip();
    }
    if let Some(entry) = fields.get("balance") {
        subset.balance = read_balance(reader, entry).unwrap_or_default();
    }
    subset.connection = connection::read(reader, &fields);
    places.source = fields.value("source").map(|node| reader.span(node));
    places.over_limit = fields.get("overLimit").map(|entry| entry.key);
    subset.eject = fields.value("eject").and_then(|node| connection::read_ejection(reader, node));
    subset.health = fields.get("health").and_then(|entry| health::read(reader, entry));
    (subset, places)
}

fn read_backends(
    reader: &mut Reader<'_>,
    node: NodeId,
    subset: Entry<'_>,
) -> Option<Vec<(Backend, Span)>> {
    let nodes = reader.list(node, "`backends`", "write `[\"127.0.0.1:9001\"]`")?;
    let limit = MAX_BACKENDS as usize;
    if let Some(beyond) = nodes.get(limit) {
        let message = format!("the subset has {} backends; at most {limit} fit", nodes.len());
        let at = reader.span(*beyond);
        reader.push(
            Diagnostic::new(&code::TOO_MANY_BACKENDS, at, message)
                .with_help("spread them over several subsets and split between those"),
        );
    }
    let nodes = nodes.get(..limit).unwrap_or(nodes);
    let read = |node: &NodeId| Some((read_backend(reader, *node)?, reader.span(*node)));
    let backends: Vec<(Backend, Span)> = nodes.iter().filter_map(read).collect();
    check_unique(reader, &backends);
    if backends.len() == nodes.len() {
        check_weights(reader, reader.span(node), subset, &backends);
    }
    Some(backends)
}

/// `ADDR:PORT`, or a mapping with a weight.
fn read_backend(reader: &mut Reader<'_>, node: NodeId) -> Option<Backend> {
    let Value::Mapping(_) = reader.value(node) else {
        return Some(Backend { addr: reader.backend(node)?, weight: 1 });
    };
    let fields = reader.fields(node, "a backend", &["address", "weight"])?;
    let address = reader.required(&fields, "address", "write `address: \"127.0.0.1:9001\"`");
    let addr = address.and_then(|node| reader.backend(node));
    let weight = match fields.value("weight") {
        Some(node) => reader.number(node, "a weight"),
        None => Some(1),
    };
    Some(Backend { addr: addr?, weight: weight? })
}

fn check_unique(reader: &mut Reader<'_>, backends: &[(Backend, Span)]) {
    let mut seen: HashMap<SocketAddr, Span> = HashMap::with_capacity(backends.len());
    for (Backend { addr, .. }, at) in backends {
        let Some(first) = seen.get(addr) else {
            seen.insert(*addr, *at);
            continue;
        };
        let message = format!("the backend `{addr}` is given twice in one subset");
        reader.push(
            Diagnostic::new(&code::DUPLICATE_BACKEND, *at, message)
                .with_label("again here")
                .with_secondary(*first, "first here")
                .with_help("give it once, with a larger weight if it should serve more"),
        );
    }
}

fn check_weights(
    reader: &mut Reader<'_>,
    at: Span,
    subset: Entry<'_>,
    backends: &[(Backend, Span)],
) {
    let name = quote(subset.name);
    let help = "its share of a split is rejected with ECONNREFUSED, or moved to the other subsets \
                where the route says `onEmpty: spill`";
    let sum: u64 = backends.iter().map(|(backend, _)| u64::from(backend.weight)).sum();
    let diagnostic = if backends.is_empty() {
        let message = format!("the subset {name} has no backends");
        Diagnostic::new(&code::SUBSET_EMPTY, at, message).with_help(help)
    } else if sum == 0 {
        let message = format!("all backends of the subset {name} have weight 0");
        Diagnostic::new(&code::SUBSET_WEIGHTLESS, at, message).with_help(help)
    } else if sum > u64::from(u32::MAX) {
        let message = format!("the weights of the backends sum to {sum}, more than {}", u32::MAX);
        Diagnostic::new(&code::SUM_OVERFLOW, at, message)
            .with_help("divide all of them by the same number: only their ratio counts")
    } else {
        return;
    };
    reader.push(diagnostic);
}

/// A word, or `{clientHash: KEY}`.
fn read_balance(reader: &mut Reader<'_>, entry: Entry<'_>) -> Option<Balance> {
    let node = entry.value;
    let Value::Mapping(_) = reader.value(node) else {
        return reader.word(node, "a way to balance", &BALANCES);
    };
    let fields = reader.fields(node, "`balance`", &["clientHash"])?;
    let key = reader.required(&fields, "clientHash", "write `balance: {clientHash: uid}`")?;
    Some(Balance::ClientHash(reader.word(key, "what a client can be hashed by", &CLIENT_KEYS)?))
}
