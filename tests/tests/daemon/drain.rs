//! What becomes of established connections when weights and backends change, and draining by command.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use splitter_tests::daemon::{Site, eventually};
use splitter_tests::net::{Inhabitant, in_own_network};
use splitter_tests::scale;

use crate::sweep::{Pair, closed};

const FRONTEND: &str = "127.10.0.1:8080";
const V1: [&str; 2] = ["127.0.0.1:19001", "127.0.0.2:19001"];
const V2: &str = "127.0.0.1:19002";

/// A service of two versions that asks for something; the first has one or two backends.
fn policy(asked: &str, n_first: usize, weights: &str) -> String {
    format!(
        "apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: web, namespace: shop}}
spec:
  frontends: ['{FRONTEND}']
  {asked}
  subsets:
    v1: {{backends: {:?}}}
    v2: {{backends: ['{V2}']}}
  routes:
    - {{name: all, split: {{{weights}}}}}
",
        &V1[..n_first]
    )
}

/// Listeners at all backends.
struct Servers(Vec<TcpListener>);

impl Servers {
    fn new() -> Result<Self> {
        let listen = |addr: &&str| TcpListener::bind(addr).with_context(|| format!("bind {addr}"));
        Ok(Self([V1[0], V1[1], V2].iter().map(listen).collect::<Result<_>>()?))
    }

    /// Connects to the frontend. Answers which backend that was, by its place.
    fn connect(&self) -> Result<(usize, Pair)> {
        let client = TcpStream::connect(FRONTEND)?;
        let peer = client.peer_addr()?;
        let at = self.0.iter().position(|it| it.local_addr().is_ok_and(|addr| addr == peer));
        let at = at.with_context(|| format!("{peer} is no backend"))?;
        let server = self.0[at].accept()?.0;
        client.set_nonblocking(true)?;
        Ok((at, Pair(client, server)))
    }

    /// So many connections, by their backends.
    fn connect_times(&self, n: usize) -> Result<[Vec<Pair>; 3]> {
        let mut pairs = [const { Vec::new() }; 3];
        for _ in 0..n {
            let (at, pair) = self.connect()?;
            pairs[at].push(pair);
        }
        Ok(pairs)
    }

    /// A connection to the last backend that was not split.
    fn direct(&self) -> Result<Pair> {
        Pair::new(&self.0[2], V2)
    }

    /// Where many new connections go: how many to each backend.
    fn shares(&self, n: usize) -> Result<[usize; 3]> {
        Ok(self.connect_times(n)?.map(|pairs| pairs.len()))
    }
}

fn all_end(what: &str, pairs: &mut [Pair]) -> Result<()> {
    for pair in pairs {
        eventually(what, || pair.is_aborted())?;
    }
    Ok(())
}

fn all_talk(pairs: &mut [Pair]) -> Result<()> {
    pairs.iter_mut().try_for_each(Pair::talk)
}

/// What drains, as `status` has it.
fn draining(site: &Site) -> Result<Vec<Value>> {
    Ok(site.status()?["draining"].as_array().context("what drains")?.clone())
}

#[test]
fn connections_of_a_removed_backend_end_at_the_deadline() -> Result<()> {
    let site = Site::new()?;
    let servers = Servers::new()?;
    let asked = "oldConnections: {drain: {deadline: 2s}}";
    let path = site.write("policy.yaml", policy(asked, 2, "v1: 1, v2: 1"))?;
    let daemon = site.run(&["--policy", &path])?;
    let [mut first, mut second, mut other] = servers.connect_times(8)?;
    assert_eq!([first.len(), second.len(), other.len()], [2, 2, 4]);
    let mut direct = Pair::new(&servers.0[1], V1[1])?;
    let start = Instant::now();
    site.replace("policy.yaml", policy(asked, 1, "v1: 1, v2: 1"))?;
    eventually("it drains", || Ok(!draining(&site)?.is_empty()))?;
    let told = draining(&site)?;
    assert_eq!(told.len(), 1, "{told:?}");
    let of = |key: &str| told[0][key].clone();
    assert_eq!([of("service"), of("subset"), of("backend")], ["shop/web", "v1", V1[1]]);
    assert_eq!((of("connections"), of("by")), (2.into(), "policy".into()));
    ensure!(of("for_ms").as_u64().is_some_and(|ms| ms <= 2_000), "{told:?}");
    all_end("those of the backend end", &mut second)?;
    ensure!(start.elapsed() >= Duration::from_secs(2), "not before the deadline");
    eventually("nothing drains", || Ok(draining(&site)?.is_empty()))?;
    eventually("they are counted", || Ok(closed(&site, "closed_drained")? == 2))?;
    all_talk(&mut first)?;
    all_talk(&mut other)?;
    direct.talk().context("a connection that was not split lives")?;
    let log = daemon.terminate()?;
    ensure!(log.contains("connections are to end") && log.contains("drained=2"), "{log}");
    Ok(())
}

#[test]
fn connections_of_a_subset_without_weight_end_unless_it_gets_one_again() -> Result<()> {
    let site = Site::new()?;
    let servers = Servers::new()?;
    let asked = |time: &str| format!("oldConnections: {{drain: {{deadline: {time}}}}}");
    let path = site.write("policy.yaml", policy(&asked("1h"), 1, "v1: 1, v2: 1"))?;
    let _daemon = site.run(&["--policy", &path])?;
    let [mut stay, _, mut go] = servers.connect_times(6)?;
    let mut direct = servers.direct()?;
    site.splitter(&["weight", "shop/web", "v2=0"])?.success()?;
    let told = draining(&site)?;
    assert_eq!((told.len(), told[0]["connections"].as_u64()), (1, Some(3)), "{told:?}");
    site.splitter(&["weight", "shop/web", "v2=1"])?.success()?;
    ensure!(draining(&site)?.is_empty(), "it is back");
    site.replace("policy.yaml", policy(&asked("1s"), 1, "v1: 1, v2: 0"))?;
    all_end("those without weight end", &mut go)?;
    all_talk(&mut stay)?;
    direct.talk()?;
    assert_eq!(closed(&site, "closed_idle")?, 0);
    Ok(())
}

#[test]
fn a_subset_without_weight_is_drained_after_a_restart_too() -> Result<()> {
    let site = Site::new()?;
    let servers = Servers::new()?;
    let asked = |time: &str| format!("oldConnections: {{drain: {{deadline: {time}}}}}");
    let path = site.write("policy.yaml", policy(&asked("1h"), 1, "v1: 1, v2: 1"))?;
    let daemon = site.run(&["--policy", &path])?;
    let [mut stay, _, mut go] = servers.connect_times(4)?;
    site.splitter(&["weight", "shop/web", "v2=0"])?.success()?;
    daemon.kill()?;
    site.write("policy.yaml", policy(&asked("1s"), 1, "v1: 1, v2: 0"))?;
    let start = Instant::now();
    let _daemon = site.run(&["--policy", &path])?;
    all_end("those without weight end", &mut go)?;
    ensure!(start.elapsed() >= Duration::from_secs(1), "the deadline begins anew");
    all_talk(&mut stay)
}

#[test]
fn connections_in_other_network_namespaces_drain() -> Result<()> {
    let site = Site::new()?;
    let path = site.write("policy.yaml", policy("oldConnections: drain", 2, "v1: 1, v2: 0"))?;
    let _daemon = site.run(&["--policy", &path])?;
    let ([mut stay, mut go, _], _servers, _inhabitant) = in_own_network(|| {
        let servers = Servers::new()?;
        Ok((servers.connect_times(4)?, servers, Inhabitant::new()?))
    })?;
    let target = ["drain", "shop/web", "--backend", V1[1], "--deadline"];
    let out = site.splitter(&[&target[..], &["1h"]].concat())?.success()?;
    ensure!(
        out.contains(&format!("shop/web/v1 {}: 2 connections, closed in 3600 s", V1[1])),
        "{out}"
    );
    site.splitter(&[&target[..], &["0s"]].concat())?.success()?;
    all_end("those of the backend end", &mut go)?;
    all_talk(&mut stay)
}

#[test]
fn a_subset_is_drained_by_command_and_back() -> Result<()> {
    let site = Site::new()?;
    let servers = Servers::new()?;
    let path = site.write("policy.yaml", policy("outcomes: true", 1, "v1: 3, v2: 1"))?;
    let daemon = site.run(&["--policy", &path])?;
    let [mut stay, _, mut go] = servers.connect_times(8)?;
    let mut direct = servers.direct()?;
    let out = site.splitter(&["drain", "shop/web/v2", "--deadline", "1h"])?.success()?;
    ensure!(out.contains(&format!("shop/web/v2 {V2}: 2 connections, closed in 3600 s")), "{out}");
    ensure!(out.contains("shop/web all: v1=3 v2=1 -> v1=3 v2=0"), "{out}");
    assert_eq!(servers.shares(20)?, [20, 0, 0]);
    daemon.kill()?;
    let _daemon = site.run(&["--policy", &path])?;
    assert_eq!(servers.shares(20)?, [20, 0, 0], "it outlives the daemon");
    let told = draining(&site)?;
    ensure!(told.len() == 1 && told[0]["by"] == "command", "{told:?}");
    ensure!(told[0]["for_ms"].as_u64().is_some_and(|ms| ms > 0 && ms <= 3_600_000), "{told:?}");
    let out = site.splitter(&["status"])?.success()?;
    ensure!(out.contains(&format!("draining    shop/web/v2 {V2}: 2 connections left")), "{out}");
    let out = site.splitter(&["drain", "--undo", "web/v2"])?.success()?;
    ensure!(out.contains("they go on") && out.contains("v1=3 v2=0 -> v1=3 v2=1"), "{out}");
    ensure!(draining(&site)?.is_empty());
    assert_eq!(servers.shares(20)?, [15, 0, 5]);
    ensure!(site.status()?["overrides"].as_array().is_some_and(Vec::is_empty), "as the file says");
    all_talk(&mut go)?;
    site.splitter(&["drain", "shop/web/v2", "--deadline", "0s"])?.success()?;
    all_end("those of the subset end", &mut go)?;
    all_talk(&mut stay)?;
    direct.talk()?;
    // The last writer wins.
    site.splitter(&["weight", "shop/web", "v2=1"])?.success()?;
    let [_, _, mut new] = servers.connect_times(4)?;
    eventually("the drain is over", || Ok(draining(&site)?.is_empty()))?;
    all_talk(&mut new)
}

#[test]
fn a_backend_is_drained_by_command_and_back() -> Result<()> {
    let site = Site::new()?;
    let servers = Servers::new()?;
    let path = site.write("policy.yaml", policy("outcomes: true", 2, "v1: 1, v2: 0"))?;
    let daemon = site.run(&["--policy", &path])?;
    let [mut stay, mut go, _] = servers.connect_times(6)?;
    let mut direct = Pair::new(&servers.0[1], V1[1])?;
    let drain = |deadline: &str| {
        let arguments = ["drain", "shop/web", "--backend", V1[1], "--deadline", deadline];
        site.splitter(&arguments)?.success()
    };
    let out = drain("never")?;
    ensure!(out.contains("3 connections, left alone"), "{out}");
    assert_eq!(servers.shares(20)?, [20, 0, 0]);
    let out = site.splitter(&["status", "shop/web"])?.success()?;
    ensure!(out.contains("gets none: it is drained by command"), "{out}");
    ensure!(out.contains("3 connections left, left alone, by command"), "{out}");
    let refused = site.splitter(&["drain", "shop/web", "--backend", V1[0]])?.refusal()?;
    ensure!(refused.contains("no other backend of the subset `v1`"), "{refused}");
    let before = site.generation()?;
    site.replace("policy.yaml", policy("outcomes: true", 2, "v1: 7, v2: 3"))?;
    eventually("the file is loaded", || Ok(site.generation()? > before))?;
    assert_eq!(servers.shares(20)?, [14, 0, 6], "the drain outlives the change");
    daemon.kill()?;
    let daemon = site.run(&["--policy", &path])?;
    assert_eq!(servers.shares(20)?, [14, 0, 6], "and the daemon");
    daemon.terminate()?;
    let _daemon = site.run(&["--policy", &path, "--max-services", "77"])?;
    assert_eq!(servers.shares(20)?, [14, 0, 6], "and its maps");
    let undo = ["drain", "--undo", "shop/web", "--backend", V1[1]];
    site.splitter(&undo)?.success()?;
    assert_eq!(servers.shares(20)?, [7, 7, 6]);
    let refused = site.splitter(&undo)?.refusal()?;
    ensure!(refused.contains("not drained by command: nothing of `shop/web` is"), "{refused}");
    all_talk(&mut go)?;
    all_talk(&mut stay)?;
    direct.talk()
}

#[test]
fn a_deadline_outlives_the_daemon() -> Result<()> {
    let site = Site::new()?;
    let servers = Servers::new()?;
    let path = site.write("policy.yaml", policy("outcomes: true", 2, "v1: 1, v2: 0"))?;
    let daemon = site.run(&["--policy", &path])?;
    let [mut stay, mut go, _] = servers.connect_times(6)?;
    let start = Instant::now();
    let arguments = ["drain", "shop/web/v1", "--backend", V1[1], "--deadline", "3s"];
    site.splitter(&arguments)?.success()?;
    daemon.kill()?;
    ensure!(!go[0].is_aborted()?, "nobody closes without a daemon");
    let _daemon = site.run(&["--policy", &path])?;
    all_end("those of the backend end", &mut go)?;
    ensure!(start.elapsed() >= Duration::from_secs(3), "not before the deadline");
    all_talk(&mut stay)?;
    // One that leaves the policy while it drains has the time that the command gave.
    let [_, mut more, _] = {
        site.splitter(&["drain", "--undo", "shop/web", "--backend", V1[1]])?.success()?;
        servers.connect_times(4)?
    };
    let start = Instant::now();
    site.splitter(&["drain", "shop/web", "--backend", V1[1], "--deadline", "2s"])?.success()?;
    site.replace("policy.yaml", policy("outcomes: true", 1, "v1: 1, v2: 0"))?;
    all_end("those of the backend that is gone end", &mut more)?;
    ensure!(start.elapsed() >= Duration::from_secs(2), "not before the deadline");
    all_talk(&mut stay)
}

#[test]
fn what_cannot_be_drained_is_refused_with_what_to_do() -> Result<()> {
    let site = Site::new()?;
    let _servers = Servers::new()?;
    let path = site.write("policy.yaml", policy("getpeername: backend", 2, "v1: 1, v2: 0"))?;
    let _daemon = site.run(&["--policy", &path])?;
    let refused = |arguments: &[&str]| site.splitter(&[&["drain"], arguments].concat())?.refusal();
    let cases: [(&[&str], &str); 9] = [
        (&["shop/web"], "name a subset, `shop/web/v1` or `shop/web/v2`, or a backend"),
        (&["shop/web/"], "name a subset, `shop/web/v1` or"),
        (&["shop/web/v3"], "no subset `v3`"),
        (&["shop/nosuch/v1"], "no service is named `shop/nosuch`, to have a subset `v1`, or `shop"),
        (&["shop/web/v1", "--deadline", "never"], "the route `all` of `shop/web` has no other"),
        (&["shop/web/v2"], "write `outcomes: true` into its policy"),
        (&["shop/web", "--backend", V2], "write `outcomes: true` into its policy first"),
        (&["--undo", "shop/web/v2"], "nothing of `shop/web` is"),
        (&["nobody/v1"], "no service is named"),
    ];
    for (arguments, expected) in cases {
        let refusal = refused(arguments)?;
        ensure!(refusal.contains(expected), "{arguments:?}: {refusal}");
    }
    site.replace("policy.yaml", policy("outcomes: true", 2, "v1: 1, v2: 0"))?;
    eventually("it is followed", || {
        Ok(refused(&["shop/web", "--backend", "127.0.0.9:1"])?.contains("has no backend"))
    })?;
    let refusal = refused(&["shop/web/v2", "--backend", V1[0]])?;
    ensure!(refusal.contains("has no backend"), "{refusal}");
    // Without followed connections, the weight alone can be taken.
    site.replace("policy.yaml", policy("getpeername: backend", 1, "v1: 1, v2: 1"))?;
    eventually("it is drained", || {
        let answer = site.splitter(&["drain", "shop/web/v2", "--deadline", "never"])?;
        Ok(answer.code == Some(0) && answer.out.contains("v1=1 v2=1 -> v1=1 v2=0"))
    })
}

/// Clients that connect again when they are closed.
struct Kept<'a> {
    servers: &'a Servers,
    pairs: Vec<(usize, Pair)>,
    /// How many were closed.
    closed: u64,
}

impl Kept<'_> {
    /// Connections to a backend.
    fn count(&self, at: usize) -> usize {
        self.pairs.iter().filter(|(place, _)| *place == at).count()
    }

    /// Has those connect again that were closed, none of which may have been at the last backend.
    fn keep(&mut self) -> Result<()> {
        for (at, pair) in &mut self.pairs {
            if pair.is_aborted()? {
                ensure!(*at == 0, "a connection was closed that is not too many");
                (*at, *pair) = self.servers.connect()?;
                self.closed += 1;
            }
        }
        Ok(())
    }
}

#[test]
fn a_live_split_comes_to_new_weights_and_closes_no_more_than_it_takes() -> Result<()> {
    let site = Site::new()?;
    let servers = Servers::new()?;
    let n = usize::try_from(100 / scale().min(5))?;
    let asked = "oldConnections: {rebalance: {perSecond: 1000, idle: 200ms}}";
    let path = site.write("policy.yaml", policy(asked, 1, "v1: 80, v2: 20"))?;
    let _daemon = site.run(&["--policy", &path])?;
    let mut direct = Pair::new(&servers.0[0], V1[0])?;
    let mut pairs: Vec<_> = (0..n).map(|_| servers.connect()).collect::<Result<_>>()?;
    pairs.sort_by_key(|(at, _)| *at);
    let mut busy: Vec<_> = pairs.drain(..5).collect();
    for (_, pair) in &mut busy {
        // It waits to be read.
        pair.1.write_all(b"x")?;
    }
    let mut kept = Kept { servers: &servers, pairs, closed: 0 };
    let live = |kept: &Kept<'_>| [kept.count(0) + 5, kept.count(2)];
    assert_eq!(live(&kept), [n * 4 / 5, n / 5]);
    let mut balanced = || {
        eventually("the live split is what the weights ask for", || {
            kept.keep()?;
            Ok(site.status()?["sweep"]["unbalanced"] == 0)
        })?;
        kept.keep()?;
        Ok::<_, anyhow::Error>((live(&kept), kept.closed))
    };
    assert_eq!(balanced()?.1, 0, "nothing changed");
    site.splitter(&["weight", "shop/web", "v1=50", "v2=50"])?.success()?;
    let (live, n_closed) = balanced()?;
    assert_eq!(live, [n / 2, n / 2]);
    // Every second one of those that were closed came back to where it was.
    let enough = u64::try_from(2 * (n * 4 / 5 - n / 2))?;
    ensure!(n_closed <= enough, "{n_closed} closed, {enough} are enough");
    assert_eq!(closed(&site, "closed_rebalanced")?, n_closed);
    for (_, pair) in &mut busy {
        pair.talk().context("a busy connection lives")?;
    }
    direct.talk()
}

#[test]
fn what_is_not_balanced_and_why_a_backend_is_stepped_over_is_told() -> Result<()> {
    let site = Site::new()?;
    let _listener = TcpListener::bind(V1[0])?;
    let policy = policy("oldConnections: rebalance", 2, "v1: 1")
        .replace("\"]}", "\"], requireListener: true}")
        .replace("{name: all,", "{name: all, affinity: uid,");
    let path = site.write("policy.yaml", policy)?;
    let _daemon = site.run(&["--policy", &path])?;
    for _ in 0..4 {
        TcpStream::connect(FRONTEND)?;
    }
    let out = site.splitter(&["status", "shop/web"])?.success()?;
    ensure!(
        out.contains("note: the route `all` is not rebalanced: `affinity` would send"),
        "{out}"
    );
    let stepped = out.lines().skip_while(|line| !line.contains(V1[1])).nth(1).unwrap_or_default();
    ensure!(stepped.starts_with("      stepped over "), "{out}");
    ensure!(stepped.ends_with(": nobody listened there (requireListener)"), "{out}");
    assert_eq!(out.matches("stepped over").count(), 1, "{out}");
    Ok(())
}

#[test]
fn nobody_is_closed_for_the_sake_of_a_subset_that_takes_no_connections() -> Result<()> {
    let site = Site::new()?;
    let mut servers = Servers::new()?;
    let asked = "oldConnections: {rebalance: {perSecond: 1000, idle: 1ms}}";
    let path = site.write("policy.yaml", policy(asked, 1, "v1: 1, v2: 1"))?;
    let _daemon = site.run(&["--policy", &path])?;
    let unbalanced = || Ok::<_, anyhow::Error>(site.status()?["sweep"]["unbalanced"] == 1);
    eventually("there is nothing to do", || Ok(!unbalanced()?))?;
    drop(servers.0.pop());
    let mut pairs: Vec<Pair> = (0..4).filter_map(|_| Some(servers.connect().ok()?.1)).collect();
    assert_eq!(pairs.len(), 2, "the others are refused");
    let rounds = closed(&site, "rounds")?;
    site.splitter(&["weight", "shop/web", "v1=1", "v2=3"])?.success()?;
    eventually("a round passes", || Ok(closed(&site, "rounds")? > rounds))?;
    ensure!(unbalanced()?, "there is one too many");
    all_talk(&mut pairs)?;
    servers.0.push(TcpListener::bind(V2)?);
    let [more, _, others] = servers.connect_times(4)?;
    assert_eq!([more.len(), others.len()], [1, 3]);
    pairs.extend(more);
    eventually("it is closed, now that it can come again", || Ok(!unbalanced()?))?;
    let mut gone = 0;
    for pair in &mut pairs {
        gone += u32::from(pair.is_aborted()?);
    }
    assert_eq!(gone, 1, "two of six are more than a quarter, and one would be less");
    Ok(())
}
