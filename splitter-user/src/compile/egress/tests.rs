//! What the kernel is told refuses what the documents say, by the very function that it runs.

use proptest::prelude::*;
use proptest::sample::select;
use splitter_common::abi::{EgressClient, EgressNetwork, EgressRoot, FrontendKey};
use splitter_common::addr::PortBe;
use splitter_common::decide::egress::{EgressWorld, judge};

use super::*;
use crate::policy::arbitrary::{HOSTS, outbound};
use crate::policy::model::Destinations;

/// All IPv4 addresses.
const EVERY_V4: Network = Network { ip: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), prefix: 0 };

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

fn place(path: &str, cgroup: Cgroup) -> (CgroupName, Vec<(String, Cgroup)>) {
    (CgroupName::Path(path.to_owned()), vec![(path.to_owned(), cgroup)])
}

/// What a name server says of the names in policies. Two names share an address.
fn hosts() -> HostAddresses {
    let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let [a, b, _] = HOSTS.map(str::to_owned);
    let said = [
        (a, addresses(&["10.1.2.3", "192.0.2.1", "fd00::1"])),
        (b, addresses(&["10.9.9.9", "10.1.2.3", "127.0.0.1"])),
    ];
    said.into()
}

/// What the documents say, as they are read.
fn said(
    outbound: &[Outbound],
    hosts: &HostAddresses,
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
        let of_host = |name: &String| hosts.get(name).is_some_and(|of| of.contains(&ip));
        (reach.is_about(&host) || reach.to.hosts().iter().any(of_host))
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
        let compiled = compile_egress(&outbound, &places.collect(), &hosts());
        let Compiled { image, left_out } = compiled.expect("few of everything");
        prop_assert!(left_out.is_empty());
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
        let expected = said(&outbound, &hosts(), CGROUPS[client].0, ip, port, protocol);
        prop_assert_eq!(judged.map(|judged| judged.errno), expected);
        prop_assert!(judged.is_none() || image.refuses());
        prop_assert_eq!(judge(&rules(2), &key), None, "nothing is committed yet");
    }
}

#[test]
fn limits_name_the_document() {
    let reach = |port| Reach {
        is_refused: false,
        to: Destinations::Networks(vec![EVERY_V4]),
        ports: vec![PortSpan { first: port, last: port }],
        protocol: None,
    };
    let said = |n| Outbound {
        reaches: (1..=n).map(reach).collect(),
        ..Outbound::plain("default/web".to_owned(), Vec::new(), true)
    };
    assert!(compile_egress(&[said(16)], &Places::new(), &hosts()).is_ok());
    let error = compile_egress(&[said(17)], &Places::new(), &hosts()).unwrap_err().to_string();
    assert!(error.contains("default/web says 17 things of ports of 0.0.0.0/0"), "{error}");
    let deep =
        Outbound::plain("default/deep".to_owned(), vec![CgroupName::Path("/a".to_owned())], true);
    let places = [place("/a", Cgroup { id: 1, level: 16 })];
    let error = compile_egress(&[deep], &places.into(), &hosts()).unwrap_err().to_string();
    assert!(error.contains("/a of the egress document default/deep is 16 levels"), "{error}");
}

/// Ports from 1 on, one by one, of a name.
fn by_name(host: &str, ports: std::ops::RangeInclusive<u16>) -> Vec<Reach> {
    let reach = |port| Reach {
        is_refused: false,
        to: Destinations::Hosts(vec![host.to_owned()]),
        ports: vec![PortSpan { first: port, last: port }],
        protocol: None,
    };
    ports.map(reach).collect()
}

fn compile_one(reaches: Vec<Reach>, hosts: &HostAddresses) -> Result<Compiled, EgressError> {
    let plain = Outbound::plain("default/web".to_owned(), Vec::new(), true);
    compile_egress(&[Outbound { reaches, ..plain }], &Places::new(), hosts)
}

fn ports(image: &EgressImage, ip: &str) -> Vec<(u16, u8)> {
    let said = image.networks.get(&host_key(0, ip.parse().unwrap()));
    let said = said.map(|said| said.ranges[..said.n as usize].to_vec()).unwrap_or_default();
    said.iter().map(|range| (range.first, range.refused)).collect()
}

#[test]
fn what_names_say_together_of_an_address_is_left_out_where_it_does_not_fit() {
    let mut reaches = by_name(HOSTS[0], 1..=15);
    reaches[0].is_refused = true;
    reaches.extend(by_name(HOSTS[1], 16..=18));
    // As often as one likes.
    reaches.extend(by_name(HOSTS[1], 2..=3));
    let Compiled { image, left_out } = compile_one(reaches, &hosts()).unwrap();
    // Of both names: the first 16 things in the order of the text.
    let both = ports(&image, "10.1.2.3");
    assert_eq!((both.len(), both[0], both[15]), (16, (1, 1), (16, 0)));
    assert_eq!(ports(&image, "192.0.2.1").len(), 15);
    assert_eq!(ports(&image, "127.0.0.1").len(), 5);
    let (document, host) = ("default/web".to_owned(), HOSTS[1].to_owned());
    let ip = "10.1.2.3".parse().unwrap();
    assert_eq!(left_out, [LeftOut { document, host, ip, why: NoRoom::Ranges }].into());
}

#[test]
fn networks_around_an_address_keep_their_say() {
    let mut reaches: Vec<Reach> = by_name("", 1..=16);
    for reach in &mut reaches {
        reach.to = Destinations::Networks(vec![EVERY_V4]);
    }
    reaches.extend(by_name(HOSTS[0], 100..=100));
    let Compiled { image, left_out } = compile_one(reaches, &hosts()).unwrap();
    assert_eq!(ports(&image, "fd00::1"), [(100, 0)]);
    assert!(ports(&image, "10.1.2.3").is_empty(), "what holds for the network holds for it");
    let ips: Vec<String> = left_out.iter().map(|it| it.ip.to_string()).collect();
    assert_eq!(ips, ["10.1.2.3", "192.0.2.1"]);
}

/// So many addresses, the lowest first.
fn many(n: usize) -> Vec<IpAddr> {
    (0..n).map(|n| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes())).collect()
}

#[test]
fn names_take_no_more_room_than_there_is() {
    let answers = |n| HostAddresses::from([(HOSTS[0].to_owned(), many(n))]);
    let one = |n| compile_one(by_name(HOSTS[0], 1..=2), &answers(n)).unwrap();
    assert_eq!(one(MAX_HOST_ADDRESSES).left_out, [].into());
    let Compiled { image, left_out } = one(MAX_HOST_ADDRESSES + 3);
    assert_eq!(image.networks.len(), MAX_HOST_ADDRESSES);
    assert!(left_out.len() == 3 && left_out.iter().all(|it| it.why == NoRoom::Addresses));

    // Every network that fits, but for one.
    let room = MAX_EGRESS_NETWORKS as usize;
    let mut image = EgressImage::default();
    let networks =
        many(room).into_iter().skip(1).map(|ip| (host_key(1, ip), PortRanges::default()));
    image.networks.extend(networks);
    let reaches = by_name(HOSTS[0], 1..=1);
    let said = Outbound { reaches, ..Outbound::plain("default/web".to_owned(), Vec::new(), true) };
    let left_out = hosts::add(&mut image, &said, 0, &hosts());
    assert_eq!(image.networks.len(), room);
    assert_eq!(ports(&image, "10.1.2.3"), [(1, 0)]);
    assert!(left_out.len() == 2 && left_out.iter().all(|it| it.why == NoRoom::Networks));
    // What is in there already takes no room.
    assert!(
        hosts::add(&mut image, &said, 1, &answers(9))
            .iter()
            .all(|it| it.ip.to_string() == "0.0.0.0")
    );
    assert_eq!(ports(&image, "10.1.2.3"), [(1, 0)]);
}

#[test]
fn a_name_of_several_cgroups_makes_nobody_freer() {
    let name = CgroupName::Container("0123456789ab".to_owned());
    let places: Places = [(
        name.clone(),
        vec![
            ("/a".to_owned(), Cgroup { id: 1, level: 1 }),
            ("/b".to_owned(), Cgroup { id: 2, level: 1 }),
        ],
    )]
    .into();
    let everybody = Outbound::plain("default/rest".to_owned(), Vec::new(), true);
    let document = |registry_only, audit| {
        let plain = Outbound::plain("default/some".to_owned(), vec![name.clone()], registry_only);
        [Outbound { audit, ..plain }, everybody.clone()]
    };
    for (registry_only, audit, expected) in [
        (true, false, "2 cgroups are the container 0123456789ab: it holds for all of them"),
        (true, true, "2 cgroups are the container 0123456789ab: it holds for none of them"),
        (false, false, "2 cgroups are the container 0123456789ab: it holds for none of them"),
    ] {
        let outbound = document(registry_only, audit);
        let Compiled { image, .. } =
            compile_egress(&outbound, &places, &HostAddresses::new()).expect("few of everything");
        assert_eq!(image.clients.len(), if registry_only && !audit { 2 } else { 0 });
        let told = [("default/some".to_owned(), expected.to_owned())];
        assert_eq!(describe_names(&outbound, &places), told);
    }
    let told = describe_names(&document(true, false), &Places::new());
    assert_eq!(told[0].1, "the container 0123456789ab does not exist now");
}
