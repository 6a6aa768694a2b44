//! Weights that are shifted by command, under load and among many services.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Result, ensure};
use splitter_tests::daemon::{Site, eventually};
use splitter_tests::peers::UdpClient;
use splitter_tests::scale;

fn frontend(i: u64) -> String {
    format!("127.{}.{}.{}:1", 64 + i / 65_536, i / 256 % 256, i % 256)
}

fn many(n: u64) -> String {
    let mut text = String::new();
    for i in 0..n {
        let _ = write!(
            text,
            "---
apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: s{i}}}
spec:
  frontends: ['{}/udp']
  datagrams: connected
  subsets: {{v1: {{backends: ['127.0.0.1:19001']}}, v2: {{backends: ['127.0.0.1:19002']}}}}
  routes: [{{split: {{v1: 1, v2: 0}}}}]
",
            frontend(i)
        );
    }
    text
}

/// How far the changes are. Change `n` sends everybody to the port that [`live_port`] names.
#[derive(Default)]
struct Progress {
    /// The last change whose command was started; the largest number at the end.
    begun: AtomicUsize,
    /// The last change whose command returned.
    ended: AtomicUsize,
    /// Connections between two changes, by all clients.
    compared: AtomicUsize,
}

fn live_port(change: usize) -> u16 {
    if change.is_multiple_of(2) { 19_001 } else { 19_002 }
}

/// Connects until the end. Between two changes there is only one right answer.
fn watch(frontend: &str, progress: &Progress) -> Result<()> {
    let client = UdpClient::new(frontend)?;
    loop {
        let before = progress.ended.load(Ordering::SeqCst);
        let port = client.connect_port()?;
        let after = progress.begun.load(Ordering::SeqCst);
        ensure!((19_001..=19_002).contains(&port), "port {port}");
        if before == after {
            ensure!(port == live_port(before), "port {port} after change {before}");
            progress.compared.fetch_add(1, Ordering::Relaxed);
        }
        if after == usize::MAX {
            return Ok(());
        }
    }
}

#[test]
fn connections_after_the_command_never_see_old_weights() -> Result<()> {
    let n = (100_000 / scale()).max(100);
    let changes = usize::try_from((200 / scale()).max(20))?;
    let site = Site::new()?;
    let policy = site.write("policy.yaml", many(n))?;
    let _daemon = site.run(&["--policy", &policy, "--max-services", &n.to_string()])?;
    let (progress, changing) = (Progress::default(), n / 2);
    thread::scope(|threads| {
        let clients = [0, 1].map(|_| threads.spawn(|| watch(&frontend(changing), &progress)));
        let compare = || {
            let wanted = progress.compared.load(Ordering::Relaxed) + 10;
            eventually("clients compare", || {
                ensure!(!clients.iter().any(ScopedJoinHandle::is_finished), "a client failed");
                Ok(progress.compared.load(Ordering::Relaxed) >= wanted)
            })
        };
        let result = (1..=changes).try_for_each(|n| {
            change(&site, changing, n, &progress)?;
            compare()
        });
        progress.begun.store(usize::MAX, Ordering::SeqCst);
        for client in clients {
            client.join().expect("the client does not panic")?;
        }
        result
    })?;
    assert_eq!(UdpClient::new(&frontend(changing - 1))?.connect_port()?, 19_001, "a neighbour");
    Ok(())
}

/// Makes one change by command, and connects at once.
fn change(site: &Site, service: u64, change: usize, progress: &Progress) -> Result<()> {
    let client = UdpClient::new(&frontend(service))?;
    let weights = if change % 2 == 1 { ["v1=0", "v2=7"] } else { ["v1=7", "v2=0"] };
    progress.begun.store(change, Ordering::SeqCst);
    site.splitter(&["weight", &format!("s{service}"), weights[0], weights[1]])?.success()?;
    for _ in 0..5 {
        assert_eq!(client.connect_port()?, live_port(change), "after change {change}");
    }
    progress.ended.store(change, Ordering::SeqCst);
    Ok(())
}
