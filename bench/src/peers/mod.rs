//! Other ways to split connections, configured to do the same.
//!
//! Every peer gets its configuration from the same [`Service`]s, runs in a network namespace of
//! the bench's own with backends in it, and is only measured: none is tuned beyond what its manual
//! tells anybody to do. Proxies have one thread, and run where the scheduler puts it. Nothing is installed here, and nothing that the system runs is touched.

pub mod counting;
mod daemon;
mod direct;
mod directory;
mod empty;
pub mod envoy;
pub mod ground;
pub mod haproxy;
pub mod iptables;
pub mod nftables;
pub mod nginx;
pub mod shares;
mod splitter;

use std::any::Any;
use std::env;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result};
use splitter_tests::place::Place;
use splitter_user::policy::model::Service;

pub use direct::Direct;
pub use directory::directory;
pub use empty::Empty;
pub use envoy::Envoy;
pub use ground::{Ground, Serve};
pub use haproxy::Haproxy;
pub use iptables::Iptables;
pub use nftables::Nftables;
pub use nginx::Nginx;
pub use splitter::Splitter;

use crate::arm::{Arm, Network};
use crate::load::Client;
use crate::run::{Pace, Run};

/// A way to bring connections to backends.
pub trait Peer: Sync {
    /// What records and reports call it.
    fn name(&self) -> &'static str;

    /// What is lacking to run it, if anything is.
    fn missing(&self) -> Option<Missing>;

    /// Whether it differs from a direct connection by the client's cgroup only, so that both can
    /// share a network and its backends.
    fn is_hook(&self) -> bool {
        false
    }

    /// Starts it for services whose backends run on the ground. Answers when it takes
    /// connections; none was made by then.
    fn start(&self, ground: &Rc<Ground>, services: &[Service]) -> Result<Running>;
}

/// All peers of a comparison. The first is what the others are compared with.
pub const ALL: [&dyn Peer; 8] =
    [&Direct, &Empty, &Splitter::PLAIN, &Nftables::IN_TURN, &Iptables, &Haproxy, &Nginx, &Envoy];

/// A program that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What was looked for.
    pub what: String,
    /// The command that installs it.
    pub install: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not installed ({})", self.what, self.install)
    }
}

impl Missing {
    /// Looks for a program.
    fn program(name: &str, install: &'static str) -> Option<Self> {
        let is_missing = find_program(name).is_none();
        is_missing.then(|| Self { what: name.to_owned(), install })
    }
}

/// Whether there is no `wrk`, which asks HTTP backends.
pub fn missing_wrk() -> Option<Missing> {
    Missing::program("wrk", "apt-get install wrk")
}

/// A peer that runs; it is gone when this is dropped, which comes after the end of its clients.
pub struct Running {
    /// Where its clients are.
    pub arm: Arm,
    /// What its clients dial.
    pub dial: SocketAddr,
    /// Its process, where it has one.
    pub pid: Option<u32>,
    /// Its control socket, where it has one.
    pub control: Option<PathBuf>,
    /// Whatever else ends with it.
    _parts: Box<dyn Any>,
    _place: Place,
    ground: Rc<Ground>,
}

impl Running {
    fn new(
        name: &str,
        ground: &Rc<Ground>,
        place: Place,
        dial: SocketAddr,
        parts: impl Any,
    ) -> Self {
        let arm = Arm::new(name, &ground.network, place.cgroup());
        let ground = Rc::clone(ground);
        let (pid, control) = (None, None);
        Self { arm, dial, pid, control, _parts: Box::new(parts), _place: place, ground }
    }

    /// The network that it and its backends are in.
    pub fn network(&self) -> &Network {
        &self.ground.network
    }

    fn with_pid(self, pid: u32) -> Self {
        Self { pid: Some(pid), ..self }
    }

    fn with_control(self, socket: PathBuf) -> Self {
        Self { control: Some(socket), ..self }
    }
}

/// A peer that runs, and its client.
pub struct Side {
    /// The client; ends first.
    pub client: Client,
    /// The peer.
    pub peer: Running,
}

/// Starts all peers that can run, and notes those that cannot. Peers that differ by the client's
/// cgroup only share a network.
pub fn line_up(
    run: &mut Run,
    peers: &[&dyn Peer],
    services: &[Service],
    serve: Serve,
) -> Result<Vec<Side>> {
    let mut shared = None;
    let mut sides = Vec::new();
    for peer in peers {
        if let Some(missing) = peer.missing() {
            run.note(format!("{} is left out: {missing}", peer.name()))?;
            continue;
        }
        let ground = match (&shared, peer.is_hook()) {
            (Some(ground), true) => Rc::clone(ground),
            _ => Rc::new(Ground::new(services, serve)?),
        };
        if peer.is_hook() {
            shared = Some(Rc::clone(&ground));
        }
        let running = peer.start(&ground, services);
        let running = running.with_context(|| format!("start {}", peer.name()));
        if let Some(peer) = or_left_out(run, *peer, running)? {
            sides.push(Side { client: Client::start(&peer.arm)?, peer });
        }
    }
    Ok(sides)
}

/// What others cannot do on this machine is not the end of a comparison, except where all that is
/// asked is whether everything runs.
fn or_left_out(
    run: &mut Run,
    peer: &dyn Peer,
    started: Result<Running>,
) -> Result<Option<Running>> {
    match started {
        Err(error) if !peer.is_hook() && run.pace != Pace::Smoke => {
            run.note(format!("{} is left out: {error:#}", peer.name()))?;
            Ok(None)
        }
        started => started.map(Some),
    }
}

/// A cgroup for clients, in which this process is not.
fn place_of_clients() -> Result<Place> {
    let place = Place::new()?;
    step_out(&place)?;
    Ok(place)
}

/// Processes that are started from here on are not in the cgroup.
fn step_out(place: &Place) -> Result<()> {
    place.put_outside(std::process::id())
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Daemons are there, and not everybody's path leads there.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut candidates = env::split_paths(&path).chain(more).map(|dir| dir.join(name));
    candidates.find(|candidate| candidate.is_file())
}

/// Where figures and what they need are kept: `bench` in the target directory.
pub fn bench_directory() -> Result<PathBuf> {
    let own = env::current_exe().context("find the own executable")?;
    // `target/PROFILE/NAME`, or `target/PROFILE/deps/NAME` for tests.
    let mut parents = own.ancestors().skip(1).filter(|dir| !dir.ends_with("deps"));
    let target = parents.nth(1).context("the executable is in no target directory")?;
    Ok(target.join("bench"))
}

/// Path as text, which configurations are.
fn text_of(path: &Path) -> Result<&str> {
    path.to_str().context("a path of odd bytes")
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use crate::policies::Shape;

    use super::*;

    /// Reads a service from a shorthand of splits: `90: 1 / 10: 2 3` are two subsets of one and of
    /// two backends on those ports of 127.0.0.1.
    pub(super) fn service(frontend: &str, splits: &str) -> Service {
        let (mut subsets, mut weights) = (String::new(), Vec::new());
        for (number, split) in splits.split('/').enumerate() {
            let (weight, ports) = split.split_once(':').unwrap();
            let ports = ports.split_whitespace();
            let backends: Vec<String> = ports.map(|port| format!("'127.0.0.1:{port}'")).collect();
            let backends = backends.join(", ");
            writeln!(subsets, "    v{number}: {{backends: [{backends}]}}").unwrap();
            weights.push(format!("v{number}: {}", weight.trim()));
        }
        let yaml = Shape::new("shop", frontend).to_yaml();
        let (head, _) = yaml.split_once("  subsets:").unwrap();
        let split = weights.join(", ");
        let yaml = format!("{head}  subsets:\n{subsets}  routes:\n    - split: {{{split}}}\n");
        splitter_tests::node::parse(&yaml).unwrap().services.remove(0)
    }

    #[test]
    fn names_are_unique_and_the_first_is_direct() {
        let names: std::collections::BTreeSet<&str> = ALL.iter().map(|peer| peer.name()).collect();
        assert_eq!(names.len(), ALL.len());
        assert_eq!(ALL[0].name(), "direct");
    }

    #[test]
    fn what_is_missing_says_how_to_install_it() {
        let missing = Missing::program("no-such-program", "apt-get install it").unwrap();
        assert_eq!(missing.to_string(), "no-such-program is not installed (apt-get install it)");
        assert_eq!(Missing::program("sh", ""), None);
    }
}
