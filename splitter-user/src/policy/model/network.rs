//! Which networks a document speaks of, and all that it says of each.
//!
//! The kernel finds the smallest network that an address is in and nothing else, so what is said of
//! the networks around it counts for it too.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Network, Outbound, PortSpan, Protocol, Reach};

/// All IPv4 addresses.
const EVERY_V4: Network = Network { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 0 };
/// The IPv6 addresses that stand for those.
const MAPPED: Network =
    Network { ip: IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)), prefix: 96 };
/// Every port.
const EVERY_PORT: PortSpan = PortSpan { first: 0, last: u16::MAX };

/// One thing that is said of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortsSaid {
    /// Which ports.
    pub ports: PortSpan,
    /// Which protocol; both where there is none.
    pub protocol: Option<Protocol>,
    /// Whether they are refused.
    pub is_refused: bool,
}

impl Network {
    /// Whether all addresses of another network are in this one. No IPv6 network has IPv4 addresses.
    pub fn contains(&self, other: &Self) -> bool {
        let differing = match (self.ip, other.ip) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            _ => return false,
        };
        self.prefix <= other.prefix && differing >= u32::from(self.prefix)
    }
}

impl Outbound {
    /// Networks of which the kernel has to be told.
    pub fn networks(&self) -> Vec<Network> {
        let mut networks: Vec<Network> =
            self.reaches.iter().flat_map(|reach| reach.to.networks()).copied().collect();
        // An IPv6 network that v4-mapped addresses are in says nothing of IPv4.
        if networks.iter().any(|network| network.contains(&MAPPED)) {
            networks.push(EVERY_V4);
        }
        networks
    }
}

/// What some say together, each once, in their order.
pub fn said_by<'a>(reaches: impl Iterator<Item = &'a Reach>) -> Vec<PortsSaid> {
    let mut said: Vec<PortsSaid> = reaches.flat_map(Reach::said).collect();
    let mut seen = HashSet::new();
    said.retain(|said| seen.insert(*said));
    said
}

impl Reach {
    /// Whether its networks have every address of another.
    pub fn is_about(&self, network: &Network) -> bool {
        self.to.networks().iter().any(|own| own.contains(network))
    }

    /// Whether a host name is one of its own.
    pub fn names(&self, host: &str) -> bool {
        self.to.hosts().iter().any(|own| own == host)
    }

    /// What it says.
    pub fn said(&self) -> impl Iterator<Item = PortsSaid> {
        let every = self.ports.is_empty().then_some(EVERY_PORT);
        let (protocol, is_refused) = (self.protocol, self.is_refused);
        let said = move |ports| PortsSaid { ports, protocol, is_refused };
        self.ports.iter().copied().chain(every).map(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_is_in_them_and_no_other_family() {
        let network = |text: &str| {
            let (ip, prefix) = text.split_once('/').unwrap();
            Network { ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap() }
        };
        let contains = |outer: &str, inner: &str| network(outer).contains(&network(inner));
        assert!(contains("10.0.0.0/8", "10.9.0.0/16") && contains("0.0.0.0/0", "10.0.0.0/8"));
        assert!(!contains("10.0.0.0/16", "10.0.0.0/8") && !contains("10.0.0.0/8", "11.0.0.0/8"));
        assert!(contains("::/0", "fd00::/8") && contains("fd00::1/128", "fd00::1/128"));
        assert!(!contains("::/0", "10.0.0.0/8") && !contains("0.0.0.0/0", "::/0"));
    }
}
