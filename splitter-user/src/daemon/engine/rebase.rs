//! Commands that outlast a change of backends.
//!
//! Servers behind a host come and go while its weights are being shifted. A command that stood on a
//! service of documents goes on to stand on it where nothing but the backends is new. Pure.

use std::sync::Arc;

use crate::daemon::overrides::{Override, fingerprint};
use crate::policy::model::{Service, Subset};

/// The override on the new service, where it stood on the old one and only backends differ.
pub(super) fn rebase(found: &Override, old: &Service, new: &Service) -> Option<Override> {
    let stood = found.base == Some(fingerprint(old));
    if !stood || without_backends(old) != without_backends(new) {
        return None;
    }
    let mut service = Service::clone(&found.service);
    for subset in &mut service.subsets {
        // One that the command gave other backends keeps those.
        if let Some(index) = old.subsets.iter().position(|known| known == subset) {
            subset.backends.clone_from(&new.subsets.get(index)?.backends);
        }
    }
    Some(Override { service: Arc::new(service), base: Some(fingerprint(new)) })
}

fn without_backends(service: &Service) -> Service {
    let bare = |subset: &Subset| Subset { backends: Vec::new(), ..subset.clone() };
    Service { subsets: service.subsets.iter().map(bare).collect(), ..service.clone() }
}
