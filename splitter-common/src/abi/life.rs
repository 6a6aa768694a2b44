//! Records of connections that are followed: what is asked of them, what is going on, what came of
//! them. The parent module's rules hold here too.

use bytemuck::{Pod, Zeroable};

use super::{MAX_SPLIT, layout};
use crate::addr::{Addr, PortBe};

/// What a followed subset asks of its connections. Value of [`super::map::CONDUCTS`]; never changed
/// while a plan refers to it. Zero leaves the kernel's behaviour everywhere.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Conduct {
    /// The subset's own [`State`].
    pub state: u32,
    /// First of consecutive cells in [`super::map::CELLS`], each of which holds the indices of the
    /// [`State`]s of two backends, by ordinal, the even one in the low half.
    pub states: u32,
    /// Most connections at a time, from `connect()` to their end.
    pub max_connections: u32,
    /// Most of them that are not established yet.
    pub max_pending: u32,
    /// Longest time to establish a connection, in milliseconds.
    pub connect_timeout_ms: u32,
    /// Failures in a row that eject a backend.
    pub failures: u32,
    /// Time of the first ejection, in milliseconds; the n-th takes n times as long.
    pub ejection_ms: u32,
    /// Time in which a backend that is back lives down one ejection, in milliseconds.
    pub interval_ms: u32,
    /// Most backends that are ejected at a time.
    pub max_ejected: u16,
    /// Where fewer backends than these are not ejected, ejection is ignored.
    pub min_healthy: u16,
    /// `TCP_KEEPIDLE`, in seconds.
    pub keep_idle_s: u16,
    /// `TCP_KEEPINTVL`, in seconds.
    pub keep_interval_s: u16,
    /// `errno` beyond a limit, positive.
    pub errno: u16,
    /// `TCP_KEEPCNT`.
    pub keep_probes: u8,
    /// [`conduct_flag`] bits.
    pub flags: u8,
    /// [`super::client_key`] number of who does not come back to a backend that failed; 0 is nobody.
    pub avoids: u8,
    /// Always zero.
    pub pad: [u8; 3],
    /// `SO_MAX_PACING_RATE`, in bytes per second.
    pub pacing_rate: u32,
    /// `SO_MARK`.
    pub mark: u32,
    /// Address that connections are made from, of the family of the backends.
    pub source: Addr,
    /// `TCP_CONGESTION`, padded with zeros.
    pub congestion: [u8; CONGESTION_LEN],
}
layout!(Conduct, size 88, {
    state @ 0: 4, states @ 4: 4, max_connections @ 8: 4, max_pending @ 12: 4,
    connect_timeout_ms @ 16: 4, failures @ 20: 4, ejection_ms @ 24: 4, interval_ms @ 28: 4,
    max_ejected @ 32: 2, min_healthy @ 34: 2, keep_idle_s @ 36: 2, keep_interval_s @ 38: 2,
    errno @ 40: 2, keep_probes @ 42: 1, flags @ 43: 1, avoids @ 44: 1, pad @ 45: 3,
    pacing_rate @ 48: 4, mark @ 52: 4, source @ 56: 16, congestion @ 72: 16,
});

/// Bytes of the name of a congestion control with its terminating zero (`TCP_CA_NAME_MAX`).
pub const CONGESTION_LEN: usize = 16;

/// Bits of [`Conduct::flags`].
pub mod conduct_flag {
    /// `SO_KEEPALIVE`.
    pub const KEEPALIVE: u8 = 1;
    /// `TCP_CONGESTION`, `SO_MAX_PACING_RATE` or `SO_MARK`: what is not zero.
    pub const OPTIONS: u8 = 2;
    /// The source address.
    pub const SOURCE: u8 = 4;
    /// A backend at a loopback address is stepped over where nobody listens.
    pub const LISTENER: u8 = 8;
}

/// What goes on at a subset, a backend or a route, on five cache lines. Value of
/// [`super::map::STATES`]. Kept for its owner through commits. Cells are changed atomically.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct State {
    /// Indexed by the numbers in [`cell`].
    pub cells: [u64; STATE_CELLS],
}
layout!(State, size 320, { cells @ 0: 320 });

/// Cells of a [`State`].
pub const STATE_CELLS: usize = 40;

/// Numbers of cells of a [`State`].
pub mod cell {
    /// Connections, from `connect()` to their end.
    pub const LIVE: usize = 0;
    /// Those of them that are not established yet.
    pub const PENDING: usize = 1;
    /// Of a backend: failures since the last connection that was established.
    pub const FAILURES: usize = 2;
    /// Of a backend: when an ejection ends, in nanoseconds of `CLOCK_MONOTONIC`; 0 where none is.
    pub const EJECTED_UNTIL: usize = 3;
    /// Of a backend: how many ejections count for the next one's length.
    pub const EJECTIONS: usize = 4;
    /// Of a backend: when the last ejection ended, as [`EJECTED_UNTIL`].
    pub const RETURNED: usize = 5;
    /// Of a subset: how many of its backends are ejected. Of a route: ticket of aborts. Of a backend:
    /// [`UNHEARD`].
    pub const EJECTED: usize = 6;
    /// Of a backend: how often it was stepped over because nobody listened there.
    pub const UNHEARD: usize = 6;
    /// Ticket of a route's aborts.
    pub const ABORT_TICKET: usize = 6;
    /// [`super::standing`] bits in the low half, written by user space only. In the high half the
    /// epoch, another for each owner that the record had.
    pub const STANDING: usize = 7;
    /// First of the [`super::outcome`] cells.
    pub const OUTCOMES: usize = 8;
    /// Ticket of a route's delays.
    pub const DELAY_TICKET: usize = 5;
    /// Ticket of a route's stalls.
    pub const STALL_TICKET: usize = 4;
    /// Ticket of a route's connections that are never answered.
    pub const BLACKHOLE_TICKET: usize = 3;
    /// Ticket of a route's connections of limited bandwidth.
    pub const BANDWIDTH_TICKET: usize = 2;
}

/// Bits of the low half of [`cell::STANDING`].
pub mod standing {
    /// Health checks say that it does not serve.
    pub const DOWN: u64 = 1;
    /// It was taken out of use by command.
    pub const DRAINING: u64 = 2;
    /// Its connections are to end, and no weight sends new ones to it.
    pub const LEAVING: u64 = 4;
    /// Those for which connections step over it.
    pub const AVOIDED: u64 = DOWN | DRAINING;
    /// Those for which a socket that never connects is given another backend.
    pub const LEFT: u64 = AVOIDED | LEAVING;
}

/// What came of connections, as numbers of cells from [`cell::OUTCOMES`] on. Of backends and routes.
pub mod outcome {
    /// The handshake was completed.
    pub const ESTABLISHED: usize = 0;
    /// The backend refused it.
    pub const REFUSED: usize = 1;
    /// Nobody answered in time.
    pub const TIMED_OUT: usize = 2;
    /// It could not be established for another reason, such as no route to the backend.
    pub const UNREACHABLE: usize = 3;
    /// The client gave up before the handshake was completed.
    pub const ABANDONED: usize = 4;
    /// It ended in order, or by the client.
    pub const CLOSED: usize = 5;
    /// The backend reset it.
    pub const RESET: usize = 6;
    /// It was established, and then nobody answered any more.
    pub const LOST: usize = 7;
    /// Sum of the smoothed round-trip times at the ends of connections, in microseconds.
    pub const RTT_US: usize = 8;
    /// Segments that were sent again.
    pub const RETRANSMITS: usize = 9;
    /// Bytes that the backend acknowledged, as `tcpi_bytes_acked`.
    pub const BYTES_SENT: usize = 10;
    /// Bytes from the backend, as `tcpi_bytes_received`.
    pub const BYTES_RECEIVED: usize = 11;
    /// First of [`BUCKETS`] numbers of connections by the time that their handshake took.
    pub const LATENCY: usize = 12;
    /// The first bucket is for less than 2^4 us, each for less than twice as long as the one
    /// before, and the last for all that took longer.
    pub const BUCKETS: usize = 20;
    /// Exponent of the first bucket's end, in microseconds.
    pub const FIRST_BUCKET: u32 = 4;
}
const _: () = assert!(cell::OUTCOMES + outcome::LATENCY + outcome::BUCKETS == STATE_CELLS);

/// What a route does besides its action: failures that it makes on purpose, and where it turns to
/// instead of a subset that takes no connection. Value of [`super::map::FAULTS`]; never changed
/// while a plan refers to it. Shares are in parts per million.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Fault {
    /// Decides which connections of the share it is.
    pub seed: u64,
    /// The route's [`State`].
    pub state: u32,
    /// Share whose `connect()` fails.
    pub abort_ppm: u32,
    /// Share whose handshake begins later.
    pub delay_ppm: u32,
    /// By how much, in milliseconds.
    pub delay_ms: u32,
    /// Share whose client sends no faster than the bandwidth.
    pub bandwidth_ppm: u32,
    /// That bandwidth, in bytes per second.
    pub bandwidth: u32,
    /// Share of which no packet ever leaves.
    pub blackhole_ppm: u32,
    /// Share of which no packet leaves any more after some bytes.
    pub stall_ppm: u32,
    /// How many bytes of the client, less than 2^31.
    pub stall_after: u32,
    /// `errno` of aborts, positive.
    pub errno: u16,
    /// Always zero.
    pub pad: u16,
    /// The subsets of the route's split; zeros where none of them is ever left for another.
    pub turns: [Turn; MAX_SPLIT as usize],
}
layout!(Fault, size 176, {
    seed @ 0: 8, state @ 8: 4, abort_ppm @ 12: 4, delay_ppm @ 16: 4, delay_ms @ 20: 4,
    bandwidth_ppm @ 24: 4, bandwidth @ 28: 4, blackhole_ppm @ 32: 4, stall_ppm @ 36: 4,
    stall_after @ 40: 4, errno @ 44: 2, pad @ 46: 2, turns @ 48: 128,
});

/// One subset of a split: what it gets of connections that leave others, and when they leave it.
/// One word that is read whole.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Turn(pub u64);

impl Turn {
    /// A subset by its ordinal, with its weight and the [`turn`] bits of when it is left.
    #[inline(always)]
    #[must_use]
    pub const fn new(ordinal: u16, weight: u32, leaves: u8) -> Self {
        Self((leaves as u64) << 48 | (ordinal as u64) << 32 | weight as u64)
    }

    /// Its weight; 0 where this is no subset.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low half of the word")]
    pub const fn weight(self) -> u32 {
        self.0 as u32
    }

    /// Its ordinal in the service.
    #[inline(always)]
    #[must_use]
    pub const fn ordinal(self) -> u32 {
        (self.0 >> 32) as u32 & 0xffff
    }

    /// [`turn`] bits.
    #[inline(always)]
    #[must_use]
    pub const fn leaves(self) -> u32 {
        (self.0 >> 48) as u32
    }
}

/// Bits of [`Turn::leaves`].
pub mod turn {
    /// Where no backend may be chosen.
    pub const NONE_USABLE: u8 = 1;
    /// Where the subset has as many connections as it may have.
    pub const OVER_LIMIT: u8 = 2;
}

/// Who last failed to reach a backend of which subset. Key of [`super::map::PREVIOUS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct PreviousKey {
    /// The client, by the conduct's [`Conduct::avoids`].
    pub client: u64,
    /// The subset.
    pub subset: StateRef,
}
layout!(PreviousKey, size 16, { client @ 0: 8, subset @ 8: 8 });

/// One [`State`] that a socket counts at. The epoch tells whether it is still the same owner's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct StateRef {
    /// Index into [`super::map::STATES`]; 0 is none.
    pub index: u32,
    /// High half of [`cell::STANDING`] when the socket connected.
    pub epoch: u32,
}
layout!(StateRef, size 8, { index @ 0: 4, epoch @ 4: 4 });

/// What is known of a socket that was rewritten. Value of [`super::map::SOCKETS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SocketState {
    /// What the client dialled.
    pub frontend: Addr,
    /// Where the connection went; the state counts only while this is the socket's peer.
    pub backend: Addr,
    /// Dialled port.
    pub frontend_port_be: PortBe,
    /// Port of the backend.
    pub backend_port_be: PortBe,
    /// [`phase`] number.
    pub phase: u8,
    /// [`socket_flag`] bits.
    pub flags: u8,
    /// [`drop_flag`] bits.
    pub drops: u8,
    /// Always zero.
    pub pad: u8,
    /// When `connect()` was called, in nanoseconds of `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// Where the route counts.
    pub route: StateRef,
    /// Where the subset counts.
    pub subset: StateRef,
    /// Where the backend counts.
    pub at_backend: StateRef,
    /// Index into [`super::map::CONDUCTS`]. It holds while that record's subset is this one's.
    pub conduct: u32,
    /// Timeout of the first SYN, in ticks of the kernel's timer; 0 for the kernel's own.
    pub syn_timeout: u32,
    /// `TCP_USER_TIMEOUT` that the program set itself, in milliseconds, to be put back.
    pub user_timeout_ms: u32,
    /// With [`drop_flag::STALL`], the sequence number that is not sent any more; until the connection is
    /// established, the number of bytes that are sent before.
    pub stall_at: u32,
    /// The client, where its subset wants it to avoid backends that failed.
    pub client: u64,
}
layout!(SocketState, size 96, {
    frontend @ 0: 16, backend @ 16: 16, frontend_port_be @ 32: 2, backend_port_be @ 34: 2,
    phase @ 36: 1, flags @ 37: 1, drops @ 38: 1, pad @ 39: 1, started_ns @ 40: 8, route @ 48: 8,
    subset @ 56: 8, at_backend @ 64: 8, conduct @ 72: 4, syn_timeout @ 76: 4, user_timeout_ms @ 80: 4,
    stall_at @ 84: 4, client @ 88: 8,
});

/// A connected UDP socket and what is stored on it, as the program that lists them writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct StoredSocket {
    /// `SO_COOKIE`, which the kernel gives once.
    pub cookie: u64,
    /// What is known of it.
    pub state: SocketState,
}
layout!(StoredSocket, size 104, { cookie @ 0: 8, state @ 8: 96 });

/// How far a followed connection is.
pub mod phase {
    /// Not followed: the socket only remembers what it dialled.
    pub const NONE: u8 = 0;
    /// `connect()` was called; no SYN has left yet.
    pub const CALLED: u8 = 1;
    /// The handshake is under way.
    pub const CONNECTING: u8 = 2;
    /// It is established.
    pub const ESTABLISHED: u8 = 3;
    /// It ended.
    pub const ENDED: u8 = 4;
    /// A UDP socket that is connected. Nothing tells when that ends, so it holds while the socket's
    /// peer is the backend.
    pub const DATAGRAMS: u8 = 5;
}

/// Bits of [`SocketState::flags`].
pub mod socket_flag {
    /// `getpeername` answers the frontend.
    pub const ANSWER_FRONTEND: u8 = 1;
    /// The subset's [`super::cell::LIVE`] was raised at `connect()`.
    pub const HOLDS_SUBSET: u8 = 2;
    /// The subset's [`super::cell::PENDING`] was raised at `connect()`.
    pub const HOLDS_PENDING: u8 = 4;
    /// `TCP_USER_TIMEOUT` was set, and is put back once the connection is established or has failed.
    pub const TIMED: u8 = 8;
    /// It is a part of an MPTCP socket, whose own record has what it holds until a SYN leaves.
    pub const HELD_BY_WHOLE: u8 = 16;
    /// What is given back where no SYN ever leaves.
    pub const HELD: u8 = HOLDS_SUBSET | HOLDS_PENDING;
    /// The client avoids the backend where it fails.
    pub const AVOIDS: u8 = 32;
    /// Datagrams from the backend bear the frontend's address.
    pub const TRANSLATES: u8 = 64;
}

/// Frontends that one socket sends to without forgetting where the datagrams of another go.
pub const MAX_PEERS: u32 = 8;

/// Where a socket that never connects sends the datagrams for one frontend. Zero is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Peer {
    /// What the client sends to, as the five words of a [`super::FrontendKey`].
    pub frontend: [u32; 5],
    /// Port of the backend.
    pub port_be: PortBe,
    /// Always zero.
    pub pad: u16,
    /// Where the datagrams go.
    pub backend: Addr,
    /// Where the backend counts: it holds while the epoch does.
    pub at: StateRef,
    /// [`Datagrams::turn`] of the last datagram that was sent there; 0 where this is none.
    pub sent: u64,
}
layout!(Peer, size 56, {
    frontend @ 0: 20, port_be @ 20: 2, pad @ 22: 2, backend @ 24: 16, at @ 40: 8, sent @ 48: 8,
});

/// Where a socket that never connects sends its datagrams. Value of [`super::map::DATAGRAMS`]; only
/// touched under the socket's lock, which the hooks of datagrams hold
/// (`BPF_CGROUP_RUN_SA_PROG_LOCK`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Datagrams {
    /// In no order.
    pub peers: [Peer; MAX_PEERS as usize],
    /// Datagrams that were sent to frontends.
    pub turn: u64,
}
layout!(Datagrams, size 456, { peers @ 0: 448, turn @ 448: 8 });

/// Bits of [`SocketState::drops`]: packets that are not to leave.
pub mod drop_flag {
    /// The first SYN.
    pub const FIRST_SYN: u8 = 1;
    /// All of them.
    pub const ALL: u8 = 2;
    /// All of them once the client has sent some bytes.
    pub const STALL: u8 = 4;
    /// With [`STALL`]: a packet has left since the handshake, which is the one that ends it.
    pub const ANSWERED: u8 = 8;
}
