//! The kernel, the rehearsal in memory and every command tell of one policy.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::process;
use std::{fs, io};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};
use splitter_common::abi::Backend;
use splitter_common::decide::{Decision, Verdict, decide};
use splitter_tests::daemon::Site;
use splitter_tests::files::{PolicyFile, PolicySet, policy_sets};
use splitter_tests::net::{dial, in_own_network, network_cookie};
use splitter_tests::node::find_cgroups;
use splitter_tests::peers::{PortServer, UdpClient};
use splitter_tests::place::cgroup2_mount;
use splitter_user::compile::{backend_image, command_bytes, frontend_key};
use splitter_user::policy::diagnostic::render;
use splitter_user::policy::load;
use splitter_user::policy::model::{Action, Frontend, PeerName, Pick, Policy, Protocol, Service};
use splitter_user::rehearsal::Rehearsal;
use splitter_user::tables::world::{Client, HostWorld, Tickets};

use crate::{ExactClient, SHOP, service, shop};

/// Connections to each frontend.
const CONNECTS: u64 = 100;

#[test]
fn the_kernel_does_what_the_rehearsal_says() -> Result<()> {
    let site = Site::new()?;
    let _daemon = site.run(&[])?;
    let sets = policy_sets()?;
    ensure!(sets.len() >= 29, "only {} sets of policies", sets.len());
    for set in sets {
        in_own_network(|| compare_set(&site, &set)).with_context(|| set.name.clone())?;
        let left = site.json(&["get"])?;
        assert_eq!(left, json!({"services": [], "egress": []}), "{} left something", set.name);
    }
    Ok(())
}

fn compare_set(site: &Site, set: &PolicySet) -> Result<()> {
    let sources = set.sources();
    let loaded = load(&sources).map_err(|wrong| anyhow!(render(&wrong, &sources, false)))?;
    for step in &set.steps {
        apply(site, step, set.degrade)?;
    }
    let policy = &loaded.policy;
    let servers = serve(policy)?;
    let rehearsal = Rehearsal::new(policy, find_cgroups(policy)?)?;
    let client = this_client(site)?;
    for service in &policy.services {
        for frontend in &service.frontends {
            compare(service, frontend, &rehearsal, &client)
                .with_context(|| format!("{frontend} of {}", service.name))?;
        }
    }
    drop(servers);
    let named = loaded.documents.iter().flat_map(|document| &document.identities);
    let remove = named.map(|identity| identity.strip_prefix("Split/").unwrap_or(identity));
    let mut words = vec!["apply"];
    remove.for_each(|name| words.extend(["--remove", name]));
    site.splitter(&words)?.success().map(drop)
}

fn apply(site: &Site, files: &[PolicyFile], degrade: bool) -> Result<()> {
    let paths: Vec<String> = files.iter().map(|file| file.path.display().to_string()).collect();
    let mut words = vec!["apply"];
    words.extend(degrade.then_some("--degrade"));
    words.extend(paths.iter().map(String::as_str));
    site.splitter(&words)?.success().map(drop)
}

/// A server for every backend that is dialled over TCP.
fn serve(policy: &Policy) -> Result<Vec<PortServer>> {
    let subsets = policy.services.iter().flat_map(|service| &service.subsets);
    let backends = subsets.flat_map(|subset| &subset.backends);
    let addresses: BTreeSet<SocketAddr> = backends.map(|backend| backend.addr).collect();
    addresses.iter().map(|addr| PortServer::start(&addr.to_string())).collect()
}

/// This process as the hooks see it.
fn this_client(site: &Site) -> Result<Client> {
    let ids = [cgroup2_mount()?, site.place().cgroup().to_owned()];
    let ids = ids.iter().map(|path| Ok(fs::metadata(path)?.ino())).collect::<Result<_>>()?;
    let command = fs::read_to_string("/proc/thread-self/comm")?;
    Ok(Client {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        command: command_bytes(command.trim_end()),
        cgroups: ids,
        process: process::id(),
        netns: network_cookie()?,
        mark: 0,
        tos: 0,
        now_ns: 0,
    })
}

fn compare(
    service: &Service,
    frontend: &Frontend,
    rehearsal: &Rehearsal,
    client: &Client,
) -> Result<()> {
    let udp = UdpClient::new(&frontend.addr.to_string())?;
    let is_random = service
        .routes
        .iter()
        .any(|route| matches!(&route.action, Action::Split(split) if split.pick == Pick::Random));
    let answers_frontend = service.getpeername == PeerName::Frontend;
    for n in 0..CONNECTS {
        let world = HostWorld::new(rehearsal.maps(), client.clone(), Tickets::Take, n);
        let decision = decide(&world, &frontend_key(frontend));
        let answer = match frontend.protocol {
            Protocol::Tcp => dial(frontend.addr),
            Protocol::Udp => udp.connect().map(|peer| (peer, peer.port())),
        };
        if decision.verdict == Verdict::Pass {
            ensure!(is_untouched(&answer, frontend), "connection {n}: {answer:?}");
            continue;
        }
        if decision.verdict == Verdict::Reject {
            let errno = answer.as_ref().err().and_then(io::Error::raw_os_error);
            ensure!(errno == Some(decision.errno.into()), "connection {n}: {answer:?}");
            continue;
        }
        let wanted = backend_of(&decision, service)?;
        let (peer, port) = answer?;
        let found = if answers_frontend { SocketAddr::new(wanted.ip(), port) } else { peer };
        ensure!(!answers_frontend || peer == frontend.addr, "getpeername answers {peer}");
        ensure!(port == found.port(), "port {port} answered at {found}");
        if is_random {
            ensure!(backends(service).any(|addr| addr == found), "{found} is no backend");
        } else {
            ensure!(found == wanted, "connection {n} went to {found} instead of {wanted}");
        }
    }
    Ok(())
}

/// Whether a connection went to the dialled address, where nobody listens.
fn is_untouched(answer: &io::Result<(SocketAddr, u16)>, frontend: &Frontend) -> bool {
    match answer {
        Ok((peer, _)) => *peer == frontend.addr,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    }
}

fn backends(service: &Service) -> impl Iterator<Item = SocketAddr> {
    service.subsets.iter().flat_map(|subset| subset.backends.iter().map(|backend| backend.addr))
}

/// Where a decision leads.
fn backend_of(decision: &Decision<Backend>, service: &Service) -> Result<SocketAddr> {
    ensure!(decision.verdict == Verdict::Rewrite, "{:?}", decision.verdict);
    let chosen = decision.backend.context("a rewrite to nowhere")?;
    let is_chosen = |addr: &SocketAddr| {
        let image = backend_image(*addr);
        (image.addr, image.port_be) == (chosen.addr, chosen.port_be)
    };
    backends(service).find(is_chosen).context("a backend of another service")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The member of a list that has a name.
fn named<'a>(list: &'a Value, key: &str, name: &str) -> Result<&'a Value> {
    let members = list.as_array().with_context(|| format!("no list: {list}"))?;
    let member = members.iter().find(|member| member[key] == name);
    member.with_context(|| format!("no {key} {name} in {list}"))
}

#[test]
fn commands_agree_with_each_other() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let _daemon = site.run(&["--policy", &policy])?;
    let other = site.write("other.yaml", service("other", "127.10.0.2:8080", 21_000))?;
    let applied = site.json(&["apply", &other])?;
    assert_eq!(applied["added"], serde_json::json!(["other"]));
    agree(&site, &applied["generation"], 3, 2)?;
    let weighted = site.json(&["weight", "shop/all", "v1=1", "v2=4"])?;
    assert_eq!(weighted["before"], serde_json::json!([["v1", 3], ["v2", 2]]));
    assert_eq!(weighted["after"], serde_json::json!([["v1", 1], ["v2", 4]]));
    agree(&site, &weighted["generation"], 1, 4)?;
    documents_agree(&site, &policy)
}

/// `status`, `get` and `dump` agree on the generation, the weights, and what is dialled.
fn agree(site: &Site, generation: &Value, v1: u32, v2: u32) -> Result<()> {
    let (status, dump) = (site.json(&["status"])?, site.json(&["dump"])?);
    let services = site.json(&["get"])?["services"].clone();
    assert_eq!((&status["generation"], &dump["generation"]), (generation, generation));
    let named_services = [("shop", SHOP), ("other", "127.10.0.2:8080")];
    for (name, addr) in named_services {
        let (got, stated) =
            (named(&services, "name", name)?, named(&status["services"], "name", name)?);
        let dumped = named(&dump["frontends"], "service", name)?;
        let frontend = format!("{addr}/udp");
        assert_eq!(got["frontends"], serde_json::json!([frontend]));
        assert_eq!(got["frontends"], stated["frontends"]);
        assert_eq!(text(&dumped["frontend"]), frontend);
        assert_eq!(got["routes"][0]["weights"], stated["routes"][0]["weights"]);
        assert_eq!(got["origin"], stated["origin"]);
        let slots = dumped["routes"][0]["choice"]["slots"].as_array().context("no wheel")?;
        assert_eq!(slots.len(), 5);
        for subset in stated["subsets"].as_array().context("no subsets")? {
            let backends = &got["subsets"][text(&subset["name"])];
            assert_eq!(backends[0], subset["backends"][0]["address"]);
            let dumped = named(&dumped["subsets"], "name", text(&subset["name"]))?;
            assert_eq!(dumped["backends"][0]["address"], backends[0]);
        }
    }
    let shop = named(&services, "name", "shop")?;
    assert_eq!(shop["routes"][0]["weights"], serde_json::json!([["v1", v1], ["v2", v2]]));
    Ok(())
}

/// What `get` prints is a policy that means what runs, and not what the file says.
fn documents_agree(site: &Site, file: &str) -> Result<()> {
    let running = site.splitter(&["get", "-o", "yaml"])?.success()?;
    let running = site.write("running.yaml", running)?;
    let differs = site.splitter(&["diff", file, &running, "-o", "json"])?;
    ensure!(differs.code == Some(1), "{differs:?}");
    let difference: Value = serde_json::from_str(&differs.out)?;
    ensure!(difference.to_string().contains("other"), "{difference}");
    let generation = site.generation()?;
    let applied = site.json(&["apply", &running])?;
    assert_eq!(applied["unchanged"], serde_json::json!(["other", "shop"]));
    assert_eq!(applied["generation"], generation, "nothing to commit");
    Ok(())
}

#[test]
fn counts_are_those_of_the_connections() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let _daemon = site.run(&["--policy", &policy])?;
    let mut client = ExactClient::new(SHOP, 20_000)?;
    client.connect_times(1_000)?;
    let (status, dump) = (site.json(&["status", "shop"])?, site.json(&["dump"])?);
    let shop = &status["services"][0];
    assert_eq!(shop["routes"][0]["connections"], 1_000);
    for (subset, count, ppm) in [("v1", 600, 600_000), ("v2", 400, 400_000)] {
        let subset = named(&shop["subsets"], "name", subset)?;
        assert_eq!(subset["connections"], count);
        assert_eq!(subset["backends"][0]["connections"], count);
        assert_eq!((&subset["share_ppm"], &subset["asked_ppm"]), (&ppm.into(), &ppm.into()));
    }
    assert_eq!(dump["frontends"][0]["routes"][0]["choice"]["ticket"], 1_000);
    Ok(())
}

/// `simulate` and `explain` say of a file what the connections then do.
#[test]
fn simulate_and_explain_foretell_the_connections() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let to = format!("{SHOP}/udp");
    let _daemon = site.run(&["--policy", &policy])?;
    for (connects, client) in [(1, UdpClient::new(SHOP)?), (36, UdpClient::new(SHOP)?)] {
        for _ in 0..connects {
            client.connect()?;
        }
    }
    let simulated =
        site.json(&["simulate", &policy, "--to", &to, "--connections", "37", "--uid", "0"])?;
    let status = site.json(&["status"])?;
    let subsets = &status["services"][0]["subsets"];
    for share in simulated["routes"][0]["shares"].as_array().context("no shares")? {
        let subset = named(subsets, "name", text(&share["name"]))?;
        assert_eq!(share["connections"], subset["connections"]);
    }
    let explained = site.splitter(&["explain", &policy, "--to", &to])?.success()?;
    ensure!(explained.contains("127.0.0.1:20000") && explained.contains("v1"), "{explained}");
    Ok(())
}
