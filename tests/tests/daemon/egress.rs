//! `kind: Egress`: what clients may reach besides services.

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{AddressFamily, SocketType, socket};
use serde_json::Value;
use splitter_tests::daemon::{Site, eventually};
use splitter_tests::links::ip;
use splitter_tests::net::in_own_network;
use splitter_tests::peers::PortServer;
use splitter_tests::place::Inside;
use splitter_tests::ring::{Executor, Ring};

/// Of the test's own network; nobody listens at most of them.
const ADDRESSES: [&str; 4] = ["10.66.0.1", "10.66.1.1", "fd66::1", "fd66:1::1"];
const FRONTEND: &str = "10.66.9.9:80";

/// One service, with a route for the clients of a cgroup, one document for them, one for everybody
/// else.
fn policy(site: &Site, web: &str, rest: &str) -> String {
    let cgroup = site.place().cgroup_path();
    format!(
        "---
apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: shop}}
spec:
  frontends: ['{FRONTEND}']
  subsets: {{v1: {{backends: ['10.66.0.1:7000']}}}}
  routes:
    - {{name: web, match: {{cgroup: {cgroup}/web}}, split: {{v1: 1}}}}
    - {{name: all, split: {{v1: 1}}}}
---
apiVersion: splitter.dev/v1
kind: Egress
metadata: {{name: web}}
spec:
  clients: [{{cgroup: {cgroup}/web}}]
  {web}
---
apiVersion: splitter.dev/v1
kind: Egress
metadata: {{name: rest}}
spec: {{{rest}}}
"
    )
}

/// A way to reach somebody.
type Way = fn(SocketAddr) -> io::Result<()>;

pub(super) fn tcp(to: SocketAddr) -> io::Result<()> {
    TcpStream::connect(to).map(drop)
}

fn any(to: SocketAddr) -> &'static str {
    if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
}

fn udp_connect(to: SocketAddr) -> io::Result<()> {
    UdpSocket::bind(any(to))?.connect(to)
}

pub(super) fn udp_send(to: SocketAddr) -> io::Result<()> {
    UdpSocket::bind(any(to))?.send_to(b"x", to).map(drop)
}

/// By rings, of which one has a thread of the kernel's do it.
fn ring_tcp(to: SocketAddr) -> io::Result<()> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None)?;
    Ring::new(Executor::Poller).map_err(io::Error::other)?.connect(&socket, to)
}

fn ring_udp(to: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(any(to))?;
    Ring::new(Executor::Submitter).map_err(io::Error::other)?.send_to(&socket, b"x", to)
}

const WAYS: [(&str, Way); 5] =
    [("tcp", tcp), ("udp", udp_connect), ("udp", udp_send), ("tcp", ring_tcp), ("udp", ring_udp)];

/// Every address, the IPv4 ones as v4-mapped too, by every way: 30 attempts at each port.
fn attempts(ports: &[u16]) -> Vec<(SocketAddr, &'static str, Way)> {
    let mapped = ADDRESSES[..2].iter().map(|ip| format!("::ffff:{ip}"));
    let ips: Vec<String> = ADDRESSES.iter().map(|ip| (*ip).to_owned()).chain(mapped).collect();
    let addrs = ips.iter().flat_map(|ip| {
        let ip = ip.parse().expect("an address");
        ports.iter().map(move |port| SocketAddr::new(ip, *port))
    });
    addrs.flat_map(|addr| WAYS.map(|(protocol, way)| (addr, protocol, way))).collect()
}

/// As events have it.
fn shown(to: SocketAddr, protocol: &str) -> String {
    format!("{}/{protocol}", SocketAddr::new(to.ip().to_canonical(), to.port()))
}

pub(super) fn is_refused(result: &io::Result<()>, errno: i32) -> bool {
    result.as_ref().is_err_and(|error| error.raw_os_error() == Some(errno))
}

/// Destinations that were told since an event, once there are so many, with what was said.
fn told(site: &Site, after: u64, wanted: usize) -> Result<Vec<(String, String)>> {
    let mut told = Vec::new();
    eventually("every one is told", || {
        let answer = site.ask(&serde_json::json!({"verb": "events", "after": after}))?;
        let events = answer["events"].as_array().cloned().unwrap_or_default();
        let word = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        told = events.iter().map(|event| (word(event, "to"), word(event, "verdict"))).collect();
        Ok(told.len() >= wanted)
    })?;
    ensure!(told.len() == wanted, "{} told, {wanted} expected: {told:?}", told.len());
    Ok(told)
}

fn last_event(site: &Site) -> Result<u64> {
    let answer = site.ask(&serde_json::json!({"verb": "events", "after": 0}))?;
    let last = answer["events"].as_array().and_then(|events| events.last()?["number"].as_u64());
    Ok(last.unwrap_or(0))
}

/// To the network that this runs in.
pub(super) fn add_addresses() -> Result<()> {
    ADDRESSES.iter().try_for_each(|address| ip(&["address", "add", address, "dev", "lo"]))
}

/// Puts a policy in force.
fn load(site: &Site, policy: &str) -> Result<()> {
    let before = site.generation()?;
    site.replace("policy.yaml", policy)?;
    eventually("the policy is in force", || Ok(site.generation()? > before))
}

#[test]
fn what_is_no_service_is_refused_to_some_and_nothing_slips() -> Result<()> {
    let site = Site::new()?;
    let closed = policy(&site, "mode: registryOnly", "mode: allowAny");
    let file = site.write("policy.yaml", &closed)?;
    // The document is in force before its cgroup exists, and for its clients at once.
    let _daemon = site.run(&["--policy", &file])?;
    in_own_network(|| {
        add_addresses()?;
        let _server = PortServer::start("10.66.0.1:7000")?;
        let all = attempts(&[53, 443, 9_999]);
        let untouched = || -> Result<()> {
            for (to, _, way) in &all {
                ensure!(!is_refused(&way(*to), libc::EACCES), "{to} by another client");
            }
            Ok(())
        };
        untouched()?;
        let inside = site.place().enter_child("web")?;
        let first: SocketAddr = "10.66.0.1:1".parse()?;
        eventually("the cgroup is found", || Ok(is_refused(&tcp(first), libc::EACCES)))?;
        let before = last_event(&site)?;
        for (to, protocol, way) in &all {
            ensure!(is_refused(&way(*to), libc::EACCES), "{to} by {protocol}");
        }
        let told = told(&site, before, all.len())?;
        for ((to, protocol, _), (destination, verdict)) in all.iter().zip(told) {
            assert_eq!((destination, verdict.as_str()), (shown(*to, protocol), "refused"));
        }
        // Services and loopback are no such thing.
        TcpStream::connect(FRONTEND).context("a service")?;
        ensure!(!is_refused(&tcp("127.0.0.1:1".parse()?), libc::EACCES), "loopback");
        ensure!(is_refused(&tcp("0.0.0.0:1".parse()?), libc::ECONNREFUSED), "unspecified loopback");
        drop(inside);
        untouched()?;
        // Another cgroup under the same path, which is an event of a route's client too.
        let _again = site.place().enter_child("web")?;
        eventually("the new cgroup is found", || Ok(is_refused(&tcp(first), libc::EACCES)))
    })?;
    site.place().outside(|| ())?;
    let status = site.status()?;
    assert_eq!(status["egress"][0]["name"], "default/web");
    assert_eq!(status["egress"][1]["refused"], 0, "of every other client");
    Ok(())
}

/// What one document of the clients of `web` says.
const SAID: &str = "mode: registryOnly
  errno: ECONNRESET
  allow:
    - {cidr: 10.66.0.0/16, ports: [443, '8000-8099'], protocol: tcp}
    - {cidr: 'fd66::/32'}
  refuse:
    - {cidr: [10.66.1.0/24, 'fd66::1']}
    - {cidr: 127.0.0.1, ports: 999}";
const OPEN: [(&str, Way); 4] = [
    ("10.66.0.1:443", tcp),
    ("[::ffff:10.66.0.1]:8050", tcp),
    ("[fd66:0:1::1]:1", udp_connect),
    ("[fd66:0:1::1]:1", udp_send),
];
const SHUT: [(&str, Way); 8] = [
    ("10.66.0.1:443", udp_send),
    ("10.66.0.1:8100", tcp),
    ("10.66.1.1:443", tcp),
    ("[::ffff:10.66.1.1]:443", tcp),
    ("[fd66::1]:1", udp_send),
    ("[fd66:1::1]:1", tcp),
    ("10.67.0.1:443", tcp),
    ("0.0.0.0:999", tcp),
];

/// Whether that document refuses a destination.
fn is_shut(to: &str, way: Way) -> Result<bool> {
    Ok(is_refused(&way(to.parse()?), libc::ECONNRESET))
}

fn ensure_all_shut() -> Result<()> {
    for (to, way) in SHUT {
        ensure!(is_shut(to, way)?, "{to} is refused");
    }
    Ok(())
}

#[test]
fn networks_ports_and_audits_are_as_the_document_says() -> Result<()> {
    let site = Site::new()?;
    let file = site.write("policy.yaml", policy(&site, SAID, "mode: allowAny"))?;
    let daemon = site.run(&["--policy", &file])?;
    in_own_network(|| {
        add_addresses()?;
        let inside = site.place().enter_child("web")?;
        eventually("the cgroup is found", || is_shut("10.66.0.1:1", tcp))?;
        for (to, way) in OPEN {
            ensure!(!is_shut(to, way)?, "{to} is allowed");
        }
        ensure_all_shut()?;
        audit(&site)?;
        load(&site, &policy(&site, SAID, "mode: allowAny"))?;
        daemon.kill()?;
        ensure_all_shut().context("without a daemon")?;
        let _daemon = site.run(&["--policy", &file])?;
        ensure_all_shut().context("by the next daemon")?;
        claim(&site, inside)
    })
}

/// What would be refused goes on, and is told.
fn audit(site: &Site) -> Result<()> {
    load(site, &policy(site, &format!("{SAID}\n  audit: true"), "mode: allowAny"))?;
    let before = last_event(site)?;
    for (to, way) in SHUT {
        ensure!(!is_shut(to, way)?, "{to} is only audited");
    }
    let told = told(site, before, SHUT.len())?;
    ensure!(told.iter().all(|(_, verdict)| verdict == "audited"), "{told:?}");
    Ok(())
}

/// A range of which only services may be reached: an address that nobody claims is refused.
fn claim(site: &Site, inside: Inside) -> Result<()> {
    let unclaimed = "mode: allowAny, refuse: [{cidr: 10.66.0.0/16}]";
    load(site, &policy(site, "mode: allowAny", unclaimed))?;
    let _server = PortServer::start("10.66.0.1:7000")?;
    let address = "10.66.3.3:80".parse()?;
    ensure!(!is_refused(&tcp(address), libc::EACCES), "another document's client");
    drop(inside);
    ensure!(is_refused(&tcp(address), libc::EACCES), "unclaimed");
    TcpStream::connect(FRONTEND).context("a service in the range")?;

    load(site, &policy(site, "mode: allowAny", "mode: allowAny"))?;
    ensure!(!is_refused(&tcp(address), libc::EACCES), "all is allowed");
    let hooks = site.status()?["hooks"].clone();
    let is_send = |hook: &&Value| hook["hook"] == "sendmsg4";
    let send = hooks.as_array().and_then(|all| all.iter().find(is_send)).context("a hook")?;
    assert_eq!(send["state"], "detached", "nothing needs it");
    Ok(())
}

/// What is told of a destination, by the running daemon or of a policy file.
pub(super) fn explained(site: &Site, file: Option<&str>, to: &str, way: Way) -> Result<Value> {
    let protocol = if way as usize == tcp as Way as usize { "tcp" } else { "udp" };
    let (to, cgroup) = (format!("{to}/{protocol}"), site.place().cgroup_path() + "/web");
    let asked = file.into_iter().chain(["--to", &to, "--cgroup", &cgroup]);
    let asked: Vec<&str> = std::iter::once("explain").chain(asked).collect();
    site.json(&asked)
}

#[test]
fn an_explanation_is_what_becomes_of_a_connection() -> Result<()> {
    let site = Site::new()?;
    let file = site.write("policy.yaml", policy(&site, SAID, "mode: allowAny"))?;
    let _daemon = site.run(&["--policy", &file])?;
    in_own_network(|| {
        add_addresses()?;
        let _inside = site.place().enter_child("web")?;
        eventually("the cgroup is found", || is_shut("10.66.0.1:1", tcp))?;
        // Unspecified addresses are none that a frontend could have, and are not asked about.
        let asked = OPEN.iter().chain(&SHUT).filter(|(to, _)| !to.starts_with("0.0.0.0"));
        for (to, way) in asked {
            let live = explained(&site, None, to, *way)?;
            let errno = is_shut(to, *way)?.then_some("ECONNRESET");
            assert_eq!(live["errno"].as_str(), errno, "{to}: {live}");
            assert_eq!(live["egress"]["document"], "default/web");
            let offline = explained(&site, Some(&file), to, *way)?;
            assert_eq!(
                (&live["egress"], &live["verdict"]),
                (&offline["egress"], &offline["verdict"])
            );
        }
        let entry = explained(&site, None, "10.66.1.1:443", tcp)?["egress"].clone();
        assert_eq!((&entry["by"], &entry["verdict"]), (&"refuse".into(), &"refused".into()));
        assert_eq!(entry["value"], r#"{cidr: ["10.66.1.0/24", "fd66::1/128"]}"#);
        let service = explained(&site, None, FRONTEND, tcp)?;
        assert_eq!((&service["egress"], &service["verdict"]), (&Value::Null, &"rewrite".into()));
        load(&site, &policy(&site, &format!("{SAID}\n  audit: true"), "mode: allowAny"))?;
        let told = explained(&site, None, "10.67.0.1:443", tcp)?;
        assert_eq!((&told["verdict"], &told["errno"]), (&"miss".into(), &Value::Null));
        assert_eq!(told["egress"]["verdict"], "audited");
        Ok(())
    })
}

/// A directory that lost its files opens nothing, be it noticed at once or by the next daemon.
#[test]
fn documents_of_lost_files_stay_in_force() -> Result<()> {
    let site = Site::new()?;
    std::fs::create_dir(site.path("policies"))?;
    let text = format!(
        "apiVersion: splitter.dev/v1\nkind: Egress\nmetadata: {{name: web}}\n\
         spec: {{mode: registryOnly, errno: ECONNRESET, clients: [{{cgroup: {}/web}}]}}\n",
        site.place().cgroup_path()
    );
    let file = site.write("policies/web.yaml", text)?;
    let directory = site.path("policies").to_string_lossy().into_owned();
    let told = || {
        let problems = site.problems()?;
        Ok(problems
            .iter()
            .filter_map(Value::as_str)
            .any(|it| it.contains("has no policy files now")))
    };
    in_own_network(|| {
        add_addresses()?;
        let daemon = site.run(&["--policy", &directory])?;
        let _inside = site.place().enter_child("web")?;
        eventually("the cgroup is found", || is_shut("10.66.0.1:1", tcp))?;
        std::fs::remove_file(&file)?;
        eventually("the loss is told", told)?;
        ensure!(is_shut("10.66.0.1:1", tcp)?, "it runs on");
        daemon.kill()?;
        let _next = site.run(&["--policy", &directory])?;
        eventually("the next daemon tells it too", told)?;
        ensure!(is_shut("10.66.0.1:1", tcp)?, "it still runs on");
        std::fs::write(&file, "# nothing any more\n")?;
        eventually("what is taken away on purpose is gone", || Ok(!is_shut("10.66.0.1:1", tcp)?))
    })
}

#[test]
fn a_unit_in_two_places_is_refused_in_both_and_noted() -> Result<()> {
    let site = Site::new()?;
    let unit = format!("egress-{}.service", std::process::id());
    let web = policy(&site, "mode: registryOnly", "mode: allowAny");
    let by_path = format!("clients: [{{cgroup: {}/web}}]", site.place().cgroup_path());
    let by_unit = web.replace(&by_path, &format!("clients: [{{unit: {unit}}}]"));
    let file = site.write("policy.yaml", by_unit)?;
    let daemon = site.run(&["--policy", &file])?;
    let notes = || Ok::<_, anyhow::Error>(site.status()?["egress"][0]["notes"].clone());
    assert_eq!(notes()?, serde_json::json!([format!("the unit {unit} does not exist now")]));
    let other = format!("other.slice/{unit}");
    in_own_network(|| {
        add_addresses()?;
        let address: SocketAddr = "10.66.0.1:1".parse()?;
        let is_refused = || Ok(is_refused(&tcp(address), libc::EACCES));
        ensure!(!is_refused()?, "of another client");
        site.place().enter_path(&unit)?;
        eventually("the unit is found", is_refused)?;
        assert_eq!(notes()?, serde_json::json!([]));
        site.place().enter_path(&other)?;
        eventually("the other one is found", is_refused)?;
        let note = format!("2 cgroups are the unit {unit}: it holds for all of them");
        assert_eq!(notes()?, serde_json::json!([note]));
        site.place().enter_path(&unit)?;
        ensure!(is_refused()?, "the first is refused still");
        site.place().remove_path(&unit)?;
        site.place().remove_path("other.slice")
    })?;
    eventually("both are gone", || {
        let told = site.splitter(&["status"])?.out;
        Ok(told.contains(&format!("note: the unit {unit} does not exist now")))
    })?;
    ensure!(daemon.log().contains(&format!("2 cgroups are the unit {unit}")), "{}", daemon.log());
    Ok(())
}

#[test]
fn names_and_counts_of_rules_outlive_a_daemon() -> Result<()> {
    let site = Site::new()?;
    let file = site.write("policy.yaml", policy(&site, SAID, "mode: allowAny"))?;
    let daemon = site.run(&["--policy", &file])?;
    in_own_network(|| {
        add_addresses()?;
        let _inside = site.place().enter_child("web")?;
        eventually("the cgroup is found", || is_shut("10.66.0.1:1", tcp))?;
        ensure_all_shut()?;
        let refused = || Ok::<_, anyhow::Error>(site.status()?["egress"][0]["refused"].as_u64());
        let before = refused()?.context("a count")?;
        daemon.kill()?;
        ensure!(is_shut("10.67.7.7:7", tcp)?, "without a daemon");
        let _daemon = site.run(&["--policy", &file])?;
        assert_eq!(refused()?, Some(before + 1));
        let told = |event: &Value| event["to"] == "10.67.7.7:7/tcp";
        eventually("what was refused meanwhile is told", || {
            let answer = site.ask(&serde_json::json!({"verb": "events", "after": 0}))?;
            let events = answer["events"].as_array().cloned().unwrap_or_default();
            let Some(event) = events.iter().find(|event| told(event)) else { return Ok(false) };
            assert_eq!(event["rule"], "default/web");
            Ok(true)
        })
    })
}

#[test]
fn documents_are_listed_and_compared_like_services() -> Result<()> {
    let site = Site::new()?;
    let first = policy(&site, SAID, "mode: allowAny");
    let file = site.write("policy.yaml", &first)?;
    let _daemon = site.run(&["--policy", &file])?;
    let table = site.splitter(&["get"])?.success()?;
    ensure!(table.contains("default/rest") && table.contains("mode: registryOnly"), "{table}");
    let running = site.write("running.yaml", site.splitter(&["get", "-o", "yaml"])?.success()?)?;
    site.splitter(&["diff", &file, &running])?.success()?;
    let one = site.json(&["get", "Egress/default/rest"])?;
    assert_eq!(
        (&one["egress"][0]["name"], &one["services"]),
        (&"default/rest".into(), &Value::Array(vec![]))
    );
    let dump = site.json(&["dump"])?["egress"].clone();
    assert_eq!(dump["everyone"]["name"], "default/rest");
    let networks = dump["networks"].as_array().context("networks")?;
    let network = networks.iter().find(|it| it["network"] == "10.66.0.0/16").context("one")?;
    assert_eq!(network["ranges"], serde_json::json!(["allow:443-443/tcp", "allow:8000-8099/tcp"]));
    let next = site.write("next.yaml", policy(&site, SAID, "mode: registryOnly"))?;
    let differs = site.splitter(&["diff", &next])?;
    ensure!(differs.code == Some(1), "{differs:?}");
    ensure!(
        differs.out.contains("~ egress of every client, mode: allowAny -> registryOnly"),
        "{differs:?}"
    );
    Ok(())
}
