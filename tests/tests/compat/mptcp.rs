//! MPTCP sockets, whose first path is what the hooks see and whose whole is what programs ask.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::net::{bind, connect, connect_unspec, listen};
use splitter_tests::net::{mptcp_socket, number_option};
use splitter_tests::node::two_versions;
use splitter_tests::programs::output;
use splitter_tests::shared::with_node;

use crate::{FRONTEND, V1, V2, addr, decided, peer, service};

/// Nothing that is waited for takes so long unless it never comes.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

#[test]
fn mptcp_sockets_are_told_the_frontend_while_it_is_true() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", FRONTEND, V1, "getpeername: frontend,"))?;
        let _servers = (TcpListener::bind(V1)?, TcpListener::bind(V2)?);
        let client = mptcp_socket()?;
        for to in [FRONTEND, V1, FRONTEND, V2] {
            connect(&client, &addr(to))?;
            assert_eq!(peer(&client)?, addr(to));
            connect_unspec(&client)?;
        }
        assert_eq!(decided(node, "shop")?, 2);
        Ok(())
    })
}

/// Level and number of `MPTCP_INFO`, whose first byte is the number of further paths.
const MPTCP_INFO: (i32, i32) = (284, 1);

/// Has sockets of this network open a second path, from another address.
fn allow_paths() -> Result<()> {
    let from = ["endpoint", "add", "127.0.0.5", "subflow"];
    for arguments in [&["limits", "set", "subflow", "1"][..], &from] {
        output(Command::new("ip").arg("mptcp").args(arguments))?;
    }
    Ok(())
}

fn n_further_paths(client: &TcpStream) -> Result<u32> {
    Ok(number_option(client, MPTCP_INFO)? & 0xff)
}

/// An MPTCP connection with two paths, and what it is accepted as.
fn two_paths(listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let client = mptcp_socket()?;
    connect(&client, &addr(FRONTEND))?;
    let mut client = TcpStream::from(client);
    let mut server = listener.accept()?.0;
    // The kernel opens further paths once data went both ways.
    client.write_all(b"ask")?;
    server.read_exact(&mut [0; 3])?;
    server.write_all(b"answer")?;
    client.read_exact(&mut [0; 6])?;
    let start = Instant::now();
    while n_further_paths(&client)? == 0 {
        ensure!(start.elapsed() < LONGEST_WAIT, "there is no second path");
        thread::sleep(Duration::from_millis(1));
    }
    Ok((client, server))
}

/// Clients may dial the backend themselves: its address is a frontend too.
#[test]
fn further_paths_of_an_mptcp_connection_go_where_it_is() -> Result<()> {
    with_node(|node| {
        allow_paths()?;
        let both = format!("\"{FRONTEND}\", \"{V1}\"");
        node.apply(&two_versions("tcp", 1, 1).replace("\"127.10.0.1:8080/tcp\"", &both))?;
        let listening = mptcp_socket()?;
        bind(&listening, &addr(V1))?;
        listen(&listening, 16)?;
        let _elsewhere = TcpListener::bind(V2)?;
        let (client, _server) = two_paths(&listening.into())?;
        assert_eq!(client.peer_addr()?, addr(V1));
        assert_eq!(decided(node, "shop")?, 1, "a path is not a connection");
        Ok(())
    })
}
