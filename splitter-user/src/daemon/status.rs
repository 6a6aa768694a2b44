//! What the kernel and the daemon say about the running split.
//!
//! Hooks and counts are read from the kernel when they are asked for, never remembered.

mod egress;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use splitter_common::abi::{Reason, State, cell};

use super::assignments::AssignmentStatus;
use super::congestion::Algorithms;
use super::engine::weights::{main_split, named};
use super::engine::{ChangeError, DrainStatus, Engine, OptionalHooks, Running};
use super::health::{HealthBook, HealthStatus, HealthSummary, ServiceHealth};
use super::hooks::HookStatus;
use super::outcomes::{OutOfUse, Outcomes, monotonic_ns};
use super::resolver::DnsStatus;
use super::sweep::SweepStatus;
use crate::compile::{Note, name_ids, service_id};
use crate::policy::model::{Action, Backend, OldConnections, Pick, Service, Subset};
use crate::publish::{CounterOwner, Counters as Indices};
use crate::tables::{Arena, Maps, read};

pub(crate) use egress::EgressStatus;

/// Services that are told of in detail where nobody asked for some or for all.
const FEW: usize = 32;

/// The state of a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// What is wrong and what to do, empty where nothing is.
    pub(crate) problems: Vec<String>,
    /// Version of the daemon.
    pub(crate) version: String,
    /// Its process.
    pub(crate) pid: u32,
    /// How long it runs.
    pub(crate) uptime_seconds: u64,
    /// The generation in force.
    pub(crate) generation: u64,
    /// Services in force.
    pub(crate) n_services: usize,
    /// The cgroup whose connections are split.
    pub(crate) cgroup: String,
    /// Hooks as the kernel has them.
    pub(crate) hooks: Vec<HookStatus>,
    /// Programs as the kernel has them.
    pub(crate) programs: Vec<ProgramStatus>,
    /// Records of the maps.
    pub(crate) maps: Vec<MapStatus>,
    /// Policy files and directories that are followed.
    pub(crate) policy: Vec<String>,
    /// Services that were applied or reweighted by command.
    pub(crate) overrides: Vec<String>,
    /// Documents that were applied, as `KIND/NAMESPACE/NAME`.
    pub(crate) documents: Vec<String>,
    /// What the resolver does.
    pub(crate) dns: DnsStatus,
    /// All health checks in short.
    #[serde(default)]
    pub(crate) health: HealthSummary,
    /// Connections that were closed.
    pub(crate) sweep: SweepStatus,
    /// Backends whose connections are to end.
    pub(crate) draining: Vec<DrainStatus>,
    /// Subsets that commands are clients of.
    #[serde(default)]
    pub(crate) assignments: Vec<AssignmentStatus>,
    /// What clients may reach, in the order in which it counts.
    #[serde(default)]
    pub(crate) egress: Vec<EgressStatus>,
    /// Connections to frontends that were not rewritten, by reason.
    pub(crate) reasons: BTreeMap<String, u64>,
    /// Services in detail.
    pub(crate) services: Vec<ServiceStatus>,
    /// Services that are not in `services`, because there are many and none was named.
    pub(crate) n_omitted: usize,
}

/// One program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProgramStatus {
    /// Its name.
    pub(crate) name: String,
    /// Instructions that the verifier walked, on all paths together.
    pub(crate) verified_instructions: u32,
    /// Bytes of BPF instructions, 8 each.
    pub(crate) translated_bytes: u32,
    /// Bytes of machine code.
    pub(crate) jited_bytes: u32,
}

/// One map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MapStatus {
    /// Its name.
    pub(crate) map: String,
    /// Records in use.
    pub(crate) used: u32,
    /// Records in all.
    pub(crate) size: u32,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceStatus {
    /// Its name.
    pub(crate) name: String,
    /// Where it comes from.
    pub(crate) origin: String,
    /// What clients dial.
    pub(crate) frontends: Vec<String>,
    /// Routes in their order.
    pub(crate) routes: Vec<RouteStatus>,
    /// Subsets in their order.
    pub(crate) subsets: Vec<SubsetStatus>,
    /// What it gets only nearly.
    pub(crate) notes: Vec<String>,
}

/// One route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RouteStatus {
    /// Its name.
    pub(crate) name: String,
    /// `split`, `pass`, or `reject` with the errno.
    pub(crate) action: String,
    /// Subsets and weights of a split.
    pub(crate) weights: Vec<(String, u32)>,
    /// Connections that it took.
    pub(crate) connections: u64,
    /// What came of them, where they are followed.
    pub(crate) outcomes: Option<Outcomes>,
}

/// One subset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubsetStatus {
    /// Its name.
    pub(crate) name: String,
    /// Connections that were meant for it, by all routes together.
    pub(crate) connections: u64,
    /// Its share of those to all subsets of the service, in parts per million.
    pub(crate) share_ppm: Option<u32>,
    /// The share that the weights of the service's main split ask for, in parts per million.
    pub(crate) asked_ppm: Option<u32>,
    /// Backends in their order.
    pub(crate) backends: Vec<BackendStatus>,
}

/// One backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackendStatus {
    /// Its address.
    pub(crate) address: String,
    /// Its weight.
    pub(crate) weight: u32,
    /// Connections that were rewritten to it.
    pub(crate) connections: u64,
    /// Its share of those of the subset, in parts per million.
    pub(crate) share_ppm: Option<u32>,
    /// What came of them, where they are followed.
    pub(crate) outcomes: Option<Outcomes>,
    /// Why it gets none now, if so.
    pub(crate) out_of_use: Option<OutOfUse>,
    /// How often it was stepped over because nobody listened there.
    #[serde(default)]
    pub(crate) unheard: u64,
    /// Its health, where it is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<HealthStatus>,
}

/// Which services to tell of.
pub(crate) struct Scope<'a> {
    pub(crate) names: &'a [String],
    pub(crate) all: bool,
}

/// What the engine has to say, copied: to describe many services takes long.
pub(crate) struct Survey {
    /// All but the services.
    pub(crate) status: Status,
    counters: Counters,
    health: HealthBook,
    services: Vec<Surveyed>,
}

impl Survey {
    /// The status with its services.
    pub(crate) fn describe(self) -> Status {
        let Self { mut status, counters, health, services } = self;
        status.health = health.summary();
        status.problems.append(&mut status.health.problems);
        let (now_ns, algorithms) = (monotonic_ns(), Algorithms::read());
        let describe = |surveyed: &Surveyed| {
            let Surveyed { running, counters: indices, states } = surveyed;
            let indices = indices.iter().flat_map(Indices::iter).collect();
            let has_connections = running.service.has_connections();
            let counters =
                ServiceCounters { indices, counters: &counters, states, has_connections, now_ns };
            let health = health.of(&running.service.name);
            let mut status = describe_service(running, &counters, &health);
            status.notes.extend(algorithms.notes(&running.service));
            status
        };
        status.services = services.iter().map(describe).collect();
        status
    }
}

/// One service, copied.
struct Surveyed {
    running: Running,
    counters: Option<Indices>,
    /// Where its connections are followed.
    states: HashMap<CounterOwner, State>,
}

impl Surveyed {
    fn new<M: Maps, H: OptionalHooks>(engine: &Engine<M, H>, running: &Running) -> Self {
        let (publisher, name) = (engine.publisher(), &running.service.name);
        let state = |(owner, index)| Some((owner, read(publisher.maps(), Arena::States, index)?));
        let states = engine.states_of(name).into_iter().filter_map(state).collect();
        Self { running: running.clone(), counters: publisher.counters(service_id(name)), states }
    }
}

/// The part of the status that the tables and the policy tell.
pub(crate) fn survey<M: Maps, H: OptionalHooks>(
    engine: &Engine<M, H>,
    health: &HealthBook,
    scope: &Scope<'_>,
) -> Result<Survey, ChangeError> {
    let counters = engine.publisher().maps().counters();
    let unread = counters.as_ref().err().map(|error| format!("read the counters: {error}"));
    let counters = Counters(counters.unwrap_or_default());
    let running = scope.choose(engine)?.into_iter();
    let services: Vec<_> = running.map(|running| Surveyed::new(engine, running)).collect();
    let n_services = engine.publisher().services().count();
    let omitted = if scope.names.is_empty() { n_services - services.len() } else { 0 };
    let status = Status {
        problems: engine.degraded().map(degraded_problem).into_iter().chain(unread).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        generation: engine.publisher().generation(),
        n_services,
        maps: map_usage(engine),
        overrides: engine.overridden(),
        documents: engine.applied_documents(),
        reasons: Reason::ALL
            .into_iter()
            .map(|reason| (reason.name().to_owned(), counters.get(reason as u32)))
            .collect(),
        n_omitted: omitted,
        ..Status::default()
    };
    Ok(Survey { status, counters, health: health.clone(), services })
}

fn degraded_problem(reason: &str) -> String {
    format!(
        "DEGRADED: the policy files were wrong when the daemon started, so it keeps the policy of \
         the daemon before it: {reason}"
    )
}

/// Says which names have no address.
pub(crate) fn dns_problems(dns: &DnsStatus) -> Vec<String> {
    let names = dns.unresolved.iter();
    names
        .map(|(name, why)| {
            format!(
                "the name {name} was never resolved, so it stands for no address: {why}; it is asked \
                 for again, and `getent ahosts {name}` shows what the node knows"
            )
        })
        .collect()
}

fn map_usage<M: Maps, H: OptionalHooks>(engine: &Engine<M, H>) -> Vec<MapStatus> {
    let usage = engine.publisher().usage().into_iter();
    usage.map(|(map, used, size)| MapStatus { map: map.to_owned(), used, size }).collect()
}

impl Scope<'_> {
    fn choose<'e, M: Maps, H: OptionalHooks>(
        &self,
        engine: &'e Engine<M, H>,
    ) -> Result<Vec<&'e Running>, ChangeError> {
        if !self.names.is_empty() {
            return self.names.iter().map(|name| engine.find(name)).collect();
        }
        let many = if self.all { usize::MAX } else { FEW };
        Ok(engine.running().take(many).collect())
    }
}

/// Values of the counters map, read once.
struct Counters(Vec<u64>);

impl Counters {
    fn get(&self, index: u32) -> u64 {
        self.0.get(index as usize).copied().unwrap_or(0)
    }
}

/// Counters of one service by what they count.
struct ServiceCounters<'a> {
    indices: HashMap<CounterOwner, u32>,
    counters: &'a Counters,
    states: &'a HashMap<CounterOwner, State>,
    /// Whether it has any that the kernel reports on.
    has_connections: bool,
    /// `CLOCK_MONOTONIC` when the states were read.
    now_ns: u64,
}

impl ServiceCounters<'_> {
    fn state(&self, owner: CounterOwner) -> Option<&State> {
        self.states.get(&owner)
    }

    /// What came of connections. Of a service without TCP, nothing is known.
    fn outcomes(&self, owner: CounterOwner) -> Option<Outcomes> {
        self.state(owner).filter(|_| self.has_connections).map(Outcomes::of)
    }

    fn get(&self, owner: CounterOwner) -> u64 {
        self.indices.get(&owner).map_or(0, |index| self.counters.get(*index))
    }
}

fn describe_service(
    running: &Running,
    counters: &ServiceCounters<'_>,
    health: &ServiceHealth,
) -> ServiceStatus {
    let service = &running.service;
    ServiceStatus {
        name: service.name.clone(),
        origin: running.origin.to_string(),
        frontends: service.frontends.iter().map(ToString::to_string).collect(),
        routes: describe_routes(service, counters),
        subsets: describe_subsets(service, counters, health),
        notes: running.notes.iter().map(describe_note).chain(unbalanced(service)).collect(),
    }
}

/// What `oldConnections: rebalance` is not about.
fn unbalanced(service: &Service) -> Vec<String> {
    if !matches!(service.old_connections, OldConnections::Rebalance { .. }) {
        return Vec::new();
    }
    let picks = service.routes.iter().filter_map(|route| match &route.action {
        Action::Split(split) => Some((&route.name, split.pick)),
        Action::Reject(_) | Action::Pass => None,
    });
    let notes = picks.filter_map(|(route, pick)| {
        let why = match pick {
            Pick::Exact => return None,
            Pick::Random => "`pick: random` does not come to the weights",
            Pick::Affinity(_) => "`affinity` would send its clients to where they were",
        };
        Some(format!("the route `{route}` is not rebalanced: {why}"))
    });
    let sockets = "connected UDP sockets are not rebalanced: nobody knows when they are idle";
    notes.chain(service.has_datagrams().then(|| sockets.to_owned())).collect()
}

fn describe_routes(service: &Service, counters: &ServiceCounters<'_>) -> Vec<RouteStatus> {
    let ids = name_ids(service.routes.iter().map(|route| route.name.as_str()));
    let describe = |(route, id): (&crate::policy::model::Route, u32)| {
        let (action, weights) = describe_action(service, &route.action);
        let connections = counters.get(CounterOwner::Route(id));
        let outcomes = counters.outcomes(CounterOwner::Route(id));
        RouteStatus { name: route.name.clone(), action, weights, connections, outcomes }
    };
    service.routes.iter().zip(ids).map(describe).collect()
}

/// An action as a word, and the weights of a split.
pub(crate) fn describe_action(service: &Service, action: &Action) -> (String, Vec<(String, u32)>) {
    match action {
        Action::Split(split) => ("split".to_owned(), named(service, split)),
        Action::Reject(errno) => (format!("reject {}", errno.name), Vec::new()),
        Action::Pass => ("pass".to_owned(), Vec::new()),
    }
}

fn describe_subsets(
    service: &Service,
    counters: &ServiceCounters<'_>,
    health: &ServiceHealth,
) -> Vec<SubsetStatus> {
    let names = service.subsets.iter().map(|subset| subset.name.as_str());
    let ids = name_ids(names);
    let counts: Vec<u64> = ids.iter().map(|id| counters.get(CounterOwner::Subset(*id))).collect();
    let total = counts.iter().sum();
    let subsets = service.subsets.iter().zip(ids).zip(counts).enumerate();
    subsets
        .map(|(ordinal, ((subset, id), connections))| SubsetStatus {
            name: subset.name.clone(),
            connections,
            share_ppm: share_ppm(connections, total),
            asked_ppm: asked_ppm(service, ordinal),
            backends: describe_backends(subset, id, counters, health),
        })
        .collect()
}

fn asked_ppm(service: &Service, ordinal: usize) -> Option<u32> {
    let route = service.routes.get(main_split(service)?)?;
    let Action::Split(split) = &route.action else { return None };
    let sum = split.weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let weight = split.weights.iter().find(|(subset, _)| *subset == ordinal);
    share_ppm(weight.map_or(0, |(_, weight)| u64::from(*weight)), sum)
}

fn describe_backends(
    subset: &Subset,
    id: u32,
    counters: &ServiceCounters<'_>,
    health: &ServiceHealth,
) -> Vec<BackendStatus> {
    let owner = |addr| CounterOwner::Backend(id, crate::compile::backend_image(addr));
    let count = |backend: &Backend| counters.get(owner(backend.addr));
    let total = subset.backends.iter().map(count).sum();
    let describe = |backend: &Backend| {
        let connections = count(backend);
        let state = counters.state(owner(backend.addr));
        BackendStatus {
            address: backend.addr.to_string(),
            weight: backend.weight,
            connections,
            share_ppm: share_ppm(connections, total),
            health: health.get(&(subset.name.clone(), backend.addr)).cloned(),
            outcomes: counters.outcomes(owner(backend.addr)),
            unheard: state.map_or(0, |state| state.cells[cell::UNHEARD]),
            out_of_use: state.and_then(|state| OutOfUse::of(state, counters.now_ns)),
        }
    };
    subset.backends.iter().map(describe).collect()
}

/// Rounded to the nearest; `None` of nothing.
fn share_ppm(part: u64, whole: u64) -> Option<u32> {
    let (part, whole) = (u128::from(part), u128::from(whole));
    let share = (part * 1_000_000 + whole / 2).checked_div(whole)?;
    u32::try_from(share).ok()
}

fn describe_note(note: &Note) -> String {
    match note {
        Note::Rounded { place, error_ppm } => format!(
            "the weights of `{place}` do not fit a wheel of 10000 slots: shares are off by up to \
             {error_ppm} parts per million"
        ),
        Note::NoClient { place, why } => {
            format!("a match of the route `{place}` takes nobody: {why}")
        }
    }
}
