//! nginx: as a peer that proxies TCP by smooth weighted round robin, and as an HTTP backend.
//!
//! One process without workers in either part, so that killing it ends all of it.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use splitter_user::policy::model::Service;

use super::daemon::Daemon;
use super::shares::{frontend, shares};
use super::{Ground, Missing, Peer, Running, directory, find_program, place_of_clients, text_of};
use crate::arm::Network;

const INSTALL: &str = "apt-get install nginx libnginx-mod-stream";
/// Where Debian has the module; elsewhere it is compiled in.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// What an HTTP backend answers.
const BODY: &str = "0123456789012345678901234567890123456789012345678901234567890123";

/// nginx's stream proxy.
#[derive(Clone, Copy, Debug)]
pub struct Nginx;

impl Peer for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn missing(&self) -> Option<Missing> {
        missing().or_else(|| {
            let is_there = Path::new(MODULE).is_file();
            (!is_there)
                .then(|| Missing { what: "nginx's stream module".to_owned(), install: INSTALL })
        })
    }

    fn start(&self, ground: &Rc<Ground>, services: &[Service]) -> Result<Running> {
        let listens: Result<Vec<SocketAddrV4>> = services.iter().map(frontend).collect();
        let listens = listens?;
        let dial = *listens.first().context("a comparison needs a service")?;
        let daemon = start(&ground.network, &config(services)?, &listens, None)?;
        let pid = daemon.pid();
        let running = Running::new(self.name(), ground, place_of_clients()?, dial.into(), daemon);
        Ok(running.with_pid(pid))
    }
}

/// Whether there is no nginx, as peer or as HTTP backend.
pub fn missing() -> Option<Missing> {
    Missing::program("nginx", INSTALL)
}

/// The proxy's configuration: an upstream and a server per service.
pub fn config(services: &[Service]) -> Result<String> {
    let mut text = format!("load_module {MODULE};\n{}", common(services.len()));
    text.push_str("stream {\n");
    for (number, service) in services.iter().enumerate() {
        writeln!(text, "    upstream s{number} {{")?;
        for share in shares(service)? {
            writeln!(text, "        server {} weight={};", share.addr, share.weight)?;
        }
        let listen = frontend(service)?;
        writeln!(
            text,
            "    }}\n    server {{ listen {listen} backlog=4096; proxy_pass s{number}; }}"
        )?;
    }
    text.push_str("}\n");
    Ok(text)
}

/// Starts HTTP backends that answer 64 bytes, on the CPU for servers.
pub(super) fn serve_http(network: &Network, listens: &[SocketAddrV4]) -> Result<Daemon> {
    start(network, &http_config(listens), listens, Some(crate::load::SERVER_CPU))
}

fn http_config(listens: &[SocketAddrV4]) -> String {
    let listens: Vec<String> =
        listens.iter().map(|addr| format!("        listen {addr} backlog=4096;\n")).collect();
    format!(
        "{}http {{
    access_log off;
    keepalive_requests 1000000000;
    server {{
{}        location / {{ return 200 {BODY}; }}
    }}
}}
",
        common(listens.len()),
        listens.concat()
    )
}

/// Paths are relative to the directory that nginx runs in. Listeners count as connections.
fn common(listeners: usize) -> String {
    let connections = 2_048 + listeners;
    let files = connections + 1_024;
    format!(
        "daemon off;
master_process off;
pid nginx.pid;
error_log stderr error;
worker_rlimit_nofile {files};
events {{ worker_connections {connections}; }}
"
    )
}

fn start(
    network: &Network,
    config: &str,
    listens: &[SocketAddrV4],
    cpu: Option<usize>,
) -> Result<Daemon> {
    let directory = directory()?;
    let path = directory.path().join("nginx.conf");
    // Without a master process, nginx does not bind itself to a CPU: whoever starts it has to.
    fs::write(&path, config).context("write nginx's configuration")?;
    let prefix = text_of(directory.path())?.to_owned();
    let program = find_program("nginx").context("find nginx")?;
    let arguments = ["-p", &prefix, "-e", "stderr", "-c", text_of(&path)?];
    let daemon = Daemon::start(network, directory, &program, &arguments, listens)?;
    if let Some(cpu) = cpu {
        crate::load::pin_process(daemon.pid(), cpu)?;
    }
    Ok(daemon)
}

#[cfg(test)]
mod tests {
    use super::super::tests::service;
    use super::*;

    #[test]
    fn services_are_upstreams_and_servers() {
        let service = service("127.10.0.1:8080", "90: 1 / 10: 2");
        let text = config(&[service]).unwrap();
        let end = "stream {
    upstream s0 {
        server 127.0.0.1:1 weight=9;
        server 127.0.0.1:2 weight=1;
    }
    server { listen 127.10.0.1:8080 backlog=4096; proxy_pass s0; }
}
";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn one_server_listens_for_all_http_backends() {
        let text = http_config(&["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()]);
        assert!(text.contains("listen 127.0.0.1:1 backlog=4096;\n        listen 127.0.0.1:2 "));
        assert!(!text.contains("load_module"));
    }
}
