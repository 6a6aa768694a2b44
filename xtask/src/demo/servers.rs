//! The two versions of the service: real HTTP servers that count what they serve.

use std::cell::Cell;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::place::{Place, Role};
use crate::exec;

/// Names of the versions, which are the subsets of the policies.
pub(super) const VERSIONS: [&str; 2] = ["v1", "v2"];
/// Where they listen, which are the backends of the policies.
pub(super) const ADDRESSES: [&str; 2] = ["127.0.0.1:9001", "127.0.0.1:9002"];
/// Where they complain, below the demo's directory.
const LOG: &str = "nginx.log";
/// Tries, 50 ms apart, before a server that does not answer is given up.
const TRIES: u32 = 100;

/// What a server served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Served {
    /// Connections that it accepted.
    pub(super) connections: u64,
    /// Requests that it answered.
    pub(super) requests: u64,
}

impl Served {
    /// What was served since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            connections: self.connections - earlier.connections,
            requests: self.requests - earlier.requests,
        }
    }
}

/// Both versions. Their processes end with the demo's cgroup.
pub(super) struct Servers {
    place: Place,
    /// What both had served before the demo began.
    before: [Served; 2],
    /// How often both were asked for their counts since: they count that, too.
    asked: Cell<u64>,
}

impl Servers {
    /// Starts both and waits until they answer.
    pub(super) fn start(place: &Place) -> Result<Self> {
        let mut processes = Vec::new();
        for (version, address) in VERSIONS.iter().zip(ADDRESSES) {
            processes.push(start(place, version, address)?);
        }
        for _ in 0..TRIES {
            if let Ok(before) = ask(place) {
                return Ok(Self { place: place.clone(), before, asked: Cell::new(0) });
            }
            for process in &mut processes {
                if let Some(status) = process.try_wait().context("look after nginx")? {
                    bail!("nginx ended: {status}; it said:\n{}", said(place));
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the servers do not answer; they said:\n{}", said(place))
    }

    /// What both served, apart from questions like this one.
    pub(super) fn counts(&self) -> Result<[Served; 2]> {
        let counts = ask(&self.place)?;
        self.asked.set(self.asked.get() + 1);
        let own = Served { connections: self.asked.get(), requests: self.asked.get() };
        let served = |i: usize| counts[i].since(self.before[i]).since(own);
        Ok([served(0), served(1)])
    }
}

/// One program asks both, one right after the other, so that their counts fit together.
fn ask(place: &Place) -> Result<[Served; 2]> {
    let [first, second] = ADDRESSES.map(|address| format!("http://{address}/counts"));
    let words = ["curl", "--silent", "--show-error", "--fail", "--max-time", "5", &first, &second];
    let text = exec::output(&mut place.command(Role::Beside, &words))?;
    match parse_counts(&text)[..] {
        [first, second] => Ok([first, second]),
        _ => bail!("no counts of two servers in:\n{text}"),
    }
}

fn said(place: &Place) -> String {
    fs::read_to_string(place.dir().join(LOG)).unwrap_or_default()
}

fn start(place: &Place, version: &str, address: &str) -> Result<Child> {
    let path = place.dir().join(format!("{version}.conf"));
    let config = config(place.dir(), version, address);
    fs::write(&path, config).with_context(|| format!("write {}", path.display()))?;
    let mut command =
        place.command(Role::Beside, &["nginx", "-c", &path.to_string_lossy(), "-e", "stderr"]);
    let log = fs::File::options().create(true).append(true).open(place.dir().join(LOG));
    command.process_group(0).stdin(Stdio::null()).stderr(log.context("make nginx's log")?);
    command.spawn().context("start nginx")
}

/// One process that answers every request with its version. Connections are kept as long as
/// clients like, so that a kept connection is one connection.
fn config(dir: &Path, version: &str, address: &str) -> String {
    let scratch = dir.join(version);
    let scratch = scratch.display();
    format!(
        "daemon off;
master_process off;
pid {scratch}.pid;
error_log stderr;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {scratch};
    proxy_temp_path {scratch};
    fastcgi_temp_path {scratch};
    uwsgi_temp_path {scratch};
    scgi_temp_path {scratch};
    server {{
        listen {address} backlog=8192;
        default_type application/json;
        location / {{
            return 200 '{{\"service\": \"purchase-history\", \"version\": \"{version}\"}}\\n';
        }}
        location = /counts {{ stub_status; }}
    }}
}}
"
    )
}

/// Reads the lines of `stub_status` that consist of three numbers: accepted, handled, requests.
fn parse_counts(text: &str) -> Vec<Served> {
    let counts = text.lines().filter_map(|line| {
        let numbers: Option<Vec<u64>> =
            line.split_whitespace().map(|word| word.parse().ok()).collect();
        match numbers?[..] {
            [connections, _handled, requests] => Some(Served { connections, requests }),
            _ => None,
        }
    });
    counts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_status_pages() {
        let page = "Active connections: 1 \nserver accepts handled requests\n 3 3 5 \n\
                    Reading: 0 Writing: 1 Waiting: 0 \n";
        let served = Served { connections: 3, requests: 5 };
        assert_eq!(parse_counts(&format!("{page}{page}")), [served, served]);
    }
}
