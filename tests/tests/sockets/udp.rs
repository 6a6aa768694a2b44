//! Connected UDP sockets: listed by a program, and disconnected like connections.

use super::*;

/// Connected UDP sockets that are followed, by their own address.
fn list_datagrams(link: &OwnedFd) -> Result<HashMap<SocketAddr, Seen>> {
    let mut all = HashMap::new();
    SockDiag::open_with(link)?.list_datagrams(
        |_| true,
        |followed| {
            all.insert(followed.local, Seen::new(followed));
        },
    )?;
    Ok(all)
}

/// A UDP socket that is connected, bound before to an address that may have the port 0.
fn connected(from: &str, to: &str) -> Result<UdpSocket> {
    let socket = datagram_socket(from)?;
    socket.connect(to).with_context(|| format!("connect to {to}"))?;
    Ok(socket)
}

/// Sends a datagram, and waits for the answer.
fn ensure_answered(socket: &UdpSocket) -> Result<()> {
    socket.send(b"?")?;
    receive(socket)?;
    Ok(())
}

fn errno(result: io::Result<usize>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn exactly_the_destroyed_udp_socket_is_disconnected() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::new()?;
        node.apply(DATAGRAMS)?;
        let list = node.socket_list()?;
        let _servers = [DatagramServer::echo(BACKEND)?, DatagramServer::echo(BACKEND6)?];
        let mapped = "[::ffff:127.0.0.1]:19001";
        let families = [
            ("127.0.0.1:0", FRONTEND, BACKEND),
            ("[::]:0", MAPPED, mapped),
            ("[::1]:0", FRONTEND6, BACKEND6),
        ];
        for (from, frontend, backend) in families {
            let victim = connected(from, frontend)?;
            let neighbour = connected(from, frontend)?;
            let direct = connected(from, backend)?;
            let _unconnected = datagram_socket(from)?;
            let seen = list_datagrams(&list)?;
            assert_eq!(seen.len(), 2, "{frontend}: {seen:?}");
            let found = seen.get(&victim.local_addr()?).context("it is not followed")?;
            assert_eq!((found.peer, found.idle_ms), (backend.parse()?, None));
            assert_eq!(found.stored.phase, phase::DATAGRAMS);
            let mut diag = SockDiag::open()?;
            assert_eq!(diag.destroy(&found.id)?, Destroyed::Closed, "{frontend}");
            assert_eq!(errno(victim.recv(&mut [0])), Some(libc::ECONNABORTED));
            assert_eq!(errno(victim.send(b"?")), Some(libc::EDESTADDRREQ));
            assert_eq!(diag.destroy(&found.id)?, Destroyed::Gone, "{frontend}");
            ensure_answered(&neighbour).context(frontend)?;
            ensure_answered(&direct).context(frontend)?;
            victim.connect(frontend)?;
            ensure_answered(&victim).context("it is connected again")?;
        }
        Ok(())
    })
}

#[test]
fn a_udp_socket_of_the_same_addresses_is_not_hit() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::new()?;
        node.apply(DATAGRAMS)?;
        let list = node.socket_list()?;
        let own = "127.0.0.1:12345";
        let ours = sharing_socket(own, FRONTEND)?;
        let all = list_datagrams(&list)?;
        let id = all.get(&own.parse()?).context("it is not followed")?.id;
        drop(ours);
        let direct = sharing_socket(own, BACKEND)?;
        let destroyed = SockDiag::open()?.destroy(&id)?;
        assert_eq!(destroyed, Destroyed::Gone, "somebody else has the addresses");
        assert_eq!(direct.peer_addr()?, BACKEND.parse()?);
        Ok(())
    })
}
