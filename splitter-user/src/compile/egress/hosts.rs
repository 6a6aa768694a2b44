//! Host names in what clients may reach: each of their addresses becomes a network of its own.
//!
//! Which addresses a name has is for others to choose, so they never make a policy wrong. What
//! there is no room for is left out, and told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

use splitter_common::abi::{MAX_EGRESS_NETWORKS, MAX_PORT_RANGES, PortRanges};

use super::{EgressImage, NetworkKey, key, ranges_of, record};
use crate::policy::model::{Network, Outbound};

/// Most addresses of one name: more than large services answer in an hour, and few enough that one
/// name cannot fill the map.
pub const MAX_HOST_ADDRESSES: usize = 512;

/// Addresses by host name, those that matter most first. A name without any is not resolved yet.
pub type HostAddresses = BTreeMap<String, Vec<IpAddr>>;

/// An address of a host name that the kernel is not told of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// Name of the document.
    pub document: String,
    /// The host name.
    pub host: String,
    /// The address.
    pub ip: IpAddr,
    /// What there is too much of.
    pub why: NoRoom,
}

/// What there is too much of for an address to be told to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoRoom {
    /// Addresses of the name.
    Addresses,
    /// Things that are said of its ports.
    Ranges,
    /// Networks of all documents.
    Networks,
}

impl Display for NoRoom {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses => write!(f, "a name stands for at most {MAX_HOST_ADDRESSES}"),
            Self::Ranges => write!(
                f,
                "with the networks and names around it, more than {MAX_PORT_RANGES} things are said \
                 of its ports"
            ),
            Self::Networks => write!(f, "the documents have {MAX_EGRESS_NETWORKS} networks"),
        }
    }
}

/// The network of a rule that is one address.
pub fn host_key(rule: u32, ip: IpAddr) -> NetworkKey {
    key(rule, &alone(ip))
}

fn alone(ip: IpAddr) -> Network {
    Network { ip, prefix: if ip.is_ipv4() { 32 } else { 128 } }
}

/// Adds what a document says of host names. Answers which of their addresses are left out.
pub(super) fn add(
    image: &mut EgressImage,
    said: &Outbound,
    rule: u32,
    hosts: &HostAddresses,
) -> BTreeSet<LeftOut> {
    let mut left_out = BTreeSet::new();
    let mut leave_out = |host: &str, ip, why| {
        let (document, host) = (said.name.clone(), host.to_owned());
        left_out.insert(LeftOut { document, host, ip, why });
    };
    for (host, ip) in said.hosts().flat_map(|host| of(hosts, host).skip(MAX_HOST_ADDRESSES)) {
        leave_out(host, ip, NoRoom::Addresses);
    }
    for Named { ip, by } in named(said, hosts) {
        let key = host_key(rule, ip);
        let is_full = image.networks.len() >= MAX_EGRESS_NETWORKS as usize;
        if is_full && !image.networks.contains_key(&key) {
            for (_, host) in by {
                leave_out(host, ip, NoRoom::Networks);
            }
            continue;
        }
        let without_room = |host: &str| leave_out(host, ip, NoRoom::Ranges);
        image.networks.extend(say(said, &alone(ip), &by, without_room).map(|record| (key, record)));
    }
    left_out
}

/// An address, with the places of what is said of it and by which names.
struct Named<'a> {
    ip: IpAddr,
    by: Vec<(usize, &'a str)>,
}

/// All addresses of a document's names, in the order of the text.
fn named<'a>(said: &'a Outbound, hosts: &HostAddresses) -> Vec<Named<'a>> {
    let mut all: Vec<Named<'_>> = Vec::new();
    let mut places = HashMap::new();
    let names = said.reaches.iter().enumerate();
    let names = names.flat_map(|(at, reach)| reach.to.hosts().iter().map(move |host| (at, host)));
    for (at, host) in names {
        for (host, ip) in of(hosts, host).take(MAX_HOST_ADDRESSES) {
            let place = *places.entry(ip).or_insert(all.len());
            match all.get_mut(place) {
                Some(found) => found.by.push((at, host)),
                None => all.push(Named { ip, by: vec![(at, host)] }),
            }
        }
    }
    all
}

/// The addresses of a name.
fn of<'a>(hosts: &HostAddresses, host: &'a str) -> impl Iterator<Item = (&'a str, IpAddr)> {
    hosts.get(host).into_iter().flatten().map(move |ip| (host, *ip))
}

/// What is said of an address by names, and by the networks around it. Names come in the order of
/// the text, so what is allowed is left out before what is refused. `None` where no name fits.
fn say(
    said: &Outbound,
    network: &Network,
    by: &[(usize, &str)],
    mut without_room: impl FnMut(&str),
) -> Option<PortRanges> {
    let reaches = || said.reaches.iter().enumerate();
    let around = reaches().filter(|(_, reach)| reach.is_about(network)).map(|(at, _)| at);
    let mut chosen: BTreeSet<usize> = around.collect();
    let mut fitting = None;
    for (at, host) in by {
        chosen.insert(*at);
        let ranges = ranges_of(reaches().filter(|(at, _)| chosen.contains(at)).map(|(_, it)| it));
        if let Some(record) = record(&ranges) {
            fitting = Some(record);
        } else {
            chosen.remove(at);
            without_room(host);
        }
    }
    fitting
}
