//! `spec.routes` and its short form `spec.split`: what becomes of connections.

use std::collections::HashMap;

use splitter_common::abi::{MAX_ROUTES, MAX_SPLIT};

use super::client;
use super::fault;
use super::subset::CLIENT_KEYS;
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Span};
use crate::policy::document::{Places, RoutePlaces};
use crate::policy::model::{Action, Errno, Fault, OnEmpty, Pick, Route, Split, Subset};
use crate::policy::reader::{Entry, Fields, Reader};
use crate::policy::words::{list, nearest, quote, suggest};
use crate::policy::yaml::{NodeId, Value};

const KEYS: [&str; 9] =
    ["name", "match", "split", "reject", "pass", "affinity", "pick", "onEmpty", "fault"];
const ACTIONS: [&str; 3] = ["split", "reject", "pass"];
const SPLIT_KEYS: [&str; 3] = ["affinity", "pick", "onEmpty"];
const PICKS: [(&str, Pick); 2] = [("exact", Pick::Exact), ("random", Pick::Random)];
const ON_EMPTY: [(&str, OnEmpty); 2] = [("reject", OnEmpty::Reject), ("spill", OnEmpty::Spill)];
const SPLIT_EXAMPLE: &str = "write `split: {v1: 80, v2: 20}`: subsets and their weights";

/// The subsets that a split may name; `None` where they could not be read.
type Subsets<'a> = Option<&'a [Subset]>;

/// Reads the routes in either form and notes their places.
pub(super) fn read_all(
    reader: &mut Reader<'_>,
    spec: &Fields<'_>,
    subsets: Subsets<'_>,
    places: &mut Places,
) -> Vec<Route> {
    let routes = match (spec.get("routes"), spec.get("split")) {
        (Some(routes), Some(split)) => {
            exclusive(reader, split, routes, "write the split as one of the routes");
            None
        }
        (None, Some(split)) => {
            let route = read_short(reader, split, subsets);
            places.routes_complete = route.is_some();
            route.map(|route| vec![route])
        }
        (None, None) => {
            let help = "write `routes: [{split: {v1: 80, v2: 20}}]`, or `split: {v1: 80, v2: 20}`";
            reader.required(spec, "routes", help);
            None
        }
        (Some(routes), None) => read_list(reader, routes.value, subsets, places),
    };
    let (routes, route_places) = routes.unwrap_or_default().into_iter().unzip();
    places.routes = route_places;
    routes
}

fn read_short(
    reader: &mut Reader<'_>,
    split: Entry<'_>,
    subsets: Subsets<'_>,
) -> Option<(Route, RoutePlaces)> {
    let weights = read_weights(reader, split.value, subsets)?;
    let split_action = Split { weights, pick: Pick::default(), on_empty: OnEmpty::default() };
    let action = Action::Split(split_action);
    let (name, fault) = (default_name(0), Fault::default());
    let route = Route { name, matches: Vec::new(), action, fault };
    Some((route, RoutePlaces { route: split.key, matches: Vec::new(), on_empty: None }))
}

fn default_name(ordinal: usize) -> String {
    format!("route-{}", ordinal + 1)
}

fn read_list(
    reader: &mut Reader<'_>,
    node: NodeId,
    subsets: Subsets<'_>,
    places: &mut Places,
) -> Option<Vec<(Route, RoutePlaces)>> {
    let nodes = reader.list(node, "`routes`", "begin each route with `- `")?;
    if nodes.is_empty() {
        reader.empty(reader.span(node), "`routes`", SPLIT_EXAMPLE);
    }
    let limit = MAX_ROUTES as usize;
    let mut names = HashMap::new();
    let mut routes = Vec::new();
    for (ordinal, node) in nodes.iter().take(limit).enumerate() {
        let own = (ordinal, places.namespace.as_str());
        routes.extend(read(reader, *node, own, subsets, &mut names));
    }
    check_count(reader, nodes, &routes);
    places.routes_complete = !nodes.is_empty() && routes.len() == nodes.len();
    Some(routes)
}

fn check_count(reader: &mut Reader<'_>, nodes: &[NodeId], routes: &[(Route, RoutePlaces)]) {
    let limit = MAX_ROUTES as usize;
    let mut count = nodes.len() - routes.len();
    let mut beyond = nodes.get(limit).map(|node| reader.span(*node));
    for (route, places) in routes {
        count += route.matches.len().max(1);
        if count > limit {
            beyond = beyond.or(Some(places.route));
        }
    }
    if let Some(at) = beyond {
        let message =
            format!("the service has {count} routes, counting one per match; at most {limit} fit");
        reader.push(
            Diagnostic::new(&code::TOO_MANY_ROUTES, at, message)
                .with_help("match a cgroup or gid that the clients have in common"),
        );
    }
}

fn read(
    reader: &mut Reader<'_>,
    node: NodeId,
    (ordinal, namespace): (usize, &str),
    subsets: Subsets<'_>,
    names: &mut HashMap<String, Span>,
) -> Option<(Route, RoutePlaces)> {
    let fields = reader.fields(node, "a route", &KEYS)?;
    let name = read_name(reader, &fields, ordinal, names);
    let matches = match fields.value("match") {
        Some(node) => client::read_all(reader, node, namespace),
        None => Some(Vec::new()),
    };
    let action = read_action(reader, &fields, subsets);
    let fault = match fields.value("fault") {
        Some(node) => fault::read(reader, node),
        None => Some(Fault::default()),
    };
    let matches = matches?;
    let route = Route {
        name: name?,
        matches: matches.iter().map(|place| place.client.clone()).collect(),
        action: action?,
        fault: fault?,
    };
    let on_empty = fields.get("onEmpty").map(|entry| entry.key);
    Some((route, RoutePlaces { route: fields.span(), matches, on_empty }))
}

fn read_name(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    ordinal: usize,
    names: &mut HashMap<String, Span>,
) -> Option<String> {
    let (name, at) = match fields.value("name") {
        Some(node) => (reader.name(node, "a route")?.to_owned(), reader.span(node)),
        None => (default_name(ordinal), fields.span()),
    };
    if let Some(first) = names.get(&name) {
        let message = format!("two routes are named `{name}`");
        reader.push(
            Diagnostic::new(&code::DUPLICATE_ROUTE, at, message)
                .with_label("again here")
                .with_secondary(*first, "first here")
                .with_help("name one of them differently; a route without a name is `route-N`"),
        );
    } else {
        names.insert(name.clone(), at);
    }
    Some(name)
}

fn read_action(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    subsets: Subsets<'_>,
) -> Option<Action> {
    let mut given = ACTIONS.iter().filter_map(|name| fields.get(name));
    let Some(action) = given.next() else {
        if fields.may_mean(&ACTIONS) {
            return None;
        }
        let message = "the route does not say what becomes of the connection";
        let help = "add one of `split: {v1: 80, v2: 20}`, `reject: ECONNREFUSED`, `pass: true`";
        reader.push(Diagnostic::new(&code::NO_ACTION, fields.span(), message).with_help(help));
        return None;
    };
    if let Some(second) = given.next() {
        exclusive(reader, second, action, "keep one; make two routes to treat clients differently");
        return None;
    }
    if action.name != "split" {
        check_split_keys(reader, fields, action);
        if let Some(node) = fields.value("fault") {
            fault::check_split(reader, node, action);
        }
    }
    match action.name {
        "split" => read_split(reader, action.value, fields, subsets).map(Action::Split),
        "reject" => read_errno(reader, action.value, "reject").map(Action::Reject),
        _ => read_pass(reader, action.value),
    }
}

pub(in crate::policy) fn exclusive(
    reader: &mut Reader<'_>,
    second: Entry<'_>,
    first: Entry<'_>,
    help: &str,
) {
    let message = format!("`{}` and `{}` exclude each other", first.name, second.name);
    reader.push(
        Diagnostic::new(&code::EXCLUSIVE_KEYS, second.key, message)
            .with_secondary(first.key, "beside this")
            .with_help(help),
    );
}

fn check_split_keys(reader: &mut Reader<'_>, fields: &Fields<'_>, action: Entry<'_>) {
    for entry in SPLIT_KEYS.iter().filter_map(|name| fields.get(name)) {
        let message = format!("`{}` makes no sense beside `{}`", entry.name, action.name);
        let help = format!("delete `{}`: it says how a `split` chooses", entry.name);
        reader.push(
            Diagnostic::new(&code::ONLY_WITH_SPLIT, entry.key, message)
                .with_secondary(action.key, "this route does not split")
                .with_help(help),
        );
    }
}

fn read_pass(reader: &mut Reader<'_>, node: NodeId) -> Option<Action> {
    if reader.boolean(node, "`pass`")? {
        return Some(Action::Pass);
    }
    let help = "write `pass: true`, or say what the route does instead: `split` or `reject`";
    let diagnostic = Diagnostic::new(&code::PASS_FALSE, reader.span(node), "`pass` is not `true`");
    reader.push(diagnostic.with_help(help));
    None
}

/// The errno at a key, by its name.
pub(in crate::policy) fn read_errno(
    reader: &mut Reader<'_>,
    node: NodeId,
    key: &str,
) -> Option<Errno> {
    let names = Errno::ALL.map(|errno| errno.name);
    let Value::Scalar(scalar) = reader.value(node) else {
        let help = format!("write `{key}: ECONNREFUSED`");
        return reader.wrong_type(node, &format!("`{key}`"), "an errno", &help);
    };
    let word = scalar.text.as_ref();
    let errno = Errno::ALL.into_iter().find(|errno| errno.name == word);
    if errno.is_some() {
        return errno;
    }
    let at = reader.span(node);
    let numbered = Errno::ALL.iter().find(|errno| word == errno.number.to_string());
    let diagnostic = if matches!(word, "EPERM" | "1") {
        let help = "kernel clients such as NFS retry EPERM for ever, and people search for a \
                    firewall: write EACCES or ECONNREFUSED";
        Diagnostic::new(&code::EPERM, at, format!("`{key}` may not be EPERM")).with_help(help)
    } else {
        let message = format!("{} is not an errno for `{key}`", quote(word));
        let help = match numbered {
            Some(errno) => format!("write the name: `{}`", errno.name),
            None => suggest(word, &names, "the errnos are"),
        };
        Diagnostic::new(&code::UNKNOWN_ERRNO, at, message).with_help(help)
    };
    reader.push(diagnostic);
    None
}

fn read_split(
    reader: &mut Reader<'_>,
    node: NodeId,
    fields: &Fields<'_>,
    subsets: Subsets<'_>,
) -> Option<Split> {
    let weights = read_weights(reader, node, subsets);
    let pick = read_pick(reader, fields);
    let on_empty = match fields.value("onEmpty") {
        Some(node) => reader.word(node, "a value of `onEmpty`", &ON_EMPTY),
        None => Some(OnEmpty::default()),
    };
    Some(Split { weights: weights?, pick: pick?, on_empty: on_empty? })
}

fn read_pick(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Pick> {
    match (fields.get("pick"), fields.get("affinity")) {
        (Some(pick), Some(affinity)) => {
            exclusive(reader, affinity, pick, "with `affinity`, the client's hash picks");
            None
        }
        (Some(pick), None) => reader.word(pick.value, "a way to pick", &PICKS),
        (None, Some(affinity)) => {
            let what = "what a client can be known by";
            Some(Pick::Affinity(reader.word(affinity.value, what, &CLIENT_KEYS)?))
        }
        (None, None) => Some(Pick::default()),
    }
}

fn read_weights(
    reader: &mut Reader<'_>,
    node: NodeId,
    subsets: Subsets<'_>,
) -> Option<Vec<(usize, u32)>> {
    let Value::Mapping(_) = reader.value(node) else {
        return reader.wrong_type(node, "`split`", "a mapping", SPLIT_EXAMPLE);
    };
    let entries = reader.entries(node, "`split`")?;
    if entries.is_empty() {
        reader.empty(reader.span(node), "`split`", SPLIT_EXAMPLE);
        return None;
    }
    check_width(reader, &entries);
    let read = |entry: &Entry<'_>| {
        let weight = reader.number(entry.value, "a weight");
        let ordinal = find_subset(reader, *entry, subsets?);
        Some((ordinal?, weight?))
    };
    let weights: Vec<(usize, u32)> =
        entries.iter().take(MAX_SPLIT as usize).filter_map(read).collect();
    let is_complete = weights.len() == entries.len();
    (is_complete && check_sum(reader, reader.span(node), &weights)).then_some(weights)
}

fn check_width(reader: &mut Reader<'_>, entries: &[Entry<'_>]) {
    let limit = MAX_SPLIT as usize;
    if let Some(beyond) = entries.get(limit) {
        let message = format!("the split has {} subsets; at most {limit} fit", entries.len());
        reader.push(
            Diagnostic::new(&code::SPLIT_TOO_WIDE, beyond.key, message)
                .with_help("put backends of several subsets into one, with weights of their own"),
        );
    }
}

fn find_subset(reader: &mut Reader<'_>, entry: Entry<'_>, subsets: &[Subset]) -> Option<usize> {
    let ordinal = subsets.iter().position(|subset| subset.name == entry.name);
    if ordinal.is_none() {
        let message = format!("the service has no subset {}", quote(entry.name));
        let names: Vec<&str> = subsets.iter().map(|subset| subset.name.as_str()).collect();
        let help = match nearest(entry.name, names.iter().copied()) {
            Some(guess) => format!("did you mean `{guess}`?"),
            None if names.is_empty() => "define it under `spec.subsets`".to_owned(),
            None => format!("the subsets are: {}", list(&names)),
        };
        reader.push(Diagnostic::new(&code::UNKNOWN_SUBSET, entry.key, message).with_help(help));
    }
    ordinal
}

fn check_sum(reader: &mut Reader<'_>, at: Span, weights: &[(usize, u32)]) -> bool {
    let sum: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let diagnostic = if sum == 0 {
        Diagnostic::new(&code::ZERO_SUM, at, "the weights of the split are all 0")
            .with_help("give one subset a weight, or write `reject: ECONNREFUSED` to serve nobody")
    } else if sum > u64::from(u32::MAX) {
        let message = format!("the weights of the split sum to {sum}, more than {}", u32::MAX);
        Diagnostic::new(&code::SUM_OVERFLOW, at, message)
            .with_help("divide all of them by the same number: only their ratio counts")
    } else {
        return true;
    };
    reader.push(diagnostic);
    false
}
