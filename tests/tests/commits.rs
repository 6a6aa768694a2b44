//! What connections see while policies are committed.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use splitter_tests::node::{Node, compile, parse};
use splitter_tests::peers::UdpClient;
use splitter_tests::scale;
use splitter_user::compile::image::ServiceImage;
use splitter_user::publish::Change;
use splitter_user::tables::{Maps as _, Sizes};

/// Number of different policies that are committed in turn.
const VERSIONS: u16 = 8;
/// How long a burst of connects may take to be compared: `VERSIONS` commits later the same policy
/// comes round again.
const BURST: Duration = Duration::from_millis(VERSIONS as u64 / 2);

/// A service whose every backend port says which version of the policy it belongs to.
fn service(name: &str, frontend: &str, version: u16) -> String {
    let port = 20_000 + version * 100;
    format!(
        "---
apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: {name}}}
spec:
  frontends: ['{frontend}/udp']
  subsets:
    v1: {{backends: ['127.0.0.1:{}', '127.0.0.1:{}']}}
    v2: {{backends: ['127.0.0.1:{}']}}
  routes:
    - split: {{v1: 3, v2: 2}}
",
        port,
        port + 1,
        port + 2
    )
}

/// Which version answered, if the port belongs to one.
fn version_of(port: u16) -> Option<u16> {
    let version = port.checked_sub(20_000)? / 100;
    (version < VERSIONS && port % 100 < 3).then_some(version)
}

fn images(text: &str) -> Result<Vec<Arc<ServiceImage>>> {
    Ok(compile(&parse(text)?)?.into_iter().map(Arc::new).collect())
}

#[test]
fn no_connection_sees_a_mix_of_policies() -> Result<()> {
    let mut node = Node::new()?;
    let policies = (0..VERSIONS)
        .map(|v| images(&(service("a", "127.10.0.1:1", v) + &service("b", "127.10.0.2:1", v))))
        .collect::<Result<Vec<_>>>()?;
    let changes = |v: usize| policies[v].iter().cloned().map(Change::Put).collect::<Vec<_>>();
    node.publisher.publish(changes(0))?;
    let done = Arc::new(AtomicBool::new(false));
    let connects = Arc::new(AtomicU64::new(0));
    let wanted = 1_000_000 / scale();
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (done, connects) = (Arc::clone(&done), Arc::clone(&connects));
            thread::spawn(move || watch_pairs(&done, &connects))
        })
        .collect();
    let mut commits = 0_usize;
    let start = Instant::now();
    while connects.load(Ordering::Relaxed) < wanted
        && !clients.iter().any(thread::JoinHandle::is_finished)
    {
        commits += 1;
        node.publisher.publish(changes(commits % usize::from(VERSIONS)))?;
        let due = start + Duration::from_millis(1) * u32::try_from(commits)?;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    done.store(true, Ordering::Relaxed);
    let mut pairs = 0;
    for client in clients {
        pairs += client.join().expect("the client does not panic")?;
    }
    ensure!(pairs > wanted / 10, "only {pairs} pairs could be compared, with {commits} commits");
    Ok(())
}

/// Connects to both services again and again. Both versions of a pair are equal if the first
/// service shows the same version before and after.
fn watch_pairs(done: &AtomicBool, connects: &AtomicU64) -> Result<u64> {
    let (a, b) = (UdpClient::new("127.10.0.1:1")?, UdpClient::new("127.10.0.2:1")?);
    let seen = |client: &UdpClient| -> Result<u16> {
        let port = client.connect_port()?;
        version_of(port).ok_or_else(|| anyhow::anyhow!("port {port} is of neither policy"))
    };
    let mut pairs = 0;
    while !done.load(Ordering::Relaxed) {
        let start = Instant::now();
        let (before, other, after) = (seen(&a)?, seen(&b)?, seen(&a)?);
        connects.fetch_add(3, Ordering::Relaxed);
        if before == after && start.elapsed() < BURST {
            ensure!(other == before, "versions {before}, {other}, {after}: a policy half changed");
            pairs += 1;
        }
    }
    Ok(pairs)
}

/// So many services, on one frontend each, with all weight on one subset.
fn many(n: u32, live: u16) -> String {
    let mut text = String::new();
    for i in 0..n {
        let _ = write!(text, "{}", one_of_many(i, live));
    }
    text
}

fn one_of_many(i: u32, live: u16) -> String {
    format!(
        "---
apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: s{i}}}
spec:
  frontends: ['127.{}.{}.{}:1/udp']
  datagrams: connected
  subsets: {{v1: {{backends: ['127.0.0.1:19001']}}, v2: {{backends: ['127.0.0.1:19002']}}}}
  routes: [{{split: {{v1: {}, v2: {}}}}}]
",
        64 + i / 65_536,
        i / 256 % 256,
        i % 256,
        u16::from(live == 1),
        u16::from(live == 2),
    )
}

#[test]
fn no_connection_sees_old_weights_after_a_change_among_100_000_services() -> Result<()> {
    let n = u32::try_from(100_000 / scale())?;
    let mut node = Node::with_sizes(Sizes::for_services(n))?;
    node.apply(&many(n, 1))?;
    let done = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = [n / 3, n / 2]
        .into_iter()
        .map(|i| {
            let done = Arc::clone(&done);
            thread::spawn(move || load(i, &done))
        })
        .collect();
    let changing = n / 2;
    let client = UdpClient::new(&frontend(changing))?;
    let versions = [images(&one_of_many(changing, 1))?, images(&one_of_many(changing, 2))?];
    for change in 1..=1_000_usize {
        let live = change % 2;
        node.publisher.publish(versions[live].iter().cloned().map(Change::Put).collect())?;
        for _ in 0..5 {
            assert_eq!(usize::from(client.connect_port()?), 19_001 + live, "after change {change}");
        }
    }
    done.store(true, Ordering::Relaxed);
    for load in loads {
        let connects = load.join().expect("the client does not panic")?;
        assert!(connects > 1_000);
    }
    Ok(())
}

fn frontend(i: u32) -> String {
    format!("127.{}.{}.{}:1", 64 + i / 65_536, i / 256 % 256, i % 256)
}

/// Connects as fast as it can; every connection must go to a backend.
fn load(i: u32, done: &AtomicBool) -> Result<u64> {
    let client = UdpClient::new(&frontend(i))?;
    let mut connects = 0;
    while !done.load(Ordering::Relaxed) {
        let port = client.connect_port()?;
        ensure!((19_001..=19_002).contains(&port), "port {port}");
        connects += 1;
    }
    Ok(connects)
}

#[test]
fn tickets_stand_through_commits_of_other_services_and_through_adoption() -> Result<()> {
    let mut node = Node::new()?;
    node.apply(&(service("a", "127.10.0.1:1", 0) + &service("b", "127.10.0.2:1", 0)))?;
    let client = UdpClient::new("127.10.0.1:1")?;
    let mut v2 = 0_u64;
    for n in 1..=1_000_u64 {
        v2 += u64::from(client.connect_port()? == 20_002);
        assert!((v2 * 5).abs_diff(n * 2) < 5, "{v2} of {n}");
        if n % 10 == 0 {
            let version = u16::try_from(n / 10)? % VERSIONS;
            node.apply(
                &(service("a", "127.10.0.1:1", 0) + &service("b", "127.10.0.2:1", version)),
            )?;
        }
        if n % 100 == 0 {
            let generation = node.publisher.generation();
            node.publisher = splitter_user::publish::Publisher::adopt(node.loaded.maps()?)?;
            assert_eq!(node.publisher.generation(), generation);
        }
    }
    Ok(())
}

#[test]
fn frontends_come_go_and_move_without_a_gap() -> Result<()> {
    let mut node = Node::new()?;
    let moved = |name: &str| service(name, "127.10.0.3:1", 1);
    node.apply(&moved("first"))?;
    let client = UdpClient::new("127.10.0.3:1")?;
    for i in 0..200 {
        node.apply(&moved(if i % 2 == 0 { "second" } else { "first" }))?;
        assert_eq!(version_of(client.connect_port()?), Some(1));
    }
    node.apply("")?;
    assert_eq!(client.connect()?.to_string(), "127.10.0.3:1", "untouched once it is no frontend");
    assert_eq!(node.publisher.maps().frontends()?, []);
    Ok(())
}
