//! What followed subsets ask of their connections, and the failures that routes make.

use splitter_common::abi::{Conduct, Fault as FaultRecord, conduct_flag};

use super::fnv64;
use crate::policy::model::{
    Balance, Connection, Ejection, Fault, Frontend, Keepalive, OldConnections, Protocol, Service,
    Subset,
};

/// `ECONNREFUSED`: what a connection beyond a limit fails with.
const BEYOND_LIMIT: u16 = splitter_common::decide::ECONNREFUSED;

/// Whether the connections of a service are followed: where something is asked that only they can
/// tell or keep. Only TCP has connections that the kernel reports on; what may be chosen, and what
/// fails on purpose, is kept for UDP too.
pub(super) fn is_followed(service: &Service) -> bool {
    let is_tcp = |frontend: &Frontend| frontend.protocol == Protocol::Tcp;
    let asks = || {
        service.outcomes
            || service.old_connections != OldConnections::Leave
            || service.subsets.iter().any(asks)
    };
    service.subsets.iter().any(|subset| subset.health.is_some())
        || service.routes.iter().any(|route| route.fault != Fault::default())
        || service.frontends.iter().any(is_tcp) && asks()
}

fn asks(subset: &Subset) -> bool {
    subset.connection != Connection::default()
        || subset.eject.is_some()
        || subset.balance == Balance::LeastConnections
}

/// The record of a subset, its states left 0.
pub(super) fn record(subset: &Subset) -> Conduct {
    let asked = &subset.connection;
    let keep = asked.keepalive.unwrap_or_default();
    let Keepalive { probes, time_s, interval_s } = keep;
    let flags = if asked.keepalive.is_some() { conduct_flag::KEEPALIVE } else { 0 };
    let conduct = Conduct {
        max_connections: asked.max_connections.unwrap_or(0),
        connect_timeout_ms: asked.connect_timeout_ms.unwrap_or(0),
        keep_idle_s: time_s.unwrap_or(0),
        keep_interval_s: interval_s.unwrap_or(0),
        keep_probes: probes.unwrap_or(0),
        errno: BEYOND_LIMIT,
        flags,
        ..Conduct::default()
    };
    match &subset.eject {
        Some(ejection) => eject(conduct, ejection, subset.backends.len()),
        None => conduct,
    }
}

fn eject(conduct: Conduct, asked: &Ejection, n_backends: usize) -> Conduct {
    let n = u32::try_from(n_backends).unwrap_or(u32::MAX);
    let part = |percent: u8| n.saturating_mul(u32::from(percent));
    // One at least, where any: of two backends, the usual tenth would be none.
    let most = if asked.max_percent == 0 { 0 } else { (part(asked.max_percent) / 100).max(1) };
    let least = part(asked.min_health_percent).div_ceil(100);
    let short = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    Conduct {
        failures: asked.consecutive_failures,
        ejection_ms: asked.base_time_ms,
        interval_ms: asked.interval_ms,
        max_ejected: short(most),
        min_healthy: short(least),
        ..conduct
    }
}

/// The record of a route that makes failures, its state left 0. The seed follows from the names, so
/// that the same policy fails the same connections.
pub(super) fn fault(service: &str, route: &str, fault: &Fault) -> Option<Box<FaultRecord>> {
    if *fault == Fault::default() {
        return None;
    }
    let (abort, delay) = (fault.abort.as_ref(), fault.delay.as_ref());
    Some(Box::new(FaultRecord {
        seed: fnv64(service.as_bytes()) ^ fnv64(route.as_bytes()).rotate_left(32),
        state: 0,
        abort_ppm: abort.map_or(0, |abort| abort.ppm),
        errno: abort.map_or(0, |abort| abort.errno.number),
        delay_ppm: delay.map_or(0, |delay| delay.ppm),
        delay_ms: delay.map_or(0, |delay| delay.ms),
        pad: [0; 3],
    }))
}
