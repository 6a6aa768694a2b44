//! One service as the kernel will see it, before it has a place in the maps.
//!
//! Two images that are equal decide alike, so the publisher writes nothing for a service whose
//! image did not change. There are no names in here, only their hashes, because the kernel keeps
//! no names: an image can be read back from the maps.

use smallvec::SmallVec;
use splitter_common::abi::{Conduct, Fault, FrontendKey, Match, TCP};
use splitter_common::addr::{Addr, PortBe};

use super::slots::Slots;

/// Identity of a service: hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u64);

/// One compiled service.
///
/// Lists are inline where they are of ordinary length: there may be 100,000 services, and what
/// they cost is for the most part allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceImage {
    /// Who it is.
    pub id: ServiceId,
    /// What clients dial, sorted.
    pub frontends: SmallVec<[FrontendKey; 1]>,
    /// Whether `getpeername` answers the frontend.
    pub answer_frontend: bool,
    /// Whether datagrams of sockets that never connect are split, and answers bear the frontend's
    /// address.
    pub datagrams: bool,
    /// Tried in order; at most `abi::MAX_ROUTES`.
    pub routes: SmallVec<[RouteImage; 1]>,
    /// At most `abi::MAX_SUBSETS`.
    pub subsets: SmallVec<[SubsetImage; 2]>,
}

/// What some services need of the kernel besides the connect hooks. Each costs sockets that no policy
/// is about a little, so it is there only while it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `getpeername` answers the frontend.
    PeerName,
    /// Datagrams are split, and answers translated.
    Datagrams,
    /// Connections are followed from their start to their end.
    Follow,
    /// What `connect()` reserves is given back at the latest when the socket closes.
    Release,
    /// Packets are dropped on purpose.
    Drop,
    /// Datagrams to what is no service are refused: of no service, but of what clients may reach.
    Egress,
}

impl Need {
    /// All that services have.
    pub const ALL: [Self; 5] =
        [Self::PeerName, Self::Datagrams, Self::Follow, Self::Release, Self::Drop];
}

impl ServiceImage {
    /// Whether the service needs something.
    pub fn needs(&self, need: Need) -> bool {
        match need {
            Need::PeerName => self.answer_frontend,
            Need::Datagrams => self.datagrams,
            Need::Follow => self.follows_connections(),
            Need::Release => self.reserves(),
            Need::Drop => self.drops(),
            Need::Egress => false,
        }
    }

    fn drops(&self) -> bool {
        let faults = self.routes.iter().filter_map(|route| route.fault.as_deref());
        faults.into_iter().any(|it| it.delay_ppm | it.blackhole_ppm | it.stall_ppm != 0)
    }

    /// Whether its connections are followed.
    pub fn is_followed(&self) -> bool {
        self.subsets.iter().any(|subset| subset.conduct.is_some())
            || self.routes.iter().any(|route| route.fault.is_some())
    }

    /// Whether its sockets keep state.
    pub fn keeps_state(&self) -> bool {
        self.answer_frontend || self.datagrams || self.is_followed()
    }

    /// Whether it has connections that the kernel reports on, and they are followed.
    fn follows_connections(&self) -> bool {
        self.is_followed() && self.frontends.iter().any(|frontend| frontend.protocol == TCP)
    }

    fn reserves(&self) -> bool {
        let conducts = self.subsets.iter().filter_map(|subset| subset.conduct.as_deref());
        conducts.into_iter().any(|conduct| conduct.max_connections != 0 || conduct.max_pending != 0)
    }
}

/// One compiled route. A route with several matches becomes several of these with one `id`, which
/// share their wheel and counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteImage {
    /// Hash of the route's name.
    pub id: u32,
    /// `None` takes every client.
    pub client: Option<Match>,
    /// What becomes of the connection.
    pub action: ActionImage,
    /// Failures made on purpose, and where it turns to; its state is left 0.
    pub fault: Option<Box<Fault>>,
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionImage {
    /// Left alone.
    Pass,
    /// Failed with a positive errno.
    Reject(u16),
    /// Rewritten to a backend of the subset that is chosen so.
    Split(ChoiceImage),
}

/// How an ordinal is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChoiceImage {
    /// There is only this one.
    Only(u16),
    /// The slot under the wheel's ticket.
    Ticket(Slots),
    /// A random slot.
    Random(Slots),
    /// Of two random slots, the backend with fewer live connections.
    Least(Slots),
    /// The slot at the client's hash.
    Client {
        /// `abi::client_key` number.
        key: u8,
        /// The table.
        slots: Slots,
    },
    /// The first threshold above the client's bucket in front of it.
    Threshold {
        /// `abi::client_key` number.
        key: u8,
        /// Thresholds and their ordinals, which fall; the last threshold is `abi::AFFINITY_RANGE`.
        thresholds: Vec<(u64, u16)>,
    },
}

impl ChoiceImage {
    /// The slots of a choice that has a wheel.
    pub fn slots(&self) -> Option<&Slots> {
        match self {
            Self::Ticket(slots)
            | Self::Random(slots)
            | Self::Least(slots)
            | Self::Client { slots, .. } => Some(slots),
            Self::Only(_) | Self::Threshold { .. } => None,
        }
    }
}

/// One compiled subset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsetImage {
    /// Hash of the subset's name.
    pub id: u32,
    /// `None` where no backend may be chosen: the subset's share is rejected.
    pub choice: Option<ChoiceImage>,
    /// What is asked of its connections, where they are followed; its states are left 0. Of all
    /// subsets of a service or of none.
    pub conduct: Option<Box<Conduct>>,
    /// At most `abi::MAX_BACKENDS`. Those without weight are the last, and never chosen.
    pub backends: SmallVec<[BackendImage; 2]>,
    /// How many have a weight.
    pub n_weighted: u16,
}

/// Where a connection may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendImage {
    /// Address.
    pub addr: Addr,
    /// Port.
    pub port_be: PortBe,
}
