//! The event loop: whatever may change the policy, one thing at a time.

mod names;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener as StdListener;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use splitter_common::abi::standing;
use tokio::io::unix::{AsyncFd, AsyncFdReadyMutGuard};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::access::Access;
use super::clients::{CgroupTree, ClientWatch, watch_places};
use super::control::Response;
use super::files::PolicyFiles;
use super::health::{Health, Target, Verdict, checks_of};
use super::hooks::hook_problems;
use super::requests::{Answer, Circumstances, Job, KernelEngine, Task, answer, chain};
use super::resolver::Resolver;
use super::server::{self, Call};
use super::start::{load_policy, tell_systemd};
use super::sweep::Sweep;
use super::watch::Watch;
use crate::compile::ClientNames;
use crate::kernel::{EventRing, HookLog};
use crate::policy::model::{Frontend, Protocol};
use crate::publish::Mark;

/// How often clients are looked up again that nothing tells of: named network namespaces, and all
/// where not everything can be watched.
const CLIENT_PERIOD: Duration = Duration::from_secs(1);
/// How often it is looked whether subsets take connections, while live splits come to their weights.
const BALANCE_PERIOD: Duration = Duration::from_secs(1);
/// How often it is looked which backends are down, where connections to those are closed.
const DOWN_PERIOD: Duration = Duration::from_secs(1);
/// How often it is checked that the kernel still runs our programs.
const HOOKS_PERIOD: Duration = Duration::from_secs(5);
/// How often it is looked whether commands ended that are clients of chosen subsets.
const ASSIGNMENTS_PERIOD: Duration = Duration::from_secs(1);
/// How often it is looked whether addresses count no longer that left the answers of their names.
const LEFT_HOSTS_PERIOD: Duration = Duration::from_secs(10);
/// Requests that wait for the engine.
const WAITING_CALLS: usize = 32;

/// How the event loop ended.
pub(super) enum Ending {
    /// By a signal; the split is as it was.
    Signal(Box<KernelEngine>),
    /// By a request that removed everything.
    Detached,
}

/// A running daemon.
pub(super) struct Daemon {
    engine: KernelEngine,
    circumstances: Circumstances,
    files: PolicyFiles,
    resolver: Resolver,
    checks: Checks,
    sweep: Sweep,
    /// The names of clients that are looked for.
    names: ClientNames,
    /// What was last said to be wrong with the hooks.
    hook_problems: Vec<String>,
    /// Receives the end of a grace period that is waited for.
    grace: Option<oneshot::Receiver<Mark>>,
}

/// What the health of backends needs.
pub(super) struct Checks {
    pub(super) health: Health,
    /// Backends that do not serve, as the verdicts have it.
    pub(super) unhealthy: BTreeSet<Target>,
    /// Tells whether the daemon's own connections are split.
    pub(super) cgroups: CgroupTree,
}

/// Everything that wakes the event loop.
struct Wakers {
    calls: mpsc::Receiver<Call>,
    watch: Option<Watch>,
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
    clients: ClientWatch,
    client_look: Interval,
    hooks: Interval,
    balance: Interval,
    down: Interval,
    assignments: Interval,
    left_hosts: Interval,
    events: AsyncFd<EventRing>,
}

impl Daemon {
    pub(super) fn new(
        engine: KernelEngine,
        circumstances: Circumstances,
        files: PolicyFiles,
        resolver: Resolver,
        checks: Checks,
        sweep: Sweep,
    ) -> Self {
        Self {
            engine,
            circumstances,
            files,
            resolver,
            checks,
            sweep,
            names: ClientNames::default(),
            hook_problems: Vec::new(),
            grace: None,
        }
    }

    /// Serves until a signal or a request ends it.
    pub(super) async fn serve(
        mut self,
        listener: StdListener,
        access: Access,
        log: Option<HookLog>,
        events: EventRing,
    ) -> anyhow::Result<Ending> {
        let (sender, calls) = mpsc::channel(WAITING_CALLS);
        let listener = UnixListener::from_std(listener).context("listen on the control socket")?;
        tokio::spawn(server::serve(listener, access, sender));
        if let Some(log) = log {
            let log = watch_ring(log).context("wait for the hooks' log")?;
            tokio::spawn(forward_log(log));
        }
        let mut wakers = self.wakers(calls, events)?;
        self.follow_names(&mut wakers.clients);
        self.resolver.follow(&self.engine.documents().lookups);
        self.follow_checks();
        self.follow_terms();
        self.free_retired();
        self.tell_ready();
        loop {
            if let Some(ending) = self.step(&mut wakers).await {
                return Ok(match ending {
                    Last::Signal => Ending::Signal(Box::new(self.engine)),
                    Last::Detach(reply) => self.detach(reply).await?,
                });
            }
        }
    }

    fn wakers(&self, calls: mpsc::Receiver<Call>, events: EventRing) -> anyhow::Result<Wakers> {
        let on = |kind| signal(kind).context("wait for signals");
        let watch = if self.files.is_empty() {
            None
        } else {
            Some(Watch::new(self.files.clone()).context("watch the policy files")?)
        };
        Ok(Wakers {
            calls,
            watch,
            reload: on(SignalKind::hangup())?,
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            clients: ClientWatch::new().context("watch for clients")?,
            client_look: every(CLIENT_PERIOD),
            hooks: every(HOOKS_PERIOD),
            balance: every(BALANCE_PERIOD),
            down: every(DOWN_PERIOD),
            assignments: every(ASSIGNMENTS_PERIOD),
            left_hosts: every(LEFT_HOSTS_PERIOD),
            events: watch_ring(events).context("wait for events")?,
        })
    }

    /// Waits for one thing and does it. Answers how to end, if this is the end.
    async fn step(&mut self, wakers: &mut Wakers) -> Option<Last> {
        tokio::select! {
            Some(Call { job, reply }) = wakers.calls.recv() => match job {
                Job::Detach => return Some(Last::Detach(reply)),
                Job::Task(task) => self.carry_out(task, reply),
            },
            () = changed(&mut wakers.watch) => self.reload("the policy files changed"),
            Some(()) = wakers.reload.recv() => {
                if let Some(watch) = &mut wakers.watch {
                    watch.look();
                }
                self.reload("SIGHUP");
            }
            Some(()) = wakers.terminate.recv() => return Some(Last::Signal),
            Some(()) = wakers.interrupt.recv() => return Some(Last::Signal),
            () = self.resolver.changed() => self.take_answers(),
            verdict = self.checks.health.verdict(), if self.circumstances.health_problem.is_none() => {
                self.take_verdict(verdict);
            }
            () = wakers.clients.changed() => self.look_for_clients(&mut wakers.clients),
            _ = wakers.client_look.tick(), if self.is_looking(&wakers.clients) => {
                self.refresh_clients();
            }
            _ = wakers.hooks.tick() => self.mend_attachment(),
            _ = wakers.balance.tick(), if self.sweep.is_balancing() => self.engine.touch_balanced(),
            _ = wakers.down.tick(), if self.engine.closes_at_down() => self.engine.look_for_down(),
            _ = wakers.assignments.tick(), if !self.circumstances.assignments.is_empty() => {
                self.circumstances.assignments.forget_ended(&mut self.engine);
            }
            _ = wakers.left_hosts.tick(), if self.engine.has_left_hosts() => self.forget_left_hosts(),
            ready = wakers.events.readable_mut() => self.take_events(ready),
            mark = ended(&mut self.grace) => self.release(mark),
        }
        self.follow_checks();
        self.follow_terms();
        self.follow_names(&mut wakers.clients);
        None
    }

    fn take_events(&mut self, ready: io::Result<AsyncFdReadyMutGuard<'_, EventRing>>) {
        let Ok(mut ready) = ready else { return };
        let Self { engine, circumstances, .. } = self;
        if circumstances.events.take(ready.get_inner_mut(), engine) {
            // Nothing is cleared that came since the guard was given out.
            ready.clear_ready();
        }
    }

    fn carry_out(&mut self, task: Task, reply: oneshot::Sender<Answer>) {
        self.circumstances.dns = self.resolver.status();
        let before = self.engine.publisher().generation();
        let answer = answer(&mut self.engine, &mut self.circumstances, task);
        // A client that went away does not need the answer.
        let _gone = reply.send(answer);
        self.follow_hosts(before);
        self.free_retired();
        if self.circumstances.is_waiting && self.engine.publisher().generation() != before {
            self.tell_ready();
        }
    }

    /// Tells the health checks what the policy asks for now.
    fn follow_checks(&mut self) {
        let changed = self.engine.take_changed_checks();
        if changed.is_empty() {
            return;
        }
        let Self { engine, checks: Checks { health, cgroups, .. }, .. } = self;
        let is_inside = cgroups.holds_this_process(engine.hooks().cgroup());
        let is_caught =
            |addr| is_inside && engine.is_frontend(&Frontend { addr, protocol: Protocol::Tcp });
        for (name, service) in changed {
            let checks = service.map(|service| checks_of(&service, is_caught));
            health.follow(&name, checks.unwrap_or_default());
        }
        // A backend that came with the change has a standing of its own.
        for target in self.checks.unhealthy.clone() {
            self.stand_down(&target, true);
        }
    }

    /// Tells who closes connections what the policy asks for now.
    fn follow_terms(&mut self) {
        for (service, asking) in self.engine.take_changed_terms() {
            self.sweep.follow(&service, asking);
        }
    }

    /// Lets connections avoid a backend that does not serve, or no longer.
    fn stand_down(&mut self, target: &Target, is_down: bool) {
        let Target { service, subset, addr } = target;
        let stood = self.engine.set_standing(service, subset, *addr, (standing::DOWN, is_down));
        if let Err(error) = stood {
            error!(%service, %subset, %addr, "connections are not told of its health: {error}");
        }
    }

    /// Takes in that a backend is something else now.
    fn take_verdict(&mut self, verdict: Option<Verdict>) {
        let Some(Verdict { target: Target { service, subset, addr }, is_healthy, why }) = verdict
        else {
            let problem = "the health checks ended by themselves; restart the daemon";
            error!("{problem}");
            self.circumstances.health_problem = Some(problem.to_owned());
            return;
        };
        let target = Target { service, subset, addr };
        self.stand_down(&target, !is_healthy);
        let Target { service, subset, .. } = &target;
        if is_healthy {
            info!(%service, %subset, %addr, "healthy: {why}");
        } else {
            warn!(%service, %subset, %addr, "unhealthy: {why}");
        }
        if is_healthy {
            self.checks.unhealthy.remove(&target);
        } else {
            self.checks.unhealthy.insert(target);
        }
    }

    fn reload(&mut self, why: &str) {
        info!("{why}: reloading");
        tell_reloading();
        let before = self.engine.publisher().generation();
        let result = load_policy(&mut self.engine, &self.files);
        if let Err(problem) = &result {
            error!("the policy files are not loaded, what runs is kept: {problem}");
        }
        self.circumstances.reload_problem = result.err();
        self.follow_hosts(before);
        self.free_retired();
        self.tell_ready();
    }

    /// Looks for the clients that the policy names now.
    fn follow_names(&mut self, watch: &mut ClientWatch) {
        if let Some(names) = self.engine.take_changed_names()
            && names != self.names
        {
            self.names = names;
            self.look_for_clients(watch);
        }
    }

    /// Whether it has to be looked from time to time who came or went.
    fn is_looking(&self, watch: &ClientWatch) -> bool {
        !self.names.networks.is_empty() || !watch.is_complete()
    }

    /// Looks who came or went, of the clients that the policy names.
    fn look_for_clients(&mut self, watch: &mut ClientWatch) {
        watch_places(&self.checks.cgroups, &self.names, watch);
        self.refresh_clients();
    }

    fn refresh_clients(&mut self) {
        match self.engine.refresh_clients() {
            Ok(0) => {}
            Ok(services) => info!(services, "clients came or went"),
            Err(error) => warn!("clients came or went: {}", chain(&error)),
        }
        self.free_retired();
    }

    /// Says once what is wrong with the hooks, and attaches again what may be.
    fn mend_attachment(&mut self) {
        let hooks = self.engine.hooks_mut();
        let cgroup = super::show(hooks.cgroup());
        let mut problems = hook_problems(&hooks.states(), &cgroup);
        let mended = if problems.is_empty() { Ok(Vec::new()) } else { hooks.mend() };
        if let Err(error) = &mended {
            problems.push(format!("attach to the cgroup {cgroup} again: {error:#}"));
        }
        if problems != self.hook_problems {
            for problem in &problems {
                error!("{problem}");
            }
        }
        self.hook_problems = problems;
        if let Ok(hooks) = mended
            && !hooks.is_empty()
        {
            info!(?hooks, "attached to the cgroup {cgroup} again");
            // What is lost next is a new loss.
            self.hook_problems.clear();
        }
    }

    /// Starts to wait for the readers of what was retired, unless that wait is under way.
    fn free_retired(&mut self) {
        if self.grace.is_some() {
            return;
        }
        let Some((mark, grace)) = self.engine.publisher().retired() else { return };
        let (sender, receiver) = oneshot::channel();
        self.grace = Some(receiver);
        spawn_blocking(move || match grace.wait() {
            // The daemon is ending if nobody takes it.
            Ok(()) => drop(sender.send(mark)),
            Err(error) => warn!("wait for running decisions: {error}"),
        });
    }

    fn release(&mut self, mark: Option<Mark>) {
        self.grace = None;
        // Without a mark the wait failed; the next change waits again.
        let Some(mark) = mark else { return };
        if let Err(error) = self.engine.publisher_mut().release(mark) {
            warn!("reset counters of removed services: {error}");
        }
        self.free_retired();
    }

    /// Whoever starts after the daemon starts when there is a policy.
    fn tell_ready(&mut self) {
        let publisher = self.engine.publisher();
        let is_empty_on_purpose =
            self.circumstances.reload_problem.is_none() && !self.engine.is_holding();
        let is_there = publisher.services().next().is_some() || is_empty_on_purpose;
        self.circumstances.is_waiting &= !is_there;
        if self.circumstances.is_waiting {
            return tell_systemd(&[NotifyState::Status("waiting for a policy")]);
        }
        let state = match self.engine.degraded().or(self.circumstances.reload_problem.as_deref()) {
            Some(_) => "DEGRADED: see splitter status; ",
            None => "",
        };
        let n = publisher.services().count();
        let generation = publisher.generation();
        let status = format!("{state}generation {generation}, {n} services");
        tell_systemd(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// Removes links and maps, and answers before the process ends.
    async fn detach(self, reply: oneshot::Sender<Answer>) -> anyhow::Result<Ending> {
        let removed = self.engine.into_hooks().remove();
        let response = match &removed {
            Ok(removed) => Response::Detached { removed: removed.clone() },
            Err(error) => Response::Failed { message: chain(error) },
        };
        let _gone = reply.send(Answer::Ready(response));
        // Lets the client's task write the answer.
        tokio::time::sleep(Duration::from_millis(100)).await;
        removed.context("remove the pins")?;
        Ok(Ending::Detached)
    }
}

/// The last thing that a daemon is asked for.
enum Last {
    Signal,
    Detach(oneshot::Sender<Answer>),
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

async fn ended(grace: &mut Option<oneshot::Receiver<Mark>>) -> Option<Mark> {
    match grace {
        Some(receiver) => receiver.await.ok(),
        None => std::future::pending().await,
    }
}

fn tell_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell_systemd(&[NotifyState::Reloading, now]),
        Err(error) => warn!("read the monotonic clock: {error}"),
    }
}

fn watch_ring<R: AsRawFd>(ring: R) -> io::Result<AsyncFd<R>> {
    #[expect(
        deprecated,
        reason = "the replacement is unsafe; what it asks for holds: a ring keeps one descriptor"
    )]
    AsyncFd::new(ring)
}

async fn forward_log(mut log: AsyncFd<HookLog>) {
    while let Ok(mut ready) = log.readable_mut().await {
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}
