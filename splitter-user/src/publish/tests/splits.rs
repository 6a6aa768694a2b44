//! What the decision makes of a policy that stands still.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use splitter_common::abi::{Backend, FrontendKey, Reason};
use splitter_common::decide::{Decision, ECONNREFUSED, Verdict, decide};

use super::fixture::{clients, fits, fresh, keys, put, words};
use crate::compile::{effective_weights, frontend_key, name_ids, service_id};
use crate::policy::arbitrary::policy;
use crate::policy::model::{
    Action, Backend as ModelBackend, Balance, ClientKey, Connection, Datagrams, Fault, Frontend,
    OldConnections, OnBackendDown, OnEmpty, OverLimit, PeerName, Pick, Policy, Protocol, Route,
    Service, Split, Subset,
};
use crate::publish::{CounterOwner, Publisher};
use crate::tables::memory::MemoryMaps;
use crate::tables::world::{Client, HostWorld, Tickets};

fn once(maps: &MemoryMaps, key: &FrontendKey, client: &Client, seed: u64) -> Decision<Backend> {
    decide(&HostWorld::new(maps, client.clone(), Tickets::Take, seed), key)
}

/// The counters of a service's routes and subsets by ordinal.
struct Counters {
    routes: Vec<u32>,
    subsets: Vec<u32>,
}

impl Counters {
    fn of(publisher: &Publisher<MemoryMaps>, service: &Service) -> Self {
        let owned = publisher.counters(service_id(&service.name)).expect("in force");
        let owned: BTreeMap<CounterOwner, u32> = owned.iter().collect();
        let counter = |owner| *owned.get(&owner).expect("every owner has a counter");
        let routes = name_ids(service.routes.iter().map(|route| route.name.as_str()));
        let subsets = name_ids(service.subsets.iter().map(|subset| subset.name.as_str()));
        Self {
            routes: routes.into_iter().map(|id| counter(CounterOwner::Route(id))).collect(),
            subsets: subsets.into_iter().map(|id| counter(CounterOwner::Subset(id))).collect(),
        }
    }
}

fn reduced_sum(weights: &[u32]) -> u64 {
    let gcd = weights.iter().fold(0, |a, b| {
        let (mut a, mut b) = (a, *b);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    });
    weights.iter().map(|weight| u64::from(weight / gcd)).sum()
}

/// Counts picks by ordinal and checks every prefix of them.
#[derive(Default)]
struct Tracker {
    counts: BTreeMap<usize, u64>,
    n: u64,
}

impl Tracker {
    fn pick(&mut self, ordinal: usize, weights: &[u32]) {
        *self.counts.entry(ordinal).or_default() += 1;
        self.n += 1;
        let sum: u64 = weights.iter().copied().map(u64::from).sum();
        assert!(weights[ordinal] > 0, "weight 0 was picked");
        for (i, weight) in weights.iter().enumerate() {
            let count = self.counts.get(&i).copied().unwrap_or(0);
            let error = (count * sum).abs_diff(self.n * u64::from(*weight));
            assert!(error < sum, "{count} of {} for {weight} of {sum}", self.n);
            assert!(error == 0 || !self.n.is_multiple_of(reduced_sum(weights)));
        }
    }
}

fn position(counters: &[u32], counter: u32) -> Option<usize> {
    counters.iter().position(|own| *own == counter)
}

/// Backends have unique ports, so that they say who they are.
fn backend_position(subset: &Subset, backend: &Backend) -> usize {
    let is = |own: &ModelBackend| own.addr.port() == backend.port_be.to_host();
    subset.backends.iter().position(is).expect("a backend of the subset")
}

/// Sends connections of all clients to a service and checks every prefix at both levels.
fn check_exactness(publisher: &Publisher<MemoryMaps>, service: &Service, n: u64) {
    let counters = Counters::of(publisher, service);
    let mut routes: Vec<Tracker> = service.routes.iter().map(|_| Tracker::default()).collect();
    let mut subsets: Vec<Tracker> = service.subsets.iter().map(|_| Tracker::default()).collect();
    let frontends: Vec<FrontendKey> = service.frontends.iter().map(frontend_key).collect();
    for (i, client) in (0..n).zip(clients().iter().cycle()) {
        let key = &frontends[usize::try_from(i).unwrap() % frontends.len()];
        let decision = once(publisher.maps(), key, client, i);
        let Some(subset) = position(&counters.subsets, decision.tally.subset) else { continue };
        let route = position(&counters.routes, decision.tally.route).expect("its route");
        if let Action::Split(split @ Split { pick: Pick::Exact, .. }) =
            &service.routes[route].action
            && !spills(service)
        {
            routes[route].pick(subset, &effective_weights(service, split));
        }
        let model = &service.subsets[subset];
        // What is refused at a limit had its turn, and what spills takes one of others.
        if has_limit(model) || spills(service) {
            continue;
        }
        if let (Some(backend), Balance::RoundRobin) = (&decision.backend, model.balance) {
            let weights: Vec<u32> = model.backends.iter().map(|backend| backend.weight).collect();
            subsets[subset].pick(backend_position(model, backend), &weights);
        }
    }
}

fn has_limit(subset: &Subset) -> bool {
    subset.connection.max_connections.or(subset.connection.max_pending).is_some()
}

/// Whether connections may go to another subset than the one whose turn it is.
fn spills(service: &Service) -> bool {
    let mut subsets = service.subsets.iter();
    subsets.any(|subset| subset.connection.over_limit == OverLimit::Spill)
}

/// What may become of a client's connection, by the words of the model.
fn check_outcome(
    service: &Service,
    counters: &Counters,
    client: &Client,
    seen: &Decision<Backend>,
) {
    let takes = |route: &&Route| {
        route.matches.is_empty() || route.matches.iter().any(|wanted| fits(client, wanted))
    };
    let rewritten = seen.verdict == Verdict::Rewrite;
    assert_eq!(rewritten, seen.backend.is_some());
    assert_eq!(seen.errno > 0, seen.verdict == Verdict::Reject);
    let Some(route) = service.routes.iter().find(takes) else {
        assert_eq!((seen.verdict, seen.tally.reason), (Verdict::Pass, Reason::NoRoute as u32));
        return;
    };
    let ordinal = position(&counters.routes, seen.tally.route).expect("a route");
    assert_eq!(service.routes[ordinal].name, route.name);
    if seen.tally.reason == Reason::Aborted as u32 {
        assert_eq!(Some(seen.errno), route.fault.abort.map(|abort| abort.errno.number));
        return;
    }
    match &route.action {
        Action::Pass => {
            assert_eq!((seen.verdict, seen.tally.reason), (Verdict::Pass, Reason::Passed as u32));
        }
        Action::Reject(errno) => {
            assert_eq!((seen.verdict, seen.errno), (Verdict::Reject, errno.number));
            assert_eq!(seen.tally.reason, Reason::Rejected as u32);
        }
        Action::Split(split) => check_split(service, counters, split, seen),
    }
}

fn check_split(service: &Service, counters: &Counters, split: &Split, seen: &Decision<Backend>) {
    let ordinal = position(&counters.subsets, seen.tally.subset).expect("a subset");
    let subset = &service.subsets[ordinal];
    let weight = split.weights.iter().find(|(i, _)| *i == ordinal).map_or(0, |(_, weight)| *weight);
    assert!(weight > 0, "{} has no weight", subset.name);
    let usable = |subset: &Subset| subset.backends.iter().any(|backend| backend.weight > 0);
    if let Some(backend) = &seen.backend {
        assert!(subset.backends[backend_position(subset, backend)].weight > 0);
        assert_eq!(seen.tally.reason, 0);
    } else if seen.tally.reason == Reason::OverLimit as u32 {
        assert!(has_limit(subset), "it has no limit");
    } else {
        assert!(!usable(subset));
        assert_eq!((seen.errno, seen.tally.reason), (ECONNREFUSED, Reason::EmptySubset as u32));
        let others = split.weights.iter().filter(|(_, weight)| *weight > 0);
        let all_empty = others.clone().all(|(i, _)| !usable(&service.subsets[*i]));
        assert!(split.on_empty == OnEmpty::Reject || all_empty, "it did not spill");
    }
    assert_eq!(seen.answer_frontend, service.getpeername == PeerName::Frontend);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_prefix_is_within_one(policy in policy()) {
        let publisher = fresh(&policy);
        for service in &policy.services {
            check_exactness(&publisher, service, 700);
        }
    }

    #[test]
    fn outcomes_are_the_models(policy in policy()) {
        let publisher = fresh(&policy);
        for service in &policy.services {
            let counters = Counters::of(&publisher, service);
            for (seed, frontend) in (0..20).zip(service.frontends.iter().cycle()) {
                for client in clients() {
                    let key = frontend_key(frontend);
                    let decision = once(publisher.maps(), &key, &client, seed);
                    check_outcome(service, &counters, &client, &decision);
                }
            }
        }
    }

    #[test]
    fn other_addresses_are_missed(policy in policy()) {
        let publisher = fresh(&policy);
        let known: HashSet<_> =
            policy.services.iter().flat_map(|s| s.frontends.iter().map(frontend_key)).collect();
        for key in keys().into_iter().filter(|key| !known.contains(key)) {
            let decision = once(publisher.maps(), &key, &Client::default(), 0);
            prop_assert_eq!(decision.verdict, Verdict::Miss);
        }
    }

    #[test]
    fn one_input_makes_one_table(first in policy(), second in policy()) {
        let make = || {
            let mut publisher = fresh(&first);
            put(&mut publisher, &second);
            publisher.settle().expect("plain memory");
            put(&mut publisher, &first);
            words(publisher.maps())
        };
        prop_assert_eq!(make(), make());
    }

    #[test]
    fn raising_the_last_weight_only_moves_clients_to_it(
        weights in prop::collection::vec(0_u32..50, 2..6), more in 1_u32..100,
    ) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let mut raised = weights.clone();
        *raised.last_mut().unwrap() += more;
        assert_monotone(&weights, &raised, weights.len() - 1);
    }

    #[test]
    fn of_two_subsets_either_may_be_raised(a in 0_u32..50, b in 1_u32..50, more in 1_u32..100) {
        assert_monotone(&[a, b], &[a + more, b], 0);
    }
}

/// Picks of many clients with affinity by uid, as ordinals of subsets.
fn affinity_picks(weights: &[u32]) -> Vec<usize> {
    let policy = Policy {
        services: vec![web(weights, Pick::Affinity(ClientKey::Uid), 1)],
        outbound: Vec::new(),
    };
    let publisher = fresh(&policy);
    let pick = |uid| {
        let client = Client { uid, ..Client::default() };
        let decision = once(publisher.maps(), &web_key(), &client, 0);
        usize::from(decision.backend.expect("rewritten").port_be.to_host() - 9_000)
    };
    (0..500).map(pick).collect()
}

fn assert_monotone(before: &[u32], after: &[u32], raised: usize) {
    for (before, after) in affinity_picks(before).into_iter().zip(affinity_picks(after)) {
        assert!(before == after || after == raised, "moved from {before} to {after}");
    }
}

fn web_key() -> FrontendKey {
    frontend_key(&web_frontend())
}

fn web_frontend() -> Frontend {
    Frontend { addr: "127.10.0.1:80".parse().expect("an address"), protocol: Protocol::Tcp }
}

/// A service of one route, and subsets of equal backends on ports of their own.
fn web(weights: &[u32], pick: Pick, n_backends: u16) -> Service {
    let backend = |i: usize, j: u16| ModelBackend {
        addr: ([127, 0, 0, 1], 9_000 + u16::try_from(i).unwrap() * n_backends + j).into(),
        weight: 1,
    };
    let subset = |i: usize| Subset {
        name: format!("v{i}"),
        backends: (0..n_backends).map(|j| backend(i, j)).collect(),
        balance: Balance::RoundRobin,
        connection: Connection::default(),
        eject: None,
        health: None,
    };
    let weights = weights.iter().copied().enumerate().collect::<Vec<_>>();
    Service {
        name: "web".to_owned(),
        frontends: vec![web_frontend()],
        getpeername: PeerName::Backend,
        datagrams: Datagrams::Connected,
        outcomes: false,
        old_connections: OldConnections::Leave,
        on_backend_down: OnBackendDown::Leave,
        subsets: (0..weights.len()).map(subset).collect(),
        routes: vec![Route {
            name: "all".to_owned(),
            matches: Vec::new(),
            action: Action::Split(Split { weights, pick, on_empty: OnEmpty::Reject }),
            fault: Fault::default(),
        }],
    }
}

#[test]
fn affinity_shares_follow_weights() {
    let picks = affinity_picks(&[50, 30, 20]);
    for (ordinal, share) in [(0, 250), (1, 150), (2, 100)] {
        let n = picks.iter().filter(|pick| **pick == ordinal).count();
        assert!(n.abs_diff(share) < 50, "{n} of 500 for {share}");
    }
}

/// With one ticket for both levels, v1's share would only ever reach nine of its ten backends.
#[test]
fn the_levels_are_not_in_lock_step() {
    let policy = Policy { services: vec![web(&[90, 10], Pick::Exact, 10)], outbound: Vec::new() };
    let publisher = fresh(&policy);
    let mut counts = BTreeMap::<u16, u32>::new();
    for i in 0..1_000 {
        let decision = once(publisher.maps(), &web_key(), &Client::default(), i);
        *counts.entry(decision.backend.expect("rewritten").port_be.to_host()).or_default() += 1;
    }
    let counts: Vec<u32> = counts.into_values().collect();
    assert_eq!(counts, [[90; 10], [10; 10]].concat());
}

#[test]
fn v4_mapped_is_the_same_key() {
    let plain = web_frontend();
    let mapped = Frontend { addr: "[::ffff:127.10.0.1]:80".parse().unwrap(), ..plain };
    assert_eq!(frontend_key(&plain), frontend_key(&mapped));
    let udp = Frontend { protocol: Protocol::Udp, ..plain };
    assert_ne!(frontend_key(&plain), frontend_key(&udp));
}
