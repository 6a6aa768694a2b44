//! Properties of the policy front end: canonical text loads to what it was written from, and no
//! text makes it panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use splitter_user::policy::diagnostic::render;
use splitter_user::policy::model::{
    Action, Backend, Balance, ClientKey, ClientMatch, Connection, Errno, Fault, Frontend, OnEmpty,
    PeerName, Pick, Policy, Protocol, Route, Service, Split, Subset,
};
use splitter_user::policy::native::to_yaml;
use splitter_user::policy::{Source, load};

const KEYS: [ClientKey; 6] = [
    ClientKey::Uid,
    ClientKey::Gid,
    ClientKey::Command,
    ClientKey::Cgroup,
    ClientKey::Process,
    ClientKey::Netns,
];

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?",
        select(vec!["null", "true", "on", "n", "1e5", "0x1f", "1.5", "007"])
            .prop_map(str::to_owned),
    ]
}

/// Backends stay out of the frontends' network, so that no backend is a frontend.
fn address(v4: bool, is_backend: bool) -> impl Strategy<Value = SocketAddr> {
    (any::<u16>(), 1..=u16::MAX).prop_map(move |(host, port)| {
        let [a, b] = host.to_be_bytes();
        let net = u8::from(is_backend);
        let ip = if v4 {
            IpAddr::V4(Ipv4Addr::new(127, net, a, b))
        } else {
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, u16::from(net), host))
        };
        SocketAddr::new(ip, port)
    })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Udp])
}

fn frontends(v4: bool) -> impl Strategy<Value = Vec<Frontend>> {
    let frontend =
        (address(v4, false), protocol()).prop_map(|(addr, protocol)| Frontend { addr, protocol });
    btree_set(frontend, 1..5).prop_map(|set| set.into_iter().collect())
}

fn subset(v4: bool) -> impl Strategy<Value = Subset> {
    let balance = prop_oneof![
        Just(Balance::RoundRobin),
        Just(Balance::Random),
        select(&KEYS[..]).prop_map(Balance::ClientHash),
    ];
    let backends = btree_set(address(v4, true), 0..5);
    (name(), backends, vec(0..1_000_u32, 5), balance).prop_map(
        |(name, backends, weights, balance)| Subset {
            name,
            backends: backends
                .into_iter()
                .zip(weights)
                .map(|(addr, weight)| Backend { addr, weight })
                .collect(),
            balance,
            connection: Connection::default(),
            eject: None,
        },
    )
}

fn client() -> impl Strategy<Value = ClientMatch> {
    let uid = proptest::option::of(any::<u32>());
    let gid = proptest::option::of(any::<u32>());
    let command = proptest::option::of("[ -~]{1,15}");
    let cgroup = proptest::option::of(select(vec!["/", "/a", "/system.slice/a b\"\\.service"]));
    (uid, gid, command, cgroup)
        .prop_map(|(uid, gid, command, cgroup)| ClientMatch {
            uid,
            gid,
            command,
            cgroup: cgroup.map(str::to_owned),
        })
        .prop_filter("a match has a field", |client| *client != ClientMatch::default())
}

fn split(subsets: usize) -> impl Strategy<Value = Action> {
    let pick = prop_oneof![
        Just(Pick::Exact),
        Just(Pick::Random),
        select(&KEYS[..]).prop_map(Pick::Affinity),
    ];
    let ordinals: Vec<usize> = (0..subsets).collect();
    let ordinals = proptest::sample::subsequence(ordinals, 1..=subsets).prop_shuffle();
    let on_empty = select(vec![OnEmpty::Reject, OnEmpty::Spill]);
    (ordinals, 1..1_000_u32, vec(0..=1_000_000_u32, 8), pick, on_empty).prop_map(
        |(ordinals, first, rest, pick, on_empty)| {
            let weights = std::iter::once(first).chain(rest);
            Action::Split(Split {
                weights: ordinals.into_iter().zip(weights).collect(),
                pick,
                on_empty,
            })
        },
    )
}

fn route(subsets: usize) -> impl Strategy<Value = Route> {
    let action = prop_oneof![
        3 => split(subsets),
        1 => select(&Errno::ALL[..]).prop_map(Action::Reject),
        1 => Just(Action::Pass),
    ];
    (name(), vec(client(), 0..3), action).prop_map(|(name, matches, action)| Route {
        name,
        matches,
        action,
        fault: Fault::default(),
    })
}

fn service() -> impl Strategy<Value = Service> {
    let body = any::<bool>().prop_flat_map(|v4| (frontends(v4), vec(subset(v4), 1..6)));
    let name = (proptest::option::of(name()), name());
    let peer = select(vec![PeerName::Backend, PeerName::Frontend]);
    (name, peer, body).prop_flat_map(|((namespace, name), getpeername, (frontends, subsets))| {
        let name = namespace.map_or(name.clone(), |namespace| format!("{namespace}/{name}"));
        let subsets = unique(subsets, |subset| &subset.name);
        vec(route(subsets.len()), 1..5).prop_map(move |routes| Service {
            name: name.clone(),
            frontends: frontends.clone(),
            getpeername,
            subsets: subsets.clone(),
            routes: unique(routes, |route| &route.name),
        })
    })
}

/// The elements whose name no earlier one has.
fn unique<T>(all: Vec<T>, name: impl Fn(&T) -> &String) -> Vec<T> {
    let mut seen = std::collections::HashSet::new();
    all.into_iter().filter(|element| seen.insert(name(element).clone())).collect()
}

fn source(bytes: impl Into<Vec<u8>>) -> Source {
    Source::new("-", bytes)
}

/// Loads and renders; what counts is that neither panics.
fn exercise(bytes: Vec<u8>) {
    let sources = [source(bytes)];
    let diagnostics = match load(&sources) {
        Ok(loaded) => loaded.warnings,
        Err(diagnostics) => diagnostics,
    };
    for color in [false, true] {
        let _ = render(&diagnostics, &sources, color);
    }
}

fn valid_files() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies");
    let entries = std::fs::read_dir(folder).expect("policies/ exists");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let mut files: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    files.iter().map(|path| std::fs::read_to_string(path).expect("readable")).collect()
}

proptest! {
    #[test]
    fn canonical_text_loads_to_what_it_was_written_from(service in service()) {
        let text = to_yaml(&service);
        let loaded = load(&[source(text.clone())]);
        let loaded = loaded.map_err(|diagnostics| {
            TestCaseError::fail(render(&diagnostics, &[source(text.clone())], false))
        })?;
        prop_assert_eq!(&loaded.policy, &Policy { services: vec![service], outbound: Vec::new() }, "{}", text);
        let again = loaded.policy.services.first().map(to_yaml);
        prop_assert_eq!(again, Some(text));
    }

    #[test]
    fn a_document_loads_by_itself_to_its_service(
        mut services in vec(service(), 1..4),
        marker in select(vec!["---\n", "--- # next\n", "\n...\n# next\n---\n\n"]),
    ) {
        for (index, service) in services.iter_mut().enumerate() {
            service.name = format!("service-{index}");
            let port = u16::try_from(index).expect("few") + 1;
            for frontend in &mut service.frontends {
                frontend.addr.set_port(port);
            }
            service.frontends.dedup();
        }
        let texts: Vec<String> = services.iter().map(to_yaml).collect();
        let loaded = load(&[source(texts.join(marker))]).expect("valid");
        prop_assert_eq!(&loaded.policy.services, &services);
        for (document, service) in loaded.documents.iter().zip(services) {
            let alone = load(&[source(document.text.clone())]).expect("valid");
            prop_assert_eq!(alone.policy.services, vec![service]);
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..512)) {
        exercise(bytes);
    }

    #[test]
    fn arbitrary_yaml_characters_do_not_panic(text in "[-a-c:,\\[\\]{}&*!|>'\"%@`#? \t\r\n0-9~<é]{0,200}") {
        exercise(text.into_bytes());
    }

    #[test]
    fn mutated_policies_do_not_panic(
        file in any::<Index>(),
        edits in vec((any::<Index>(), any::<Index>(), 0_u8..4, any::<u8>()), 1..8),
    ) {
        let mut bytes = file.get(&valid_files()).clone().into_bytes();
        for (at, to, kind, byte) in edits {
            mutate(&mut bytes, [at, to], kind, byte);
        }
        exercise(bytes);
    }
}

/// Replaces or inserts a byte, removes a range, or repeats one.
fn mutate(bytes: &mut Vec<u8>, places: [Index; 2], kind: u8, byte: u8) {
    if bytes.is_empty() {
        return;
    }
    let [at, to] = places.map(|place| place.index(bytes.len()));
    let range = at.min(to)..at.max(to);
    match kind {
        0 => bytes[at] = byte,
        1 => bytes.insert(at, byte),
        2 => drop(bytes.drain(range)),
        _ => {
            let copy = bytes[range].to_vec();
            bytes.splice(at..at, copy);
        }
    }
}
