//! What clients may reach, in plain memory, and the judgement's view of it from user space.

use std::collections::BTreeMap;
use std::io;

use splitter_common::abi::{
    Commit, EgressClient, EgressNetwork, EgressRoot, EgressRule, PortRanges,
};
use splitter_common::addr::Addr;
use splitter_common::decide::egress::EgressWorld;

use super::world::Client;
use super::{Arena, EgressTables, Maps, read};
use crate::compile::egress::EgressImage;

/// Bits of an address.
const ADDR_BITS: u8 = 128;

/// The twin of the kernel's maps.
#[derive(Clone, Debug, Default)]
pub struct MemoryEgress {
    rules: BTreeMap<EgressClient, EgressRule>,
    /// By network, and bits of its address that count.
    networks: BTreeMap<(EgressNetwork, u8), PortRanges>,
}

impl MemoryEgress {
    /// Tables with these entries.
    pub fn new(
        rules: impl Iterator<Item = (EgressClient, EgressRule)>,
        networks: impl Iterator<Item = ((EgressNetwork, u8), PortRanges)>,
    ) -> Self {
        Self { rules: rules.collect(), networks: networks.collect() }
    }

    /// Rules by cgroup.
    pub fn rules(&self) -> impl Iterator<Item = (&EgressClient, &EgressRule)> {
        self.rules.iter()
    }

    /// What is said of networks, each with the bits of its address that count.
    pub fn networks(&self) -> impl Iterator<Item = (&(EgressNetwork, u8), &PortRanges)> {
        self.networks.iter()
    }
}

impl EgressTables for MemoryEgress {
    fn insert(&mut self, set: u32, image: &EgressImage) -> io::Result<()> {
        let rules = image.clients.iter();
        self.rules.extend(
            rules.map(|(cgroup, rule)| (EgressClient { set, pad: 0, cgroup: *cgroup }, *rule)),
        );
        let networks = image.networks.iter().map(|((rule, addr, bits), ranges)| {
            ((EgressNetwork { set, rule: *rule, addr: *addr }, *bits), *ranges)
        });
        self.networks.extend(networks);
        Ok(())
    }

    fn keep_only(&mut self, set: u32) -> io::Result<()> {
        self.rules.retain(|client, _| client.set == set);
        self.networks.retain(|(network, _), _| network.set == set);
        Ok(())
    }

    fn rule(&self, client: &EgressClient) -> io::Result<Option<EgressRule>> {
        Ok(self.rules.get(client).copied())
    }

    fn ranges(&self, network: &EgressNetwork) -> io::Result<Option<PortRanges>> {
        let around =
            |bits| (EgressNetwork { addr: prefix_of(network.addr, bits), ..*network }, bits);
        let found = (0..=ADDR_BITS).rev().find_map(|bits| self.networks.get(&around(bits)));
        Ok(found.copied())
    }

    fn copy(&self, set: u32) -> io::Result<Self> {
        let mut copy = self.clone();
        copy.keep_only(set)?;
        Ok(copy)
    }
}

/// The first bits of an address, the others 0.
fn prefix_of(addr: Addr, bits: u8) -> Addr {
    let mask = u128::MAX.checked_shl(u32::from(ADDR_BITS - bits)).unwrap_or(0);
    Addr((u128::from_be_bytes(addr.0) & mask).to_be_bytes())
}

/// One client in front of the tables.
pub struct HostRules<'a, M> {
    maps: &'a M,
    tables: &'a dyn EgressTables,
    client: &'a Client,
}

impl<'a, M: Maps> HostRules<'a, M> {
    /// The roots are among the maps, what they refer to in tables of its own.
    pub fn new(maps: &'a M, tables: &'a dyn EgressTables, client: &'a Client) -> Self {
        Self { maps, tables, client }
    }
}

// A look-up that fails is a miss to the kernel too.
impl<M: Maps> EgressWorld for HostRules<'_, M> {
    type Ranges = PortRanges;

    fn root(&self, index: u32) -> Option<EgressRoot> {
        read(self.maps, Arena::EgressRoots, index)
    }

    fn generation(&self) -> u64 {
        read::<Commit, _>(self.maps, Arena::Commit, 0).map_or(0, |commit| commit.generation)
    }

    fn rule(&self, client: &EgressClient) -> Option<EgressRule> {
        self.tables.rule(client).ok().flatten()
    }

    fn ranges(&self, network: &EgressNetwork) -> Option<PortRanges> {
        self.tables.ranges(network).ok().flatten()
    }

    fn ancestor_cgroup(&self, level: u32) -> u64 {
        self.client.cgroups.get(level as usize).copied().unwrap_or(0)
    }
}
