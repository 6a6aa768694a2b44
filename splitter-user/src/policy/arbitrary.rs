//! Policies to try. Small on purpose, so that two of them have names and frontends in common.

use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::model::{
    Action, Backend, Balance, ClientKey, ClientMatch, Connection, Errno, Fault, Frontend, OnEmpty,
    PeerName, Pick, Policy, Protocol, Route, Service, Split, Subset,
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
    (names, services, frontends).prop_map(|(names, services, mut all)| {
        let services = names.into_iter().zip(services).map(|(name, (service, n))| {
            let mut own = all.split_off(all.len() - n);
            own.sort_unstable();
            Service { name: name.to_owned(), frontends: own, ..service }
        });
        Policy { services: services.collect(), outbound: Vec::new() }
    })
}

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
        (Just(subsets), routes, getpeername.clone()).prop_map(
            |(subsets, mut routes, getpeername)| {
                for (i, route) in routes.iter_mut().enumerate() {
                    route.name = format!("r{i}");
                }
                let (name, frontends) = (String::new(), Vec::new());
                Service { name, frontends, getpeername, subsets, routes }
            },
        )
    })
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
        1 => client_key().prop_map(Balance::ClientHash),
    ];
    (backends, balance).prop_map(|(backends, balance)| Subset {
        name: String::new(),
        backends,
        balance,
        connection: Connection::default(),
        eject: None,
    })
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
    (matches, action(n_subsets)).prop_map(|(matches, action)| Route {
        name: String::new(),
        matches,
        action,
        fault: Fault::default(),
    })
}

fn client_match() -> impl Strategy<Value = ClientMatch> {
    let uid = prop::option::of(0_u32..=1);
    let gid = prop::option::weighted(0.2, Just(7_u32));
    let command = prop::option::weighted(0.3, select(vec!["curl", "nc"]));
    let cgroup = prop::option::weighted(0.3, select(vec!["/", "/app", "/app/x", "/gone"]));
    let fields = (uid, gid, command, cgroup);
    fields.prop_filter_map("a match has a field", |(uid, gid, command, cgroup)| {
        let (command, cgroup) = (command.map(str::to_owned), cgroup.map(str::to_owned));
        let client = ClientMatch { uid, gid, command, cgroup };
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
