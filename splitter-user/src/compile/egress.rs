//! What clients may reach besides services, as the kernel will see it.

mod hosts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use splitter_common::abi::{
    EGRESS_LEVELS, EgressRule, MAX_EGRESS_NETWORKS, MAX_PORT_RANGES, PortRange, PortRanges, TCP,
    UDP, egress_flag,
};
use splitter_common::addr::Addr;

use super::Cgroup;
use crate::policy::model::{
    CgroupName, Network, Outbound, PortSpan, PortsSaid, Protocol, Reach, said_by,
};
pub use hosts::{HostAddresses, LeftOut, MAX_HOST_ADDRESSES, NoRoom, host_key};

/// Bits of a v4-mapped address before the IPv4 address.
const MAPPED_BITS: u8 = 96;

/// All of it. Two that are equal refuse alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressImage {
    /// The rule for clients of no cgroup in `clients`.
    pub everyone: EgressRule,
    /// Rules by cgroup, for the clients in it and below it, down to the next that has one.
    pub clients: BTreeMap<u64, EgressRule>,
    /// Bit `n` is set where there is a cgroup of level `n`.
    pub levels: u32,
    /// What rules say of networks, and of the addresses of host names.
    pub networks: BTreeMap<NetworkKey, PortRanges>,
    /// Names of the rules, by number.
    pub names: Vec<String>,
}

/// A network of a rule: the rule's number, the address, and the bits of it that count.
pub type NetworkKey = (u32, Addr, u8);

/// What documents come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// What the kernel is told.
    pub image: EgressImage,
    /// Addresses of host names that it is not told of.
    pub left_out: BTreeSet<LeftOut>,
}

/// What clients may reach cannot be told to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// Too many networks.
    #[error(
        "the egress documents name {0} networks; at most {MAX_EGRESS_NETWORKS} can be told apart: \
         put neighbours together"
    )]
    Networks(usize),
    /// A network has too many ranges of ports.
    #[error(
        "the egress document {name} says {n} things of ports of {network}, those of larger \
         networks included; at most {MAX_PORT_RANGES} can be told apart: put ranges together"
    )]
    Ranges {
        /// Name of the document.
        name: String,
        /// The network, or the host name.
        network: String,
        /// How many.
        n: usize,
    },
    /// A cgroup is too deep.
    #[error(
        "the cgroup {path} of the egress document {name} is {level} levels below the root, and \
         only those of less than {EGRESS_LEVELS} can be told apart"
    )]
    Depth {
        /// Name of the document.
        name: String,
        /// Path of the cgroup.
        path: String,
        /// Its level.
        level: u32,
    },
}

impl EgressImage {
    /// Whether anything is ever refused or told.
    pub fn refuses(&self) -> bool {
        let refuses = |rule: &EgressRule| rule.flags & egress_flag::REFUSES != 0;
        refuses(&self.everyone)
            || self.clients.values().any(refuses)
            || self.networks.values().any(|said| said.ranges.iter().any(|range| range.refused != 0))
    }
}

/// Cgroups by name, each with its path from the v2 root. A name may be that of several.
pub type Places = BTreeMap<CgroupName, Vec<(String, Cgroup)>>;

/// The cgroups of a document's clients.
///
/// Where several have a name, nobody knows which is meant. A document that refuses holds for all of
/// them, and one that lets go on holds for none, so that no client is freer than anybody meant.
fn places_of<'a>(
    said: &'a Outbound,
    places: &'a Places,
) -> impl Iterator<Item = &'a (String, Cgroup)> {
    let found = said.cgroups.iter().filter_map(|name| places.get(name));
    found.filter(|found| found.len() == 1 || is_strict(said)).flatten()
}

fn is_strict(said: &Outbound) -> bool {
    said.refuses() && !said.audit
}

/// Names of clients that are not those of one cgroup: the document, and what about which name.
pub fn describe_names(outbound: &[Outbound], places: &Places) -> Vec<(String, String)> {
    let describe = |said: &Outbound, name: &CgroupName| {
        let n = places.get(name).map_or(0, Vec::len);
        Some(match n {
            0 => format!("the {name} does not exist now"),
            1 => return None,
            _ if is_strict(said) => format!("{n} cgroups are the {name}: it holds for all of them"),
            _ => format!("{n} cgroups are the {name}: it holds for none of them"),
        })
    };
    let names = outbound.iter().flat_map(|said| said.cgroups.iter().map(move |name| (said, name)));
    names.filter_map(|(said, name)| Some((said.name.clone(), describe(said, name)?))).collect()
}

/// Compiles what documents say, in their order. Cgroups that do not exist have no clients. Of the
/// addresses of host names, those are left out that there is no room for: others choose them.
pub fn compile_egress(
    outbound: &[Outbound],
    places: &Places,
    hosts: &HostAddresses,
) -> Result<Compiled, EgressError> {
    let mut image = EgressImage::default();
    for (said, rule) in outbound.iter().zip(0..) {
        image.names.push(said.name.clone());
        add_networks(&mut image, said, rule)?;
    }
    if image.networks.len() > MAX_EGRESS_NETWORKS as usize {
        return Err(EgressError::Networks(image.networks.len()));
    }
    add_rules(&mut image, outbound, places)?;
    let mut left_out = BTreeSet::new();
    for (said, rule) in outbound.iter().zip(0..) {
        left_out.append(&mut hosts::add(&mut image, said, rule, hosts));
    }
    Ok(Compiled { image, left_out })
}

/// Says which clients the rules are for.
fn add_rules(
    image: &mut EgressImage,
    outbound: &[Outbound],
    places: &Places,
) -> Result<(), EgressError> {
    for (path, cgroup) in outbound.iter().flat_map(|said| places_of(said, places)) {
        // The first document counts that takes the clients of this cgroup.
        let takes =
            |said: &Outbound| places_of(said, places).any(|(outer, _)| is_around(outer, path));
        let Some((said, rule)) = outbound.iter().zip(0..).find(|(said, _)| takes(said)) else {
            continue;
        };
        if cgroup.level >= EGRESS_LEVELS {
            let (name, path) = (said.name.clone(), path.clone());
            return Err(EgressError::Depth { name, path, level: cgroup.level });
        }
        image.clients.insert(cgroup.id, compile_rule(said, rule));
        image.levels |= 1 << cgroup.level;
    }
    if let Some((said, rule)) = outbound.iter().zip(0..).find(|(said, _)| said.cgroups.is_empty()) {
        image.everyone = compile_rule(said, rule);
    }
    Ok(())
}

/// Whether a cgroup is another one, or one around it.
fn is_around(outer: &str, path: &str) -> bool {
    let rest = path.strip_prefix(outer.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn compile_rule(said: &Outbound, rule: u32) -> EgressRule {
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    let flags = egress_flag::IS_THERE
        | flag(said.registry_only, egress_flag::REFUSES)
        | flag(said.audit, egress_flag::AUDITS)
        | flag(said.loopback, egress_flag::LOOPBACK);
    EgressRule { rule, errno: said.errno.number, flags, pad: 0 }
}

fn add_networks(image: &mut EgressImage, said: &Outbound, rule: u32) -> Result<(), EgressError> {
    for network in said.networks() {
        let ranges = ranges_of(said.reaches.iter().filter(|reach| reach.is_about(&network)));
        let Some(record) = record(&ranges) else {
            let (name, network) = (said.name.clone(), format!("{}/{}", network.ip, network.prefix));
            return Err(EgressError::Ranges { name, network, n: ranges.len() });
        };
        image.networks.insert(key(rule, &network), record);
    }
    Ok(())
}

/// All that is said, in the order of the text.
fn ranges_of<'a>(reaches: impl Iterator<Item = &'a Reach>) -> Vec<PortRange> {
    said_by(reaches).into_iter().map(port_range).collect()
}

/// As the kernel has them; `None` where they are too many.
fn record(ranges: &[PortRange]) -> Option<PortRanges> {
    let n = u32::try_from(ranges.len()).ok()?;
    let mut record = PortRanges { n, ..PortRanges::default() };
    record.ranges.get_mut(..ranges.len())?.copy_from_slice(ranges);
    Some(record)
}

fn key(rule: u32, network: &Network) -> NetworkKey {
    let (addr, bits) = mapped(network);
    (rule, addr, bits)
}

/// The first thing that a document says which an address got a range of ports from.
pub fn find_reach<'s>(
    said: &'s [Reach],
    hosts: &HostAddresses,
    addr: Addr,
    range: &PortRange,
) -> Option<&'s Reach> {
    let (ip, prefix) = match addr.to_v4() {
        Some(v4) => (IpAddr::from(v4), 32),
        None => (IpAddr::from(addr.0), 128),
    };
    let of_host = |host: &String| hosts.get(host).is_some_and(|of| of.contains(&ip));
    let is_about = |reach: &&Reach| {
        reach.is_about(&Network { ip, prefix }) || reach.to.hosts().iter().any(of_host)
    };
    let says = |reach: &&Reach| reach.said().map(port_range).any(|said| said == *range);
    said.iter().filter(is_about).find(says)
}

fn port_range(PortsSaid { ports, protocol, is_refused }: PortsSaid) -> PortRange {
    let protocol = match protocol {
        Some(Protocol::Tcp) => TCP,
        Some(Protocol::Udp) => UDP,
        None => 0,
    };
    let PortSpan { first, last } = ports;
    PortRange { first, last, protocol, refused: u8::from(is_refused), pad: 0 }
}

/// A network as one of v4-mapped and other IPv6 addresses.
fn mapped(network: &Network) -> (Addr, u8) {
    match network.ip {
        IpAddr::V4(v4) => (Addr::from_v4(v4.octets()), network.prefix + MAPPED_BITS),
        IpAddr::V6(v6) => (Addr(v6.octets()), network.prefix),
    }
}

#[cfg(test)]
mod tests;
