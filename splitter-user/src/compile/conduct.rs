//! What followed subsets ask of their connections, and the failures that routes make.

use splitter_common::abi::{
    CONGESTION_LEN, Conduct, Fault as FaultRecord, MAX_SPLIT, Turn, conduct_flag, turn,
};

use super::{addr, client_number, effective_weights, fnv64, is_usable, n_weighted};
use crate::policy::model::{
    Action, Balance, CongestionControl, Connection, Datagrams, Ejection, Errno, Fault, Frontend,
    Keepalive, OldConnections, OnBackendDown, OnEmpty, OverLimit, Protocol, Route, Service, Split,
    Subset,
};

/// What is kept up with of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Following {
    /// Nothing: its subsets have no conduct.
    Nothing,
    /// What may be chosen. Its frontends have no connections that the kernel reports on.
    Backends,
    /// That, and connections to their end.
    Connections,
}

/// What is kept up with of a service.
pub(super) fn following(service: &Service) -> Following {
    match (is_followed(service), service.frontends.iter().any(is_tcp)) {
        (false, _) => Following::Nothing,
        (true, false) => Following::Backends,
        (true, true) => Following::Connections,
    }
}

fn is_tcp(frontend: &Frontend) -> bool {
    frontend.protocol == Protocol::Tcp
}

/// Whether the connections of a service are followed: where something is asked that only they can
/// tell or keep. Only TCP has connections that the kernel reports on; what may be chosen, what fails
/// on purpose, and whose a connected socket is, is kept for UDP too.
fn is_followed(service: &Service) -> bool {
    let any_subset = |asks: fn(&Subset) -> bool| service.subsets.iter().any(asks);
    // A socket stays with a backend for as long as the backend's state says that it may.
    splits_datagrams(service)
        || service.outcomes
        || service.old_connections != OldConnections::Leave
        || service.on_backend_down != OnBackendDown::Leave
        || any_subset(|subset| subset.health.is_some())
        || any_subset(|subset| subset.connection.max_lifetime_ms.is_some())
        || service.routes.iter().any(|route| route.fault != Fault::default())
        || service.frontends.iter().any(is_tcp) && any_subset(asks)
}

/// Whether datagrams of sockets that never connect are split.
pub(super) fn splits_datagrams(service: &Service) -> bool {
    let is_udp = |frontend: &Frontend| frontend.protocol == Protocol::Udp;
    service.datagrams == Datagrams::All && service.frontends.iter().any(is_udp)
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
    let errno = match asked.over_limit {
        OverLimit::Reject(errno) => errno,
        // Where it is to go to has no room either.
        OverLimit::Spill => Errno::REFUSED,
    };
    let conduct = Conduct {
        max_connections: asked.max_connections.unwrap_or(0),
        max_pending: asked.max_pending.unwrap_or(0),
        avoids: asked.avoid_previous.map_or(0, client_number),
        connect_timeout_ms: asked.connect_timeout_ms.unwrap_or(0),
        keep_idle_s: time_s.unwrap_or(0),
        keep_interval_s: interval_s.unwrap_or(0),
        keep_probes: probes.unwrap_or(0),
        errno: errno.number,
        flags: flags(asked),
        pacing_rate: asked.pacing_rate.unwrap_or(0),
        mark: asked.mark.unwrap_or(0),
        source: asked.source.map(addr).unwrap_or_default(),
        congestion: asked.congestion_control.map_or([0; CONGESTION_LEN], CongestionControl::padded),
        ..Conduct::default()
    };
    match &subset.eject {
        Some(ejection) => eject(conduct, ejection, n_weighted(subset)),
        None => conduct,
    }
}

fn flags(asked: &Connection) -> u8 {
    let has_options =
        asked.pacing_rate.is_some() || asked.mark.is_some() || asked.congestion_control.is_some();
    let flags = [
        (conduct_flag::KEEPALIVE, asked.keepalive.is_some()),
        (conduct_flag::OPTIONS, has_options),
        (conduct_flag::SOURCE, asked.source.is_some()),
        (conduct_flag::LISTENER, asked.require_listener),
    ];
    flags.into_iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| flag).sum()
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

/// The record of a route that makes failures, or that turns from a subset to others; its state left
/// 0. Where no seed is given, it follows from the names, so that the same policy fails the same
/// connections.
pub(super) fn fault(service: &Service, route: &Route) -> Option<Box<FaultRecord>> {
    let turns = turns(service, route);
    if route.fault == Fault::default() && turns.is_none() {
        return None;
    }
    let Fault { abort, delay, bandwidth, blackhole, stall, seed } = &route.fault;
    let hash = |name: &str| fnv64(name.as_bytes());
    let of_names = || hash(&service.name) ^ hash(&route.name).rotate_left(32);
    Some(Box::new(FaultRecord {
        seed: seed.unwrap_or_else(of_names),
        state: 0,
        abort_ppm: abort.map_or(0, |abort| abort.ppm),
        errno: abort.map_or(0, |abort| abort.errno.number),
        delay_ppm: delay.map_or(0, |delay| delay.ppm),
        delay_ms: delay.map_or(0, |delay| delay.ms),
        bandwidth_ppm: bandwidth.map_or(0, |bandwidth| bandwidth.ppm),
        bandwidth: bandwidth.map_or(0, |bandwidth| bandwidth.rate),
        blackhole_ppm: blackhole.map_or(0, |blackhole| blackhole.ppm),
        stall_ppm: stall.map_or(0, |stall| stall.ppm),
        stall_after: stall.map_or(0, |stall| stall.after),
        pad: 0,
        turns: turns.unwrap_or_default(),
    }))
}

/// Where a route turns to from each subset, and when. `None` where it never does: its service is not
/// followed, and a subset that is known to be empty has no weight by now; or none is to be left; or
/// there is no other.
fn turns(service: &Service, route: &Route) -> Option<[Turn; MAX_SPLIT as usize]> {
    let Action::Split(split) = &route.action else { return None };
    let leaves = |i: usize| leaves(split, &service.subsets[i]);
    if split.weights.iter().all(|(i, _)| leaves(*i) == 0) || !is_followed(service) {
        return None;
    }
    let weights = effective_weights(service, split);
    // Nothing turns to a subset that has nobody to serve.
    let serves = |i: &usize| weights[*i] > 0 && is_usable(&service.subsets[*i]);
    let weighted = || (0..weights.len()).filter(serves);
    if weighted().count() < 2 {
        return None;
    }
    let mut turns = [Turn::default(); MAX_SPLIT as usize];
    for (to, i) in turns.iter_mut().zip(weighted()) {
        let ordinal = u16::try_from(i).expect("at most MAX_SUBSETS");
        *to = Turn::new(ordinal, weights[i], leaves(i));
    }
    Some(turns)
}

/// When connections leave a subset for another.
fn leaves(split: &Split, subset: &Subset) -> u8 {
    let empty = if split.on_empty == OnEmpty::Spill { turn::NONE_USABLE } else { 0 };
    let full = if subset.connection.over_limit == OverLimit::Spill { turn::OVER_LIMIT } else { 0 };
    empty | full
}
