//! Whose sockets are split: those that were made in the cgroup, whoever connects them.

use std::env;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, connect, recvmsg, sendmsg,
};
use splitter_tests::peers::PortServer;
use splitter_tests::shared::with_node;
use splitter_user::kernel::Hook;

use crate::{FRONTEND, V1, V2, addr, decided, peer, service, tcp};

/// Where the kernel sends a connection to the frontend of a socket; where it sends none, nobody
/// listens.
fn reaches(client: &OwnedFd) -> Result<SocketAddr, Errno> {
    connect(client, &addr(FRONTEND))?;
    Ok(peer(client).expect("it is connected"))
}

#[test]
fn a_socket_belongs_to_the_cgroup_that_it_was_made_in() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", FRONTEND, V1, ""))?;
        let _server = TcpListener::bind(V1)?;
        let ours = tcp()?;
        let foreign = node.place.outside(tcp)??;
        assert_eq!(reaches(&foreign), Err(Errno::CONNREFUSED), "it came in, and is not split");
        let reached = node.place.outside(|| reaches(&ours))?;
        assert_eq!(reached, Ok(addr(V1)), "it went out, and is split");
        assert_eq!(decided(node, "shop")?, 1);
        Ok(())
    })
}

#[test]
fn a_match_of_a_cgroup_looks_at_who_connects() -> Result<()> {
    with_node(|node| {
        let inner = format!("{}/inner", node.place.cgroup_path());
        let socket = tcp()?;
        let _inside = node.place.enter_child("inner")?;
        let policy = service("shop", FRONTEND, V1, "").replace(
            "routes: [",
            &format!("routes: [{{match: {{cgroup: {inner}}}, reject: EACCES}}, "),
        );
        node.apply(&policy)?;
        assert_eq!(reaches(&socket), Err(Errno::ACCESS));
        Ok(())
    })
}

/// Set for the other process, which runs the same test.
const RECEIVES: &str = "SPLITTER_TEST_RECEIVES";
const PASSED: &str = "cgroups::a_socket_that_is_passed_to_another_cgroup_is_split_there";

#[test]
fn a_socket_that_is_passed_to_another_cgroup_is_split_there() -> Result<()> {
    if env::var_os(RECEIVES).is_some() {
        return connect_what_comes();
    }
    with_node(|node| {
        node.apply(&service("shop", FRONTEND, V1, ""))?;
        let _server = PortServer::start(V1)?;
        let (mut ours, theirs) = UnixStream::pair()?;
        let mut child = Command::new(env::current_exe()?)
            .args(["--exact", PASSED])
            .env(RECEIVES, "1")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        node.place.put_outside(child.id())?;
        let passed = tcp()?;
        pass_on(&ours, passed.as_fd())?;
        let mut port = [0; 2];
        let answered = ours.read_exact(&mut port);
        let end = child.wait()?;
        answered.context("the other process is not connected")?;
        ensure!(end.success(), "the other process: {end}");
        assert_eq!(u16::from_be_bytes(port), 19001);
        Ok(())
    })
}

fn pass_on(over: &UnixStream, socket: BorrowedFd<'_>) -> Result<()> {
    let fds = [socket];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    ensure!(control.push(SendAncillaryMessage::ScmRights(&fds)), "there is room for one");
    sendmsg(over, &[IoSlice::new(b"x")], &mut control, SendFlags::empty())?;
    Ok(())
}

/// What the other process does, outside the cgroup: connects the socket that it is sent, and tells
/// which port answered. A socket of its own gets nowhere.
fn connect_what_comes() -> Result<()> {
    let mut input = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&input, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::empty())?;
    let Some(RecvAncillaryMessage::ScmRights(mut fds)) = control.drain().next() else {
        bail!("no descriptor came");
    };
    assert_eq!(reaches(&tcp()?), Err(Errno::CONNREFUSED), "a socket of its own");
    let passed = fds.next().context("a descriptor")?;
    connect(&passed, &addr(FRONTEND))?;
    let mut port = [0; 2];
    TcpStream::from(passed).read_exact(&mut port)?;
    Ok(input.write_all(&port)?)
}

#[test]
fn connections_from_before_the_hooks_stay_where_they_are() -> Result<()> {
    with_node(|node| {
        let connects = [Hook::Connect4, Hook::Connect6];
        node.apply(&service("shop", FRONTEND, V1, "getpeername: frontend,"))?;
        let (itself, _v1) = (TcpListener::bind(FRONTEND)?, TcpListener::bind(V1)?);
        node.attachment.detach(&connects)?;
        let unconnected = tcp()?;
        let mut before = TcpStream::connect(FRONTEND)?;
        node.attachment.attach(&mut node.loaded, &connects)?;
        assert_eq!(before.peer_addr()?, addr(FRONTEND));
        itself.accept()?.0.write_all(b"x")?;
        before.read_exact(&mut [0])?;
        assert_eq!(decided(node, "shop")?, 0);
        connect(&unconnected, &addr(FRONTEND))?;
        assert_eq!(decided(node, "shop")?, 1);
        Ok(())
    })
}

#[test]
fn what_dials_the_backend_itself_is_left_alone() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", FRONTEND, V1, "getpeername: frontend,"))?;
        let _servers = (TcpListener::bind(V1)?, TcpListener::bind(V2)?);
        for to in [V1, V2] {
            let client = tcp()?;
            connect(&client, &addr(to))?;
            assert_eq!(peer(&client)?, addr(to));
        }
        assert_eq!(decided(node, "shop")?, 0);
        Ok(())
    })
}
