//! What a policy asks for and the data plane does not do yet.

use super::Note;
use crate::policy::model::{Balance, Route, Service, Subset};

/// One note per key of a subset or route that is not enforced.
pub(super) fn find(service: &Service) -> Vec<Note> {
    let subsets = service.subsets.iter().flat_map(|s| notes(&s.name, of_subset(s)));
    let routes = service.routes.iter().flat_map(|r| notes(&r.name, of_route(r)));
    subsets.chain(routes).collect()
}

fn notes(
    place: &str,
    keys: impl IntoIterator<Item = Option<&'static str>>,
) -> impl Iterator<Item = Note> {
    keys.into_iter().flatten().map(move |key| Note::NotEnforced { place: place.to_owned(), key })
}

fn of_subset(subset: &Subset) -> [Option<&'static str>; 8] {
    let asked = &subset.connection;
    [
        (subset.balance == Balance::LeastConnections).then_some("balance: leastConnections"),
        asked.max_connections.map(|_| "maxConnections"),
        asked.connect_timeout_ms.map(|_| "connectTimeout"),
        asked.keepalive.map(|_| "keepalive"),
        asked.idle_timeout_ms.map(|_| "idleTimeout"),
        asked.max_lifetime_ms.map(|_| "maxLifetime"),
        subset.eject.map(|_| "eject"),
        subset.health.as_ref().map(|_| "health"),
    ]
}

fn of_route(route: &Route) -> [Option<&'static str>; 2] {
    [route.fault.abort.map(|_| "fault.abort"), route.fault.delay.map(|_| "fault.delay")]
}
