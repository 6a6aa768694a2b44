//! Connections that are begun: whether they come to stand, and what is left where they do not.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};
use splitter_tests::net::{fill_option_memory, full_listener, in_own_network};
use splitter_tests::shared;

use super::{BACKEND, FRONTEND, connect, errno_of, expect, frontend, live, policy, socket};

/// Begins to connect and does not wait for what comes of it.
fn begin() -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    begin_on(&socket)?;
    Ok(socket)
}

fn begin_on(socket: &OwnedFd) -> Result<()> {
    let begun = net::connect(socket, &frontend());
    ensure!(begun == Err(Errno::INPROGRESS), "connect() answered {begun:?}");
    Ok(())
}

/// Waits, as event loops do, and answers what came of it.
fn outcome_of(socket: &OwnedFd) -> Result<std::result::Result<(), Errno>> {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    poll(&mut fds, Some(&Duration::from_mins(1).try_into()?))?;
    Ok(sockopt::socket_error(socket)?)
}

fn user_timeout(socket: impl AsFd) -> io::Result<u32> {
    Ok(sockopt::tcp_user_timeout(socket)?)
}

#[test]
fn refused_connections_are_counted() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(""))?;
        assert_eq!(connect().unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
        expect(&node, &[("refused", 1)])
    })
}

#[test]
fn a_connection_that_nobody_answers_times_out() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", connectTimeout: 250ms"))?;
        let _full = full_listener(BACKEND)?;
        assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::TimedOut);
        expect(&node, &[("timed out", 1)])
    })
}

#[test]
fn a_backlog_that_drains_lets_the_waiting_in() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(""))?;
        let (listener, first) = full_listener(BACKEND)?;
        let waiting = begin()?;
        expect(&node, &[("live", 1), ("pending", 1)])?;
        drop(net::accept(&listener)?);
        drop(first);
        // The kernel sends the SYN again after a second.
        assert_eq!(outcome_of(&waiting)?, Ok(()));
        expect(&node, &[("established", 1), ("live", 1)])?;
        drop((waiting, net::accept(&listener)?));
        expect(&node, &[("closed", 1), ("established", 1)])
    })
}

#[test]
fn a_server_that_accepts_late_or_never_makes_no_difference() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", connectTimeout: 100ms"))?;
        let listener = TcpListener::bind(BACKEND)?;
        let (late, never) = (connect()?, connect()?);
        expect(&node, &[("established", 2), ("live", 2)])?;
        let accepted = listener.accept()?;
        drop(never);
        expect(&node, &[("closed", 1), ("established", 2), ("live", 1)])?;
        drop((late, accepted));
        expect(&node, &[("closed", 2), ("established", 2)])
    })
}

#[test]
fn connects_that_are_not_waited_for_count_like_others() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", connectTimeout: 100ms, maxConnections: 10"))?;
        let refused = begin()?;
        assert_eq!(outcome_of(&refused)?, Err(Errno::CONNREFUSED));
        let full = full_listener(BACKEND)?;
        let unanswered = begin()?;
        assert_eq!(outcome_of(&unanswered)?, Err(Errno::TIMEDOUT));
        drop(full);
        let _listener = TcpListener::bind(BACKEND)?;
        let standing = begin()?;
        assert_eq!(outcome_of(&standing)?, Ok(()));
        expect(&node, &[("established", 1), ("live", 1), ("refused", 1), ("timed out", 1)])?;
        drop((refused, unanswered, standing));
        expect(&node, &[("closed", 1), ("established", 1), ("refused", 1), ("timed out", 1)])
    })
}

#[test]
fn connects_that_are_given_up_leave_nothing_behind() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", maxConnections: 10"))?;
        let _full = full_listener(BACKEND)?;
        let (closed, shut, disconnected) = (begin()?, begin()?, begin()?);
        expect(&node, &[("live", 3), ("pending", 3)])?;
        drop(closed);
        expect(&node, &[("abandoned", 1), ("live", 2), ("pending", 2)])?;
        net::shutdown(&shut, Shutdown::Both)?;
        expect(&node, &[("abandoned", 2), ("live", 1), ("pending", 1)])?;
        net::connect_unspec(&disconnected)?;
        expect(&node, &[("abandoned", 3)])?;
        begin_on(&disconnected)?;
        expect(&node, &[("abandoned", 3), ("live", 1), ("pending", 1)])?;
        drop((shut, disconnected));
        expect(&node, &[("abandoned", 4)])
    })
}

#[test]
fn a_process_that_is_killed_while_it_connects_leaves_nothing_behind() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", maxConnections: 10"))?;
        let _full = full_listener(BACKEND)?;
        let mut child = hand_over(begin()?)?;
        expect(&node, &[("live", 1), ("pending", 1)])?;
        child.kill()?;
        child.wait()?;
        expect(&node, &[("abandoned", 1)])
    })
}

/// A process that does nothing but to have a socket, which nobody else has.
pub(super) fn hand_over(socket: OwnedFd) -> Result<Child> {
    Ok(Command::new("sleep").arg("600").stdin(socket).spawn()?)
}

#[test]
fn a_socket_can_connect_again_after_a_failure() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", maxConnections: 1"))?;
        let again = socket()?;
        for refused in 1..=3 {
            assert_eq!(errno_of(&again), Some(libc::ECONNREFUSED));
            expect(&node, &[("refused", refused)])?;
        }
        let _listener = TcpListener::bind(BACKEND)?;
        assert_eq!(errno_of(&again), None);
        expect(&node, &[("established", 1), ("live", 1), ("refused", 3)])?;
        drop(again);
        expect(&node, &[("closed", 1), ("established", 1), ("refused", 3)])
    })
}

#[test]
fn a_socket_that_goes_elsewhere_after_a_failure_is_not_followed() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", maxConnections: 1"))?;
        let socket = socket()?;
        assert_eq!(errno_of(&socket), Some(libc::ECONNREFUSED));
        let _listener = TcpListener::bind(BACKEND)?;
        net::connect(&socket, &BACKEND.parse::<SocketAddr>()?)?;
        expect(&node, &[("refused", 1)])?;
        drop(socket);
        expect(&node, &[("refused", 1)])
    })
}

#[test]
fn a_timeout_of_the_connect_is_none_of_the_connection() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", connectTimeout: 100ms"))?;
        let _listener = TcpListener::bind(BACKEND)?;
        assert_eq!(user_timeout(connect()?)?, 0);
        let own = socket()?;
        sockopt::set_tcp_user_timeout(&own, 7_000)?;
        net::connect(&own, &frontend())?;
        assert_eq!(user_timeout(&own)?, 7_000, "what the program set is put back");
        Ok(())
    })
}

#[test]
fn a_timeout_of_a_failed_connect_is_none_of_the_next() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", connectTimeout: 100ms"))?;
        let again = socket()?;
        sockopt::set_tcp_user_timeout(&again, 7_000)?;
        assert_eq!(errno_of(&again), Some(libc::ECONNREFUSED));
        assert_eq!(user_timeout(&again)?, 7_000, "it is put back after a failure");
        let _listener = TcpListener::bind(BACKEND)?;
        assert_eq!(errno_of(&again), None);
        assert_eq!(user_timeout(&again)?, 7_000);
        Ok(())
    })
}

#[test]
fn a_timeout_of_a_connect_that_never_began_is_none_of_the_next() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        // There is no way to the backend, so connect() fails after the hook.
        node.apply(&policy(", connectTimeout: 100ms").replace(BACKEND, "192.0.2.1:1"))?;
        let (again, elsewhere) = (socket()?, socket()?);
        for socket in [&again, &elsewhere] {
            assert_eq!(errno_of(socket), Some(libc::ENETUNREACH));
        }
        node.apply(&policy(", connectTimeout: 100ms"))?;
        let _listener = TcpListener::bind(BACKEND)?;
        assert_eq!(errno_of(&again), None);
        assert_eq!(user_timeout(&again)?, 0);
        net::connect(&elsewhere, &BACKEND.parse::<SocketAddr>()?)?;
        assert_eq!(user_timeout(&elsewhere)?, 0, "where it is not followed either");
        Ok(())
    })
}

#[test]
fn what_was_reserved_is_given_back_where_no_packet_ever_left() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        // There is no way to the backend, so connect() fails after the hook.
        node.apply(&policy(", maxConnections: 1").replace(BACKEND, "192.0.2.1:1"))?;
        let held = socket()?;
        assert_eq!(errno_of(&held), Some(libc::ENETUNREACH));
        assert_eq!(live(&node)?, 1);
        assert_eq!(connect().unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
        let what = "a socket that tries again has its place";
        assert_eq!(errno_of(&held), Some(libc::ENETUNREACH), "{what}");
        assert_eq!(live(&node)?, 1);
        drop(held);
        expect(&node, &[])
    })
}

#[test]
fn what_was_reserved_is_given_back_where_there_is_no_memory_for_it() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", maxConnections: 1"))?;
        let _listener = TcpListener::bind(BACKEND)?;
        let full = socket()?;
        fill_option_memory(&full)?;
        for _ in 0..3 {
            assert_eq!(errno_of(&full), Some(libc::ENOMEM), "nobody could tell when it ends");
        }
        expect(&node, &[])?;
        let client = connect();
        ensure!(client.is_ok(), "{FRONTEND} takes a client that can be counted: {client:?}");
        expect(&node, &[("established", 1), ("live", 1)])
    })
}
