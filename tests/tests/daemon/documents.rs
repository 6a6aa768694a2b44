//! Documents of Istio, applied one by one to a running daemon.

use anyhow::{Result, ensure};
use splitter_tests::daemon::{Site, eventually};
use splitter_tests::peers::{PortServer, ask_port};

const DIALLED: &str = "127.10.0.1:8080";

/// A host with one server of each version.
fn registry(v1: u16, v2: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: web, namespace: shop}}
spec:
  hosts: [web.shop.svc.cluster.local]
  addresses: [127.10.0.1]
  ports: [{{number: 8080, name: tcp, protocol: TCP}}]
  resolution: STATIC
  endpoints:
    - {{address: 127.0.0.1, ports: {{tcp: {v1}}}, labels: {{version: v1}}}}
    - {{address: 127.0.0.1, ports: {{tcp: {v2}}}, labels: {{version: v2}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: web, namespace: shop}}
spec:
  host: web
  subsets:
    - {{name: v1, labels: {{version: v1}}}}
    - {{name: v2, labels: {{version: v2}}}}
"
    )
}

/// A step of a roll-out.
fn step(v1: u32, v2: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: shop}}
spec:
  hosts: [web]
  tcp:
    - route:
        - {{destination: {{host: web, subset: v1}}, weight: {v1}}}
        - {{destination: {{host: web, subset: v2}}, weight: {v2}}}
"
    )
}

/// Servers of both versions.
struct Servers([PortServer; 2]);

const V1: u16 = 22_001;
const V2: u16 = 22_002;

impl Servers {
    fn start() -> Result<Self> {
        let start = |port: u16| PortServer::start(&format!("127.0.0.1:{port}"));
        Ok(Self([start(V1)?, start(V2)?]))
    }

    /// Where so many connections go: to v1 and to v2.
    fn count(&self, connections: usize) -> Result<[usize; 2]> {
        let Self([_v1, _v2]) = self;
        let mut seen = [0, 0];
        for _ in 0..connections {
            match ask_port(DIALLED)? {
                V1 => seen[0] += 1,
                V2 => seen[1] += 1,
                port => anyhow::bail!("a connection to port {port}"),
            }
        }
        Ok(seen)
    }
}

#[test]
fn a_rollout_by_virtual_services_outlives_the_daemon() -> Result<()> {
    let (site, servers) = (Site::new()?, Servers::start()?);
    let files = site.write("registry.yaml", registry(V1, V2))?;
    let next = site.write("step.yaml", step(80, 20))?;
    let daemon = site.run(&["--policy", &files])?;
    let changed = site.splitter(&["apply", &next])?.success()?;
    ensure!(changed.contains("kept       VirtualService/shop/web"), "{changed}");
    ensure!(servers.count(20)? == [16, 4], "80 to 20");
    site.write("step.yaml", step(50, 50))?;
    let difference = site.splitter(&["diff", &next])?;
    ensure!(difference.code == Some(1) && difference.out.contains("80 -> 50"), "{difference:?}");
    site.splitter(&["weight", "web", "v1=3", "v2=1"])?.success()?;
    ensure!(servers.count(20)? == [15, 5], "3 to 1");
    daemon.kill()?;
    let daemon = site.run(&["--policy", &files])?;
    ensure!(servers.count(20)? == [15, 5], "3 to 1 by the next daemon");
    site.splitter(&["apply", &next])?.success()?;
    ensure!(servers.count(20)? == [10, 10], "half and half: the step counts");
    daemon.kill()?;
    let _daemon = site.run(&["--policy", &files])?;
    ensure!(servers.count(20)? == [10, 10], "half and half by the next daemon");
    site.splitter(&["apply", "--remove", "VirtualService/shop/web"])?.success()?;
    let native = site.splitter(&["get", "--as", "native", "web"])?.success()?;
    ensure!(native.contains("name: web") && !native.contains("v1: 50"), "{native}");
    let reason = site.splitter(&["apply", "--remove", "ServiceEntry/shop/web"])?.refusal()?;
    ensure!(reason.contains("registry.yaml"), "{reason}");
    Ok(())
}

#[test]
fn what_the_daemon_finds_wrong_is_shown_in_the_text() -> Result<()> {
    let site = Site::new()?;
    let _daemon = site.run(&[])?;
    let lone = site.write("lone.yaml", step(1, 1))?;
    let reason = site.splitter(&["apply", &lone])?.refusal()?;
    ensure!(reason.contains("lone.yaml:5:") && reason.contains("nothing was changed"), "{reason}");
    let files = site.write("registry.yaml", registry(V1, V2))?;
    site.splitter(&["apply", &files, &lone])?.success()?;
    let hosts = site.splitter(&["hosts"])?.success()?;
    ensure!(hosts.contains("127.10.0.1 web.shop.svc.cluster.local"), "{hosts}");
    let hosts = site.json(&["hosts", "--allocated"])?;
    ensure!(hosts.as_array().is_some_and(Vec::is_empty), "{hosts}");
    Ok(())
}

#[test]
fn a_name_of_the_hosts_file_is_followed() -> Result<()> {
    let (site, servers) = (Site::new()?, Servers::start()?);
    let _daemon = site.run(&[])?;
    // What every node resolves without a name server.
    let by_name = registry(V1, V2)
        .replace("resolution: STATIC", "resolution: DNS")
        .replace("address: 127.0.0.1,", "address: localhost,");
    let by_name = site.write("by-name.yaml", by_name)?;
    let next = site.write("step.yaml", step(80, 20))?;
    site.splitter(&["apply", &by_name, &next])?.success()?;
    eventually("the name is resolved", || Ok(site.status()?["dns"]["lookups"] == 1))?;
    eventually("the servers are there", || Ok(ask_port(DIALLED).is_ok()))?;
    ensure!(servers.count(20)?[1] == 4, "80 to 20");
    ensure!(site.problems()?.is_empty(), "{:?}", site.problems()?);
    Ok(())
}
