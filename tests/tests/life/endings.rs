//! Connections that stand: how they end, and who ends them.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::{env, thread};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{
    self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use splitter_tests::net::in_own_network;
use splitter_tests::peers::reset_on_close;
use splitter_tests::shared::{self, Shared};

use super::starts::hand_over;
use super::{BACKEND, connect, errno_of, expect, policy};

/// A node with a policy, and both ends of a connection; the client's is first.
fn pair(keys: &str) -> Result<(Shared, TcpStream, TcpStream)> {
    let mut node = shared::node()?;
    node.apply(&policy(keys))?;
    let listener = TcpListener::bind(BACKEND)?;
    let client = connect()?;
    let (server, _) = listener.accept()?;
    expect(&node, &[("established", 1), ("live", 1)])?;
    Ok((node, client, server))
}

const CLOSED: [(&str, u64); 2] = [("closed", 1), ("established", 1)];
const RESET: [(&str, u64); 2] = [("established", 1), ("reset", 1)];
const STANDING: [(&str, u64); 2] = [("established", 1), ("live", 1)];

#[test]
fn a_connection_ends_by_either_side() -> Result<()> {
    in_own_network(|| {
        let (node, client, server) = pair("")?;
        drop(client);
        // The client has nothing to do with it any more, whatever the server does.
        expect(&node, &CLOSED)?;
        drop((server, node));
        let (node, client, server) = pair("")?;
        drop(server);
        expect(&node, &STANDING)?;
        drop(client);
        expect(&node, &CLOSED)
    })
}

#[test]
fn a_reset_is_told_from_a_close() -> Result<()> {
    in_own_network(|| {
        let (node, mut client, server) = pair("")?;
        reset_on_close(&server)?;
        drop(server);
        assert!(client.read(&mut [0]).is_err());
        expect(&node, &RESET)
    })
}

#[test]
fn a_reset_in_the_middle_of_a_stream_is_one() -> Result<()> {
    in_own_network(|| {
        let (node, mut client, mut server) = pair("")?;
        let reader = thread::spawn(move || -> io::Result<u64> {
            server.read_exact(&mut vec![0; 300_000])?;
            // Closed with data unread, so the kernel resets it.
            Ok(300_000)
        });
        let block = vec![0; 100_000];
        let error = loop {
            if let Err(error) = client.write_all(&block) {
                break error;
            }
        };
        let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        ensure!(kinds.contains(&error.kind()), "{error}");
        reader.join().expect("it does not panic")?;
        expect(&node, &RESET)
    })
}

#[test]
fn a_reset_after_the_servers_half_was_closed_is_one() -> Result<()> {
    in_own_network(|| {
        let (node, mut client, server) = pair("")?;
        server.shutdown(Shutdown::Write)?;
        assert_eq!(client.read(&mut [0])?, 0);
        expect(&node, &STANDING)?;
        client.write_all(b"unread")?;
        drop(server);
        expect(&node, &RESET)
    })
}

#[test]
fn a_reset_by_the_client_is_a_close() -> Result<()> {
    in_own_network(|| {
        let (node, client, mut server) = pair("")?;
        reset_on_close(&client)?;
        drop(client);
        assert!(server.read(&mut [0]).is_err());
        expect(&node, &CLOSED)
    })
}

#[test]
fn a_half_closed_connection_stands_until_the_other_half_is() -> Result<()> {
    in_own_network(|| {
        let (node, mut client, mut server) = pair(", maxConnections: 1")?;
        client.shutdown(Shutdown::Write)?;
        assert_eq!(server.read(&mut [0])?, 0);
        expect(&node, &STANDING)?;
        server.write_all(b"answer")?;
        client.read_exact(&mut [0; 6])?;
        expect(&node, &STANDING)?;
        drop(server);
        // It is over before the client closes its socket.
        expect(&node, &CLOSED)?;
        drop((client, node));
        let (node, mut client, mut server) = pair(", maxConnections: 1")?;
        server.shutdown(Shutdown::Write)?;
        assert_eq!(client.read(&mut [0])?, 0);
        client.write_all(b"more")?;
        server.read_exact(&mut [0; 4])?;
        expect(&node, &STANDING)?;
        drop(client);
        expect(&node, &CLOSED)
    })
}

#[test]
fn a_socket_that_disconnects_can_connect_again() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", maxConnections: 1"))?;
        let listener = TcpListener::bind(BACKEND)?;
        let client = connect()?;
        for ended in 1..4 {
            net::connect_unspec(&client)?;
            expect(&node, &[("closed", ended), ("established", ended)])?;
            assert_eq!(errno_of(&client), None);
            expect(&node, &[("closed", ended), ("established", ended + 1), ("live", 1)])?;
        }
        drop(client);
        expect(&node, &[("closed", 4), ("established", 4)])?;
        drop(listener);
        Ok(())
    })
}

#[test]
fn an_inherited_socket_counts_until_the_last_of_its_owners_closes_it() -> Result<()> {
    in_own_network(|| {
        let (node, client, server) = pair("")?;
        let ours = client.try_clone()?;
        let mut child = hand_over(client.into())?;
        drop(ours);
        expect(&node, &STANDING)?;
        child.kill()?;
        child.wait()?;
        expect(&node, &CLOSED)?;
        drop(server);
        Ok(())
    })
}

#[test]
fn a_socket_that_is_passed_on_counts_until_the_receiver_closes_it() -> Result<()> {
    if env::var_os(RECEIVES).is_some() {
        return receive();
    }
    in_own_network(|| {
        let (node, client, server) = pair("")?;
        let (mut ours, theirs) = UnixStream::pair()?;
        pass_on(&ours, &client)?;
        drop(client);
        expect(&node, &STANDING).context("on its way")?;
        let mut child = Command::new(env::current_exe()?)
            .args(["--exact", PASSED_ON])
            .env(RECEIVES, "1")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        ours.read_exact(&mut [0]).context("the other process has it")?;
        expect(&node, &STANDING)?;
        child.kill()?;
        child.wait()?;
        expect(&node, &CLOSED)?;
        drop(server);
        Ok(())
    })
}

/// Sends a socket over another.
fn pass_on(over: &UnixStream, socket: &TcpStream) -> Result<()> {
    let fds = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    ensure!(control.push(SendAncillaryMessage::ScmRights(&fds)), "there is room for one");
    sendmsg(over, &[IoSlice::new(b"x")], &mut control, SendFlags::empty())?;
    Ok(())
}

/// The test above.
const PASSED_ON: &str = "endings::a_socket_that_is_passed_on_counts_until_the_receiver_closes_it";
/// Set for the other process, which runs the same test.
const RECEIVES: &str = "SPLITTER_TEST_RECEIVES";

/// What the other process does: takes a socket from its input, says so, and keeps it.
fn receive() -> Result<()> {
    let mut input = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&input, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::empty())?;
    let message = control.drain().next().context("a message")?;
    let RecvAncillaryMessage::ScmRights(mut fds) = message else {
        anyhow::bail!("no descriptor came");
    };
    let _kept = fds.next().context("a descriptor")?;
    input.write_all(b"x")?;
    input.read_exact(&mut [0])?;
    Ok(())
}
