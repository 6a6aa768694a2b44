//! What becomes of a connection besides the split: families, passes, rejections, clients.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::thread;

use anyhow::Result;
use splitter_tests::net::in_own_network;
use splitter_tests::node::Node;
use splitter_tests::peers::{PortServer, UdpClient, ask_port};
use splitter_tests::shared;
use splitter_user::kernel::{Hook, HookState};
use splitter_user::publish::CounterOwner;

/// A policy document with the given `spec`.
fn split(name: &str, spec: &str) -> String {
    format!("apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

fn errno_of(addr: &str) -> Option<i32> {
    let addr: SocketAddr = addr.parse().expect("an address");
    TcpStream::connect(addr).err().and_then(|error| error.raw_os_error())
}

#[test]
fn v4_mapped_and_v6_connections_are_split() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        let v4 = split(
            "four",
            "{frontends: ['127.10.0.1:80'], subsets: {a: {backends: ['127.0.0.1:19001']}}, routes: [{split: {a: 1}}]}",
        );
        let v6 = split(
            "six",
            "{frontends: ['[::1]:18080'], subsets: {a: {backends: ['[::1]:19006']}}, routes: [{split: {a: 1}}]}",
        );
        node.apply(&format!("{v4}---\n{v6}"))?;
        let _four = PortServer::start("127.0.0.1:19001")?;
        let _six = PortServer::start("[::1]:19006")?;
        assert_eq!(ask_port("127.10.0.1:80")?, 19001);
        assert_eq!(ask_port("[::ffff:127.10.0.1]:80")?, 19001);
        assert_eq!(ask_port("[::1]:18080")?, 19006);
        Ok(())
    })
}

#[test]
fn connected_udp_is_split_by_its_own_frontend() -> Result<()> {
    let mut node = shared::node()?;
    node.apply(&split(
        "dns",
        "{frontends: ['127.10.0.1:53/udp'], subsets: {a: {backends: ['127.0.0.1:19053']}}, routes: [{split: {a: 1}}]}",
    ))?;
    assert_eq!(UdpClient::new("127.10.0.1:53")?.connect()?.to_string(), "127.0.0.1:19053");
    assert_eq!(errno_of("127.10.0.1:53"), Some(libc::ECONNREFUSED), "TCP is not rewritten");
    Ok(())
}

#[test]
fn routes_reject_pass_and_refuse_with_their_own_errno() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        let reject =
            split("reject", "{frontends: ['127.10.0.1:81'], routes: [{reject: EHOSTUNREACH}]}");
        let pass = split("pass", "{frontends: ['127.0.0.1:19082'], routes: [{pass: true}]}");
        let empty = split(
            "empty",
            "{frontends: ['127.10.0.1:83'], subsets: {a: {backends: []}}, routes: [{split: {a: 1}}]}",
        );
        node.apply(&format!("{reject}---\n{pass}---\n{empty}"))?;
        let _server = PortServer::start("127.0.0.1:19082")?;
        assert_eq!(errno_of("127.10.0.1:81"), Some(libc::EHOSTUNREACH));
        assert_eq!(ask_port("127.0.0.1:19082")?, 19082);
        assert_eq!(errno_of("127.10.0.1:83"), Some(libc::ECONNREFUSED));
        Ok(())
    })
}

#[test]
fn counters_say_what_happened() -> Result<()> {
    let mut node = shared::node()?;
    node.apply(&split(
        "counted",
        "{frontends: ['127.10.0.1:84/udp'],
          subsets: {v1: {backends: ['127.0.0.1:19001', '127.0.0.1:19011']}, v2: {backends: ['127.0.0.1:19002']}},
          routes: [{split: {v1: 9, v2: 1}}]}",
    ))?;
    let client = UdpClient::new("127.10.0.1:84")?;
    for _ in 0..100 {
        client.connect()?;
    }
    let counts = node.counts("counted")?;
    let mut routes = Vec::new();
    let mut subsets = Vec::new();
    let mut backends = Vec::new();
    for (owner, count) in counts {
        match owner {
            CounterOwner::Route(_) => routes.push(count),
            CounterOwner::Subset(_) => subsets.push(count),
            CounterOwner::Backend(_, backend) => backends.push((backend.port_be.to_host(), count)),
        }
    }
    subsets.sort_unstable();
    backends.sort_unstable();
    assert_eq!(routes, [100]);
    assert_eq!(subsets, [10, 90]);
    assert_eq!(backends, [(19001, 45), (19002, 10), (19011, 45)]);
    Ok(())
}

/// Sets the thread's effective ids by raw system calls, which do not touch the other threads, and
/// answers the port that it then reaches.
fn port_as(uid: u32, gid: u32, command: &'static str) -> Result<u16> {
    let client = move || -> io::Result<u16> {
        let command = std::ffi::CString::new(command).map_err(io::Error::other)?;
        // SAFETY: system calls on numbers and a live C string, for this thread, which ends after.
        unsafe {
            libc::prctl(libc::PR_SET_NAME, command.as_ptr());
            libc::syscall(libc::SYS_setresgid, gid, gid, gid);
            libc::syscall(libc::SYS_setresuid, uid, uid, uid);
        }
        UdpClient::new("127.10.0.1:85").map_err(io::Error::other)?.connect_port()
    };
    Ok(thread::spawn(client).join().expect("the client does not panic")?)
}

#[test]
fn clients_are_told_apart_by_uid_gid_command_and_cgroup() -> Result<()> {
    let mut node = shared::node()?;
    let inner = format!("{}/inner", node.place.cgroup_path());
    let inside = node.place.enter_child("inner")?;
    node.apply(&split(
        "clients",
        &format!(
            "{{frontends: ['127.10.0.1:85/udp'],
              subsets: {{uid: {{backends: ['127.0.0.1:19001']}}, gid: {{backends: ['127.0.0.1:19002']}},
                        command: {{backends: ['127.0.0.1:19003']}}, cgroup: {{backends: ['127.0.0.1:19004']}},
                        both: {{backends: ['127.0.0.1:19005']}}, rest: {{backends: ['127.0.0.1:19006']}}}},
              routes: [{{match: {{uid: 4242, gid: 4343}}, split: {{both: 1}}}},
                       {{match: [{{uid: 4242}}, {{uid: 4244}}], split: {{uid: 1}}}},
                       {{match: {{gid: 4343}}, split: {{gid: 1}}}},
                       {{match: {{command: curl}}, split: {{command: 1}}}},
                       {{match: {{cgroup: {inner}}}, split: {{cgroup: 1}}}},
                       {{split: {{rest: 1}}}}]}}"
        ),
    ))?;
    assert_eq!(port_as(4242, 4343, "x")?, 19005);
    assert_eq!(port_as(4242, 1, "curl")?, 19001);
    assert_eq!(port_as(4244, 1, "x")?, 19001);
    assert_eq!(port_as(1, 4343, "x")?, 19002);
    assert_eq!(port_as(1, 1, "curl")?, 19003);
    assert_eq!(port_as(1, 1, "curl2")?, 19004);
    drop(inside);
    assert_eq!(port_as(1, 1, "x")?, 19006);
    Ok(())
}

#[test]
fn affinity_keeps_a_client_on_its_subset() -> Result<()> {
    let mut node = shared::node()?;
    let policy = |v2: u32| {
        split(
            "sticky",
            &format!(
                "{{frontends: ['127.10.0.1:85/udp'],
                  subsets: {{v1: {{backends: ['127.0.0.1:19001']}}, v2: {{backends: ['127.0.0.1:19002']}}}},
                  routes: [{{split: {{v1: {}, v2: {v2}}}, affinity: uid}}]}}",
                100 - v2
            ),
        )
    };
    let mut before = vec![19001; 200];
    for v2 in [0, 20, 50, 90, 100] {
        node.apply(&policy(v2))?;
        let ports: Vec<u16> = (1..=200).map(|uid| port_as(uid, 1, "x")).collect::<Result<_>>()?;
        let moved_back = before.iter().zip(&ports).any(|(b, p)| *b == 19002 && *p == 19001);
        assert!(!moved_back, "raising v2 to {v2} moved a client to v1");
        assert_eq!(port_as(7, 1, "x")?, ports[6], "the same client, the same subset");
        before = ports;
    }
    assert!(before.iter().all(|port| *port == 19002));
    Ok(())
}

#[test]
fn getpeername_answers_the_frontend_only_where_asked_and_only_while_true() -> Result<()> {
    let mut node = shared::node()?;
    let told = split(
        "told",
        "{getpeername: frontend, frontends: ['127.10.0.1:86/udp', '[::1]:18086/udp'],
          subsets: {a: {backends: ['127.0.0.1:19001']}}, routes: [{split: {a: 1}}]}",
    );
    let told = told.replace(", '[::1]:18086/udp'", "");
    let untold = split(
        "untold",
        "{frontends: ['127.10.0.1:87/udp'], subsets: {a: {backends: ['127.0.0.1:19001']}}, routes: [{split: {a: 1}}]}",
    );
    node.apply(&format!("{told}---\n{untold}"))?;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let peer = |to: &str| -> io::Result<String> {
        socket.connect(to)?;
        Ok(socket.peer_addr()?.to_string())
    };
    assert_eq!(peer("127.10.0.1:86")?, "127.10.0.1:86");
    assert_eq!(peer("127.10.0.1:87")?, "127.0.0.1:19001", "another service on the same socket");
    assert_eq!(peer("127.10.0.1:86")?, "127.10.0.1:86");
    assert_eq!(peer("127.0.0.1:19001")?, "127.0.0.1:19001", "dialled directly after a rewrite");
    Ok(())
}

#[test]
fn hooks_say_what_the_kernel_runs() -> Result<()> {
    let mut node = Node::whole()?;
    for hook in Hook::ALL {
        let own = hook.program_id(&mut node.loaded)?;
        assert!(matches!(
            node.attachment.state(hook, own)?,
            HookState::Attached { before: 0, after: 0, .. }
        ));
    }
    node.attachment.attach(&mut node.loaded, &Hook::ALL)?;
    let own = Hook::Connect4.program_id(&mut node.loaded)?;
    assert!(matches!(
        node.attachment.state(Hook::Connect4, own)?,
        HookState::Attached { before: 0, after: 0, .. }
    ));
    assert_eq!(node.attachment.state(Hook::Connect4, own + 1)?, HookState::Foreign);
    node.attachment.detach(&Hook::PEER_NAME)?;
    assert_eq!(node.attachment.state(Hook::PeerName4, own)?, HookState::Detached);
    Ok(())
}

#[test]
fn outside_the_cgroup_nothing_is_rewritten() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&split(
            "here",
            "{frontends: ['127.10.0.1:88'], subsets: {a: {backends: ['127.0.0.1:19001']}}, routes: [{split: {a: 1}}]}",
        ))?;
        let _server = PortServer::start("127.0.0.1:19001")?;
        assert_eq!(ask_port("127.10.0.1:88")?, 19001);
        let outside = node.place.outside(|| errno_of("127.10.0.1:88"))?;
        assert_eq!(outside, Some(libc::ECONNREFUSED));
        Ok(())
    })
}
