//! The decision by itself, on records that no publisher would write and on those it would.

mod tables;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use splitter_common::abi::{
    Backend, COMMAND_LEN, Choice, Conduct, Fault, FrontendKey, INLINE_WORDS, MAX_ROUTES, Match,
    Plan, PlanPair, Reason, Route, Subset, TCP, Turn, Wheel, action, match_flag, pick,
};
use splitter_common::addr::{Addr, PortBe};
use splitter_common::decide::{Decision, Verdict, decide};

use tables::{Client, Tables};

const KEY: FrontendKey = FrontendKey {
    addr: Addr::from_v4([127, 10, 0, 1]),
    port_be: PortBe::from_host(8080),
    protocol: TCP,
    pad: 0,
};

/// Bits that slots may have.
const WIDTHS: [u16; 5] = [1, 2, 4, 8, 16];

/// Indices that mostly exist.
fn index() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0_u32..6, 1 => any::<u32>()]
}

fn choice() -> impl Strategy<Value = Choice> {
    (index(), 0_u16..6, 0_u8..7, any::<u8>()).prop_map(|(wheel, only, pick, client)| Choice {
        wheel,
        only,
        pick,
        client,
    })
}

fn plan() -> impl Strategy<Value = Plan> {
    (0_u64..4, index(), 0_u16..20, any::<u16>(), index(), any::<[u16; 2]>()).prop_map(
        |(generation, routes, n_routes, flags, subsets, [n_subsets, asks])| Plan {
            generation,
            service: 1,
            routes,
            n_routes,
            flags,
            subsets,
            n_subsets,
            asks,
        },
    )
}

fn route() -> impl Strategy<Value = Route> {
    (choice(), index(), any::<u16>(), 0_u8..5, index()).prop_map(
        |(choice, client, errno, action, fault)| Route {
            choice,
            id: 1,
            client,
            counter: 100,
            errno,
            action,
            pad: 0,
            fault: fault & 7,
            state: 0,
        },
    )
}

fn client_match() -> impl Strategy<Value = Match> {
    let command = prop_oneof![Just(*b"curl\0\0\0\0\0\0\0\0\0\0\0\0"), Just([0; COMMAND_LEN])];
    let socket = (0_u64..2, 0_u32..4, 0_u32..4, 0_u32..8);
    (0_u32..256, 0_u32..2, 0_u32..2, (0_u32..4, 0_u64..3), command, socket).prop_map(
        |(flags, uid, gid, (cgroup_level, cgroup), command, (netns, mark, mark_mask, tos))| Match {
            flags,
            uid,
            gid,
            cgroup_level,
            cgroup,
            command,
            netns,
            mark,
            mark_mask,
            tos,
            pad: 0,
        },
    )
}

fn wheel() -> impl Strategy<Value = Wheel> {
    let width = prop_oneof![8 => select(&WIDTHS[..]), 1 => any::<u16>()];
    let words = any::<[u64; INLINE_WORDS]>();
    (any::<u64>(), 0_u16..60, width, index(), words).prop_map(
        |(ticket, len, slot_bits, cells, words)| Wheel { ticket, len, slot_bits, cells, words },
    )
}

fn subset() -> impl Strategy<Value = Subset> {
    (choice(), index(), 0_u16..3, index()).prop_map(|(choice, backends, n_backends, conduct)| {
        Subset {
            choice,
            id: 1,
            backends,
            counter: 101,
            n_backends,
            n_listed: n_backends,
            conduct,
            pad: 0,
        }
    })
}

fn conduct() -> impl Strategy<Value = Conduct> {
    let limits = (0_u32..3, 0_u16..3);
    (0_u32..6, index(), limits, any::<[u8; 2]>()).prop_map(
        |(state, states, limits, [flags, avoids])| {
            let (max_connections, min_healthy) = limits;
            let rest = Conduct { errno: 113, flags, avoids, min_healthy, ..Conduct::default() };
            Conduct { state, states, max_connections, ..rest }
        },
    )
}

fn fault() -> impl Strategy<Value = Fault> {
    let share = || prop_oneof![Just(0), 1_u32..=1_000_000];
    let turn = (0_u16..6, prop_oneof![0_u32..4, any::<u32>()], any::<u8>());
    let turn = turn.prop_map(|(ordinal, weight, leaves)| Turn::new(ordinal, weight, leaves));
    let turns = prop::array::uniform16(turn);
    let shares = (share(), share(), share(), share(), share());
    (any::<u64>(), 0_u32..6, shares, turns).prop_map(|(seed, state, shares, turns)| {
        let (abort_ppm, delay_ppm, bandwidth_ppm, blackhole_ppm, stall_ppm) = shares;
        let shares = Fault { abort_ppm, delay_ppm, bandwidth_ppm, turns, ..Fault::default() };
        Fault { seed, state, blackhole_ppm, stall_ppm, errno: 111, ..shares }
    })
}

fn backend() -> impl Strategy<Value = Backend> {
    any::<u16>().prop_map(|port| Backend {
        addr: Addr::from_v4([127, 0, 0, 1]),
        port_be: PortBe(port),
        pad: 0,
        counter: 102,
    })
}

fn client() -> impl Strategy<Value = Client> {
    let ids = (0_u64..2, 0_u64..2).prop_map(|(uid, gid)| gid << 32 | uid);
    let command = prop_oneof![Just(*b"curl\0\0\0\0\0\0\0\0\0\0\0\0"), Just([0; COMMAND_LEN])];
    let socket = (0_u64..2, 0_u32..4, 0_u32..8);
    (ids, command, vec(0_u64..3, 0..4), socket, any::<(u64, u32)>()).prop_map(
        |(uid_gid, command, cgroups, (netns, mark, tos), (hashed, random))| Client {
            uid_gid,
            command,
            cgroups,
            netns,
            mark,
            tos,
            hashed,
            random,
            ..Client::default()
        },
    )
}

fn tables() -> impl Strategy<Value = Tables> {
    let policy = (index(), index(), 0_u64..4, vec(plan(), 0..6), vec(route(), 0..6));
    let rest = (vec(client_match(), 0..6), vec(wheel(), 0..6), vec(any::<u64>(), 0..6));
    let ends = (vec(subset(), 0..6), vec(backend(), 0..6), client());
    let lives = (vec(conduct(), 0..6), vec(fault(), 0..6), vec(0_u64..9, 0..6));
    (policy, rest, ends, lives).prop_map(|(policy, rest, ends, lives)| {
        let (older, newer, generation, plans, routes) = policy;
        let (matches, wheels, cells) = rest;
        let (subsets, backends, client) = ends;
        let (conducts, faults, states) = lives;
        let pair = PlanPair::new(older, newer);
        Tables {
            assigned: None,
            pair,
            generation,
            plans,
            routes,
            matches,
            wheels,
            cells,
            subsets,
            backends,
            conducts,
            faults,
            states,
            client,
        }
    })
}

fn assert_sane(decision: &Decision<Backend>) {
    let passes = [Reason::NoRoute, Reason::Passed].map(|reason| reason as u32);
    let reason = decision.tally.reason;
    let is_allowed = match decision.verdict {
        Verdict::Miss | Verdict::Rewrite => reason == 0,
        Verdict::Pass => passes.contains(&reason),
        // What only the hook knows is no reason of a decision.
        Verdict::Reject => {
            reason != 0 && !passes.contains(&reason) && reason != Reason::NoSource as u32
        }
    };
    assert!(is_allowed, "{decision:?}");
    assert_eq!(decision.backend.is_some(), decision.verdict == Verdict::Rewrite);
    assert!(decision.errno == 0 || decision.verdict == Verdict::Reject);
    assert_eq!(decision.tally.backend != 0, decision.backend.is_some());
}

/// One service whose routes are all rejections, each with its own place as its errno.
fn rejecting(routes: &[Option<Match>], client: Client) -> Tables {
    let mut tables = Tables { generation: 1, client, ..Tables::default() };
    tables.matches.push(Match::default());
    for (errno, wanted) in (1..).zip(routes) {
        let place = u32::try_from(tables.matches.len()).unwrap();
        tables.matches.extend(wanted);
        let client = if wanted.is_some() { place } else { 0 };
        tables.routes.push(Route { client, errno, action: action::REJECT, ..Route::default() });
    }
    let n_routes = u16::try_from(routes.len()).unwrap();
    let asks = u16::try_from(routes.iter().flatten().fold(0, |all, m| all | m.flags)).unwrap();
    tables.plans = vec![Plan::default(), Plan { generation: 1, n_routes, asks, ..Plan::default() }];
    tables.pair = PlanPair::new(0, 1);
    tables
}

fn fits(client: &Client, wanted: &Match) -> bool {
    let named = |flag| wanted.flags & flag != 0;
    let ancestor = client.cgroups.get(wanted.cgroup_level as usize).copied().unwrap_or(0);
    !(named(match_flag::NEVER)
        || named(match_flag::UID) && client.uid_gid & 0xffff_ffff != u64::from(wanted.uid)
        || named(match_flag::GID) && client.uid_gid >> 32 != u64::from(wanted.gid)
        || named(match_flag::COMMAND) && client.command != wanted.command
        || named(match_flag::NETNS) && client.netns != wanted.netns
        || named(match_flag::MARK) && (client.mark ^ wanted.mark) & wanted.mark_mask != 0
        || named(match_flag::TOS) && client.tos >> 2 != wanted.tos >> 2
        || named(match_flag::CGROUP) && ancestor != wanted.cgroup)
}

/// A frontend whose plans pass, unless they have no routes.
fn two_plans(older: Plan, newer: Plan, generation: u64) -> Tables {
    let pass = |counter| Route { counter, action: action::PASS, ..Route::default() };
    Tables {
        pair: PlanPair::new(1, 2),
        generation,
        plans: vec![Plan::default(), Plan { routes: 0, ..older }, Plan { routes: 1, ..newer }],
        routes: vec![pass(1), pass(2)],
        ..Tables::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_makes_it_panic(tables in tables(), assigned in prop::option::of(0_u32..3)) {
        assert_sane(&decide(&Tables { assigned, ..tables }, &KEY));
    }

    /// Whatever the routes say, and where no subset of the service has the identity, nothing.
    #[test]
    fn an_assigned_client_gets_its_subset(
        routes in vec(prop::option::of(client_match()), 1..4), client in client(),
        n_subsets in 0_u16..5, assigned in 0_u32..6,
    ) {
        let mut tables = rejecting(&routes, client);
        tables.assigned = Some(assigned);
        tables.plans[1].n_subsets = n_subsets;
        let only = Choice { pick: pick::ONLY, ..Choice::default() };
        let subset = |id| Subset {
            choice: only, id, backends: id, counter: 10 + id, n_backends: 1, ..Subset::default()
        };
        tables.subsets = (0..6).map(subset).collect();
        let nowhere = Backend { addr: KEY.addr, port_be: KEY.port_be, pad: 0, counter: 0 };
        tables.backends = (0..6).map(|n| Backend { counter: 20 + n, ..nowhere }).collect();
        let Decision { verdict, errno, tally, .. } = decide(&tables, &KEY);
        let counted = (verdict, errno, tally.route, tally.subset, tally.backend);
        if assigned < u32::from(n_subsets) {
            prop_assert_eq!(counted, (Verdict::Rewrite, 0, 0, 10 + assigned, 20 + assigned));
        } else {
            prop_assert_eq!(counted, (Verdict::Reject, 111, 0, 0, 0));
            prop_assert_eq!(tally.reason, Reason::NoSubset as u32);
        }
    }

    #[test]
    fn the_first_route_that_fits_counts(
        routes in vec(prop::option::weighted(0.9, client_match()), 1..=MAX_ROUTES as usize),
        client in client(),
    ) {
        let fitting = |wanted: &Option<Match>| wanted.as_ref().is_none_or(|m| fits(&client, m));
        let expected = routes.iter().position(fitting).map_or(0, |place| place + 1);
        let decision = decide(&rejecting(&routes, client.clone()), &KEY);
        prop_assert_eq!(usize::from(decision.errno), expected);
        prop_assert_eq!(decision.tally.reason == Reason::NoRoute as u32, expected == 0);
    }

    #[test]
    fn the_newest_committed_plan_counts(
        older in 0_u64..5, newer in 0_u64..5, generation in 0_u64..5, n_routes in 0_u16..2,
    ) {
        let plan = |generation| Plan { generation, n_routes, ..Plan::default() };
        let decision = decide(&two_plans(plan(older), plan(newer), generation), &KEY);
        let counts = if newer <= generation { Some(2) } else { (older > 0).then_some(1) };
        let expected = counts.filter(|_| n_routes > 0);
        prop_assert_eq!(decision.tally.route, expected.unwrap_or(0));
        prop_assert_eq!(decision.verdict == Verdict::Miss, expected.is_none());
    }

    #[test]
    fn a_ticket_is_its_slot_whether_inline_or_in_cells(
        narrowest in 0_usize..5, picks in vec(any::<u16>(), 2..24), ticket: u64, random: u32,
    ) {
        let greatest = 1 << WIDTHS[narrowest].min(3);
        let slots: Vec<u16> = picks.iter().map(|pick| pick % greatest).collect();
        let len = u16::try_from(slots.len()).unwrap();
        let pack = |bits: u16| {
            let word = |word: &[u16]| word.iter().rev().fold(0, |w, s| w << bits | u64::from(*s));
            slots.chunks(64 / usize::from(bits)).map(word).collect::<Vec<u64>>()
        };
        let (mut wheels, mut cells) = (Vec::new(), vec![0]);
        for slot_bits in WIDTHS.into_iter().skip(narrowest) {
            let packed = pack(slot_bits);
            let mut words = [0; INLINE_WORDS];
            words[..packed.len()].copy_from_slice(&packed);
            wheels.push(Wheel { ticket, len, slot_bits, cells: 0, words });
            let first = u32::try_from(cells.len()).unwrap();
            wheels.push(Wheel { ticket, len, slot_bits, cells: first, words: [0; INLINE_WORDS] });
            cells.extend(packed);
        }
        let n_wheels = u32::try_from(wheels.len()).unwrap();
        let subset = |i: u32| Subset { counter: 10 + i, ..Subset::default() };
        let mut tables = rejecting(&[None], Client { random, ..Client::default() });
        tables = Tables { wheels, cells, subsets: (0..8).map(subset).collect(), ..tables };
        let mut pick = |pick, wheel| {
            let choice = Choice { pick, wheel, ..Choice::default() };
            tables.routes[0] = Route { choice, action: action::SPLIT, ..Route::default() };
            decide(&tables, &KEY).tally.subset - 10
        };
        let at = usize::try_from(ticket % u64::from(len)).unwrap();
        prop_assert_eq!(pick(pick::TICKET, 0), u32::from(slots[at]));
        for wheel in 1..n_wheels {
            prop_assert_eq!(pick(pick::TICKET, wheel), u32::from(slots[at]));
            prop_assert_eq!(pick(pick::RANDOM, wheel), pick(pick::RANDOM, 0));
            prop_assert_eq!(pick(pick::CLIENT, wheel), pick(pick::CLIENT, 0));
        }
    }
}

#[test]
fn another_address_port_or_protocol_is_missed() {
    let tables = rejecting(&[None], Client::default());
    let keys = [
        FrontendKey { addr: Addr::from_v4([127, 10, 0, 2]), ..KEY },
        FrontendKey { port_be: PortBe::from_host(8081), ..KEY },
        FrontendKey { protocol: splitter_common::abi::UDP, ..KEY },
    ];
    assert!(keys.iter().all(|key| decide(&tables, key).verdict == Verdict::Miss));
    assert_eq!(decide(&tables, &KEY).verdict, Verdict::Reject);
}

#[test]
fn only_what_the_service_asks_is_looked_up_and_once() {
    let client = Client { uid_gid: 7, mark: 1, tos: 2, netns: 3, ..Client::default() };
    let looked_up = |flags: u32| {
        // None of these is the client's, so that all routes are asked.
        let wanted = Match { flags, uid: 8, gid: 8, netns: 8, mark: 8, mark_mask: 8, ..wanted() };
        let tables = rejecting(&[Some(wanted), Some(wanted), None], client.clone());
        assert_eq!(decide(&tables, &KEY).errno, 3, "{flags}");
        let mut looked_up = tables.client.looked_up.into_inner();
        looked_up.retain(|flag| *flag != match_flag::CGROUP);
        looked_up
    };
    let ids = match_flag::UID | match_flag::GID;
    assert_eq!(looked_up(match_flag::CGROUP), []);
    assert_eq!(looked_up(match_flag::UID), [ids]);
    assert_eq!(looked_up(match_flag::GID), [ids]);
    for flag in [match_flag::COMMAND, match_flag::NETNS, match_flag::MARK, match_flag::TOS] {
        assert_eq!(looked_up(flag), [flag]);
        assert_eq!(looked_up(flag | match_flag::UID), [ids, flag]);
    }
    let nothing = rejecting(&[None], client);
    decide(&nothing, &KEY);
    assert_eq!(nothing.client.looked_up.into_inner(), []);
}

fn wanted() -> Match {
    Match { command: [b'x'; COMMAND_LEN], tos: 8, cgroup: 8, ..Match::default() }
}
