//! Host names in `kind: Egress`, with a name server of the test's own.

use std::fs;
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use serde_json::Value;
use splitter_tests::daemon::{Site, eventually};
use splitter_tests::datagrams::DatagramServer;
use splitter_tests::etc::resolving_by;
use splitter_tests::names::answer_name;
use splitter_tests::net::in_own_network;

use super::egress::{add_addresses, explained, is_refused, tcp, udp_send};

const NAME_SERVER: &str = "127.0.0.53";
/// What the hosts file knows; the rest is up to the name server.
const HOSTS_FILE: &str = "10.66.9.1 both.example.test\nfd66::1 both.example.test\n";

/// What clients of `web` may reach, by name.
fn policy(site: &Site, allowed: &str) -> String {
    let cgroup = site.place().cgroup_path();
    format!(
        "apiVersion: splitter.dev/v1
kind: Egress
metadata: {{name: web}}
spec:
  mode: registryOnly
  errno: ECONNRESET
  clients: [{{cgroup: {cgroup}/web}}]
  allow:
    - {{host: [{allowed}, both.example.test], ports: 443, protocol: tcp}}
    - {{cidr: 10.66.9.0/24}}
  refuse:
    - {{host: both.example.test, ports: 80}}
"
    )
}

fn is_shut(to: &str) -> Result<bool> {
    Ok(is_refused(&tcp(to.parse()?), libc::ECONNRESET))
}

/// The status of the document's host of this name.
fn host(site: &Site, name: &str) -> Result<Value> {
    let status = site.status()?;
    let hosts = status["egress"][0]["hosts"].as_array().cloned().unwrap_or_default();
    Ok(hosts.into_iter().find(|host| host["name"] == name).unwrap_or_default())
}

/// Destinations that are allowed by name, and some beside them.
fn ensure_by_name() -> Result<()> {
    for open in ["10.66.9.1:443", "[fd66::1]:443", "10.66.9.1:81"] {
        ensure!(!is_shut(open)?, "{open} is allowed");
    }
    // A name that is refused comes before the network around its address.
    for shut in ["10.66.9.1:80", "[fd66::1]:80", "[fd66::1]:444", "[fd66::2]:443", "10.66.0.1:80"] {
        ensure!(is_shut(shut)?, "{shut} is refused");
    }
    ensure!(is_refused(&udp_send("[fd66::1]:443".parse()?), libc::ECONNRESET), "by UDP");
    Ok(())
}

/// Both are told to be allowed by the name.
fn ensure_explained(site: &Site) -> Result<()> {
    for by_name in ["10.66.1.1:443", "10.66.0.1:443"] {
        let egress = explained(site, None, by_name, tcp)?["egress"].clone();
        assert_eq!((&egress["by"], &egress["verdict"]), (&"allow".into(), &"allowed".into()));
        ensure!(egress["value"].as_str().is_some_and(|it| it.contains("api.example.test")));
    }
    Ok(())
}

#[test]
fn a_name_is_what_it_resolves_to_and_what_it_lately_did() -> Result<()> {
    let site = Site::new()?;
    let file = site.write("policy.yaml", policy(&site, "API.example.test."))?;
    let follow = || {
        fs::write("/etc/hosts", HOSTS_FILE)?;
        add_addresses()?;
        let answer = Arc::new(Mutex::new([10, 66, 0, 1]));
        let said = Arc::clone(&answer);
        let server = DatagramServer::start(format!("{NAME_SERVER}:53").parse()?, move |asked| {
            answer_name(asked, *said.lock().expect("nobody panics with it"))
        })?;
        let daemon = site.run(&["--policy", &file])?;
        let _inside = site.place().enter_child("web")?;
        eventually("the cgroup is found", || is_shut("10.66.0.1:1"))?;
        eventually("the name is resolved", || Ok(!is_shut("10.66.0.1:443")?))?;
        eventually("the other name is resolved", || Ok(!is_shut("[fd66::1]:443")?))?;
        ensure_by_name()?;
        ensure!(is_shut("10.66.1.1:443")?, "another address");

        *answer.lock().expect("nobody panics with it") = [10, 66, 1, 1];
        eventually("the new answer is taken in", || Ok(!is_shut("10.66.1.1:443")?))?;
        ensure!(!is_shut("10.66.0.1:443")?, "clients may have kept the old one");
        ensure_explained(&site)?;
        let api = host(&site, "api.example.test")?;
        assert_eq!(api["addresses"], serde_json::json!(["10.66.1.1"]));
        assert_eq!(api["left"], serde_json::json!(["10.66.0.1"]));
        let shown = site.splitter(&["status"])?.success()?;
        ensure!(
            shown.contains("api.example.test: 10.66.1.1; in the last hour 10.66.0.1"),
            "{shown}"
        );
        // No answer adds anything any more.
        let generation = site.generation()?;
        *answer.lock().expect("nobody panics with it") = [10, 66, 0, 1];
        eventually("the answer is back", || {
            Ok(host(&site, "api.example.test")?["left"] == serde_json::json!(["10.66.1.1"]))
        })?;
        assert_eq!(site.generation()?, generation);

        daemon.kill()?;
        drop(server);
        go_on(&site, &file)
    };
    in_own_network(|| resolving_by(NAME_SERVER, follow))
}

/// The next daemon, and no name server.
fn go_on(site: &Site, file: &str) -> Result<()> {
    let both_open =
        || -> Result<bool> { Ok(!is_shut("10.66.0.1:443")? && !is_shut("10.66.1.1:443")?) };
    ensure!(both_open()?, "without a daemon");
    let _daemon = site.run(&["--policy", file])?;
    ensure!(both_open()?, "by the next daemon");
    eventually("a lookup fails", || {
        Ok(site.status()?["dns"]["failures"].as_u64().is_some_and(|failures| failures > 0))
    })?;
    ensure!(both_open()?, "after a lookup that failed");
    ensure_by_name()?;
    assert_eq!(host(site, "api.example.test")?["addresses"], serde_json::json!(["10.66.0.1"]));

    site.replace("policy.yaml", policy(site, "never.example.test"))?;
    eventually("a name without an answer is told", || {
        Ok(host(site, "never.example.test")?["unresolved"].is_string())
    })?;
    let problems = site.problems()?;
    let is_told = |problem: &Value| {
        let text = problem.as_str().unwrap_or_default();
        text.contains("never.example.test was never resolved, so it stands for no address")
    };
    ensure!(problems.iter().any(is_told), "{problems:?}");
    ensure!(is_shut("10.66.0.1:443")? && is_shut("10.66.1.1:443")?, "no document names it");
    ensure_by_name()
}
