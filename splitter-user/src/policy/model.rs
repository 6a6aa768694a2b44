//! A valid policy.
//!
//! These types are what every input form is lowered to and what the compiler reads. They are made
//! only by the front ends in this module's siblings, after every rule of `docs/policy.md` held, so
//! readers need no checks: names are unique, ordinals exist, weights of a split sum to more than
//! zero, addresses of a service are of one family.

mod client;
mod egress;
mod health;
mod network;

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};

use splitter_common::abi::CONGESTION_LEN;

pub use client::{CgroupName, ClientMatch, Mark, NETNS_NAMES, NetnsName};
pub use egress::{Destinations, Network, Outbound, PortSpan, Reach};
pub use health::{HealthCheck, Probe};
pub use network::{PortsSaid, said_by};

/// All services of a node, sorted by name; names and frontends are unique.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Sorted by [`Service::name`].
    pub services: Vec<Service>,
    /// What clients may reach besides the services. The first that takes a client counts; one that
    /// takes every client is the last.
    pub outbound: Vec<Outbound>,
}

/// A named unit of policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `metadata.name`, or `metadata.namespace/metadata.name` where a namespace is given.
    pub name: String,
    /// What clients dial; at least one, sorted, unique over the policy.
    pub frontends: Vec<Frontend>,
    /// What `getpeername` answers on a rewritten socket.
    pub getpeername: PeerName,
    /// Which datagrams to its UDP frontends are split.
    pub datagrams: Datagrams,
    /// Whether what comes of its connections is counted even where nothing else needs it.
    pub outcomes: bool,
    /// What becomes of established connections that the policy would not make any more.
    pub old_connections: OldConnections,
    /// What becomes of those to a backend that is known not to serve.
    pub on_backend_down: OnBackendDown,
    /// Groups of backends, in the order of the text; at most `abi::MAX_SUBSETS`.
    pub subsets: Vec<Subset>,
    /// Tried in order; the first that takes the client counts. At least one. The number of
    /// routes, counting one per [`ClientMatch`], is at most `abi::MAX_ROUTES`.
    pub routes: Vec<Route>,
}

impl Service {
    /// Whether clients dial it by UDP.
    pub fn has_datagrams(&self) -> bool {
        self.frontends.iter().any(|frontend| frontend.protocol == Protocol::Udp)
    }

    /// Whether clients dial it by TCP.
    pub fn has_connections(&self) -> bool {
        self.frontends.iter().any(|frontend| frontend.protocol == Protocol::Tcp)
    }
}

/// What becomes of established connections that the policy would not make any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OldConnections {
    /// They stay where they are.
    #[default]
    Leave,
    /// Those to backends that no connection goes to any more are closed.
    Drain {
        /// How long after the change, in milliseconds, at least 1.
        deadline_ms: u32,
    },
    /// Idle ones are closed until the live split is what the weights ask for.
    Rebalance {
        /// Most connections that are closed in a second, at least 1.
        per_second: u32,
        /// Time without data after which a connection is idle, in milliseconds, at least 1.
        idle_ms: u32,
    },
}

impl OldConnections {
    /// A drain with its default.
    pub const DRAIN: Self = Self::Drain { deadline_ms: 30_000 };
    /// A rebalance with its defaults.
    pub const REBALANCE: Self = Self::Rebalance { per_second: 10, idle_ms: 10_000 };
}

/// What becomes of connections, those of UDP sockets included, to a backend that is unhealthy,
/// ejected, or not in the policy any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBackendDown {
    /// They stay where they are.
    #[default]
    Leave,
    /// They are closed.
    Close,
}

/// An address, port and protocol that clients dial. v4-mapped IPv6 is stored as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Address and port; neither unspecified nor multicast, port not 0, no scope id.
    pub addr: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP (and MPTCP, which connects as TCP).
    Tcp,
    /// UDP, connected and, as [`Service::datagrams`] says, not.
    Udp,
}

/// What `getpeername` answers on a rewritten socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerName {
    /// The backend, as the kernel does by itself. Costs nothing.
    #[default]
    Backend,
    /// The dialled frontend. Costs per-socket state.
    Frontend,
}

/// Which datagrams to UDP frontends are split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Datagrams {
    /// All of them, and answers bear the address that was sent to. Costs per-socket state.
    #[default]
    All,
    /// Those of connected sockets, whose answers bear the backend's address. Costs nothing.
    Connected,
}

/// A named group of backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// Unique within the service.
    pub name: String,
    /// In the order of the text, addresses unique within the subset; may be empty; at most
    /// `abi::MAX_BACKENDS`. All of the family of the service's frontends.
    pub backends: Vec<Backend>,
    /// How a backend of the subset is chosen.
    pub balance: Balance,
    /// What is asked of its connections.
    pub connection: Connection,
    /// When a backend that fails is left alone for a while.
    pub eject: Option<Ejection>,
    /// How it is found out whether a backend serves.
    pub health: Option<HealthCheck>,
}

/// What is asked of the connections of a subset. `None` leaves the kernel's behaviour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Most connections at a time, at least 1.
    pub max_connections: Option<u32>,
    /// Most connections at a time that are not established yet, at least 1.
    pub max_pending: Option<u32>,
    /// What becomes of a connection beyond one of the two.
    pub over_limit: OverLimit,
    /// Who does not come back to the backend that it failed to reach last.
    pub avoid_previous: Option<ClientKey>,
    /// Whether a backend at a loopback address is stepped over where nobody listens.
    pub require_listener: bool,
    /// Longest time to establish one, in milliseconds, at least 1.
    pub connect_timeout_ms: Option<u32>,
    /// TCP keepalive.
    pub keepalive: Option<Keepalive>,
    /// Longest time without data, in milliseconds, at least 1.
    pub idle_timeout_ms: Option<u32>,
    /// Longest time that a connection lives, in milliseconds, at least 1.
    pub max_lifetime_ms: Option<u32>,
    /// How TCP finds out how fast it may send.
    pub congestion_control: Option<CongestionControl>,
    /// Most bytes per second that the client sends, 1 to [`MAX_RATE`].
    pub pacing_rate: Option<u32>,
    /// `SO_MARK`, at least 1.
    pub mark: Option<u32>,
    /// Address that connections are made from; neither unspecified nor multicast, of the family of
    /// the service's frontends.
    pub source: Option<IpAddr>,
}

/// Most bytes per second of `SO_MAX_PACING_RATE`; one more means no limit.
pub const MAX_RATE: u32 = u32::MAX - 1;

/// Name of a TCP congestion control: 1 to 15 bytes of `a-z`, `0-9`, `_` and `-`, and not
/// [`CongestionControl::REFUSED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CongestionControl([u8; CONGESTION_LEN]);

impl CongestionControl {
    /// The one that the kernel refuses to BPF programs (`sol_tcp_sockopt_congestion`).
    pub const REFUSED: &str = "cdg";

    /// Takes a name that keeps the rule.
    pub fn new(name: &str) -> Option<Self> {
        let is_good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_-".contains(&c);
        let fits = (1..CONGESTION_LEN).contains(&name.len()) && name.bytes().all(is_good);
        let mut padded = [0; CONGESTION_LEN];
        padded.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        (fits && name != Self::REFUSED).then_some(Self(padded))
    }

    /// The name, padded with zeros.
    pub const fn padded(self) -> [u8; CONGESTION_LEN] {
        self.0
    }
}

impl Display for CongestionControl {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        f.pad(str::from_utf8(name).unwrap_or_default())
    }
}

/// What becomes of a connection beyond a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// It fails with this errno.
    Reject(Errno),
    /// It goes to the other subsets, by their weights.
    Spill,
}

impl Default for OverLimit {
    fn default() -> Self {
        Self::Reject(Errno::REFUSED)
    }
}

/// TCP keepalive. `None` leaves the kernel's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// `TCP_KEEPCNT`: probes without an answer before the connection is dead, 1 to 127.
    pub probes: Option<u8>,
    /// `TCP_KEEPIDLE`: time without data before the first probe, in seconds, 1 to 32767.
    pub time_s: Option<u16>,
    /// `TCP_KEEPINTVL`: time between probes, in seconds, 1 to 32767.
    pub interval_s: Option<u16>,
}

/// When a backend that fails is left alone for a while. Istio's outlier detection, for what a
/// connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row, at least 1.
    pub consecutive_failures: u32,
    /// Time between looks at the backends, in milliseconds, at least 1.
    pub interval_ms: u32,
    /// Time of the first ejection, in milliseconds, at least 1; the n-th takes n times as long.
    pub base_time_ms: u32,
    /// Most of a subset's backends that are ejected at a time, in percent, 0 to 100.
    pub max_percent: u8,
    /// Share of healthy backends below which none is ejected, in percent, 0 to 100.
    pub min_health_percent: u8,
}

impl Default for Ejection {
    /// Istio's defaults.
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            interval_ms: 10_000,
            base_time_ms: 30_000,
            max_percent: 10,
            min_health_percent: 0,
        }
    }
}

/// One address that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Address and port, IPv4 never v4-mapped.
    pub addr: SocketAddr,
    /// Relative to the other backends of the subset; 0 gets nothing. 1 where the text has none.
    pub weight: u32,
}

/// How a backend of a subset is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// In turn, exactly by endpoint weight.
    #[default]
    RoundRobin,
    /// At random, by endpoint weight.
    Random,
    /// By the client's hash, by endpoint weight; few clients move when backends change.
    ClientHash(ClientKey),
    /// To the one of two with fewer live connections.
    LeastConnections,
}

/// What stands for the client in a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKey {
    /// Effective user id.
    Uid,
    /// Effective group id.
    Gid,
    /// Command name of the connecting thread.
    Command,
    /// Cgroup of the task.
    Cgroup,
    /// Process id.
    Process,
    /// Network namespace of the socket.
    Netns,
}

/// Which clients, and what becomes of their connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Unique within the service; `route-N` (counted from 1) where a native text gives none.
    pub name: String,
    /// Takes clients that fit any of these; takes every client where empty.
    pub matches: Vec<ClientMatch>,
    /// What becomes of the connection.
    pub action: Action,
    /// Failures made on purpose, before the action.
    pub fault: Fault,
}

/// Failures made on purpose, for some connections of a route. They are drawn independently. Those of
/// packets are for routes that split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// `connect()` fails.
    pub abort: Option<Abort>,
    /// `connect()` takes longer.
    pub delay: Option<Delay>,
    /// The client sends slowly.
    pub bandwidth: Option<Bandwidth>,
    /// The backend is never reached.
    pub blackhole: Option<Blackhole>,
    /// The backend is not reached any more.
    pub stall: Option<Stall>,
    /// Decides which connections it is, beside one of the above. It follows from the names of
    /// service and route where `None`.
    pub seed: Option<u64>,
}

impl Fault {
    /// What of it a route that does not split can make.
    #[must_use]
    pub fn without_packets(self) -> Self {
        let Self { abort, delay, seed, .. } = self;
        let seed = seed.filter(|_| abort.is_some() || delay.is_some());
        Self { abort, delay, seed, ..Self::default() }
    }
}

/// Connections that fail on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Share of the connections in parts per million, 1 to 1,000,000.
    pub ppm: u32,
    /// What they fail with.
    pub errno: Errno,
}

/// Connections that take longer on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Share of the connections in parts per million, 1 to 1,000,000.
    pub ppm: u32,
    /// By how much, in milliseconds, at least 1.
    pub ms: u32,
}

/// Connections whose client sends slowly on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Share of the connections in parts per million, 1 to 1,000,000.
    pub ppm: u32,
    /// Most bytes per second, 1 to [`MAX_RATE`].
    pub rate: u32,
}

/// Connections of which no packet ever leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blackhole {
    /// Share of the connections in parts per million, 1 to 1,000,000.
    pub ppm: u32,
}

/// Connections of which no packet leaves any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Share of the connections in parts per million, 1 to 1,000,000.
    pub ppm: u32,
    /// How many bytes the client sends before, at most [`MAX_STALL`].
    pub after: u32,
}

/// Most bytes before a stall: half of what sequence numbers go round in.
pub const MAX_STALL: u32 = i32::MAX.cast_unsigned();

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Rewritten to a backend.
    Split(Split),
    /// Failed with this errno.
    Reject(Errno),
    /// Left alone: it goes to the dialled address.
    Pass,
}

/// Weighted choice between subsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Ordinal into [`Service::subsets`] and weight, each subset at most once, in the order of the
    /// text, 1 to `abi::MAX_SPLIT` of them, weights summing to more than 0 and at most `u32::MAX`.
    pub weights: Vec<(usize, u32)>,
    /// How the subset is chosen.
    pub pick: Pick,
    /// What becomes of the share of a subset without usable backends.
    pub on_empty: OnEmpty,
}

/// How a subset is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pick {
    /// Exactly by weight: any number of connections is split to within one.
    #[default]
    Exact,
    /// At random by weight.
    Random,
    /// By the client's hash: a client keeps its subset while the weights stand.
    Affinity(ClientKey),
}

/// What becomes of the share of a subset without usable backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnEmpty {
    /// It fails with `ECONNREFUSED`.
    #[default]
    Reject,
    /// It goes to the other subsets, by their weights.
    Spill,
}

/// An errno that a policy may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno {
    /// `ECONNREFUSED`.
    pub name: &'static str,
    /// 111, on the architecture that runs.
    pub number: u16,
}

impl Errno {
    /// What a connection fails with where nothing else is said.
    pub const REFUSED: Self = Self { name: "ECONNREFUSED", number: 111 };
    /// What a client fails with that may not reach something, as connect(2) has it of firewalls.
    pub const ACCESS: Self = Self { name: "EACCES", number: 13 };

    /// What `connect(2)` may honestly answer. EPERM is left out on purpose: kernel clients such
    /// as NFS retry it for ever.
    pub const ALL: [Self; 6] = [
        Self::REFUSED,
        Self { name: "EHOSTUNREACH", number: 113 },
        Self { name: "ENETUNREACH", number: 101 },
        Self { name: "ETIMEDOUT", number: 110 },
        Self::ACCESS,
        Self { name: "ECONNRESET", number: 104 },
    ];
}
