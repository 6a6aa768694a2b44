//! Addresses for hosts that have none.
//!
//! A name has to resolve to something before a connection can be made, and what it resolves to is
//! the only thing that the hook sees. So a host that no document gives an address is given one of a
//! range that nothing else uses. Where it falls is its name's hash, and so the same on every node
//! and in every run, but for collisions: those are settled by what was assigned before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use splitter_common::hash::mix;

use super::resource::Cidr;

/// A range of addresses that hosts may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipRange(Cidr);

/// Text that is not a range of addresses for hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a range with room for at least 2 hosts, such as 127.240.0.0/16 or 100::/64")]
pub struct NotAVipRange;

impl FromStr for VipRange {
    type Err = NotAVipRange;

    fn from_str(text: &str) -> Result<Self, NotAVipRange> {
        let (address, prefix) = text.split_once('/').ok_or(NotAVipRange)?;
        let ip: IpAddr = address.parse().map_err(|_| NotAVipRange)?;
        let prefix: u8 = prefix.parse().map_err(|_| NotAVipRange)?;
        let most = if ip.is_ipv4() { 30 } else { 126 };
        let range = Cidr::new(ip, prefix.min(most));
        if prefix > most || range.ip != ip || ip.is_multicast() {
            return Err(NotAVipRange);
        }
        Ok(Self(range))
    }
}

impl Display for VipRange {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.ip, self.0.prefix)
    }
}

impl VipRange {
    /// Whether addresses of the range are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.0.ip.is_ipv4()
    }

    /// Number of addresses that can be given: neither the first nor the last, and of huge ranges
    /// no more than 2^32.
    fn len(&self) -> u64 {
        let bits = if self.is_ipv4() { 32 } else { 128 } - u32::from(self.0.prefix);
        (1_u64 << bits.min(32)) - 2
    }

    /// Address number `n` of those.
    fn nth(&self, n: u64) -> IpAddr {
        match self.0.ip {
            IpAddr::V4(v4) => {
                let offset = u32::try_from(n + 1).expect("less than 2^32");
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() + offset))
            }
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() + u128::from(n + 1))),
        }
    }
}

/// A range of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipRanges {
    /// For hosts with an IPv4 backend.
    pub v4: VipRange,
    /// For hosts whose backends are all IPv6.
    pub v6: VipRange,
}

impl VipRanges {
    /// Whether an address is in one of the ranges.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.v4.0.contains(ip) || self.v6.0.contains(ip)
    }
}

impl Default for VipRanges {
    /// Ranges from which nothing leaves the node or the site where no program rewrites it:
    /// loopback (RFC 1122), and the discard prefix (RFC 6666).
    fn default() -> Self {
        let v6 = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);
        Self {
            v4: VipRange(Cidr::new(IpAddr::V4(Ipv4Addr::new(127, 240, 0, 0)), 16)),
            v6: VipRange(Cidr::new(IpAddr::V6(v6), 64)),
        }
    }
}

/// Addresses for hosts: where they are taken from, and what was given before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vips {
    /// Where addresses are taken from.
    pub ranges: VipRanges,
    /// What was given before, by full host name. Kept while it is in its range.
    pub assigned: BTreeMap<String, IpAddr>,
}

impl Vips {
    /// Gives each host, named with whether it shall be IPv4, an address that is not in `taken`.
    /// A host is left out where the range is full.
    pub(in crate::policy) fn allocate(
        &self,
        hosts: &BTreeMap<String, bool>,
        mut taken: BTreeSet<IpAddr>,
    ) -> BTreeMap<String, IpAddr> {
        let mut given = BTreeMap::new();
        for (host, v4) in hosts {
            let known = self.assigned.get(host).filter(|ip| self.range(*v4).0.contains(**ip));
            if let Some(ip) = known.filter(|ip| !taken.contains(*ip)) {
                taken.insert(*ip);
                given.insert(host.clone(), *ip);
            }
        }
        for (host, v4) in hosts {
            if given.contains_key(host) {
                continue;
            }
            if let Some(ip) = self.find(host, *v4, &taken) {
                taken.insert(ip);
                given.insert(host.clone(), ip);
            }
        }
        given
    }

    fn range(&self, v4: bool) -> VipRange {
        if v4 { self.ranges.v4 } else { self.ranges.v6 }
    }

    /// The first free address from the hash of the host on.
    fn find(&self, host: &str, v4: bool, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let range = self.range(v4);
        let start = hash(host) % range.len();
        let mut near = (0..range.len()).map(|step| range.nth((start + step) % range.len()));
        near.find(|ip| !taken.contains(ip))
    }
}

fn hash(host: &str) -> u64 {
    host.as_bytes().chunks(8).fold(0, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash, u64::from_le_bytes(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(n: usize) -> BTreeMap<String, bool> {
        (0..n).map(|i| (format!("host-{i}"), true)).collect()
    }

    #[test]
    fn ranges_are_read_and_written() {
        for good in ["127.240.0.0/16", "100::/64", "10.0.0.0/30"] {
            assert_eq!(good.parse::<VipRange>().expect(good).to_string(), good);
        }
        for bad in ["", "10.0.0.0", "10.0.0.1/16", "10.0.0.0/31", "224.0.0.0/8", "x/16"] {
            assert_eq!(bad.parse::<VipRange>(), Err(NotAVipRange), "{bad}");
        }
    }

    #[test]
    fn every_host_has_an_address_of_its_own_until_the_range_is_full() {
        let ranges =
            VipRanges { v4: "10.0.0.0/28".parse().expect("a range"), ..VipRanges::default() };
        let vips = Vips { ranges, assigned: BTreeMap::new() };
        let given = vips.allocate(&hosts(20), BTreeSet::new());
        let addresses: BTreeSet<_> = given.values().collect();
        assert_eq!((given.len(), addresses.len()), (14, 14));
        assert!(!addresses.contains(&"10.0.0.0".parse::<IpAddr>().expect("an address")));
        assert!(!addresses.contains(&"10.0.0.15".parse::<IpAddr>().expect("an address")));
    }

    #[test]
    fn hosts_keep_their_addresses_while_others_come_and_go() {
        let first = Vips::default().allocate(&hosts(500), BTreeSet::new());
        let vips = Vips { assigned: first.clone(), ..Vips::default() };
        let mut fewer = hosts(500);
        fewer.remove("host-7");
        let second = vips.allocate(&fewer, BTreeSet::new());
        assert!(second.iter().all(|(host, ip)| first[host] == *ip));
        let other =
            VipRanges { v4: "10.0.0.0/8".parse().expect("a range"), ..VipRanges::default() };
        let moved = Vips { ranges: other, ..vips }.allocate(&hosts(5), BTreeSet::new());
        assert!(moved.values().all(|ip| ip.to_string().starts_with("10.")));
    }

    #[test]
    fn taken_addresses_are_not_given() {
        let first = Vips::default().allocate(&hosts(1), BTreeSet::new());
        let taken = first.values().copied().collect();
        let second = Vips::default().allocate(&hosts(1), taken);
        assert_ne!(first, second);
    }
}
