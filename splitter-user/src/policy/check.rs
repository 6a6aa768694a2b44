//! Rules between the parts of a service and between services.
//!
//! These hold for every input form, so they look at drafts and not at trees.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use splitter_common::abi::MAX_ROUTES;

use super::code;
use super::diagnostic::{Diagnostic, Report, Span};
use super::document::{Draft, MatchPlace};
use super::model::{Action, Frontend, OnEmpty, OverLimit, Protocol, Split};
use super::reader::Reader;

/// Checks a service by itself.
pub(super) fn within(draft: &Draft, reader: &mut Reader<'_>) {
    check_families(draft, reader);
    if draft.places.routes_complete {
        check_order(draft, reader);
        check_repeats(draft, reader);
        check_unused(draft, reader);
        check_spills(draft, reader);
    }
    check_datagrams(draft, reader);
}

/// Backends and their places.
fn backends(draft: &Draft) -> impl Iterator<Item = (SocketAddr, Span)> {
    let subsets = draft.service.subsets.iter().zip(&draft.places.subsets);
    subsets.flat_map(|(subset, places)| {
        let addresses = subset.backends.iter().map(|backend| backend.addr);
        addresses.zip(places.backends.iter().copied())
    })
}

/// Addresses that connections are made from, and their places.
fn sources(draft: &Draft) -> impl Iterator<Item = (IpAddr, Span)> {
    let subsets = draft.service.subsets.iter().zip(&draft.places.subsets);
    subsets.filter_map(|(subset, places)| Some((subset.connection.source?, places.source?)))
}

/// A socket has one family, and a rewrite cannot change it.
fn check_families(draft: &Draft, reader: &mut Reader<'_>) {
    let mut frontends = draft.places.frontends.iter();
    let Some((first, first_at)) = frontends.next() else { return };
    let family = |ip: IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let is_other = |ip: IpAddr| ip.is_ipv4() != first.addr.is_ipv4();
    let name = |what: &str, addr: &dyn Display| format!("{what} `{addr}`");
    let rest = frontends.map(|(frontend, at)| (frontend.addr, *at, "frontend"));
    let sockets = rest.chain(backends(draft).map(|(addr, at)| (addr, at, "backend")));
    let sockets = sockets.filter(|(addr, ..)| is_other(addr.ip()));
    let sockets = sockets.map(|(addr, at, what)| (addr.ip(), at, name(what, &addr)));
    let sources = sources(draft).filter(|(ip, _)| is_other(*ip));
    let sources = sources.map(|(ip, at)| (ip, at, name("source", &ip)));
    for (ip, at, what) in sockets.chain(sources) {
        let expected = family(first.addr.ip());
        let message = format!("the {what} is {}, the service is {expected}", family(ip));
        let help = format!(
            "write an {expected} address, or make a second service: a connection cannot change \
             its family"
        );
        reader.push(
            Diagnostic::new(&code::MIXED_FAMILIES, at, message)
                .with_secondary(*first_at, "the first frontend")
                .with_help(help),
        );
    }
}

/// Routes are tried in order, so one that takes every client must be the last.
fn check_order(draft: &Draft, reader: &mut Reader<'_>) {
    let routes = || draft.service.routes.iter().zip(&draft.places.routes);
    let Some(catch_all) = routes().position(|(route, _)| route.matches.is_empty()) else {
        let at = draft.places.routes.first().map_or(draft.places.name, |places| places.route);
        let message = "no route takes the clients that fit no match: they pass through untouched";
        let help = "add a last route without `match`; `- pass: true` if this is what you want";
        return reader.push(Diagnostic::new(&code::NO_CATCH_ALL, at, message).with_help(help));
    };
    for (route, places) in routes().skip(catch_all + 1) {
        let message = format!("the route `{}` is never reached", route.name);
        let mut diagnostic = Diagnostic::new(&code::ROUTE_UNREACHABLE, places.route, message)
            .with_help("move the route without `match` to the end");
        if let Some(first) = draft.places.routes.get(catch_all) {
            diagnostic = diagnostic.with_secondary(first.route, "this one takes every client");
        }
        reader.push(diagnostic);
    }
}

fn check_repeats(draft: &Draft, reader: &mut Reader<'_>) {
    let matches: Vec<_> = draft.places.routes.iter().flat_map(|places| &places.matches).collect();
    // More are an error already, and comparing all of them would cost their square.
    if matches.len() > MAX_ROUTES as usize {
        return;
    }
    for (index, own) in matches.iter().enumerate() {
        let mut earlier = matches.iter().take(index);
        let is_same = |it: &&&MatchPlace| it.client == own.client && it.selector == own.selector;
        if let Some(first) = earlier.find(is_same) {
            let message = "this match is the same as an earlier one, which takes its clients";
            reader.push(
                Diagnostic::new(&code::MATCH_REPEATED, own.at, message)
                    .with_secondary(first.at, "first here")
                    .with_help("delete it"),
            );
        }
    }
}

fn check_unused(draft: &Draft, reader: &mut Reader<'_>) {
    let mut used = HashSet::new();
    for route in &draft.service.routes {
        if let Action::Split(split) = &route.action {
            used.extend(split.weights.iter().map(|(ordinal, _)| *ordinal));
        }
    }
    let subsets = draft.service.subsets.iter().zip(&draft.places.subsets).enumerate();
    for (_, (subset, places)) in subsets.filter(|(ordinal, _)| !used.contains(ordinal)) {
        let message = format!("no route splits to the subset `{}`", subset.name);
        let help = "name it in a split, with weight 0 if it is only prepared, or delete it";
        reader.push(Diagnostic::new(&code::SUBSET_UNUSED, places.name, message).with_help(help));
    }
}

/// What spills goes to another subset of its route.
fn check_spills(draft: &Draft, reader: &mut Reader<'_>) {
    let splits = || draft.service.routes.iter().filter_map(|route| split_of(&route.action));
    let routes = draft.service.routes.iter().zip(&draft.places.routes);
    let alone = routes.filter_map(|(route, places)| {
        let split = split_of(&route.action)?;
        let is_nowhere = split.on_empty == OnEmpty::Spill && split.weights.len() == 1;
        places.on_empty.filter(|_| is_nowhere)
    });
    let alone: Vec<Span> = alone.collect();
    let subsets = draft.service.subsets.iter().zip(&draft.places.subsets).enumerate();
    let full = subsets.filter_map(|(ordinal, (subset, places))| {
        let mut own = splits().filter(|split| split.weights.iter().any(|(at, _)| *at == ordinal));
        let is_nowhere = own.all(|split| split.weights.len() == 1);
        let spills = subset.connection.over_limit == OverLimit::Spill;
        places.over_limit.filter(|_| spills && is_nowhere)
    });
    let full: Vec<Span> = full.collect();
    for (key, at) in
        alone.iter().map(|at| ("onEmpty", at)).chain(full.iter().map(|at| ("overLimit", at)))
    {
        let message = format!("`{key}: spill` does nothing: no split has another subset beside it");
        let help = "give the split another subset, or leave the key out: the share is rejected";
        reader.push(Diagnostic::new(&code::SPILL_NOWHERE, *at, message).with_help(help));
    }
}

fn split_of(action: &Action) -> Option<&Split> {
    match action {
        Action::Split(split) => Some(split),
        Action::Reject(_) | Action::Pass => None,
    }
}

fn check_datagrams(draft: &Draft, reader: &mut Reader<'_>) {
    // Frontends in error may have been meant to be of UDP.
    let is_unused = !draft.places.frontends.is_empty() && !draft.service.has_datagrams();
    let Some(at) = draft.places.datagrams.filter(|_| is_unused) else { return };
    let message = "`datagrams` does nothing: the service has no frontend of UDP";
    let help = "write a frontend such as `\"127.10.0.1:53/udp\"`, or leave the key out";
    reader.push(Diagnostic::new(&code::DATAGRAMS_UNUSED, at, message).with_help(help));
}

/// Checks the services of all sources against each other.
pub(super) fn across(drafts: &[Draft], report: &mut Report) {
    check_names(drafts, report);
    let owners = check_frontends(drafts, report);
    for draft in drafts {
        check_cycles(draft, &owners, report);
    }
}

fn check_names(drafts: &[Draft], report: &mut Report) {
    let mut seen: HashMap<&str, Span> = HashMap::with_capacity(drafts.len());
    let named = drafts.iter().filter(|draft| !draft.service.name.is_empty());
    for Draft { service, places } in named {
        if let Some(first) = seen.get(service.name.as_str()) {
            let message = format!("two services are named `{}`", service.name);
            report.push(
                Diagnostic::new(&code::DUPLICATE_SERVICE, places.name, message)
                    .with_label("again here")
                    .with_secondary(*first, "first here")
                    .with_help("rename one of them, or give them different namespaces"),
            );
        } else {
            seen.insert(&service.name, places.name);
        }
    }
}

/// The service that owns a frontend, and where it says so.
type Owners<'a> = HashMap<Frontend, (&'a Draft, Span)>;

fn check_frontends<'a>(drafts: &'a [Draft], report: &mut Report) -> Owners<'a> {
    let mut owners: Owners<'a> = HashMap::with_capacity(drafts.len());
    for draft in drafts {
        for (frontend, at) in &draft.places.frontends {
            let (owner, first) = *owners.entry(*frontend).or_insert((draft, *at));
            // Duplicates inside one service were reported when it was read.
            if std::ptr::eq(owner, draft) {
                continue;
            }
            let message = format!("the frontend `{frontend}` belongs to {} already", title(owner));
            report.push(
                Diagnostic::new(&code::DUPLICATE_FRONTEND, *at, message)
                    .with_label("again here")
                    .with_secondary(first, "first here")
                    .with_help("give each service an address or port of its own"),
            );
        }
    }
    owners
}

/// A service in a message; its name may be in error.
fn title(draft: &Draft) -> String {
    match draft.service.name.as_str() {
        "" => "a service without a name".to_owned(),
        name => format!("`{name}`"),
    }
}

/// A rewritten connection is not rewritten again, so a frontend behind a split reaches nobody.
/// One that the owner has as a backend too is the address of a server that clients also dial: who
/// is sent there is served.
fn check_cycles(draft: &Draft, owners: &Owners<'_>, report: &mut Report) {
    let protocols: Vec<Protocol> = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .filter(|protocol| draft.service.frontends.iter().any(|f| f.protocol == *protocol))
        .collect();
    for (addr, at) in backends(draft) {
        let mut frontends = protocols.iter().map(|protocol| Frontend { addr, protocol: *protocol });
        let is_other = |(owner, _): &&(&Draft, Span)| {
            !std::ptr::eq(*owner, draft) && !backends(owner).any(|(served, _)| served == addr)
        };
        let owner = frontends.find_map(|frontend| owners.get(&frontend).filter(is_other));
        let Some((owner, first)) = owner else { continue };
        let message = format!("the backend `{addr}` is a frontend of {}", title(owner));
        report.push(
            Diagnostic::new(&code::BACKEND_IS_FRONTEND, at, message)
                .with_secondary(*first, "the frontend")
                .with_help(
                    "name the address that the server listens at: a connection that was rewritten \
                     once is not rewritten again",
                ),
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::{Source, load};

    #[test]
    fn a_backend_may_be_a_frontend_of_its_own_service() {
        let text = "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {name: web}\nspec:\n  \
                    frontends: [\"127.10.0.1:8080\"]\n  subsets:\n    \
                    v1: {backends: [\"127.10.0.1:8080\"]}\n    \
                    v2: {backends: [\"127.10.0.2:8080\"]}\n  split: {v1: 1, v2: 1}\n";
        let loaded = load(&[Source::new("-", text)]).expect("valid");
        assert_eq!(loaded.warnings, []);
        assert_eq!(loaded.policy.services[0].subsets.len(), 2);
    }
}
