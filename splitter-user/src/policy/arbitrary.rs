//! Policies to try. Small on purpose, so that two of them have names and frontends in common.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::model::{
    Abort, Action, Backend, Balance, Bandwidth, Blackhole, CgroupName, ClientKey, ClientMatch,
    CongestionControl, Connection, Datagrams, Delay, Destinations, Ejection, Errno, Fault,
    Frontend, HealthCheck, Keepalive, Mark, NetnsName, Network, OldConnections, OnBackendDown,
    OnEmpty, Outbound, OverLimit, PeerName, Pick, Policy, PortSpan, Probe, Protocol, Reach, Route,
    Service, Split, Stall, Subset,
};

const N_FRONTENDS: u8 = 10;

/// Every frontend that a policy may have.
pub(crate) fn all_frontends() -> Vec<Frontend> {
    let frontend = |i: u8| Frontend {
        // Ports whose order differs between host and network.
        addr: addr([127, 10, 0, i / 4], if i.is_multiple_of(2) { 1 } else { 256 }),
        protocol: if i % 4 < 2 { Protocol::Tcp } else { Protocol::Udp },
    };
    (0..N_FRONTENDS).map(frontend).collect()
}

fn addr(octets: [u8; 4], port: u16) -> SocketAddr {
    (Ipv4Addr::from(octets), port).into()
}

/// Valid policies of at most four services.
pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let names = subsequence(vec!["a", "b", "c", "d"], 0..=4);
    let services = prop::collection::vec((service(), 1_usize..=2), 4);
    let frontends = Just(all_frontends()).prop_shuffle();
    (names, services, frontends, outbound()).prop_map(|(names, services, mut all, outbound)| {
        let services = names.into_iter().zip(services).map(|(name, (service, n))| {
            let mut own = all.split_off(all.len() - n);
            own.sort_unstable();
            Service { name: name.to_owned(), frontends: own, ..service }
        });
        Policy { services: services.collect(), outbound }
    })
}

pub(crate) fn outbound() -> impl Strategy<Value = Vec<Outbound>> {
    let clients = subsequence(vec!["/app", "/gone", ""], 0..=3);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let said = (flags, select(Errno::ALL.to_vec()), prop::collection::vec(reach(), 0..3));
    (clients, prop::collection::vec(said, 3)).prop_map(|(clients, said)| {
        let rule = |(n, (path, said)): (usize, (&str, _))| {
            let ((registry_only, audit, loopback), errno, mut reaches): (_, _, Vec<Reach>) = said;
            reaches.sort_by_key(|reach| !reach.is_refused);
            let cgroups = Some(path.to_owned()).filter(|path| !path.is_empty());
            let cgroups = cgroups.into_iter().map(CgroupName::Path).collect();
            let plain = Outbound::plain(format!("default/e{n}"), cgroups, registry_only);
            Outbound { audit, errno, loopback, reaches, ..plain }
        };
        clients.into_iter().zip(said).enumerate().map(rule).collect()
    })
}

fn reach() -> impl Strategy<Value = Reach> {
    let network = select(vec![("10.0.0.0", 8), ("10.1.2.3", 32), ("0.0.0.0", 0), ("fd00::", 8)]);
    let network = network.prop_map(|(ip, prefix)| Network { ip: ip.parse().unwrap(), prefix });
    let ports = (1_u16..9, 0_u16..9).prop_map(|(first, n)| PortSpan { first, last: first + n });
    let protocol = select(vec![None, Some(Protocol::Tcp), Some(Protocol::Udp)]);
    let hosts = prop::collection::vec(select(HOSTS.map(str::to_owned).to_vec()), 1..3);
    let to = prop_oneof![
        prop::collection::vec(network, 1..3).prop_map(Destinations::Networks),
        hosts.prop_map(Destinations::Hosts),
    ];
    let ports = prop::collection::vec(ports, 0..3);
    (any::<bool>(), to, ports, protocol).prop_map(|(is_refused, to, ports, protocol)| Reach {
        is_refused,
        to,
        ports,
        protocol,
    })
}

/// Host names that policies have.
pub(crate) const HOSTS: [&str; 3] = ["a.example.com", "b.example.com", "never.example.com"];

/// The same policies every time.
pub(crate) fn some_policies(n: usize) -> Vec<Policy> {
    let mut runner = TestRunner::deterministic();
    let mut next = || policy().new_tree(&mut runner).expect("no filter is that strict").current();
    (0..n).map(|_| next()).collect()
}

/// Services without a name or frontends.
fn service() -> impl Strategy<Value = Service> {
    let getpeername = select(vec![PeerName::Backend, PeerName::Frontend]);
    prop::collection::vec(subset(), 1..=4).prop_flat_map(move |mut subsets| {
        for (i, subset) in subsets.iter_mut().enumerate() {
            subset.name = format!("v{i}");
        }
        let routes = prop::collection::vec(route(subsets.len()), 1..=3);
        let outcomes = prop::bool::weighted(0.2);
        let datagrams = select(vec![Datagrams::All, Datagrams::Connected]);
        let down = select(vec![OnBackendDown::Leave, OnBackendDown::Close]);
        let kept = (getpeername.clone(), datagrams, down);
        (Just(subsets), routes, kept, outcomes, old_connections()).prop_map(
            |(
                subsets,
                mut routes,
                (getpeername, datagrams, on_backend_down),
                outcomes,
                old_connections,
            )| {
                for (i, route) in routes.iter_mut().enumerate() {
                    route.name = format!("r{i}");
                }
                let (name, frontends) = (String::new(), Vec::new());
                Service {
                    name,
                    frontends,
                    getpeername,
                    datagrams,
                    outcomes,
                    old_connections,
                    on_backend_down,
                    subsets,
                    routes,
                }
            },
        )
    })
}

fn old_connections() -> impl Strategy<Value = OldConnections> {
    let others = vec![
        OldConnections::DRAIN,
        OldConnections::REBALANCE,
        OldConnections::Drain { deadline_ms: 1 },
        OldConnections::Rebalance { per_second: 1, idle_ms: 10_000 },
    ];
    prop_oneof![4 => Just(OldConnections::Leave), 1 => select(others)]
}

fn subset() -> impl Strategy<Value = Subset> {
    let backends = prop::collection::vec(weight(), 0..=5).prop_map(|weights| {
        let backend =
            |(i, weight): (u16, u32)| Backend { addr: addr([127, 0, 0, 1], 9_000 + i), weight };
        (0..).zip(weights).map(backend).collect()
    });
    let balance = prop_oneof![
        4 => Just(Balance::RoundRobin),
        1 => Just(Balance::Random),
        1 => Just(Balance::LeastConnections),
        1 => client_key().prop_map(Balance::ClientHash),
    ];
    let ejection = Ejection { consecutive_failures: 1, ..Ejection::default() };
    let eject = prop::option::weighted(0.2, select(vec![Ejection::default(), ejection]));
    let all = (backends, balance, connection(), eject, prop::option::weighted(0.2, health()));
    all.prop_map(|(backends, balance, connection, eject, health)| Subset {
        name: String::new(),
        backends,
        balance,
        connection,
        eject,
        health,
    })
}

fn health() -> impl Strategy<Value = HealthCheck> {
    let http = Probe::Http { path: "/healthz".to_owned(), host: None, statuses: vec![200..=200] };
    let probe = select(vec![Probe::Tcp, http]);
    let interval_ms = select(vec![1_000_u32, 5_000]);
    (probe, interval_ms)
        .prop_map(|(probe, interval_ms)| HealthCheck { interval_ms, ..HealthCheck::new(probe) })
}

fn connection() -> impl Strategy<Value = Connection> {
    let max_connections = prop::option::weighted(0.2, 1_u32..=2);
    let connect_timeout_ms = prop::option::weighted(0.2, select(vec![250_u32, 1_000]));
    let probes = prop::option::of(1_u8..=2);
    let keepalive = prop::option::weighted(0.2, probes);
    let avoid_previous = prop::option::weighted(0.2, client_key());
    let limits = (max_connections, prop::option::weighted(0.2, 1_u32..=2), over_limit());
    let rest = (avoid_previous, prop::bool::weighted(0.2));
    (limits, connect_timeout_ms, keepalive, rest, options()).prop_map(
        |(limits, connect_timeout_ms, keepalive, rest, options)| Connection {
            max_connections: limits.0,
            max_pending: limits.1,
            // Without a limit there is nothing to go over.
            over_limit: if limits.0.or(limits.1).is_some() {
                limits.2
            } else {
                OverLimit::default()
            },
            avoid_previous: rest.0,
            require_listener: rest.1,
            connect_timeout_ms,
            keepalive: keepalive.map(|probes| Keepalive { probes, ..Keepalive::default() }),
            ..options
        },
    )
}

fn options() -> impl Strategy<Value = Connection> {
    let source = IpAddr::from(Ipv4Addr::LOCALHOST);
    let names = ["reno", "cubic"].map(|name| CongestionControl::new(name).expect("a name"));
    let congestion_control = prop::option::weighted(0.1, select(names.to_vec()));
    let numbers = || prop::option::weighted(0.1, 1_u32..=2);
    let source = prop::option::weighted(0.1, Just(source));
    (congestion_control, numbers(), numbers(), source).prop_map(
        |(congestion_control, pacing_rate, mark, source)| Connection {
            congestion_control,
            pacing_rate,
            mark,
            source,
            ..Connection::default()
        },
    )
}

fn over_limit() -> impl Strategy<Value = OverLimit> {
    prop_oneof![
        Just(OverLimit::default()),
        Just(OverLimit::Spill),
        select(Errno::ALL.to_vec()).prop_map(OverLimit::Reject),
    ]
}

/// Mostly small; some sums do not fit a wheel's own record.
fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![2 => Just(0_u32), 6 => 1_u32..=9, 1 => 10_u32..=120]
}

fn client_key() -> impl Strategy<Value = ClientKey> {
    select(vec![ClientKey::Uid, ClientKey::Command, ClientKey::Cgroup, ClientKey::Netns])
}

fn route(n_subsets: usize) -> impl Strategy<Value = Route> {
    let matches = prop::collection::vec(client_match(), 0..=2);
    (matches, action(n_subsets), fault()).prop_map(|(matches, action, fault)| {
        let splits = matches!(action, Action::Split(_));
        let fault = if splits { fault } else { fault.without_packets() };
        Route { name: String::new(), matches, action, fault }
    })
}

fn fault() -> impl Strategy<Value = Fault> {
    let abort = select(Errno::ALL.to_vec()).prop_map(|errno| Abort { ppm: 1_000, errno });
    let delay = (1_u32..=2).prop_map(|ms| Delay { ppm: 1_000_000, ms });
    let bandwidth = (1_u32..=2).prop_map(|rate| Bandwidth { ppm: 500_000, rate });
    let stall = (0_u32..=1).prop_map(|after| Stall { ppm: 1, after });
    let blackhole = Just(Blackhole { ppm: 20_000 });
    let rare = prop::option::weighted(0.1, (bandwidth, blackhole, stall, 0_u64..3));
    let faults = (prop::option::weighted(0.1, abort), prop::option::weighted(0.1, delay), rare);
    faults.prop_map(|(abort, delay, rare)| {
        let (bandwidth, blackhole, stall, seed) = rare
            .map_or((None, None, None, None), |(a, b, c, d)| (Some(a), Some(b), Some(c), Some(d)));
        Fault { abort, delay, bandwidth, blackhole, stall, seed }
    })
}

fn client_match() -> impl Strategy<Value = ClientMatch> {
    let uid = prop::option::of(0_u32..=1);
    let gid = prop::option::weighted(0.2, Just(7_u32));
    let command = prop::option::weighted(0.3, select(vec!["curl", "nc"]));
    let path = |path: &str| CgroupName::Path(path.to_owned());
    let unit = CgroupName::Unit("web.service".to_owned());
    let cgroups = vec![path("/"), path("/app"), path("/app/x"), path("/gone"), unit];
    let cgroup = prop::option::weighted(0.3, select(cgroups));
    let network = |name: &str| NetnsName::Path(format!("/run/netns/{name}"));
    let netns = prop::option::weighted(0.2, select(vec![network("web"), network("gone")]));
    let mark = Mark { value: 7, mask: u32::MAX };
    let mark = prop::option::weighted(0.2, select(vec![mark, Mark { value: 1, mask: 1 }]));
    let tos = prop::option::weighted(0.2, select(vec![0_u8, 40]));
    let fields = (uid, gid, command, cgroup, (netns, mark, tos));
    fields.prop_filter_map("a match has a field", |(uid, gid, command, cgroup, socket)| {
        let (command, (netns, mark, tos)) = (command.map(str::to_owned), socket);
        let client = ClientMatch { uid, gid, command, cgroup, netns, mark, tos };
        (client != ClientMatch::default()).then_some(client)
    })
}

fn action(n_subsets: usize) -> impl Strategy<Value = Action> {
    prop_oneof![
        1 => Just(Action::Pass),
        1 => select(Errno::ALL.to_vec()).prop_map(Action::Reject),
        8 => split(n_subsets).prop_map(Action::Split),
    ]
}

fn split(n_subsets: usize) -> impl Strategy<Value = Split> {
    let ordinals = subsequence((0..n_subsets).collect::<Vec<_>>(), 1..=n_subsets).prop_shuffle();
    let pick = prop_oneof![
        4 => Just(Pick::Exact),
        1 => Just(Pick::Random),
        1 => client_key().prop_map(Pick::Affinity),
    ];
    let on_empty = select(vec![OnEmpty::Reject, OnEmpty::Spill]);
    let weights = prop::collection::vec(weight(), n_subsets);
    (ordinals, weights, pick, on_empty).prop_map(|(ordinals, weights, pick, on_empty)| {
        let mut weights: Vec<_> = ordinals.into_iter().zip(weights).collect();
        if weights.iter().all(|(_, weight)| *weight == 0) {
            weights[0].1 = 1;
        }
        Split { weights, pick, on_empty }
    })
}
