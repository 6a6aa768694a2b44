//! Starting and ending the daemon.
//!
//! The order of a start matters: policy first, hooks second, so that no connection meets a hook
//! without a policy; and privileges are dropped when everything that needs them is open.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{fs, io};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use sd_notify::NotifyState;
use splitter_common::abi::standing;
use tracing::{error, info, warn};

use super::access::Access;
use super::assignments::Assignments;
use super::clients::{CgroupTree, Networks, NodeClients};
use super::documents::Documents;
use super::engine::{ChangeError, Engine, Origin};
use super::files::PolicyFiles;
use super::health::Health;
use super::hooks::KernelHooks;
use super::overrides::Overrides;
use super::privileges::drop_privileges;
use super::requests::{Circumstances, KernelEngine, chain, log_applied};
use super::resolver::{Pace, Resolver, Upstream};
use super::serve::{Checks, Daemon, Ending};
use super::sweep::{Reach, Sweep};
use super::{server, show};
use crate::kernel::{self, EventRing, Hook, HookLog, Loaded, LogLevel, PinDir};
use crate::policy::diagnostic::render;
use crate::policy::model::CgroupName;
use crate::policy::{self, Reading, Source, VipRanges};
use crate::publish::Publisher;
use crate::tables::Sizes;

/// What becomes of the split when the daemon ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnExit {
    /// It goes on without the daemon.
    #[default]
    Keep,
    /// Hooks and maps are removed.
    Detach,
}

/// Everything that options say.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) policy: Vec<PathBuf>,
    /// How policy files are read.
    pub(crate) reading: Reading,
    /// Where hosts get addresses that have none.
    pub(crate) vip_ranges: VipRanges,
    /// The root of the cgroup2 hierarchy where `None`.
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) pin_dir: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) sizes: Sizes,
    pub(crate) on_exit: OnExit,
    pub(crate) log_connections: bool,
    pub(crate) access: Access,
    /// Whether a policy that is wrong is waited for.
    pub(crate) wait: bool,
    /// Paths of cgroups whose clients reach nothing until a policy is committed.
    pub(crate) hold: Vec<String>,
}

/// Runs the daemon until a signal or a request ends it.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    let started = Instant::now();
    let cgroups = CgroupTree::find_mount().context("find the cgroup2 hierarchy")?;
    let files = PolicyFiles::new(settings.policy.clone(), settings.reading.clone());
    let Opened { mut engine, reach, stored } = open(&settings, &cgroups)?;
    hold(&mut engine, &settings, &cgroups)
        .context("hold clients until there is a policy (--hold)")?;
    let listener = server::bind(&settings.socket)
        .with_context(|| format!("open the control socket {}", show(&settings.socket)))?;
    let problem = begin_policy(&mut engine, &files, &settings)?;
    engine.resume_drains().context("take up what was drained")?;
    let log = attach(&mut engine, &settings)?;
    let events = EventRing::new(engine.hooks_mut().loaded_mut());
    let events = events.context("open the ring of what is refused")?;
    drop_privileges().context("drop privileges")?;
    tell_running(&engine, started);
    let policy = files.paths().iter().map(|path| show(path)).collect();
    let health = Health::start().context("start the health checks")?;
    let sweep = Sweep::start(reach, stored).context("start closing connections")?;
    let assignments = take_over_assignments(&mut engine, &cgroups)?;
    let mut circumstances =
        Circumstances::new(started, policy, health.book(), sweep.book(), assignments);
    circumstances.is_waiting = problem.is_some() || engine.is_holding();
    circumstances.reload_problem = problem;
    let on_exit = settings.on_exit;
    let socket = settings.socket.clone();
    let known = engine.documents().answers.clone();
    let upstream = Upstream::of_node(settings.vip_ranges);
    let resolver = Resolver::new(upstream, Pace::default(), known);
    let checks = Checks { health, cgroups, unhealthy: BTreeSet::new() };
    kernel::give_back_memory();
    let daemon = Daemon::new(engine, circumstances, files, resolver, checks, sweep);
    let ending = serve(daemon, settings.access, listener, log, events)?;
    tell_systemd(&[NotifyState::Stopping]);
    finish(ending, on_exit, &socket)
}

fn tell_running(engine: &KernelEngine, started: Instant) {
    info!(
        generation = engine.publisher().generation(),
        services = engine.publisher().services().count(),
        cgroup = %engine.hooks().cgroup().display(),
        milliseconds = started.elapsed().as_millis(),
        "running"
    );
}

/// Lets clients that shall wait meet the hooks before there is a policy.
fn hold(engine: &mut KernelEngine, settings: &Settings, tree: &CgroupTree) -> anyhow::Result<()> {
    let hooked = engine.hooks().cgroup().to_owned();
    for path in &settings.hold {
        if !tree.path_of(path).starts_with(&hooked) {
            bail!(
                "connections of {path} do not meet the hooks, only those below {}",
                show(&hooked)
            );
        }
    }
    let cgroups = settings.hold.iter().cloned().map(CgroupName::Path).collect();
    if engine.hold(cgroups)? {
        engine.hooks_mut().attach_connect().context("attach the programs")?;
        info!(cgroups = ?settings.hold, "held until a policy is committed");
    }
    Ok(())
}

fn take_over_assignments(
    engine: &mut KernelEngine,
    cgroups: &CgroupTree,
) -> anyhow::Result<Assignments> {
    let map =
        engine.hooks_mut().loaded_mut().assignments().context("open the map of assignments")?;
    let assignments = Assignments::take_over(engine, map, cgroups.clone())
        .context("take over the commands that are clients of chosen subsets")?;
    engine.publisher_mut().set_assignments(!assignments.is_empty())?;
    Ok(assignments)
}

fn serve(
    daemon: Daemon,
    access: Access,
    listener: StdListener,
    log: Option<HookLog>,
    events: EventRing,
) -> anyhow::Result<Ending> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the event loop")?;
    runtime.block_on(daemon.serve(listener, access, log, events))
}

/// What a daemon works with.
struct Opened {
    /// Programs and maps, with what an earlier daemon left running in them.
    engine: KernelEngine,
    reach: Reach,
    /// What sockets keep, and the link of the list of those of UDP.
    stored: (OwnedFd, OwnedFd),
}

fn open(settings: &Settings, cgroups: &CgroupTree) -> anyhow::Result<Opened> {
    let overrides = Overrides::open(&settings.state_dir)
        .with_context(|| format!("open the state directory {}", show(&settings.state_dir)))?;
    let pins = PinDir::open(&settings.pin_dir).context("open the pin directory (--pin-dir)")?;
    let level = if settings.log_connections { LogLevel::Debug } else { LogLevel::Off };
    // All at once: what a policy needs later could not be loaded without privileges.
    let mut loaded = kernel::load(&pins, settings.sizes, &Hook::ALL, level)
        .context("load the kernel programs")?;
    let stored = open_stored(&mut loaded)?;
    // Before the policy, which may name network namespaces.
    let opened = Reach::open(&stored.1).context("open the list of UDP sockets once more")?;
    let (reach, namespaces) = opened;
    let (maps, egress) = (loaded.maps().context("open the maps")?, loaded.egress());
    let cgroup = settings.cgroup.as_deref().unwrap_or_else(|| cgroups.mount());
    let hooks = KernelHooks::new(pins, loaded, cgroup).context("open the cgroup (--cgroup)")?;
    let publisher = Publisher::adopt(maps)
        .context("take over the running policy; `splitter detach` removes it")?;
    let documents = Documents::from_text(overrides.documents()).with_context(|| {
        format!("understand the applied documents in {}", show(&overrides.documents_path()))
    })?;
    let egress = Box::new(egress.context("open the maps of what clients may reach")?);
    let clients = Box::new(NodeClients::new(cgroups.clone(), Networks::new(namespaces)));
    let mut engine = Engine::new(publisher, hooks, clients, overrides, documents, egress);
    engine.set_vip_ranges(settings.vip_ranges);
    // This daemon finds out for itself which backends serve.
    engine.forget_standings(standing::DOWN).context("clear what is known of backends")?;
    Ok(Opened { engine, reach, stored })
}

fn open_stored(loaded: &mut Loaded) -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let storage = loaded.socket_storage().context("open the map of what sockets keep")?;
    let list = loaded.socket_list().context("list what UDP sockets keep")?;
    Ok((storage, list))
}

/// Publishes the policy files, or answers why they are waited for.
fn begin_policy(
    engine: &mut KernelEngine,
    files: &PolicyFiles,
    settings: &Settings,
) -> anyhow::Result<Option<String>> {
    let Err(problem) = start_policy(engine, files) else { return Ok(None) };
    if settings.wait || !settings.hold.is_empty() {
        error!("waiting for a policy: {problem:#}");
        return Ok(Some(format!("{problem:#}")));
    }
    // No policy of ours runs, so nobody needs the socket.
    fs::remove_file(&settings.socket).context("remove the control socket")?;
    Err(problem)
}

/// Publishes the policy files. Where they are wrong, what an earlier daemon left running goes on.
fn start_policy(engine: &mut KernelEngine, files: &PolicyFiles) -> anyhow::Result<()> {
    let Err(problem) = load_policy(engine, files) else { return Ok(()) };
    if engine.publisher().services().next().is_none() && !engine.has_left_egress() {
        bail!("{problem}");
    }
    error!("the policy of the daemon before this one is kept: {problem}");
    engine.keep_adopted(problem);
    Ok(())
}

/// Reads, checks and publishes the policy files. Fails with text for people, and changes nothing.
pub(super) fn load_policy(engine: &mut KernelEngine, files: &PolicyFiles) -> Result<(), String> {
    let sources = files.read()?;
    check_blank(engine, &sources)?;
    check_emptied(engine, files, &sources)?;
    let sources = engine.with_applied(sources);
    let loaded = engine.load(&sources).map_err(explain)?;
    if !loaded.warnings.is_empty() {
        let warnings = render(&loaded.warnings, &sources, false);
        warn!("the policy loads with warnings:\n{}", warnings.trim_end());
    }
    match engine.replace_files(loaded, &sources) {
        Ok(applied) => {
            log_applied("policy files loaded", &applied);
            Ok(())
        }
        Err(error) => Err(explain(error)),
    }
}

fn explain(error: ChangeError) -> String {
    match error {
        ChangeError::Invalid { diagnostics, sources } => refused(&diagnostics, &sources),
        error => chain(&error),
    }
}

/// A file that loses all its content is being written, or its file system is full. What was in it
/// is only given up where somebody says so.
fn check_blank(engine: &KernelEngine, sources: &[Source]) -> Result<(), String> {
    let is_blank = |source: &&Source| source.bytes.trim_ascii().is_empty();
    match sources.iter().filter(is_blank).find(|source| engine.has_services_of(&source.name)) {
        Some(source) => Err(format!(
            "{} is empty now, and had services before: to remove them, delete the file from its \
             directory or leave a comment in it",
            source.name
        )),
        None => Ok(()),
    }
}

/// A directory that loses all its policies is no longer mounted, or its content is being swapped.
fn check_emptied(
    engine: &KernelEngine,
    files: &PolicyFiles,
    sources: &[Source],
) -> Result<(), String> {
    let is_in = |name: &str, directory: &Path| Path::new(name).parent() == Some(directory);
    let had_policies = |directory: &Path| {
        let services = engine.running().any(|running| match &running.origin {
            Origin::File(file) | Origin::Override(file) | Origin::Derived(file) => {
                is_in(file, directory)
            }
            Origin::Applied => false,
        });
        services
            || engine.document_files().any(|file| is_in(file, directory))
            || sources.is_empty() && engine.has_egress_of_files()
    };
    let is_emptied = |path: &&PathBuf| {
        path.is_dir()
            && !sources.iter().any(|source| is_in(&source.name, path))
            && had_policies(path)
    };
    match files.paths().iter().find(is_emptied) {
        Some(directory) => Err(format!(
            "{} has no policy files now, and had some before: to remove them, leave a file \
             with a comment in it",
            show(directory)
        )),
        None => Ok(()),
    }
}

fn refused(diagnostics: &[policy::diagnostic::Diagnostic], sources: &[Source]) -> String {
    let problems = render(diagnostics, sources, false);
    format!("the policy files are wrong\n{}", problems.trim_end())
}

/// Lets connections meet the policy.
fn attach(engine: &mut KernelEngine, settings: &Settings) -> anyhow::Result<Option<HookLog>> {
    let hooks = engine.hooks_mut();
    hooks.attach_connect().context("attach the programs")?;
    hooks.pins().remove_other_layouts(&settings.sizes).context("remove maps of other sizes")?;
    // An adopted policy may need these from the first moment.
    for (need, _) in engine.needs() {
        use super::engine::OptionalHooks as _;
        engine.hooks_mut().set(need, true).context("attach the programs")?;
    }
    engine.resume_egress().context("attach the programs")?;
    if !settings.log_connections {
        return Ok(None);
    }
    let log = HookLog::new(engine.hooks_mut().loaded_mut()).context("open the hooks' log")?;
    Ok(Some(log))
}

fn finish(ending: Ending, on_exit: OnExit, socket: &Path) -> anyhow::Result<()> {
    let removed = fs::remove_file(socket);
    if let Err(error) = removed.or_else(ignore_missing) {
        warn!("remove the control socket {}: {error}", show(socket));
    }
    match ending {
        Ending::Signal(engine) if on_exit == OnExit::Detach => {
            let removed = engine.into_hooks().remove().context("remove the pins")?;
            info!(?removed, "detached: connections are no longer split");
        }
        Ending::Signal(_) => info!("ended: connections are split as before"),
        Ending::Detached => info!("detached: connections are no longer split"),
    }
    Ok(())
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Tells the service manager, where there is one.
pub(super) fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("tell the service manager: {error}");
    }
}
