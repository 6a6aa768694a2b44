//! Properties of the policy front end: canonical text loads to what it was written from, and no
//! text makes it panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use splitter_user::policy::diagnostic::render;
use splitter_user::policy::model::{
    Abort, Action, Backend, Balance, Bandwidth, Blackhole, CgroupName, ClientKey, ClientMatch,
    CongestionControl, Connection, Datagrams, Delay, Ejection, Errno, Fault, Frontend, HealthCheck,
    Keepalive, MAX_RATE, MAX_STALL, Mark, NetnsName, OldConnections, OnBackendDown, OnEmpty,
    Outbound, OverLimit, PeerName, Pick, Policy, Probe, Protocol, Route, Service, Split, Stall,
    Subset,
};
use splitter_user::policy::native::{policy_to_yaml, to_yaml};
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
        Just(Balance::LeastConnections),
        select(&KEYS[..]).prop_map(Balance::ClientHash),
    ];
    let backends = btree_set(address(v4, true), 0..5);
    let asked = (connection(v4), proptest::option::of(ejection()), proptest::option::of(health()));
    (name(), backends, vec(0..1_000_u32, 5), balance, asked).prop_map(
        |(name, backends, weights, balance, (connection, eject, health))| Subset {
            name,
            backends: backends
                .into_iter()
                .zip(weights)
                .map(|(addr, weight)| Backend { addr, weight })
                .collect(),
            balance,
            connection,
            eject,
            health,
        },
    )
}

/// Milliseconds, of which many are whole in a larger unit.
fn time_ms() -> impl Strategy<Value = u32> {
    prop_oneof![
        1..=u32::MAX,
        (1..=1_000_u32, select(vec![1, 1_000, 60_000, 3_600_000])).prop_map(|(n, unit)| n * unit),
    ]
}

fn connection(v4: bool) -> impl Strategy<Value = Connection> {
    use proptest::option::of;
    let times = [of(time_ms()), of(time_ms()), of(time_ms())];
    let limits = (of(1..=u32::MAX), of(1..=u32::MAX), over_limit());
    let rest = (of(select(KEYS.to_vec())), any::<bool>());
    (limits, of(keepalive()), times, rest, options(v4)).prop_map(
        |(limits, keepalive, times, rest, options)| {
            let [connect_timeout_ms, idle_timeout_ms, max_lifetime_ms] = times;
            let (max_connections, max_pending, over_limit) = limits;
            let has_limit = max_connections.or(max_pending).is_some();
            Connection {
                max_connections,
                max_pending,
                over_limit: if has_limit { over_limit } else { OverLimit::default() },
                avoid_previous: rest.0,
                require_listener: rest.1,
                connect_timeout_ms,
                keepalive,
                idle_timeout_ms,
                max_lifetime_ms,
                ..options
            }
        },
    )
}

fn over_limit() -> impl Strategy<Value = OverLimit> {
    prop_oneof![Just(OverLimit::Spill), select(Errno::ALL.to_vec()).prop_map(OverLimit::Reject),]
}

fn options(v4: bool) -> impl Strategy<Value = Connection> {
    use proptest::option::of;
    let name = "[-_a-z0-9]{1,15}".prop_filter_map("a name", |name| CongestionControl::new(&name));
    let source = address(v4, false).prop_map(|addr| addr.ip());
    (of(name), of(rate()), of(1..=u32::MAX), of(source)).prop_map(
        |(congestion_control, pacing_rate, mark, source)| Connection {
            congestion_control,
            pacing_rate,
            mark,
            source,
            ..Connection::default()
        },
    )
}

/// Bytes per second, of which many are whole in a larger unit.
fn rate() -> impl Strategy<Value = u32> {
    let unit = select(vec![1_000, 1_000_000, 1_000_000_000]);
    prop_oneof![1..=MAX_RATE, (1..=4_u32, unit).prop_map(|(n, unit)| n * unit)]
}

fn keepalive() -> impl Strategy<Value = Keepalive> {
    use proptest::option::of;
    let times = [of(1..=32_767_u16), of(1..=32_767_u16)];
    (of(1..=127_u8), times).prop_map(|(probes, [time_s, interval_s])| Keepalive {
        probes,
        time_s,
        interval_s,
    })
}

fn health() -> impl Strategy<Value = HealthCheck> {
    let thresholds = (1..=u32::MAX, 1..=u32::MAX);
    let times = (time_ms(), time_ms());
    let port = proptest::option::of(1..=u16::MAX);
    ((probe(), port, times, thresholds, 0..=100_u8), any::<bool>()).prop_map(
        |((probe, port, times, thresholds, jitter_percent), start)| HealthCheck {
            probe,
            port,
            interval_ms: times.0,
            timeout_ms: times.1,
            healthy_threshold: thresholds.0,
            unhealthy_threshold: thresholds.1,
            jitter_percent,
            starts_unhealthy: start,
        },
    )
}

fn probe() -> impl Strategy<Value = Probe> {
    use proptest::option::of;
    let status = (200..=599_u16, 0..=399_u16);
    let status = status.prop_map(|(first, more)| first..=(first + more).min(599));
    let http = ("/[!-~&&[^#]]{0,8}", of("[!-~&&[^/@?#]]{1,8}"), vec(status, 1..4));
    let command = ("/[^\\p{Cc}]{0,8}", vec("[^\\p{Cc}]{0,8}", 0..3));
    prop_oneof![
        Just(Probe::Tcp),
        http.prop_map(|(path, host, statuses)| Probe::Http { path, host, statuses }),
        command.prop_map(|(program, arguments)| Probe::Command { program, arguments }),
    ]
}

fn ejection() -> impl Strategy<Value = Ejection> {
    let any = (1..=u32::MAX, time_ms(), time_ms(), 0..=100_u8, 0..=100_u8).prop_map(
        |(consecutive_failures, interval_ms, base_time_ms, max_percent, min_health_percent)| {
            Ejection {
                consecutive_failures,
                interval_ms,
                base_time_ms,
                max_percent,
                min_health_percent,
            }
        },
    );
    prop_oneof![Just(Ejection::default()), any]
}

fn fault() -> impl Strategy<Value = Fault> {
    use proptest::option::weighted;
    let ppm = || prop_oneof![1..=1_000_000_u32, (1..=100_u32).prop_map(|percent| percent * 10_000)];
    let abort = (ppm(), select(&Errno::ALL[..])).prop_map(|(ppm, errno)| Abort { ppm, errno });
    let delay = (ppm(), time_ms()).prop_map(|(ppm, ms)| Delay { ppm, ms });
    let bandwidth = (ppm(), rate()).prop_map(|(ppm, rate)| Bandwidth { ppm, rate });
    let blackhole = ppm().prop_map(|ppm| Blackhole { ppm });
    let stall = (ppm(), 0..=MAX_STALL).prop_map(|(ppm, after)| Stall { ppm, after });
    let of_packets = (weighted(0.3, bandwidth), weighted(0.3, blackhole), weighted(0.3, stall));
    let seed = proptest::option::of(any::<u64>());
    (weighted(0.3, abort), weighted(0.3, delay), of_packets, seed).prop_map(
        |(abort, delay, (bandwidth, blackhole, stall), seed)| {
            let fault = Fault { abort, delay, bandwidth, blackhole, stall, seed: None };
            Fault { seed: seed.filter(|_| fault != Fault::default()), ..fault }
        },
    )
}

/// Rules for clients that have none in common, the one for every client last.
fn outbound() -> impl Strategy<Value = Vec<Outbound>> {
    let cgroups = vec(btree_set("/[a-z][ -.a-z\"\\\\]{0,8}", 1..4), 0..4);
    (cgroups, vec(any::<bool>(), 5), any::<bool>()).prop_map(|(cgroups, modes, has_every)| {
        let mut seen = std::collections::HashSet::new();
        let mut cgroups: Vec<Vec<CgroupName>> = cgroups
            .into_iter()
            .map(|set| {
                let first = set.into_iter().filter(|path| seen.insert(path.clone()));
                first.map(CgroupName::Path).collect()
            })
            .filter(|paths: &Vec<CgroupName>| !paths.is_empty())
            .collect();
        cgroups.extend(has_every.then(Vec::new));
        let rule = |(n, (cgroups, registry_only))| {
            Outbound::plain(format!("default/e{n}"), cgroups, registry_only)
        };
        cgroups.into_iter().zip(modes).enumerate().map(rule).collect()
    })
}

fn client() -> impl Strategy<Value = ClientMatch> {
    let uid = proptest::option::of(any::<u32>());
    let gid = proptest::option::of(any::<u32>());
    let command = proptest::option::of("[ -~]{1,15}");
    let paths = select(vec!["/", "/a", "/system.slice/a b\"\\.service"]);
    let units = select(vec!["a.service", "a\\x2db@1.scope", "user@7.service/b.slice"]);
    let cgroup = prop_oneof![
        paths.prop_map(|path| CgroupName::Path(path.to_owned())),
        units.prop_map(|unit| CgroupName::Unit(unit.to_owned())),
        "[0-9a-f]{12,64}".prop_map(CgroupName::Container),
        "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}".prop_map(CgroupName::Pod),
    ];
    let names =
        select(vec!["/run/netns/a b", "/run/netns/7", "/run/docker/netns/b", "/run/netns/x/y"]);
    let netns = prop_oneof![
        names.prop_map(|path| NetnsName::Path(path.to_owned())),
        (1_u64..).prop_map(NetnsName::Inode),
    ];
    let mark = any::<(u32, u32)>().prop_filter_map("a mask has bits", |(value, mask)| {
        (mask > 0).then_some(Mark { value: value & mask, mask })
    });
    let tos = (0_u8..64).prop_map(|dscp| dscp << 2);
    let socket =
        (proptest::option::of(netns), proptest::option::of(mark), proptest::option::of(tos));
    (uid, gid, command, proptest::option::of(cgroup), socket)
        .prop_map(|(uid, gid, command, cgroup, (netns, mark, tos))| ClientMatch {
            uid,
            gid,
            command,
            cgroup,
            netns,
            mark,
            tos,
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
    (name(), vec(client(), 0..3), action, fault()).prop_map(|(name, matches, action, fault)| {
        let splits = matches!(action, Action::Split(_));
        let fault = if splits { fault } else { fault.without_packets() };
        Route { name, matches, action, fault }
    })
}

fn old_connections() -> impl Strategy<Value = OldConnections> {
    let drain = (1_u32..).prop_map(|deadline_ms| OldConnections::Drain { deadline_ms });
    let rebalance = (1_u32.., 1_u32..)
        .prop_map(|(per_second, idle_ms)| OldConnections::Rebalance { per_second, idle_ms });
    let known = [OldConnections::Leave, OldConnections::DRAIN, OldConnections::REBALANCE].to_vec();
    prop_oneof![select(known), drain, rebalance]
}

fn service() -> impl Strategy<Value = Service> {
    let body = any::<bool>().prop_flat_map(|v4| (frontends(v4), vec(subset(v4), 1..6)));
    let name = (proptest::option::of(name()), name());
    let peer = select(vec![PeerName::Backend, PeerName::Frontend]);
    let datagrams = select(vec![Datagrams::All, Datagrams::Connected]);
    let down = select(vec![OnBackendDown::Leave, OnBackendDown::Close]);
    let ends = (old_connections(), down);
    let all = (name, peer, datagrams, any::<bool>(), ends, body);
    all.prop_flat_map(|(name, getpeername, datagrams, outcomes, ends, body)| {
        let (old_connections, on_backend_down) = ends;
        let ((namespace, name), (frontends, subsets)) = (name, body);
        let name = namespace.map_or(name.clone(), |namespace| format!("{namespace}/{name}"));
        let subsets = unique(subsets, |subset| &subset.name);
        vec(route(subsets.len()), 1..5).prop_map(move |routes| Service {
            name: name.clone(),
            frontends: frontends.clone(),
            getpeername,
            datagrams,
            outcomes,
            old_connections,
            on_backend_down,
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

/// Canonical text, which says what is not enforced yet too.
fn canonical(text: &str) -> Source {
    source(text).degraded()
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
    fn canonical_text_loads_to_what_it_was_written_from(
        service in service(),
        outbound in outbound(),
    ) {
        let policy = Policy { services: vec![service], outbound };
        let text = policy_to_yaml(&policy);
        let loaded = load(&[canonical(&text)]);
        let loaded = loaded.map_err(|diagnostics| {
            TestCaseError::fail(render(&diagnostics, &[source(text.clone())], false))
        })?;
        prop_assert_eq!(&loaded.policy, &policy, "{}", text);
        prop_assert_eq!(policy_to_yaml(&loaded.policy), text);
    }

    #[test]
    fn documents_of_one_stream_load_to_their_services(
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
        let loaded = load(&[canonical(&texts.join(marker))]).expect("valid");
        prop_assert_eq!(&loaded.policy.services, &services);
        let identities = loaded.documents.iter().flat_map(|document| &document.identities);
        let names = identities.map(|identity| identity.trim_start_matches("Split/"));
        prop_assert!(names.eq(services.iter().map(|service| service.name.as_str())));
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
