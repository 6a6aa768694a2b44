//! A directory of two thousand documents of every kind is checked in little memory.
//!
//! `DOCUMENTS`, `WILDCARDS` and `WORKLOADS` make it another number of them, to see how time and
//! memory grow; the limit holds for the default only. Time is printed and not asserted.
#![expect(clippy::print_stdout, reason = "figures are for people")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};

/// Documents of one group, which [`write_group`] writes.
const GROUP: usize = 10;
/// Groups in one file and in one namespace.
const PER_FILE: usize = 10;
/// Most memory, in KiB.
const MOST_KIB: i64 = 100 * 1024;

#[test]
fn thousands_of_documents_are_checked_in_little_memory() {
    let number = |name, default| {
        let text = std::env::var(name).ok();
        text.map_or(default, |text| text.parse::<usize>().expect(name))
    };
    let documents = number("DOCUMENTS", 2_000);
    let groups = documents / GROUP;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let numbers = Numbers {
        groups,
        wildcards: number("WILDCARDS", 10),
        workloads: number("WORKLOADS", groups.min(50)),
    };
    write_all(folder.path(), &numbers);
    let began = Instant::now();
    let program = env!("CARGO_BIN_EXE_splitter");
    let checked = Command::new(program)
        .arg("check")
        .arg(folder.path())
        .stdout(Stdio::piped())
        .output()
        .expect("the program runs");
    let took = began.elapsed();
    let said = String::from_utf8_lossy(&checked.stdout);
    let complaints = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}{complaints}");
    // No other child ran: what children used is what the check used.
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).expect("usage of children").max_rss();
    let last = said.lines().last().unwrap_or_default();
    println!("{documents} documents: {took:?}, {used} KiB: {last}");
    let is_default = documents == 2_000;
    assert!(!is_default || used < MOST_KIB, "{used} KiB of at most {MOST_KIB}");
}

/// How many there are of what.
struct Numbers {
    groups: usize,
    wildcards: usize,
    workloads: usize,
}

fn write_all(folder: &Path, numbers: &Numbers) {
    let mut text = String::new();
    for group in 0..numbers.groups {
        write_group(&mut text, group).expect("text takes everything");
        if group % PER_FILE == PER_FILE - 1 || group + 1 == numbers.groups {
            let file = folder.join(format!("{group:06}.yaml"));
            fs::write(file, &text).expect("writable");
            text.clear();
        }
    }
    for n in 0..numbers.wildcards {
        write_wildcard(&mut text, n).expect("text takes everything");
    }
    for n in 0..numbers.workloads {
        write_workload(&mut text, n, numbers.groups).expect("text takes everything");
    }
    fs::write(folder.join("clients.yaml"), text).expect("writable");
}

/// `127.NET.x.y`, another one for each `n`.
fn ip(net: usize, n: usize) -> String {
    format!("127.{net}.{}.{}", n / 250, n % 250 + 1)
}

/// A service with endpoints and rules, an outside host, a route of the Gateway API and a native
/// service.
fn write_group(text: &mut String, n: usize) -> std::fmt::Result {
    let namespace = format!("team-{}", n / PER_FILE);
    let (vip, outside, native) = (ip(20, n), ip(30, n), ip(40, n));
    let (old, new, far) = (ip(50, n), ip(60, n), ip(70, n));
    writeln!(
        text,
        "apiVersion: v1
kind: Service
metadata: {{name: web-{n}, namespace: {namespace}}}
spec:
  clusterIP: {vip}
  selector: {{app: web-{n}}}
  ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: tcp, port: 90}}]
---"
    )?;
    for (version, address) in [("v1", &old), ("v2", &new)] {
        writeln!(
            text,
            "apiVersion: v1
kind: Pod
metadata:
  name: web-{n}-{version}
  namespace: {namespace}
  labels: {{app: web-{n}, version: {version}}}
spec: {{containers: [{{name: main, ports: [{{containerPort: 8080}}]}}]}}
status: {{phase: Running, podIP: {address}}}
---"
        )?;
    }
    writeln!(
        text,
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-{n}-x
  namespace: {namespace}
  labels: {{kubernetes.io/service-name: web-{n}}}
addressType: IPv4
endpoints:
  - {{addresses: [{old}], targetRef: {{kind: Pod, name: web-{n}-v1}}}}
  - {{addresses: [{new}], targetRef: {{kind: Pod, name: web-{n}-v2}}}}
ports: [{{name: http, port: 8080}}, {{name: tcp, port: 90}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: web-{n}, namespace: {namespace}}}
spec:
  host: web-{n}
  subsets:
    - {{name: v1, labels: {{version: v1}}}}
    - {{name: v2, labels: {{version: v2}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web-{n}, namespace: {namespace}}}
spec:
  hosts: [web-{n}]
  http:
    - match: [{{sourceLabels: {{version: canary}}}}]
      route: [{{destination: {{host: web-{n}, subset: v2}}}}]
    - route:
        - {{destination: {{host: web-{n}, subset: v1}}, weight: 90}}
        - {{destination: {{host: web-{n}, subset: v2}}, weight: 10}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: far-{n}, namespace: {namespace}}}
spec:
  hosts: [far-{n}.example.com]
  addresses: [{outside}]
  ports: [{{number: 443, name: tls, protocol: TLS}}]
  resolution: STATIC
  endpoints: [{{address: {far}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: tcp-{n}, namespace: {namespace}}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: web-{n}, port: 90}}]
  rules:
    - backendRefs: [{{name: web-{n}, port: 90}}, {{name: web-{n}, port: 80}}]
---
apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: native-{n}}}
spec:
  frontends: [\"{native}:80\"]
  subsets:
    v1: {{backends: [\"{old}:9000\"]}}
    v2: {{backends: [\"{new}:9000\"]}}
  split: {{v1: 1, v2: 1}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: ns-{n}}}
---"
    )
}

/// Rules of a team for outside hosts whose names end alike.
fn write_wildcard(text: &mut String, n: usize) -> std::fmt::Result {
    writeln!(
        text,
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: wide-{n}, namespace: team-{n}}}
spec:
  host: \"*.w{n}.example.com\"
  trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: wide-{n}, namespace: team-{n}}}
spec:
  hosts: [a.w{n}.example.com]
  addresses: [{}]
  ports: [{{number: 443, name: tls, protocol: TLS}}]
  resolution: STATIC
  endpoints: [{{address: {}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: wide-{n}, namespace: team-{n}}}
spec:
  hosts: [\"*.w{n}.example.com\"]
  tcp: [{{route: [{{destination: {{host: a.w{n}.example.com}}}}]}}]
---",
        ip(80, n),
        ip(90, n)
    )
}

fn write_workload(text: &mut String, n: usize, groups: usize) -> std::fmt::Result {
    // At most 16 cgroups of one service have a route of their own.
    let version = if n < 8 { "canary" } else { "stable" };
    writeln!(
        text,
        "apiVersion: splitter.dev/v1
kind: Workload
metadata: {{name: client-{n}, namespace: team-{}}}
spec: {{cgroup: /teams/client-{n}, labels: {{app: client-{n}, version: {version}}}}}
---",
        n % (groups / PER_FILE).max(1)
    )
}
