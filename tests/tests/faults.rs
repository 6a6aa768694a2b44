//! Faults of packets, on real sockets: exact shares, and what becomes of the connections.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{self, AddressFamily, SocketType, sockopt};
use splitter_common::abi::{Reason, State, cell, outcome};
use splitter_common::life::is_of_share;
use splitter_tests::daemon::eventually;
use splitter_tests::net::{in_own_network, n_unsent, number_option};
use splitter_tests::peers::reset_on_close;
use splitter_tests::shared::{self, Shared};
use splitter_user::publish::CounterOwner;

/// Frontend and backend of either family.
const V4: [&str; 2] = ["127.10.0.1:80", "127.0.0.1:19001"];
const V6: [&str; 2] = ["[fd00::1]:80", "[::1]:19001"];

/// A policy of one backend, with more keys of its subset, whose route makes a fault.
fn policy([frontend, backend]: [&str; 2], keys: &str, fault: &str) -> String {
    format!(
        "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: shop}}\nspec:\n  \
         frontends: ['{frontend}', '{frontend}/udp']\n  subsets:\n    v1: {{backends: \
         ['{backend}']{keys}}}\n  routes: [{{split: {{v1: 1}}, fault: {{{fault}}}}}]\n"
    )
}

/// A node with a policy, and its listening backend.
struct Scene {
    node: Shared,
    listener: TcpListener,
    frontend: SocketAddr,
}

impl Scene {
    fn new(addresses: [&str; 2], keys: &str, fault: &str) -> Result<Self> {
        let mut node = shared::node()?;
        node.apply(&policy(addresses, keys, fault))?;
        let [frontend, backend] = addresses;
        Ok(Self { node, listener: TcpListener::bind(backend)?, frontend: frontend.parse()? })
    }

    fn connect(&self) -> io::Result<TcpStream> {
        TcpStream::connect(self.frontend)
    }

    /// Both ends of a new connection, the client's first.
    fn pair(&self) -> Result<(TcpStream, TcpStream)> {
        Ok((self.connect()?, self.listener.accept()?.0))
    }

    /// The state of the subset or of its backend.
    fn state(&self, is_subset: bool) -> Result<State> {
        let states = self.node.states("shop")?;
        let is_wanted = |owner: &CounterOwner| match owner {
            CounterOwner::Subset(_) => is_subset,
            CounterOwner::Backend(..) => !is_subset,
            CounterOwner::Route(_) => false,
        };
        Ok(*states.iter().find(|(owner, _)| is_wanted(owner)).context("a state")?.1)
    }

    /// What came of connections to the backend, what is not 0; and that the subset agrees with it.
    fn outcomes(&self) -> Result<BTreeMap<&'static str, u64>> {
        let (backend, subset) = (self.state(false)?, self.state(true)?);
        for gauge in [cell::LIVE, cell::PENDING] {
            assert_eq!(backend.cells[gauge], subset.cells[gauge]);
        }
        let named = [
            ("live", cell::LIVE),
            ("pending", cell::PENDING),
            ("established", cell::OUTCOMES + outcome::ESTABLISHED),
            ("timed out", cell::OUTCOMES + outcome::TIMED_OUT),
            ("closed", cell::OUTCOMES + outcome::CLOSED),
            ("reset", cell::OUTCOMES + outcome::RESET),
            ("lost", cell::OUTCOMES + outcome::LOST),
        ];
        let count = |(name, at): (&'static str, usize)| (name, backend.cells[at]);
        Ok(named.into_iter().map(count).filter(|(_, n)| *n > 0).collect())
    }
}

/// Whether a connection's bandwidth is limited to a rate.
fn is_limited(client: &TcpStream, rate: u32) -> Result<bool> {
    Ok(number_option(client, (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE))? == rate)
}

#[test]
fn bandwidth_is_limited_for_an_exact_share() -> Result<()> {
    in_own_network(|| {
        let scene = Scene::new(V4, "", "bandwidth: {percent: 25, rate: 100kB/s}")?;
        let mut limited = 0;
        for _ in 0..1_000 {
            let (client, _server) = scene.pair()?;
            limited += u32::from(is_limited(&client, 100_000)?);
            reset_on_close(&client)?;
            // Sockets without connections take no part.
            UdpSocket::bind("127.0.0.1:0")?.connect(scene.frontend)?;
        }
        assert_eq!(limited, 250);
        Ok(())
    })
}

#[test]
fn a_limit_only_ever_lowers() -> Result<()> {
    in_own_network(|| {
        let fault = "bandwidth: {percent: 100, rate: 100kB/s}";
        for (rate, expected) in [("1kB/s", 1_000), ("1MB/s", 100_000)] {
            let scene = Scene::new(V4, &format!(", pacingRate: {rate}"), fault)?;
            ensure!(is_limited(&scene.pair()?.0, expected)?, "{rate}");
        }
        Ok(())
    })
}

#[test]
fn a_chosen_seed_chooses_the_connections() -> Result<()> {
    let observed = |seed: u64| {
        in_own_network(|| {
            let fault = format!("bandwidth: {{percent: 50, rate: 1kB/s}}, seed: {seed}");
            let scene = Scene::new(V4, "", &fault)?;
            (0..64).map(|_| is_limited(&scene.pair()?.0, 1_000)).collect::<Result<Vec<_>>>()
        })
    };
    let told = |seed: u64| -> Vec<bool> {
        let seed = seed.wrapping_add(cell::BANDWIDTH_TICKET as u64);
        (0..64).map(|ticket| is_of_share(500_000, seed, ticket)).collect()
    };
    for seed in [7, u64::MAX] {
        assert_eq!(observed(seed)?, told(seed));
    }
    assert_ne!(told(7), told(u64::MAX));
    Ok(())
}

/// A socket that begins to connect and does not wait.
fn begin(to: SocketAddr) -> Result<OwnedFd> {
    let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    ioctl_fionbio(&socket, true)?;
    match net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Waits for the end of a handshake that began; whether it was completed or nobody answered.
fn is_completed(socket: &OwnedFd, to: SocketAddr) -> Result<bool> {
    ioctl_fionbio(socket, false)?;
    match net::connect(socket, &to) {
        Ok(()) | Err(Errno::ISCONN) => Ok(true),
        Err(Errno::TIMEDOUT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[test]
fn an_exact_share_is_never_answered() -> Result<()> {
    in_own_network(|| {
        let scene = Scene::new(V4, ", connectTimeout: 100ms", "blackhole: {percent: 30}")?;
        let mut failed = 0;
        for _ in 0..20 {
            let sockets: Vec<OwnedFd> =
                (0..50).map(|_| begin(scene.frontend)).collect::<Result<_>>()?;
            for socket in &sockets {
                if is_completed(socket, scene.frontend)? {
                    drop(scene.listener.accept()?);
                } else {
                    failed += 1;
                }
            }
        }
        assert_eq!(failed, 300);
        let seen = scene.outcomes()?;
        assert_eq!((seen["established"], seen["timed out"]), (700, 300));
        assert_eq!(seen.get("live"), None, "{seen:?}");
        Ok(())
    })
}

#[test]
fn a_blackhole_is_a_timeout_and_nobodys_fault() -> Result<()> {
    in_own_network(|| {
        for addresses in [V4, V6] {
            let keys = ", connectTimeout: 100ms, eject: {consecutiveFailures: 1, maxPercent: 100}";
            let scene = Scene::new(addresses, keys, "blackhole: {percent: 100}")?;
            for _ in 0..3 {
                let error = scene.connect().unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
            }
            assert_eq!(scene.outcomes()?, BTreeMap::from([("timed out", 3)]));
            assert_eq!(scene.state(true)?.cells[cell::EJECTED], 0);
            assert_eq!(scene.node.reason(Reason::NoneUsable)?, 0);
            scene.listener.set_nonblocking(true)?;
            assert_eq!(scene.listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        Ok(())
    })
}

#[test]
fn a_blackhole_and_a_delay_at_once_are_a_blackhole() -> Result<()> {
    in_own_network(|| {
        let fault = "delay: {percent: 100, time: 20ms}, blackhole: {percent: 100}";
        let scene = Scene::new(V4, ", connectTimeout: 100ms", fault)?;
        assert_eq!(scene.connect().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(scene.outcomes()?, BTreeMap::from([("timed out", 1)]));
        Ok(())
    })
}

#[test]
fn an_exact_share_stalls() -> Result<()> {
    in_own_network(|| {
        let scene = Scene::new(V4, "", "stall: {percent: 20, after: 0}")?;
        let mut stalled = 0;
        for _ in 0..1_000 {
            let (mut client, server) = scene.pair()?;
            client.write_all(b"x")?;
            stalled += n_unsent(&client)?;
            reset_on_close(&client)?;
            // The client first, whose end is counted.
            drop(client);
            drop(server);
        }
        assert_eq!(stalled, 200);
        let seen = scene.outcomes()?;
        assert_eq!(seen, BTreeMap::from([("closed", 1_000), ("established", 1_000)]));
        Ok(())
    })
}

/// Whether there is nothing to read.
fn is_silent(stream: &mut TcpStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    let read = stream.read(&mut [0]);
    stream.set_nonblocking(false)?;
    Ok(read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
}

#[test]
fn a_stalled_connection_stands_and_gets_no_answer() -> Result<()> {
    in_own_network(|| {
        for addresses in [V4, V6] {
            let scene = Scene::new(addresses, "", "stall: {percent: 100, after: 0}")?;
            let (mut client, mut server) = scene.pair()?;
            client.write_all(b"request")?;
            assert_eq!(n_unsent(&client)?, 7);
            ensure!(is_silent(&mut server)? && is_silent(&mut client)?);
            assert_eq!(scene.outcomes()?, BTreeMap::from([("established", 1), ("live", 1)]));
            // What comes in is none of the fault's business.
            server.write_all(b"!")?;
            client.read_exact(&mut [0])?;
            drop(client);
            let mut late = Vec::new();
            server.read_to_end(&mut late)?;
            assert_eq!(late, b"request", "once the client closes, it is over");
            drop(server);
            eventually("the connection ends", || {
                Ok(scene.outcomes()? == BTreeMap::from([("closed", 1), ("established", 1)]))
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_connection_stalls_after_so_many_bytes() -> Result<()> {
    in_own_network(|| {
        let scene = Scene::new(V4, "", "stall: {percent: 100, after: 10}")?;
        let (mut client, mut server) = scene.pair()?;
        for part in [b"hello", b"world"] {
            client.write_all(part)?;
            server.read_exact(&mut [0; 5])?;
            assert_eq!(n_unsent(&client)?, 0);
            server.write_all(b"yes")?;
            client.read_exact(&mut [0; 3])?;
        }
        client.write_all(b"more")?;
        assert_eq!(n_unsent(&client)?, 4);
        ensure!(is_silent(&mut server)?);
        Ok(())
    })
}

#[test]
fn the_reset_of_a_stalled_connection_reaches_the_backend() -> Result<()> {
    in_own_network(|| {
        for addresses in [V4, V6] {
            let scene = Scene::new(addresses, "", "stall: {percent: 100, after: 0}")?;
            let (mut client, mut server) = scene.pair()?;
            client.write_all(b"x")?;
            reset_on_close(&client)?;
            drop(client);
            let error = server.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(scene.outcomes()?, BTreeMap::from([("closed", 1), ("established", 1)]));
        }
        Ok(())
    })
}

#[test]
fn a_stalled_connection_ends_by_the_programs_own_timeout() -> Result<()> {
    in_own_network(|| {
        let scene = Scene::new(V4, "", "stall: {percent: 100, after: 0}")?;
        let (mut client, server) = scene.pair()?;
        sockopt::set_tcp_user_timeout(&client, 100)?;
        client.write_all(b"x")?;
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(scene.outcomes()?, BTreeMap::from([("established", 1), ("lost", 1)]));
        drop((client, server));
        Ok(())
    })
}

#[test]
fn a_dead_peer_is_reset_by_keepalive_although_nothing_leaves() -> Result<()> {
    in_own_network(|| {
        let keys = ", keepalive: {probes: 1, time: 1s, interval: 1s}";
        let scene = Scene::new(V4, keys, "stall: {percent: 100, after: 0}")?;
        let (mut client, mut server) = scene.pair()?;
        // Its probes are dropped, so nobody answers.
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        server.set_read_timeout(Some(Duration::from_mins(1)))?;
        let told = server.read(&mut [0]).unwrap_err().kind();
        assert_eq!(told, io::ErrorKind::ConnectionReset, "the backend is told");
        assert_eq!(scene.outcomes()?, BTreeMap::from([("established", 1), ("lost", 1)]));
        Ok(())
    })
}
