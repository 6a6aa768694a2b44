//! From a request to a response.

use std::collections::HashSet;
use std::time::Instant;

use tracing::{debug, info, warn};

use super::assignments::{Assignments, Command};
use super::control::{
    Applied, Compared, EgressView, Host, Problem, Request, Response, RouteView, ServiceView, Text,
};
use super::dump;
use super::engine::{ChangeError, DrainTarget, Engine, Outcome, Running, Stand};
use super::events::Events;
use super::health::HealthBook;
use super::hooks::{KernelHooks, hook_problems, tell_needs};
use super::resolver::DnsStatus;
use super::status::{self, EgressStatus, ProgramStatus, Scope, Survey, describe_action};
use super::sweep::SweepBook;
use crate::diff::{Difference, diff_outbound, diff_services};
use crate::kernel::KernelMaps;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::model::{Frontend, Outbound};
use crate::policy::native::{egress_values, outbound_to_yaml, to_yaml};
use crate::policy::{self, Loaded, Reading, Source};
use crate::rehearsal::Role;
use crate::tables::memory::MemoryMaps;

/// What names of egress documents have before them where services are named too.
const EGRESS_PREFIX: &str = "Egress/";
/// Events in one answer.
const MOST_EVENTS: usize = 1_000;

/// The engine on the kernel.
pub(crate) type KernelEngine = Engine<KernelMaps, KernelHooks>;

/// A request that is ready to be carried out.
pub(crate) enum Job {
    /// The engine's to do.
    Task(Task),
    /// Ends the daemon.
    Detach,
}

/// What the engine can be asked for. Fields are those of [`Request`].
pub(crate) enum Task {
    Apply { loaded: Box<Loaded>, sources: Vec<Source> },
    ApplyDocuments(Vec<Source>),
    Remove(Vec<String>),
    Weight { target: String, weights: Vec<(String, u32)> },
    Drain { target: DrainTarget, deadline_ms: Option<u64> },
    UndoDrain(DrainTarget),
    Assign(Command),
    Events { after: u64 },
    Get { services: Vec<String>, details: bool },
    Compare { loaded: Box<Loaded>, sources: Vec<Source> },
    CompareDocuments(Vec<Source>),
    Hosts,
    Explain { to: Frontend, role: Role },
    Status { services: Vec<String>, all: bool },
    Dump,
}

/// What the engine makes of a task.
pub(crate) enum Answer {
    /// The whole answer.
    Ready(Response),
    /// What is left to do on what the engine gave away. It may take long, and is to be done where
    /// it holds nobody up.
    Later(Box<dyn FnOnce() -> Response + Send>),
}

impl Answer {
    fn later(rest: impl FnOnce() -> Response + Send + 'static) -> Self {
        Self::Later(Box::new(rest))
    }
}

impl Job {
    /// Does what needs no engine and may take long: reading policy text.
    pub(crate) fn prepare(request: Request) -> Result<Self, Response> {
        Ok(Self::Task(match request {
            Request::Detach => return Ok(Self::Detach),
            Request::Apply { sources, namespace, degrade } => {
                match load_texts(sources, &namespace, degrade)? {
                    (Some(loaded), sources) => Task::Apply { loaded, sources },
                    (None, sources) => Task::ApplyDocuments(sources),
                }
            }
            Request::Compare { sources, namespace, degrade } => {
                match load_texts(sources, &namespace, degrade)? {
                    (Some(loaded), sources) => Task::Compare { loaded, sources },
                    (None, sources) => Task::CompareDocuments(sources),
                }
            }
            Request::Explain { to, role } => Task::Explain { to: parse_frontend(&to)?, role },
            Request::Remove { services } => Task::Remove(services),
            Request::Weight { target, weights } => Task::Weight { target, weights },
            Request::Drain { target, deadline_ms } => Task::Drain { target, deadline_ms },
            Request::UndoDrain { target } => Task::UndoDrain(target),
            Request::Assign(command) => Task::Assign(command),
            Request::Events { after } => Task::Events { after },
            Request::Get { services, details } => Task::Get { services, details },
            Request::Hosts => Task::Hosts,
            Request::Status { services, all } => Task::Status { services, all },
            Request::Dump => Task::Dump,
        }))
    }
}

fn parse_frontend(text: &str) -> Result<Frontend, Response> {
    text.parse().map_err(|error| Response::Failed { message: format!("`{text}`: {error}") })
}

/// Services by themselves, or `None` where there are documents that are only parts of services: what
/// those come to depends on others, which the engine has.
fn load_texts(
    texts: Vec<Text>,
    namespace: &str,
    degrade: bool,
) -> Result<(Option<Box<Loaded>>, Vec<Source>), Response> {
    let reading = Reading { namespace: namespace.to_owned(), degrade, ..Reading::default() };
    let source = |text: Text| Source {
        name: text.name,
        bytes: text.text.into_bytes(),
        reading: reading.clone(),
    };
    let sources: Vec<Source> = texts.into_iter().map(source).collect();
    match policy::load(&sources) {
        Ok(loaded) if loaded.holds_resources() => Ok((None, sources)),
        Ok(loaded) => Ok((Some(Box::new(loaded)), sources)),
        Err(_) if sources.iter().any(policy::holds_resources) => Ok((None, sources)),
        Err(diagnostics) => Err(response_to(ChangeError::Invalid { diagnostics, sources })),
    }
}

/// What a daemon knows of itself and the engine does not.
pub(crate) struct Circumstances {
    pub(crate) started: Instant,
    pub(crate) policy: Vec<String>,
    /// Whether a policy is waited for, so that nobody who waits for the daemon may start.
    pub(crate) is_waiting: bool,
    /// Why the last reload of the policy files changed nothing, if so.
    pub(crate) reload_problem: Option<String>,
    /// What the resolver does.
    pub(crate) dns: DnsStatus,
    /// Why the last answers of the resolver changed nothing, if so.
    pub(crate) dns_problem: Option<String>,
    /// What is known of checked backends.
    pub(crate) health: HealthBook,
    /// Why backends are not checked, if so.
    pub(crate) health_problem: Option<String>,
    /// What was closed, and what keeps others from being closed.
    pub(crate) sweep: SweepBook,
    /// Commands that are clients of chosen subsets.
    pub(super) assignments: Assignments,
    /// What was refused.
    pub(super) events: Events,
}

impl Circumstances {
    /// Those of a daemon that starts: nothing went wrong yet.
    pub(crate) fn new(
        started: Instant,
        policy: Vec<String>,
        health: HealthBook,
        sweep: SweepBook,
        assignments: Assignments,
    ) -> Self {
        Self {
            started,
            policy,
            is_waiting: false,
            reload_problem: None,
            dns: DnsStatus::default(),
            dns_problem: None,
            health,
            health_problem: None,
            sweep,
            assignments,
            events: Events::new(),
        }
    }
}

/// Carries a task out.
pub(crate) fn answer(
    engine: &mut KernelEngine,
    circumstances: &mut Circumstances,
    task: Task,
) -> Answer {
    let result = match task {
        Task::Apply { loaded, sources } => engine.apply(&loaded, &sources).map(applied),
        Task::ApplyDocuments(sources) => engine.apply_documents(&sources).map(applied_documents),
        Task::Remove(services) => engine.remove(&services).map(applied),
        Task::Weight { target, weights } => weigh(engine, &target, &weights),
        Task::Drain { target, deadline_ms } => {
            let drained = engine.drain(&target, deadline_ms);
            drained.map(|told| Answer::Ready(Response::Drained(told)))
        }
        Task::UndoDrain(target) => {
            engine.undo_drain(&target).map(|told| Answer::Ready(Response::Drained(told)))
        }
        Task::Assign(command) => {
            let assigned = circumstances.assignments.assign(engine, &command);
            assigned.map(|()| Answer::Ready(Response::Assigned))
        }
        Task::Events { after } => {
            let events = circumstances.events.after(after, MOST_EVENTS);
            Ok(Answer::later(move || Response::Events { events }))
        }
        Task::Get { services, details } => get(engine, circumstances, &services, details),
        Task::Compare { loaded, sources } => engine.stand(&loaded, &sources).map(compared),
        Task::CompareDocuments(sources) => engine.stand_documents(&sources).map(compared),
        Task::Hosts => hosts(engine),
        Task::Explain { to, role } => {
            let explained = engine.explain(&to, &role);
            explained.map(|told| Answer::Ready(Response::Explained(Box::new(told))))
        }
        Task::Status { services, all } => {
            full_status(engine, circumstances, &Scope { names: &services, all })
                .map(|survey| Answer::later(move || Response::Status(Box::new(survey.describe()))))
        }
        Task::Dump => Ok(dump(engine)),
    };
    result.unwrap_or_else(|error| Answer::Ready(response_to(error)))
}

fn hosts(engine: &KernelEngine) -> Result<Answer, ChangeError> {
    engine.check_known()?;
    let hosts = engine.documents().hosts.clone();
    Ok(Answer::later(move || Response::Hosts {
        hosts: hosts.into_iter().map(Host::from).collect(),
    }))
}

fn compared(stand: Stand) -> Answer {
    Answer::later(move || {
        let Stand { old, new, outbound: [said, says], left_alone, generation } = stand;
        let [old, new] = [&old, &new].map(|services| services.iter().map(AsRef::as_ref));
        let outbound = diff_outbound(&said, &says);
        let difference = Difference { outbound, ..diff_services(old, new) };
        Response::Compared(Compared { difference, left_alone, generation })
    })
}

fn dump(engine: &KernelEngine) -> Answer {
    let failed = |error| Response::Failed { message: format!("read the maps: {error}") };
    let running: Vec<Running> = engine.running().cloned().collect();
    let maps = MemoryMaps::copy_of(engine.publisher().maps());
    match maps.and_then(|maps| Ok((maps, engine.copy_egress()?))) {
        Ok((maps, egress)) => Answer::later(move || {
            dump::dump(&maps, &running, &egress)
                .map_or_else(failed, |dump| Response::Dump(Box::new(dump)))
        }),
        Err(error) => Answer::Ready(failed(error)),
    }
}

fn weigh(
    engine: &mut KernelEngine,
    target: &str,
    weights: &[(String, u32)],
) -> Result<Answer, ChangeError> {
    let (service, route) = engine.find_target(target);
    let weighted = engine.set_weights(service, route, weights)?;
    debug!(target, microseconds = weighted.microseconds, "weights changed");
    Ok(Answer::Ready(Response::Weighted(weighted)))
}

fn applied(applied: Applied) -> Answer {
    log_applied("applied", &applied);
    let applied = Box::new(applied);
    Answer::later(move || Response::Applied { applied, problems: Vec::new(), sources: Vec::new() })
}

fn applied_documents(outcome: Outcome) -> Answer {
    let Outcome { applied, warnings, sources } = outcome;
    log_applied("documents applied", &applied);
    Answer::later(move || {
        let (problems, sources) = cross(warnings, sources);
        Response::Applied { applied: Box::new(applied), problems, sources }
    })
}

/// One line per change of the policy.
pub(crate) fn log_applied(what: &str, applied: &Applied) {
    info!(
        generation = applied.generation,
        added = applied.added.len(),
        changed = applied.changed.len(),
        removed = applied.removed.len(),
        microseconds = applied.microseconds,
        "{what}"
    );
}

fn response_to(error: ChangeError) -> Response {
    match error {
        ChangeError::Invalid { diagnostics, sources } => {
            let (problems, sources) = cross(diagnostics, sources);
            Response::Invalid { problems, sources }
        }
        error => {
            warn!("a request was refused: {}", chain(&error));
            Response::Failed { message: chain(&error) }
        }
    }
}

/// Diagnostics and what they point into, as they cross the socket: a source without any crosses
/// without its text.
fn cross(diagnostics: Vec<Diagnostic>, sources: Vec<Source>) -> (Vec<Problem>, Vec<Text>) {
    let labels =
        diagnostics.iter().flat_map(|it| std::iter::once(&it.primary).chain(&it.secondary));
    let used: HashSet<usize> = labels.map(|label| label.source).collect();
    let text = |(index, source): (usize, Source)| Text {
        name: source.name,
        text: if used.contains(&index) {
            String::from_utf8_lossy(&source.bytes).into_owned()
        } else {
            String::new()
        },
    };
    let sources = sources.into_iter().enumerate().map(text).collect();
    (diagnostics.into_iter().map(Problem::from).collect(), sources)
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn get(
    engine: &KernelEngine,
    circumstances: &Circumstances,
    names: &[String],
    details: bool,
) -> Result<Answer, ChangeError> {
    if let Some(reason) = engine.degraded() {
        return Err(ChangeError::Degraded(reason.to_owned()));
    }
    let (mut running, mut egress) = (Vec::new(), Vec::new());
    for name in names {
        match name.strip_prefix(EGRESS_PREFIX) {
            Some(document) => egress.push(view_egress(engine.find_egress(document)?, details)),
            None => running.push(engine.find(name)?.clone()),
        }
    }
    if names.is_empty() {
        running.extend(engine.running().cloned());
        egress.extend(engine.egress().map(|(said, ..)| view_egress(said, details)));
    }
    let health = circumstances.health.clone();
    Ok(Answer::later(move || {
        let services = running.iter().map(|running| view(running, &health, details)).collect();
        Response::Services { services, egress }
    }))
}

fn view_egress(said: &Outbound, details: bool) -> EgressView {
    let values = egress_values(said).into_iter();
    EgressView {
        name: said.name.clone(),
        clients: said.cgroups.iter().map(ToString::to_string).collect(),
        says: values.map(|(key, value)| (key.to_owned(), value)).collect(),
        document: details.then(|| outbound_to_yaml(said)),
    }
}

fn view(running: &Running, health: &HealthBook, details: bool) -> ServiceView {
    let service = &running.service;
    let addresses = |subset: &policy::model::Subset| {
        subset.backends.iter().map(|backend| backend.addr.to_string()).collect()
    };
    let route = |route: &policy::model::Route| {
        let (action, weights) = describe_action(service, &route.action);
        RouteView { name: route.name.clone(), matches: route.matches.len(), action, weights }
    };
    let detailed = || service.subsets.iter().filter(|_| details);
    ServiceView {
        name: service.name.clone(),
        origin: running.origin.to_string(),
        frontends: service.frontends.iter().map(ToString::to_string).collect(),
        subsets: detailed().map(|s| (s.name.clone(), addresses(s))).collect(),
        routes: service.routes.iter().map(route).collect(),
        health: Some(health.count(&service.name)).filter(|counts| counts.total() > 0),
        document: details.then(|| to_yaml(service)),
    }
}

fn full_status(
    engine: &mut KernelEngine,
    circumstances: &Circumstances,
    scope: &Scope<'_>,
) -> Result<Survey, ChangeError> {
    let mut survey = status::survey(engine, &circumstances.health, scope)?;
    let status = &mut survey.status;
    status.programs = engine.hooks_mut().program_sizes().into_iter().map(program).collect();
    status.cgroup = super::show(engine.hooks().cgroup());
    status.hooks = engine.hooks().states();
    tell_needs(&mut status.hooks, engine);
    status.uptime_seconds = circumstances.started.elapsed().as_secs();
    status.policy.clone_from(&circumstances.policy);
    status.problems.extend(policy_problems(engine, circumstances));
    status.problems.extend(circumstances.dns_problem.clone());
    status.problems.extend(status::dns_problems(&circumstances.dns));
    status.problems.extend(circumstances.health_problem.clone());
    status.dns.clone_from(&circumstances.dns);
    status.sweep = circumstances.sweep.read();
    status.problems.extend(status.sweep.problem.take());
    status.assignments = circumstances.assignments.status(engine);
    let egress = engine.egress();
    let describe =
        |(said, counts, hosts, notes)| EgressStatus::new(said, counts, hosts, &status.dns, notes);
    status.egress = egress.map(describe).collect();
    status.problems.extend(engine.host_problems());
    status.problems.extend(engine.egress_problems());
    status.draining = engine.draining(&status.sweep.draining);
    status.problems.extend(hook_problems(&status.hooks, &status.cgroup));
    Ok(survey)
}

/// What is wrong with the policy as a whole.
fn policy_problems(engine: &KernelEngine, circumstances: &Circumstances) -> Vec<String> {
    let is_empty = engine.publisher().services().next().is_none();
    let held = "clients are held until a policy is committed (--hold)".to_owned();
    let reload = circumstances.reload_problem.as_ref().map(|why| {
        if circumstances.is_waiting && is_empty {
            format!("no policy is in force yet: {why}")
        } else {
            format!("the policy files are not loaded, what runs is kept: {why}")
        }
    });
    reload.into_iter().chain(engine.is_holding().then_some(held)).collect()
}

fn program(size: crate::kernel::ProgramSize) -> ProgramStatus {
    ProgramStatus {
        name: size.name.to_owned(),
        verified_instructions: size.verified_instructions,
        translated_bytes: size.translated_bytes,
        jited_bytes: size.jited_bytes,
    }
}
