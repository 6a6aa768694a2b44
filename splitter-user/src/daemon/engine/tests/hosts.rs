//! Host names of egress documents, whose answers come and go.

use std::time::Duration;

use super::*;
use crate::compile::egress::host_key;
use crate::daemon::resolver::Answers;

/// Two names, of which a service has one too.
const POLICY: &str = "\
apiVersion: splitter.dev/v1
kind: Egress
metadata: {name: web}
spec:
  mode: registryOnly
  refuse: [{host: bad.example.com}]
  allow: [{host: [Far.example.com., bad.example.com], ports: 443, protocol: tcp}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out}
spec:
  hosts: [out.example.com]
  endpoints: [{address: far.example.com}]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
";
const FAR: &str = "far.example.com";

fn answers(name: &str, addresses: &[&str]) -> Answers {
    [(name.to_owned(), addresses.iter().map(|ip| ip.parse().unwrap()).collect())].into()
}

impl Bench {
    fn answer(&mut self, addresses: &[&str]) {
        self.engine.set_answers(&answers(FAR, addresses)).unwrap();
    }

    /// What the first document's second name stands for, as the status has it.
    fn far(&self) -> HostStatus {
        let (_, _, hosts, _) = self.engine.egress().next().unwrap();
        hosts.into_iter().find(|host| host.name == FAR).unwrap()
    }

    /// Whether the kernel has been told of an address.
    fn is_told(&self, ip: &str) -> bool {
        let image = self.engine.egress.in_force.as_ref().unwrap();
        image.networks.contains_key(&host_key(0, ip.parse().unwrap()))
    }

    fn generation(&self) -> u64 {
        self.engine.publisher().generation()
    }
}

fn shown(addresses: &[std::net::IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn answers_become_networks_by_a_commit_only_where_they_add_something() {
    let mut bench = bench();
    bench.reload(&sources(POLICY)).unwrap();
    assert_eq!(bench.engine.documents().lookups, ["bad.example.com", FAR], "each once");
    assert_eq!((bench.generation(), bench.far().addresses.len()), (1, 0));
    bench.answer(&["10.0.0.1", "fd00::1"]);
    assert_eq!(bench.generation(), 2, "with the service, by one commit");
    assert!(bench.is_told("10.0.0.1") && bench.is_told("fd00::1"));
    // Without the service, of which each answer is a change.
    let alone = POLICY.split("---\n").next().unwrap();
    bench.reload(&sources(alone)).unwrap();
    let first = bench.generation();
    bench.answer(&["10.0.0.1", "fd00::1"]);
    assert_eq!(bench.generation(), first, "nothing is new");
    bench.answer(&["10.0.0.2"]);
    assert_eq!(bench.generation(), first + 1);
    bench.answer(&["fd00::1"]);
    assert_eq!(bench.generation(), first + 1, "both were allowed all the time");
    let HostStatus { addresses, left, left_out, .. } = bench.far();
    assert_eq!((shown(&addresses), left_out.len()), (vec!["fd00::1".to_owned()], 0));
    let mut left = shown(&left);
    left.sort();
    assert_eq!(left, ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn addresses_that_left_go_after_their_time() {
    let mut bench = bench();
    bench.reload(&sources(POLICY)).unwrap();
    bench.answer(&["10.0.0.1"]);
    bench.answer(&["10.0.0.2"]);
    assert!(bench.engine.has_left_hosts());
    let before = bench.generation();
    bench.engine.forget_left_hosts(Instant::now()).unwrap();
    assert_eq!(bench.generation(), before, "not yet");
    bench.engine.forget_left_hosts(Instant::now() + Duration::from_hours(1)).unwrap();
    assert_eq!(bench.generation(), before + 1);
    assert!(!bench.is_told("10.0.0.1") && bench.is_told("10.0.0.2"));
    assert!(!bench.engine.has_left_hosts());
    // And are not found again.
    let mut second = bench.restart();
    second.reload(&sources(POLICY)).unwrap();
    assert!(!second.is_told("10.0.0.1") && second.is_told("10.0.0.2"));
}

#[test]
fn the_next_daemon_begins_with_what_names_stood_for() {
    let mut first = bench();
    first.reload(&sources(POLICY)).unwrap();
    first.answer(&["10.0.0.1"]);
    first.answer(&["10.0.0.2"]);
    let mut second = first.restart();
    // A policy that is wrong at first does not lose it.
    second.engine.forget_left_hosts(Instant::now()).unwrap();
    second.reload(&sources(POLICY)).unwrap();
    assert_eq!(shown(&second.far().addresses), ["10.0.0.2"]);
    assert_eq!(shown(&second.far().left), ["10.0.0.1"]);
}

#[test]
fn answers_that_services_cannot_take_are_taken_all_the_same() {
    let sizes = Sizes { backends: 8, ..Sizes::for_services(16) };
    let mut bench = bench_with(sizes, tempfile::tempdir().unwrap());
    bench.reload(&sources(POLICY)).unwrap();
    bench.answer(&["10.0.0.1"]);
    let many: Vec<String> = (1..40).map(|n| format!("10.0.0.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let error = bench.engine.set_answers(&answers(FAR, &many)).unwrap_err();
    assert!(matches!(error, ChangeError::Full { .. }), "{error}");
    assert_eq!(bench.engine.documents().answers, answers(FAR, &["10.0.0.1"]), "of the service");
    assert!(bench.is_told("10.0.0.39"));
    let mut second = bench.restart_with(sizes);
    second.reload(&sources(POLICY)).unwrap();
    assert!(second.is_told("10.0.0.39"), "the next daemon knows too");
}

#[test]
fn what_there_is_no_room_for_is_told() {
    let mut bench = bench();
    let ports: Vec<String> = (1..=16).map(|port| port.to_string()).collect();
    let around = format!("{{cidr: 10.0.0.0/8, ports: [{}]}}", ports.join(", "));
    let policy = format!(
        "apiVersion: splitter.dev/v1\nkind: Egress\nmetadata: {{name: web}}\nspec: {{mode: \
         registryOnly, allow: [{{host: {FAR}, ports: 443}}, {around}]}}\n"
    );
    bench.reload(&sources(&policy)).unwrap();
    assert!(bench.engine.host_problems().is_empty());
    bench.answer(&["10.0.0.1", "192.0.2.1"]);
    assert!(!bench.is_told("10.0.0.1") && bench.is_told("192.0.2.1"));
    assert_eq!(shown(&bench.far().left_out), ["10.0.0.1"]);
    assert_eq!(shown(&bench.far().addresses), ["192.0.2.1"]);
    let problems = bench.engine.host_problems();
    assert!(problems[0].starts_with("1 address of the host far.example.com is left out of the"));
    // A policy with room takes it in.
    bench.reload(&sources(&policy.replace("1, 2, 3, ", "1-3, "))).unwrap();
    assert!(bench.is_told("10.0.0.1") && bench.engine.host_problems().is_empty());
}
