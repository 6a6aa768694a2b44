//! Calls through `io_uring`, by whoever carries them out.

use std::net::TcpListener;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use splitter_tests::datagrams::{DatagramServer, datagram_socket};
use splitter_tests::node::two_versions;
use splitter_tests::ring::{Executor, Ring};
use splitter_tests::shared::with_node;

use crate::{FRONTEND, V1, V2, addr, decided, peer, service, tcp};

fn non_blocking() -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?)
}

#[test]
fn connects_of_a_ring_are_split_exactly() -> Result<()> {
    with_node(|node| {
        let _servers = (TcpListener::bind(V1)?, TcpListener::bind(V2)?);
        for executor in Executor::ALL {
            node.clear()?;
            node.apply(&two_versions("tcp", 80, 20))?;
            let mut ring = Ring::new(executor)?;
            let mut of_v2 = 0;
            for n in 1..=20 {
                let client = tcp()?;
                ring.connect(&client, addr(FRONTEND)).with_context(|| format!("{executor:?}"))?;
                of_v2 += u32::from(peer(&client)? == addr(V2));
                assert_eq!(decided(node, "shop")?, n, "{executor:?}: each is decided once");
            }
            assert_eq!(of_v2, 4, "{executor:?}");
        }
        Ok(())
    })
}

#[test]
fn a_socket_that_does_not_wait_is_connected_through_a_ring() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", FRONTEND, V1, "getpeername: frontend,"))?;
        let _server = TcpListener::bind(V1)?;
        for (n, executor) in (1..).zip(Executor::ALL) {
            let client = non_blocking()?;
            let connected = Ring::new(executor)?.connect(&client, addr(FRONTEND));
            // It is up to the kernel whether it waits for a socket that does not.
            let in_progress =
                |error: &std::io::Error| error.raw_os_error() == Some(libc::EINPROGRESS);
            if let Err(error) = connected
                && !in_progress(&error)
            {
                return Err(error).context(format!("{executor:?}"));
            }
            assert_eq!(peer(&client)?, addr(FRONTEND), "{executor:?}");
            assert_eq!(decided(node, "shop")?, n, "{executor:?}");
        }
        Ok(())
    })
}

#[test]
fn a_socket_that_a_ring_made_is_split() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", FRONTEND, V1, ""))?;
        let _server = TcpListener::bind(V1)?;
        for executor in Executor::ALL {
            let mut ring = Ring::new(executor)?;
            let client = ring.socket().with_context(|| format!("{executor:?}"))?;
            ring.connect(&client, addr(FRONTEND))?;
            assert_eq!(peer(&client)?, addr(V1), "{executor:?}");
        }
        Ok(())
    })
}

#[test]
fn the_ring_does_not_change_whose_socket_it_is() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", FRONTEND, V1, ""))?;
        let _server = TcpListener::bind(V1)?;
        for executor in Executor::ALL {
            // Its poll thread is made, and stays, outside the cgroup's processes.
            let foreign = node.place.outside(tcp)??;
            let mut ring = node.place.outside(|| Ring::new(executor))??;
            let refused = ring.connect(&foreign, addr(FRONTEND)).err();
            assert_eq!(refused.and_then(|it| it.raw_os_error()), Some(libc::ECONNREFUSED));
            let ours = tcp()?;
            ring.connect(&ours, addr(FRONTEND)).with_context(|| format!("{executor:?}"))?;
            assert_eq!(peer(&ours)?, addr(V1), "{executor:?}");
        }
        Ok(())
    })
}

/// Routes that reject a client by what is known of it, each with an errno of its own.
fn matching(inner: &str) -> String {
    let route = |wanted: &str, errno| format!("{{match: {{{wanted}}}, reject: {errno}}}, ");
    let routes = [
        route("command: '@'", "ENETUNREACH"),
        route(&format!("cgroup: {inner}, uid: 0"), "EACCES"),
        route(&format!("cgroup: {inner}"), "EHOSTUNREACH"),
    ];
    service("shop", FRONTEND, V1, "").replace("routes: [", &format!("routes: [{}", routes.concat()))
}

#[test]
fn clients_of_a_ring_are_told_apart_by_cgroup_and_user() -> Result<()> {
    with_node(|node| {
        let inner = format!("{}/inner", node.place.cgroup_path());
        let _inside = node.place.enter_child("inner")?;
        node.apply(&matching(&inner))?;
        for executor in Executor::ALL {
            let error = Ring::new(executor)?.connect(tcp()?, addr(FRONTEND)).err();
            assert_eq!(error.and_then(|it| it.raw_os_error()), Some(libc::EACCES), "{executor:?}");
        }
        Ok(())
    })
}

#[test]
fn clients_of_a_ring_have_the_name_of_the_thread_that_connects() -> Result<()> {
    with_node(|node| {
        let id = rustix::thread::gettid();
        // So the kernel calls its threads, by the thread that made the ring or submits to it.
        for (executor, name) in [
            (Executor::Worker, format!("iou-wrk-{}", id.as_raw_nonzero())),
            (Executor::Poller, format!("iou-sqp-{}", id.as_raw_nonzero())),
        ] {
            let names = matching("/nobody").replace('@', &name);
            node.apply(&names)?;
            let error = Ring::new(executor)?.connect(tcp()?, addr(FRONTEND)).err();
            let errno = error.and_then(|it| it.raw_os_error());
            assert_eq!(errno, Some(libc::ENETUNREACH), "{executor:?}");
        }
        Ok(())
    })
}

#[test]
fn datagrams_of_a_ring_are_split_and_answered_by_the_frontend() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", &format!("{FRONTEND}/udp"), V1, ""))?;
        let _server = DatagramServer::echo(V1)?;
        for executor in Executor::ALL {
            let client = datagram_socket("127.0.0.1:0")?;
            let mut ring = Ring::new(executor)?;
            ring.send_to(&client, b"?", addr(FRONTEND)).with_context(|| format!("{executor:?}"))?;
            let mut answer = [0; 8];
            let (n, from) = ring.receive(&client, &mut answer)?;
            assert_eq!((&answer[..n], from), (&b"\x4a\x39?"[..], addr(FRONTEND)), "{executor:?}");
        }
        Ok(())
    })
}
