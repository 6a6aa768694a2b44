//! What the kernel is told refuses what the documents say, by the very function that it runs.

use proptest::prelude::*;
use proptest::sample::select;
use splitter_common::abi::{EgressClient, EgressNetwork, EgressRoot, FrontendKey};
use splitter_common::addr::PortBe;
use splitter_common::decide::egress::{EgressWorld, judge};

use super::*;
use crate::policy::arbitrary::outbound;

/// Cgroups that exist, with their levels: ids are places in this list.
const CGROUPS: [(&str, u32); 3] = [("/", 0), ("/app", 1), ("/app/worker", 2)];
const SET: u32 = 7;

/// An image in the place of the maps, and one client.
struct Rules<'a> {
    image: &'a EgressImage,
    cgroup: usize,
    generation: u64,
}

impl EgressWorld for Rules<'_> {
    type Ranges = PortRanges;

    fn root(&self, index: u32) -> Option<EgressRoot> {
        let EgressImage { everyone, levels, .. } = *self.image;
        // The other one is not committed.
        let generation = if index == 1 { 3 } else { 4 };
        Some(EgressRoot { generation, set: SET + 1 - index, levels, everyone })
    }
    fn generation(&self) -> u64 {
        self.generation
    }
    fn rule(&self, client: &EgressClient) -> Option<EgressRule> {
        self.image.clients.get(&client.cgroup).copied().filter(|_| client.set == SET)
    }
    fn ranges(&self, network: &EgressNetwork) -> Option<PortRanges> {
        let fits = |(rule, addr, bits): &(u32, Addr, u8)| {
            let differing = u128::from_be_bytes(addr.0) ^ u128::from_be_bytes(network.addr.0);
            *rule == network.rule && differing.leading_zeros() >= u32::from(*bits)
        };
        let fitting = self.image.networks.iter().filter(|(key, _)| fits(key));
        fitting.max_by_key(|((.., bits), _)| *bits).map(|(_, ranges)| *ranges)
    }
    fn ancestor_cgroup(&self, level: u32) -> u64 {
        if level as usize <= self.cgroup { u64::from(level) + 1 } else { 0 }
    }
}

fn place(path: &str, cgroup: Cgroup) -> (CgroupName, (String, Cgroup)) {
    (CgroupName::Path(path.to_owned()), (path.to_owned(), cgroup))
}

/// What the documents say, as they are read.
fn said(
    outbound: &[Outbound],
    path: &str,
    ip: IpAddr,
    port: u16,
    protocol: Protocol,
) -> Option<u16> {
    let takes = |said: &&Outbound| {
        said.cgroups.is_empty() || said.cgroups.iter().any(|outer| is_around(outer.value(), path))
    };
    let said = outbound.iter().find(takes)?;
    let host = Network { ip, prefix: if ip.is_ipv4() { 32 } else { 128 } };
    let fits = |reach: &&Reach| {
        let is_port = |span: &PortSpan| (span.first..=span.last).contains(&port);
        reach.networks.iter().any(|network| covers(network, &host))
            && (reach.ports.is_empty() || reach.ports.iter().any(is_port))
            && reach.protocol.is_none_or(|own| own == protocol)
    };
    let is_refused = match said.reaches.iter().find(fits) {
        Some(reach) => reach.is_refused,
        None if said.loopback && ip.is_loopback() => false,
        None => said.registry_only,
    };
    is_refused.then_some(if said.audit { 0 } else { said.errno.number })
}

proptest! {
    #[test]
    fn the_kernel_refuses_what_the_documents_say(
        outbound in outbound(), client in 0_usize..3, port in 1_u16..12, is_udp: bool,
        ip in select(vec!["10.1.2.3", "10.9.9.9", "192.0.2.1", "127.0.0.1", "fd00::1", "fe80::1", "::1"]),
    ) {
        let places = CGROUPS.iter().zip(1..).map(|((path, level), id)| {
            place(path, Cgroup { id, level: *level })
        });
        let image = compile_egress(&outbound, &places.collect()).expect("few of everything");
        let ip: IpAddr = ip.parse().expect("an address");
        let protocol = if is_udp { Protocol::Udp } else { Protocol::Tcp };
        let addr = match ip {
            IpAddr::V4(v4) => Addr::from_v4(v4.octets()),
            IpAddr::V6(v6) => Addr(v6.octets()),
        };
        let key = FrontendKey {
            addr, port_be: PortBe::from_host(port), protocol: if is_udp { UDP } else { TCP }, pad: 0,
        };
        let rules = |generation| Rules { image: &image, cgroup: client, generation };
        let judged = judge(&rules(3), &key);
        let expected = said(&outbound, CGROUPS[client].0, ip, port, protocol);
        prop_assert_eq!(judged.map(|judged| judged.errno), expected);
        prop_assert!(judged.is_none() || image.refuses());
        prop_assert_eq!(judge(&rules(2), &key), None, "nothing is committed yet");
    }
}

#[test]
fn limits_name_the_document() {
    let reach = |port| Reach {
        is_refused: false,
        networks: vec![EVERY_V4],
        ports: vec![PortSpan { first: port, last: port }],
        protocol: None,
    };
    let said = |n| Outbound {
        reaches: (1..=n).map(reach).collect(),
        ..Outbound::plain("default/web".to_owned(), Vec::new(), true)
    };
    assert!(compile_egress(&[said(16)], &Places::new()).is_ok());
    let error = compile_egress(&[said(17)], &Places::new()).unwrap_err().to_string();
    assert!(error.contains("default/web says 17 things of ports of 0.0.0.0/0"), "{error}");
    let many = vec![said(1); 257];
    assert_eq!(compile_egress(&many, &Places::new()), Err(EgressError::Documents(257)));
    let deep =
        Outbound::plain("default/deep".to_owned(), vec![CgroupName::Path("/a".to_owned())], true);
    let places = [place("/a", Cgroup { id: 1, level: 16 })];
    let error = compile_egress(&[deep], &places.into()).unwrap_err().to_string();
    assert!(error.contains("/a of the egress document default/deep is 16 levels"), "{error}");
}
