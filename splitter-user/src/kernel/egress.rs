//! The maps of what clients may reach, but for its roots and counts, and the ring of what was refused.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use aya::maps::{MapData, RingBuf};
use bytemuck::{Pod, Zeroable};
use splitter_common::abi::{
    EgressClient, EgressEvent, EgressNetwork, EgressRule, NETWORK_BITS, PortRanges, map,
};

use super::load::Loaded;
use super::sys;
use crate::compile::egress::EgressImage;
use crate::tables::EgressTables;
use crate::tables::egress::MemoryEgress;

/// Elements per batch call.
const CHUNK: usize = 1_024;
/// Bits of a key that has the whole of an address.
const EVERY_BIT: u32 = NETWORK_BITS + 128;

/// Key of the trie, `struct bpf_lpm_trie_key`: the bits that count, then the data.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct NetworkKey {
    bits: u32,
    network: EgressNetwork,
}

/// The maps, opened.
pub struct EgressMaps {
    clients: OwnedFd,
    networks: OwnedFd,
}

impl EgressMaps {
    pub(super) fn new(clients: OwnedFd, networks: OwnedFd) -> Self {
        Self { clients, networks }
    }
}

impl EgressTables for EgressMaps {
    fn insert(&mut self, set: u32, image: &EgressImage) -> io::Result<()> {
        for (cgroup, rule) in &image.clients {
            let key = EgressClient { set, pad: 0, cgroup: *cgroup };
            sys::update(&self.clients, &key, rule)?;
        }
        for ((rule, addr, bits), ranges) in &image.networks {
            let network = EgressNetwork { set, rule: *rule, addr: *addr };
            let key = NetworkKey { bits: NETWORK_BITS + u32::from(*bits), network };
            sys::update(&self.networks, &key, ranges)?;
        }
        Ok(())
    }

    fn keep_only(&mut self, set: u32) -> io::Result<()> {
        let (clients, _) = sys::lookup_all::<EgressClient, EgressRule>(&self.clients, CHUNK)?;
        for key in clients.iter().filter(|key| key.set != set) {
            sys::delete(&self.clients, key)?;
        }
        let (networks, _) = sys::lookup_all::<NetworkKey, PortRanges>(&self.networks, CHUNK)?;
        for key in networks.iter().filter(|key| key.network.set != set) {
            sys::delete(&self.networks, key)?;
        }
        Ok(())
    }

    fn rule(&self, client: &EgressClient) -> io::Result<Option<EgressRule>> {
        sys::lookup(&self.clients, client)
    }

    fn ranges(&self, network: &EgressNetwork) -> io::Result<Option<PortRanges>> {
        sys::lookup(&self.networks, &NetworkKey { bits: EVERY_BIT, network: *network })
    }

    fn copy(&self, set: u32) -> io::Result<MemoryEgress> {
        let (clients, rules) = sys::lookup_all::<EgressClient, EgressRule>(&self.clients, CHUNK)?;
        let rules = clients.into_iter().zip(rules).filter(|(client, _)| client.set == set);
        let (keys, ranges) = sys::lookup_all::<NetworkKey, PortRanges>(&self.networks, CHUNK)?;
        let own = keys.into_iter().zip(ranges).filter(|(key, _)| key.network.set == set);
        let networks = own.filter_map(|(NetworkKey { bits, network }, ranges)| {
            let bits = u8::try_from(bits.checked_sub(NETWORK_BITS)?).ok()?;
            Some(((network, bits), ranges))
        });
        Ok(MemoryEgress::new(rules, networks))
    }
}

/// What was refused, as it happens.
pub struct EventRing(RingBuf<MapData>);

impl EventRing {
    /// Opens the ring. Fails where it was opened before.
    pub fn new(loaded: &mut Loaded) -> io::Result<Self> {
        let ring = loaded.ebpf_mut().take_map(map::EGRESS_EVENTS);
        let ring = ring.ok_or_else(|| io::Error::other("it is open already"))?;
        RingBuf::try_from(ring).map(Self).map_err(io::Error::other)
    }

    /// The oldest event that was not taken yet. The descriptor is readable when there is one.
    pub fn take(&mut self) -> Option<EgressEvent> {
        let item = self.0.next()?;
        bytemuck::try_pod_read_unaligned(&item).ok()
    }
}

impl AsFd for EventRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

// An event loop asks for both.
impl AsRawFd for EventRing {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
