//! Clients that native documents name by labels: the cgroups of those who bear them.
//!
//! Labels stand for these cgroups, as if they were written in their place, so that what holds of a
//! cgroup holds here too: it takes whoever is inside, and the order of the routes decides.

use std::iter::zip;
use std::mem::take;

use super::assemble::check_limits;
use super::checks::{UNSELECTED, unseen};
use super::clients::{Client, Clients};
use super::resource::{At, ClientSelector, LabelledSplit};
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report, Span};
use crate::policy::document::{Draft, MatchPlace};
use crate::policy::model::{CgroupName, ClientMatch};

/// The service with cgroups in place of labels. A route whose clients nobody is, is left out, and so
/// is a service that has no other.
pub(super) fn expand(
    split: &LabelledSplit,
    clients: &Clients<'_>,
    report: &mut Report,
) -> Option<Draft> {
    let Draft { mut service, mut places } = split.draft.clone();
    let mut earlier: Vec<ClientMatch> = Vec::new();
    for (mut route, mut place) in zip(take(&mut service.routes), take(&mut places.routes)) {
        let is_for_all = route.matches.is_empty();
        let mut matches = Vec::new();
        for written in place.matches {
            let found = expand_match(written, clients, &earlier, report);
            earlier.extend(found.iter().map(|it| it.client.clone()));
            matches.extend(found);
        }
        place.matches = matches;
        route.matches = place.matches.iter().map(|it| it.client.clone()).collect();
        if is_for_all || !route.matches.is_empty() {
            service.routes.push(route);
            places.routes.push(place);
        }
    }
    let is_made = !service.routes.is_empty() && check_limits(&service, places.name, report);
    is_made.then_some(Draft { service, places })
}

fn expand_match(
    written: MatchPlace,
    clients: &Clients<'_>,
    earlier: &[ClientMatch],
    report: &mut Report,
) -> Vec<MatchPlace> {
    let MatchPlace { client, selector, at } = written;
    let Some(selector) = selector else { return vec![MatchPlace { client, selector, at }] };
    let found = find(&At { value: selector.clone(), at }, clients, report);
    let in_cgroup = |cgroup| ClientMatch { cgroup: Some(cgroup), ..client.clone() };
    for inner in inside(&selector, clients) {
        let Some(cgroup) = inner.cgroup() else { continue };
        if !earlier
            .contains(&ClientMatch { cgroup: Some(cgroup.clone()), ..ClientMatch::default() })
        {
            takes_along(at, cgroup, report);
        }
    }
    let place =
        |cgroup| MatchPlace { client: in_cgroup(cgroup), selector: Some(selector.clone()), at };
    found.into_iter().map(place).collect()
}

/// Cgroups of the clients that bear labels, those inside others first. One inside another of them
/// needs no mention.
pub(super) fn find(
    selector: &At<ClientSelector>,
    clients: &Clients<'_>,
    report: &mut Report,
) -> Vec<CgroupName> {
    let At { value: selector, at } = selector;
    let is_covered = |client: &Client<'_>| {
        client.is_placed() && around(client, clients).is_some_and(|outer| bears(outer, selector))
    };
    let bearing = clients.all.iter().filter(|client| bears(client, selector));
    let found: Vec<CgroupName> =
        bearing.filter(|client| !is_covered(client)).filter_map(Client::cgroup).cloned().collect();
    if found.is_empty() {
        unseen(*at, UNSELECTED, clients, report);
    }
    found
}

/// Clients without the labels that are known to be right inside of those that bear them.
fn inside<'a, 'r>(
    selector: &'a ClientSelector,
    clients: &'a Clients<'r>,
) -> impl Iterator<Item = &'a Client<'r>> {
    let others = clients.all.iter().filter(|client| !bears(client, selector));
    others.filter(|client| {
        client.is_placed() && around(client, clients).is_some_and(|outer| bears(outer, selector))
    })
}

fn bears(client: &Client<'_>, selector: &ClientSelector) -> bool {
    client.is_selected(&selector.labels, Some(&selector.namespace))
}

fn around<'a, 'r>(client: &Client<'_>, clients: &'a Clients<'r>) -> Option<&'a Client<'r>> {
    clients.all.get(client.around?)
}

fn takes_along(at: Span, inner: &CgroupName, report: &mut Report) {
    let message = format!("the clients of the {inner} do not bear these labels, and are taken too");
    report.push(Diagnostic::new(&code::LABELS_TAKE_INNER, at, message).with_help(
        "their cgroup is inside of one that bears them: write a route for it in front, or give its \
         workload the labels",
    ));
}
