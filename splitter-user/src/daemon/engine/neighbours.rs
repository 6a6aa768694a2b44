//! Which running services a change can collide with.
//!
//! Rules between services are about shared addresses alone. So a change is checked together with
//! the services that share an address with it, by the very rules that check whole policies, and
//! the others need not be looked at again.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::policy::model::Service;

fn frontends(service: &Service) -> impl Iterator<Item = SocketAddr> {
    service.frontends.iter().map(|frontend| frontend.addr)
}

fn backends(service: &Service) -> impl Iterator<Item = SocketAddr> {
    service.subsets.iter().flat_map(|subset| subset.backends.iter().map(|backend| backend.addr))
}

/// Those of `others` that dial where one of `changed` is dialled or serves, or that serve where
/// one of `changed` is dialled.
pub(super) fn neighbours<'a, 'b>(
    changed: impl Iterator<Item = &'b Service> + Clone,
    others: impl Iterator<Item = &'a Service>,
) -> Vec<&'a Service> {
    let dialled: HashSet<SocketAddr> = changed.clone().flat_map(frontends).collect();
    let served: HashSet<SocketAddr> = changed.flat_map(backends).collect();
    let touches = |service: &&Service| {
        frontends(service).any(|addr| dialled.contains(&addr) || served.contains(&addr))
            || backends(service).any(|addr| dialled.contains(&addr))
    };
    others.filter(touches).collect()
}
