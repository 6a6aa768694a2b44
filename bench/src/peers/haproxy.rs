//! HAProxy in TCP mode: one thread, a listener per service, weighted round robin.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddrV4;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use splitter_user::policy::model::Service;

use super::daemon::Daemon;
use super::shares::{frontend, shares};
use super::{Ground, Missing, Peer, Running, directory, find_program, place_of_clients, text_of};

/// What the manual allows.
const MOST_WEIGHT: u32 = 256;
const INSTALL: &str = "apt-get install haproxy";
/// Name of the control socket in the daemon's directory.
const SOCKET: &str = "control";

/// HAProxy in TCP mode.
#[derive(Clone, Copy, Debug)]
pub struct Haproxy;

impl Peer for Haproxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn missing(&self) -> Option<Missing> {
        Missing::program("haproxy", INSTALL)
    }

    fn start(&self, ground: &Rc<Ground>, services: &[Service]) -> Result<Running> {
        let directory = directory()?;
        let path = directory.path().join("haproxy.cfg");
        let socket = directory.path().join(SOCKET);
        fs::write(&path, config(services, &socket)?).context("write HAProxy's configuration")?;
        let listens: Result<Vec<SocketAddrV4>> = services.iter().map(frontend).collect();
        let (listens, program) = (listens?, find_program("haproxy").context("find haproxy")?);
        // -db: one process, in the foreground.
        let arguments = ["-db", "-f", text_of(&path)?];
        let daemon = Daemon::start(&ground.network, directory, &program, &arguments, &listens)?;
        let dial = *listens.first().context("a comparison needs a service")?;
        let pid = daemon.pid();
        let running = Running::new(self.name(), ground, place_of_clients()?, dial.into(), daemon);
        Ok(running.with_pid(pid).with_control(socket))
    }
}

/// The configuration: a listener `sN` per service with servers `b0`, `b1`, ...
pub fn config(services: &[Service], socket: &Path) -> Result<String> {
    let socket = text_of(socket)?;
    let mut text = format!(
        "global
    nbthread 1
    maxconn 2000
    stats socket {socket} mode 600 level admin
defaults
    mode tcp
    balance roundrobin
    timeout connect 5s
    timeout client 1m
    timeout server 1m
"
    );
    for (number, service) in services.iter().enumerate() {
        writeln!(text, "listen s{number}\n    bind {}", frontend(service)?)?;
        for (number, share) in shares(service)?.iter().enumerate() {
            let weight = share.weight;
            ensure!(weight <= MOST_WEIGHT, "HAProxy takes weights up to {MOST_WEIGHT}");
            writeln!(text, "    server b{number} {} weight {weight}", share.addr)?;
        }
    }
    Ok(text)
}

/// The command that changes a weight at run time, given the places of the service and its backend.
pub fn set_weight(service: usize, backend: usize, weight: u32) -> String {
    format!("set weight s{service}/b{backend} {weight}")
}

/// Gives a running HAProxy a command, over its [control socket](Running::control), and answers
/// what it says.
pub fn tell(socket: &PathBuf, command: &str) -> Result<String> {
    let talk = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        writeln!(stream, "{command}")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    talk().with_context(|| format!("tell HAProxy to {command}"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::service;
    use super::*;

    #[test]
    fn services_are_listeners_and_backends_servers() {
        let service = service("127.10.0.1:8080", "90: 1 / 10: 2 3");
        let text = config(&[service], Path::new("/x/control")).unwrap();
        let end = "listen s0
    bind 127.10.0.1:8080
    server b0 127.0.0.1:1 weight 18
    server b1 127.0.0.1:2 weight 1
    server b2 127.0.0.1:3 weight 1
";
        assert!(text.ends_with(end), "{text}");
        assert!(text.contains("stats socket /x/control mode 600"));
    }

    #[test]
    fn weights_beyond_its_range_are_refused() {
        let service = service("127.10.0.1:8080", "257: 1 / 2: 2");
        assert!(config(&[service], Path::new("/x")).is_err());
    }
}
