//! The tables of what clients may reach as they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use splitter_common::abi::{
    EgressNetwork, EgressRoot, EgressRule, PortRange, PortRanges, TCP, UDP, egress_flag,
};

use crate::explain::errno_name;
use crate::tables::egress::MemoryEgress;

/// Bits of a v4-mapped address before the IPv4 address.
const MAPPED_BITS: u8 = 96;

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EgressDump {
    /// Number of the set of entries.
    pub(crate) set: u32,
    /// The generation from which it counts; 0 is none.
    pub(crate) since: u64,
    /// The rule of clients in no cgroup that has one; `None` where everything is allowed.
    pub(crate) everyone: Option<RuleDump>,
    /// Rules by ids of cgroups.
    pub(crate) clients: Vec<(u64, RuleDump)>,
    /// What is said of networks.
    pub(crate) networks: Vec<NetworkDump>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuleDump {
    /// Its number.
    pub(crate) rule: u32,
    /// Name of the document, where it is known.
    pub(crate) name: Option<String>,
    /// What is refused fails with this.
    pub(crate) errno: String,
    /// `refuses`, `audits`, `loopback`, `holds`.
    pub(crate) flags: Vec<String>,
}

/// One network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkDump {
    /// Number of the rule.
    pub(crate) rule: u32,
    /// Its addresses.
    pub(crate) network: String,
    /// Ranges of ports in the order in which they are looked at.
    pub(crate) ranges: Vec<String>,
}

/// What the tables have of a root, whose set they are of.
pub(super) fn dump(root: &EgressRoot, tables: &MemoryEgress, names: &[String]) -> EgressDump {
    let clients = tables.rules().map(|(client, rule)| (client.cgroup, rule_of(*rule, names)));
    let networks =
        tables.networks().map(|((network, bits), said)| network_of(network, *bits, said));
    let is_there = root.everyone.flags & egress_flag::IS_THERE != 0;
    EgressDump {
        set: root.set,
        since: root.generation,
        everyone: is_there.then(|| rule_of(root.everyone, names)),
        clients: clients.collect(),
        networks: networks.collect(),
    }
}

fn rule_of(rule: EgressRule, names: &[String]) -> RuleDump {
    let words = [
        (egress_flag::REFUSES, "refuses"),
        (egress_flag::AUDITS, "audits"),
        (egress_flag::LOOPBACK, "loopback"),
        (egress_flag::HOLDS, "holds"),
    ];
    let set = words.into_iter().filter(|(flag, _)| rule.flags & flag != 0);
    RuleDump {
        rule: rule.rule,
        name: names.get(rule.rule as usize).cloned(),
        errno: errno_name(rule.errno),
        flags: set.map(|(_, word)| word.to_owned()).collect(),
    }
}

fn network_of(network: &EgressNetwork, bits: u8, said: &PortRanges) -> NetworkDump {
    let (ip, bits) = match network.addr.to_v4() {
        Some(v4) if bits >= MAPPED_BITS => (IpAddr::from(Ipv4Addr::from(v4)), bits - MAPPED_BITS),
        _ => (IpAddr::from(Ipv6Addr::from(network.addr.0)), bits),
    };
    let ranges = said.ranges.iter().take(said.n as usize).copied().map(show_range);
    NetworkDump { rule: network.rule, network: format!("{ip}/{bits}"), ranges: ranges.collect() }
}

fn show_range(range: PortRange) -> String {
    let PortRange { first, last, protocol, refused, .. } = range;
    let protocol = match protocol {
        TCP => "/tcp",
        UDP => "/udp",
        _ => "",
    };
    let verdict = if refused == 0 { "allow" } else { "refuse" };
    format!("{verdict}:{first}-{last}{protocol}")
}
