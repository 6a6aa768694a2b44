//! Commands that outlast a change of addresses.
//!
//! Servers of a host come and go while its weights are being shifted. A command that stood on a
//! service of documents goes on to stand on it where nothing but addresses is new. Pure.

use std::sync::Arc;

use crate::daemon::overrides::{Override, fingerprint};
use crate::policy::model::{Service, Subset};

/// The override on the new service, where it stood on the old one and only addresses differ.
pub(super) fn rebase(found: &Override, old: &Service, new: &Service) -> Option<Override> {
    let stood = found.base == Some(fingerprint(old));
    if !stood || without_addresses(old) != without_addresses(new) {
        return None;
    }
    let mut service = Service::clone(&found.service);
    if service.frontends == old.frontends {
        service.frontends.clone_from(&new.frontends);
    }
    for subset in &mut service.subsets {
        // One that the command gave other backends keeps those.
        if let Some(index) = old.subsets.iter().position(|known| known == subset) {
            subset.backends.clone_from(&new.subsets.get(index)?.backends);
        }
    }
    Some(Override { service: Arc::new(service), base: Some(fingerprint(new)) })
}

fn without_addresses(service: &Service) -> Service {
    let bare = |subset: &Subset| Subset { backends: Vec::new(), ..subset.clone() };
    let subsets = service.subsets.iter().map(bare).collect();
    Service { subsets, frontends: Vec::new(), ..service.clone() }
}
