//! Followed sockets on a real kernel: found by what the hooks stored on them, closed by cookie, in
//! this network namespace and in those of others.

mod udp;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use bytemuck::pod_read_unaligned;
use rustix::net::{AddressFamily, SocketType, bind, connect, listen, socket, sockopt};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use splitter_common::abi::{SocketState, phase};
use splitter_common::addr::Addr;
use splitter_tests::daemon::find_binary;
use splitter_tests::datagrams::{DatagramServer, datagram_socket, receive, sharing_socket};
use splitter_tests::net::{Inhabitant, in_own_network, network_cookie};
use splitter_tests::node::Node;
use splitter_tests::peers::reset_on_close;
use splitter_tests::scale;
use splitter_user::sockets::{
    Destroyed, Followed, NamespaceId, Namespaces, Opener, OpenerError, SockDiag, SocketId, State,
};

const FRONTEND: &str = "127.10.0.1:80";
const MAPPED: &str = "[::ffff:127.10.0.1]:80";
const FRONTEND6: &str = "[::1]:18080";
const BACKEND: &str = "127.0.0.1:19001";
const BACKEND6: &str = "[::1]:19006";

/// Two services that keep state on their sockets, and one with the same backend that does not.
const POLICY: &str = "
apiVersion: splitter.dev/v1
kind: Split
metadata: {name: four}
spec:
  frontends: ['127.10.0.1:80']
  getpeername: frontend
  subsets: {a: {backends: ['127.0.0.1:19001']}}
  routes: [{split: {a: 1}}]
---
apiVersion: splitter.dev/v1
kind: Split
metadata: {name: six}
spec:
  frontends: ['[::1]:18080']
  getpeername: frontend
  subsets: {a: {backends: ['[::1]:19006']}}
  routes: [{split: {a: 1}}]
---
apiVersion: splitter.dev/v1
kind: Split
metadata: {name: plain}
spec:
  frontends: ['127.10.0.2:80']
  subsets: {a: {backends: ['127.0.0.1:19001']}}
  routes: [{split: {a: 1}}]
";

/// A service of UDP for each family, by the same backends.
const DATAGRAMS: &str = "
apiVersion: splitter.dev/v1
kind: Split
metadata: {name: four}
spec:
  frontends: ['127.10.0.1:80/udp']
  subsets: {a: {backends: ['127.0.0.1:19001']}}
  routes: [{split: {a: 1}}]
---
apiVersion: splitter.dev/v1
kind: Split
metadata: {name: six}
spec:
  frontends: ['[::1]:18080/udp']
  subsets: {a: {backends: ['[::1]:19006']}}
  routes: [{split: {a: 1}}]
";

/// What a test keeps of a followed socket.
#[derive(Clone, Copy, Debug)]
struct Seen {
    id: SocketId,
    state: State,
    peer: SocketAddr,
    idle_ms: Option<u32>,
    unread: u32,
    stored: SocketState,
}

impl Seen {
    fn new(followed: &Followed<'_>) -> Self {
        let Followed { id, state, peer, idle_ms, unread, stored, .. } = *followed;
        Self { id, state, peer, idle_ms, unread, stored: pod_read_unaligned(stored) }
    }
}

/// A node with the policy, its storage map, and the backends' listening sockets.
struct Fixture {
    _node: Node,
    storage: OwnedFd,
    diag: SockDiag,
    listener: TcpListener,
    listener6: TcpListener,
}

impl Fixture {
    fn new() -> Result<Self> {
        let mut node = Node::new()?;
        node.apply(POLICY)?;
        Ok(Self {
            storage: node.loaded.socket_storage()?,
            _node: node,
            diag: SockDiag::open()?,
            listener: TcpListener::bind(BACKEND)?,
            listener6: TcpListener::bind(BACKEND6)?,
        })
    }

    /// Connects, and accepts at the backend. The client comes first.
    fn dial(&self, addr: &str) -> Result<(TcpStream, TcpStream)> {
        let client = TcpStream::connect(addr).with_context(|| format!("connect to {addr}"))?;
        let of_six = addr == FRONTEND6 || addr == BACKEND6;
        let listener = if of_six { &self.listener6 } else { &self.listener };
        Ok((client, listener.accept()?.0))
    }

    /// Followed sockets, by their own address.
    fn list(&mut self) -> Result<HashMap<SocketAddr, Seen>> {
        list(&mut self.diag, &self.storage)
    }

    fn id_of(&mut self, client: &TcpStream) -> Result<SocketId> {
        let all = self.list()?;
        Ok(all.get(&client.local_addr()?).context("it is not followed")?.id)
    }
}

fn list(diag: &mut SockDiag, storage: &OwnedFd) -> Result<HashMap<SocketAddr, Seen>> {
    let mut all = HashMap::new();
    diag.list(storage.as_fd(), |followed| {
        all.insert(followed.local, Seen::new(followed));
    })?;
    Ok(all)
}

/// As the maps have it: IPv4 in mapped form.
fn bytes_of_address(addr: IpAddr) -> Addr {
    match addr {
        IpAddr::V4(addr) => Addr::from_v4(addr.octets()),
        IpAddr::V6(addr) => Addr(addr.octets()),
    }
}

/// The client's next call says that the connection was aborted, and its peer saw a reset.
fn ensure_aborted((client, server): &mut (TcpStream, TcpStream)) -> Result<()> {
    let error = client.read(&mut [0]).err().context("the client was not told")?;
    ensure!(error.kind() == io::ErrorKind::ConnectionAborted, "{error}");
    let error = server.read(&mut [0]).err().context("the server was not told")?;
    ensure!(error.kind() == io::ErrorKind::ConnectionReset, "{error}");
    Ok(())
}

fn ensure_alive((client, server): &mut (TcpStream, TcpStream)) -> Result<()> {
    client.write_all(b"x")?;
    server.read_exact(&mut [0])?;
    Ok(())
}

#[test]
fn only_followed_sockets_are_listed() -> Result<()> {
    in_own_network(|| {
        let mut fixture = Fixture::new()?;
        let followed =
            [(FRONTEND, BACKEND), (MAPPED, "[::ffff:127.0.0.1]:19001"), (FRONTEND6, BACKEND6)];
        let ours = followed
            .iter()
            .map(|(frontend, _)| fixture.dial(frontend))
            .collect::<Result<Vec<_>>>()?;
        let _others = [BACKEND, BACKEND6, "[::ffff:127.0.0.1]:19001", "127.10.0.2:80"]
            .iter()
            .map(|addr| fixture.dial(addr))
            .collect::<Result<Vec<_>>>()?;
        let all = fixture.list()?;
        ensure!(all.len() == ours.len(), "{all:?}");
        for ((client, _), (frontend, backend)) in ours.iter().zip(followed) {
            let seen = all.get(&client.local_addr()?).context(frontend)?;
            let frontend: SocketAddr = frontend.parse()?;
            assert_eq!(seen.peer, backend.parse()?);
            assert_eq!(seen.state, State::Established);
            assert_eq!(seen.stored.frontend, bytes_of_address(frontend.ip()));
            assert_eq!(seen.stored.frontend_port_be.to_host(), frontend.port());
            ensure!(seen.idle_ms.is_some(), "an established connection is idle or not");
        }
        Ok(())
    })
}

#[test]
fn what_waits_to_be_read_and_who_has_closed_is_told() -> Result<()> {
    in_own_network(|| {
        let mut fixture = Fixture::new()?;
        let (client, mut server) = fixture.dial(FRONTEND)?;
        server.write_all(b"hello")?;
        assert_eq!(fixture.list()?[&client.local_addr()?].unread, 5);
        drop(server);
        assert_eq!(fixture.list()?[&client.local_addr()?].state, State::CloseWait);
        Ok(())
    })
}

#[test]
fn exactly_the_destroyed_socket_ends() -> Result<()> {
    in_own_network(|| {
        let mut fixture = Fixture::new()?;
        for addr in [FRONTEND, MAPPED, FRONTEND6] {
            let mut victim = fixture.dial(addr)?;
            let mut neighbour = fixture.dial(addr)?;
            let id = fixture.id_of(&victim.0)?;
            assert_eq!(fixture.diag.destroy(&id)?, Destroyed::Closed, "{addr}");
            ensure_aborted(&mut victim).context(addr)?;
            ensure_alive(&mut neighbour).context(addr)?;
            assert_eq!(fixture.diag.destroy(&id)?, Destroyed::Gone, "{addr}");
            ensure_alive(&mut neighbour).context(addr)?;
        }
        Ok(())
    })
}

/// A connection from a local port of choice.
fn dial_from(port: u16) -> Result<TcpStream> {
    let client = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&client, true)?;
    bind(&client, &SocketAddr::from(([127, 0, 0, 1], port)))?;
    connect(&client, &FRONTEND.parse::<SocketAddr>()?)?;
    Ok(client.into())
}

#[test]
fn a_new_socket_of_the_same_addresses_is_not_hit() -> Result<()> {
    in_own_network(|| {
        let mut fixture = Fixture::new()?;
        let old = dial_from(12_345)?;
        let _accepted = fixture.listener.accept()?;
        let id = fixture.id_of(&old)?;
        reset_on_close(&old)?;
        drop(old);
        assert_eq!(fixture.diag.destroy(&id)?, Destroyed::Gone, "nobody has the addresses");
        let new = dial_from(12_345)?;
        let mut new = (new, fixture.listener.accept()?.0);
        assert_ne!(fixture.id_of(&new.0)?.cookie(), id.cookie());
        assert_eq!(fixture.diag.destroy(&id)?, Destroyed::Gone, "somebody else has them");
        ensure_alive(&mut new)
    })
}

#[test]
fn a_connection_that_is_not_established_is_seen_and_ends() -> Result<()> {
    in_own_network(|| {
        let mut fixture = Fixture::new()?;
        // Room for one; the kernel leaves further first packets unanswered.
        listen(&fixture.listener, 0)?;
        let _first = TcpStream::connect(FRONTEND)?;
        let waiting = thread::spawn(|| TcpStream::connect(FRONTEND));
        let seen = loop {
            let all = fixture.list()?;
            match all.values().find(|seen| seen.state == State::SynSent) {
                Some(seen) => break *seen,
                None => thread::yield_now(),
            }
        };
        assert_eq!(seen.idle_ms, None);
        assert_eq!(fixture.diag.destroy(&seen.id)?, Destroyed::Closed);
        let end = waiting.join().expect("it does not panic").err();
        assert_eq!(end.map(|error| error.kind()), Some(io::ErrorKind::ConnectionAborted));
        Ok(())
    })
}

/// Kilobytes that a line of `/proc/self/status` names.
fn memory(line: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let value = status.lines().find_map(|found| found.strip_prefix(line));
    Ok(value.context("no such line")?.trim_end_matches("kB").trim().parse()?)
}

#[test]
fn ten_thousand_sockets_are_listed_in_little_memory() -> Result<()> {
    in_own_network(|| {
        let mut fixture = Fixture::new()?;
        let wanted = 10_000 / scale();
        // Of the client's end alone: both ends of so many are more files than many systems allow.
        let dial = |_| Ok(fixture.dial(FRONTEND)?.0);
        let _clients = (0..wanted).map(dial).collect::<Result<Vec<_>>>()?;
        // Resets the peak.
        fs::write("/proc/self/clear_refs", "5")?;
        let before = memory("VmRSS:")?;
        let (mut count, mut cookies) = (0, 0_u64);
        fixture.diag.list(fixture.storage.as_fd(), |followed| {
            count += 1;
            cookies ^= followed.id.cookie();
        })?;
        assert_eq!(count, wanted);
        let grown = memory("VmHWM:")?.saturating_sub(before);
        ensure!(grown <= 1_024, "{grown} kB for {count} sockets");
        Ok(())
    })
}

fn namespace_of(inhabitant: &Inhabitant) -> Result<NamespaceId> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(NamespaceId(fs::metadata(format!("/proc/{}/ns/net", inhabitant.pid()))?.ino()))
}

/// Runs in a thread with no more capabilities than a running daemon has.
fn with_daemons_capabilities<T: Send>(run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let inside = || {
        let kept = CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN);
        let inheritable = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?;
        run()
    };
    thread::scope(|threads| threads.spawn(inside).join().expect("it does not panic"))
}

#[test]
fn sockets_of_other_namespaces_are_reached_with_two_capabilities() -> Result<()> {
    let [opener, _] = Opener::start(&find_binary()?, None)?;
    let mut namespaces = Namespaces::All(opener);
    let (mut stage, storage, there) = in_own_network(|| {
        let mut fixture = Fixture::new()?;
        let pair = fixture.dial(FRONTEND)?;
        assert_eq!(fixture.list()?.len(), 1);
        let storage = fixture.storage.try_clone()?;
        Ok(((pair, fixture), storage, Inhabitant::new()?))
    })?;
    let wanted = namespace_of(&there)?;
    let mut closed = Vec::new();
    let visited = with_daemons_capabilities(|| {
        Ok(namespaces.visit(|namespace, diag| {
            for seen in list(diag, &storage).expect("the kernel lists").values() {
                closed.push((namespace, diag.destroy(&seen.id).expect("the kernel answers")));
            }
        })?)
    })?;
    assert_eq!(closed, [(wanted, Destroyed::Closed)]);
    ensure!(visited.namespaces >= 2, "{visited:?}");
    ensure_aborted(&mut stage.0)
}

#[test]
fn a_visit_keeps_no_namespace_alive() -> Result<()> {
    let [opener, _] = Opener::start(&find_binary()?, None)?;
    let mut namespaces = Namespaces::All(opener);
    let mut visit = || -> Result<Vec<NamespaceId>> {
        let mut seen = Vec::new();
        namespaces.visit(|namespace, _| seen.push(namespace))?;
        Ok(seen)
    };
    let before = visit()?;
    let inhabitant = in_own_network(Inhabitant::new)?;
    let wanted = namespace_of(&inhabitant)?;
    ensure!(!before.contains(&wanted) && visit()?.contains(&wanted), "new ones are found");
    drop(inhabitant);
    assert_eq!(visit()?, before);
    Ok(())
}

#[test]
fn without_an_opener_the_own_namespace_is_visited() -> Result<()> {
    in_own_network(|| {
        let mut fixture = Fixture::new()?;
        let mut client = fixture.dial(FRONTEND)?;
        let id = fixture.id_of(&client.0)?;
        let visited = with_daemons_capabilities(|| {
            Ok(Namespaces::Own(None).visit(|_, diag| {
                assert_eq!(diag.destroy(&id).expect("the kernel answers"), Destroyed::Closed);
            })?)
        })?;
        assert_eq!(visited.namespaces, 1);
        ensure_aborted(&mut client)
    })
}

#[test]
fn an_opener_needs_capabilities_at_its_start() -> Result<()> {
    let binary = find_binary()?;
    let refused = with_daemons_capabilities(|| Ok(Opener::start(&binary, None).err()))?;
    ensure!(matches!(refused, Some(OpenerError::NotPrivileged)), "{refused:?}");
    Ok(())
}

#[test]
fn the_opener_is_confined_and_ends_with_its_daemon() -> Result<()> {
    let [opener, other] = Opener::start(&find_binary()?, None)?;
    let process = format!("/proc/{}", opener.pid());
    let (mut namespaces, mut others) = (Namespaces::All(opener), Namespaces::All(other));
    let mut cookies = Vec::new();
    // The one who asks does not keep the other from it, and both see the same.
    let visited = namespaces.visit(|_, diag| {
        cookies.push(diag.namespace_cookie());
        assert!(others.visit(|_, _| {}).is_ok());
    })?;
    ensure!(cookies.len() == visited.namespaces && cookies.iter().all(Result::is_ok));
    ensure!(cookies.iter().flatten().any(|cookie| Some(*cookie) == network_cookie().ok()));
    let status = fs::read_to_string(format!("{process}/status"))?;
    // CAP_SYS_PTRACE and CAP_SYS_ADMIN of `include/uapi/linux/capability.h`.
    let capabilities = format!("CapPrm:\t{:016x}", 1_u64 << 19 | 1 << 21);
    for line in [capabilities.as_str(), "NoNewPrivs:\t1", "Seccomp:\t2"] {
        ensure!(status.lines().any(|found| found == line), "{line} in {status}");
    }
    drop(namespaces);
    ensure!(fs::exists(&process)?, "the other one may ask still");
    others.visit(|_, _| {})?;
    drop(others);
    ensure!(!fs::exists(&process)?, "it is still there");
    Ok(())
}
