//! What clients may reach besides the services of the policy.

use std::net::IpAddr;

use super::{CgroupName, Errno, Protocol};

/// What some clients may reach besides the services of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// `metadata.namespace/metadata.name`, unique.
    pub name: String,
    /// Cgroups of the clients, sorted; every client where empty.
    pub cgroups: Vec<CgroupName>,
    /// Whether connections to what is no service, and is not named here, are refused.
    pub registry_only: bool,
    /// Whether what is to be refused is only told of.
    pub audit: bool,
    /// What is refused fails with this.
    pub errno: Errno,
    /// Whether loopback addresses that are not named here are allowed.
    pub loopback: bool,
    /// What is said of destinations, in the order of the text: what is refused comes first.
    pub reaches: Vec<Reach>,
}

impl Outbound {
    /// What holds where a document says nothing but the mode.
    pub fn plain(name: String, cgroups: Vec<CgroupName>, registry_only: bool) -> Self {
        let (audit, loopback, reaches) = (false, true, Vec::new());
        Self { name, cgroups, registry_only, audit, errno: Errno::ACCESS, loopback, reaches }
    }

    /// Whether it ever refuses anything, or tells of it.
    pub fn refuses(&self) -> bool {
        self.registry_only || self.reaches.iter().any(|reach| reach.is_refused)
    }

    /// Host names that it depends on, in the order of the text; one may come again.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.reaches.iter().flat_map(|reach| reach.to.hosts()).map(String::as_str)
    }
}

/// Ports of destinations, and whether they may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Whether connections to them are refused, rather than allowed.
    pub is_refused: bool,
    /// Which addresses.
    pub to: Destinations,
    /// Which ports; all where empty.
    pub ports: Vec<PortSpan>,
    /// Which protocol; both where there is none.
    pub protocol: Option<Protocol>,
}

/// Addresses, as a document gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destinations {
    /// Those of networks, at least one.
    Networks(Vec<Network>),
    /// Those that the node resolves host names to, at least one: fully qualified, in lower case,
    /// without the dot at the end.
    Hosts(Vec<String>),
}

impl Destinations {
    /// The networks; none where host names are given.
    pub fn networks(&self) -> &[Network] {
        match self {
            Self::Networks(networks) => networks,
            Self::Hosts(_) => &[],
        }
    }

    /// The host names; none where networks are given.
    pub fn hosts(&self) -> &[String] {
        match self {
            Self::Networks(_) => &[],
            Self::Hosts(hosts) => hosts,
        }
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// First address; host bits are 0. IPv6 addresses are not v4-mapped ones.
    pub ip: IpAddr,
    /// Bits that are equal in all addresses of the range.
    pub prefix: u8,
}

/// Ports from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortSpan {
    /// The first.
    pub first: u16,
    /// The last, not before the first.
    pub last: u16,
}
