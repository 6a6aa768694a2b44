//! From a service to its checks.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Check, Target};
use crate::policy::model::{Probe, Service};

/// Every check of a service. `is_caught` says whether the daemon's own connection to an address
/// would be split.
pub(crate) fn checks_of(service: &Service, is_caught: impl Fn(SocketAddr) -> bool) -> Vec<Check> {
    let name: Arc<str> = service.name.as_str().into();
    let mut checks = Vec::new();
    for subset in &service.subsets {
        let Some(health) = &subset.health else { continue };
        let (health, subset_name) = (Arc::new(health.clone()), Arc::from(subset.name.as_str()));
        for backend in &subset.backends {
            let (service, subset) = (Arc::clone(&name), Arc::clone(&subset_name));
            let target = Target { service, subset, addr: backend.addr };
            let mut check = Check { target, how: Arc::clone(&health), is_caught: false };
            // What a command connects to is its own affair.
            let connects = !matches!(health.probe, Probe::Command { .. });
            check.is_caught = connects && is_caught(check.addr());
            checks.push(check);
        }
    }
    checks
}
