//! A valid policy to images. Pure: no I/O, no clock, no randomness, the same bytes every time.
//!
//! What depends on the node, the ids of cgroups and network namespaces, is handed in.

mod clients;
mod conduct;
pub mod egress;
pub mod image;
mod maglev;
pub mod slots;
pub mod wheel;

use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};
use std::net::{IpAddr, SocketAddr};

use splitter_common::abi::{AFFINITY_RANGE, COMMAND_LEN, FrontendKey, TCP, UDP, client_key};
use splitter_common::addr::{Addr, PortBe};

use crate::policy::model::{
    Action, Backend, Balance, ClientKey, Frontend, OnEmpty, PeerName, Pick, Protocol, Route,
    Service, Split, Subset,
};
pub use clients::{Cgroup, Cgroups, ClientNames, Ids};
use conduct::Following;
use image::{
    ActionImage, BackendImage, ChoiceImage, RouteImage, ServiceId, ServiceImage, SubsetImage,
};
use slots::Slots;

/// Something that a service asked for and gets only nearly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The reduced weights sum to more than a wheel holds, so shares are rounded.
    Rounded {
        /// Route or subset.
        place: String,
        /// Largest difference of a share from its weight, in parts per million.
        error_ppm: u32,
    },
    /// What a match names does not exist, or is not the only one, so the match takes nobody.
    NoClient {
        /// Route.
        place: String,
        /// What it names, and what about it.
        why: String,
    },
}

/// Weights by ordinal.
pub(crate) type Weights = SmallVec<[u32; 8]>;

/// Compiles services, sharing the wheels of equal weights.
#[derive(Default)]
pub struct Compiler {
    wheels: FxHashMap<Vec<u32>, (Slots, u32)>,
    ids: Ids,
}

impl Compiler {
    /// A compiler for a node that has these ids.
    pub fn new(ids: Ids) -> Self {
        Self { wheels: FxHashMap::default(), ids }
    }

    /// Compiles one service.
    pub fn compile(&mut self, service: &Service) -> (ServiceImage, Vec<Note>) {
        let id = service_id(&service.name);
        let follow = conduct::following(service);
        let mut notes = Vec::new();
        let subset_ids = name_ids(service.subsets.iter().map(|subset| subset.name.as_str()));
        let route_ids = name_ids(service.routes.iter().map(|route| route.name.as_str()));
        let subsets = service.subsets.iter().zip(subset_ids);
        let routes = service.routes.iter().zip(route_ids);
        let mut frontends: SmallVec<[FrontendKey; 1]> =
            service.frontends.iter().map(frontend_key).collect();
        // Not the model's order: keys are compared by their bytes.
        frontends.sort_unstable();
        let mut image = ServiceImage {
            id,
            frontends,
            answer_frontend: service.getpeername == PeerName::Frontend,
            datagrams: conduct::splits_datagrams(service),
            subsets: subsets
                .map(|(s, id)| self.compile_subset(s, id, follow, &mut notes))
                .collect(),
            routes: SmallVec::new(),
        };
        for (route, id) in routes {
            self.compile_route(&mut image.routes, service, (route, id), &mut notes);
        }
        (image, notes)
    }

    /// One image per match of the route.
    fn compile_route(
        &mut self,
        images: &mut SmallVec<[RouteImage; 1]>,
        service: &Service,
        (route, id): (&Route, u32),
        notes: &mut Vec<Note>,
    ) {
        let action = match &route.action {
            Action::Pass => ActionImage::Pass,
            Action::Reject(errno) => ActionImage::Reject(errno.number),
            Action::Split(split) => {
                ActionImage::Split(self.compile_split(service, &route.name, split, notes))
            }
        };
        let fault = conduct::fault(service, route);
        if route.matches.is_empty() {
            images.push(RouteImage { id, client: None, action, fault });
            return;
        }
        let client = |wanted| Some(clients::compile(wanted, &self.ids, &route.name, notes));
        let image =
            |client| RouteImage { id, client, action: action.clone(), fault: fault.clone() };
        images.extend(route.matches.iter().map(client).map(image));
    }

    /// Level one.
    fn compile_split(
        &mut self,
        service: &Service,
        place: &str,
        split: &Split,
        notes: &mut Vec<Note>,
    ) -> ChoiceImage {
        let weights = effective_weights(service, split);
        match split.pick {
            Pick::Affinity(key) => thresholds(client_number(key), &weights),
            Pick::Exact => self.choice(place, &weights, notes, ChoiceImage::Ticket),
            Pick::Random => self.choice(place, &weights, notes, ChoiceImage::Random),
        }
    }

    fn compile_subset(
        &mut self,
        subset: &Subset,
        id: u32,
        follow: Following,
        notes: &mut Vec<Note>,
    ) -> SubsetImage {
        // Those that have no weight last, where nothing that steps over others comes to.
        let mut listed: SmallVec<[&Backend; 8]> = subset.backends.iter().collect();
        listed.sort_by_key(|backend| backend.weight == 0);
        let backends: SmallVec<[BackendImage; 2]> =
            listed.iter().map(|backend| backend_image(backend.addr)).collect();
        let weights: Weights = listed.iter().map(|backend| backend.weight).collect();
        let choice = is_usable(subset).then(|| match subset.balance {
            // Without TCP there are no live connections to count.
            Balance::LeastConnections if follow == Following::Connections => {
                self.choice(&subset.name, &weights, notes, ChoiceImage::Least)
            }
            Balance::RoundRobin | Balance::LeastConnections => {
                self.choice(&subset.name, &weights, notes, ChoiceImage::Ticket)
            }
            Balance::Random => self.choice(&subset.name, &weights, notes, ChoiceImage::Random),
            Balance::ClientHash(key) => hashed(client_number(key), &backends, &weights),
        });
        let conduct = (follow != Following::Nothing).then(|| Box::new(conduct::record(subset)));
        let n_weighted = u16::try_from(n_weighted(subset)).expect("at most MAX_BACKENDS");
        SubsetImage { id, choice, conduct, backends, n_weighted }
    }

    /// A choice by wheel, or none where only one ordinal has a weight.
    fn choice(
        &mut self,
        place: &str,
        weights: &[u32],
        notes: &mut Vec<Note>,
        kind: impl Fn(Slots) -> ChoiceImage,
    ) -> ChoiceImage {
        let (slots, error_ppm) = self.wheel(weights);
        if error_ppm > 0 {
            notes.push(Note::Rounded { place: place.to_owned(), error_ppm });
        }
        slots.only().map_or_else(|| kind(slots.clone()), ChoiceImage::Only)
    }

    fn wheel(&mut self, weights: &[u32]) -> (Slots, u32) {
        if let Some(known) = self.wheels.get(weights) {
            return known.clone();
        }
        let wheel = wheel::build_wheel(weights);
        let built = (Slots::pack(&wheel.slots), wheel.error_ppm);
        self.wheels.insert(weights.to_vec(), built.clone());
        built
    }
}

/// Weights of a split in force: one for every subset of the service, so that ordinals agree, and
/// those of empty subsets spilled where the split says so.
pub(crate) fn effective_weights(service: &Service, split: &Split) -> Weights {
    let mut weights: Weights = smallvec![0; service.subsets.len()];
    for (subset, weight) in &split.weights {
        weights[*subset] = *weight;
    }
    if split.on_empty == OnEmpty::Spill {
        spill(&mut weights, &service.subsets);
    }
    weights
}

/// Whether a subset has a backend that may be chosen.
fn is_usable(subset: &Subset) -> bool {
    n_weighted(subset) > 0
}

/// How many backends have a weight.
fn n_weighted(subset: &Subset) -> usize {
    subset.backends.iter().filter(|backend| backend.weight > 0).count()
}

/// Takes the weight of subsets without usable backends, unless nothing else would be left.
fn spill(weights: &mut [u32], subsets: &[Subset]) {
    let usable = |i: usize| is_usable(&subsets[i]);
    if (0..weights.len()).any(|i| weights[i] > 0 && usable(i)) {
        for (i, weight) in weights.iter_mut().enumerate() {
            *weight = if usable(i) { *weight } else { 0 };
        }
    }
}

/// Level two by client: a Maglev table over the backends' addresses.
fn hashed(key: u8, backends: &[BackendImage], weights: &[u32]) -> ChoiceImage {
    let hash = |backend: &BackendImage| {
        fnv64(bytemuck::bytes_of(&backend.addr)) ^ u64::from(backend.port_be.to_host())
    };
    let table: Vec<(u64, u32)> = backends.iter().map(hash).zip(weights.iter().copied()).collect();
    ChoiceImage::Client { key, slots: Slots::pack(&maglev::build_table(&table)) }
}

/// Level one by client: of each subset, from the last to the first, the share of its weight in its
/// own and those before it.
fn thresholds(key: u8, weights: &[u32]) -> ChoiceImage {
    let mut sum = 0_u64;
    let mut thresholds = Vec::new();
    for (ordinal, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
        sum += u64::from(*weight);
        let threshold = u128::from(*weight) * u128::from(AFFINITY_RANGE) / u128::from(sum);
        let threshold = u64::try_from(threshold).expect("at most AFFINITY_RANGE");
        thresholds.push((threshold, u16::try_from(ordinal).expect("at most MAX_SUBSETS")));
    }
    thresholds.reverse();
    match thresholds[..] {
        [(_, only)] => ChoiceImage::Only(only),
        _ => ChoiceImage::Threshold { key, thresholds },
    }
}

/// Identity of a service.
pub fn service_id(name: &str) -> ServiceId {
    ServiceId(fnv64(name.as_bytes()).max(1))
}

/// Identities of names that are unique in a service: their hashes, moved on where two collide.
pub fn name_ids<'a>(names: impl Iterator<Item = &'a str>) -> SmallVec<[u32; 8]> {
    let mut ids = SmallVec::new();
    for name in names {
        let hash = fnv64(name.as_bytes());
        let mut id = fold(hash);
        while id == 0 || ids.contains(&id) {
            id = id.wrapping_add(1);
        }
        ids.push(id);
    }
    ids
}

/// Both halves of a hash in one.
#[expect(clippy::cast_possible_truncation, reason = "the low half")]
fn fold(hash: u64) -> u32 {
    (hash ^ (hash >> 32)) as u32
}

/// FNV-1a with 64 bits (Fowler, Noll, Vo): stable over versions, which std's hashers are not.
fn fnv64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The key of a frontend in the kernel.
pub fn frontend_key(frontend: &Frontend) -> FrontendKey {
    let protocol = match frontend.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    let (addr, port_be) = wire(frontend.addr);
    FrontendKey { addr, port_be, protocol, pad: 0 }
}

/// A backend as the kernel has it.
pub fn backend_image(addr: SocketAddr) -> BackendImage {
    let (addr, port_be) = wire(addr);
    BackendImage { addr, port_be }
}

fn wire(socket: SocketAddr) -> (Addr, PortBe) {
    (addr(socket.ip()), PortBe::from_host(socket.port()))
}

fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => Addr::from_v4(v4.octets()),
        IpAddr::V6(v6) => Addr(v6.octets()),
    }
}

/// A command name as the kernel keeps it.
pub fn command_bytes(command: &str) -> [u8; COMMAND_LEN] {
    let mut bytes = [0; COMMAND_LEN];
    for (to, from) in bytes.iter_mut().take(COMMAND_LEN - 1).zip(command.bytes()) {
        *to = from;
    }
    bytes
}

fn client_number(key: ClientKey) -> u8 {
    match key {
        ClientKey::Uid => client_key::UID,
        ClientKey::Gid => client_key::GID,
        ClientKey::Command => client_key::COMMAND,
        ClientKey::Cgroup => client_key::CGROUP,
        ClientKey::Process => client_key::PROCESS,
        ClientKey::Netns => client_key::NETNS,
    }
}
