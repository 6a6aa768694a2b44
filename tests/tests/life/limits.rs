//! Limits: never passed, and used up while there is demand.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::net;
use splitter_common::abi::{Reason, cell};
use splitter_tests::daemon::eventually;
use splitter_tests::net::in_own_network;
use splitter_tests::node::Node;
use splitter_tests::scale;
use splitter_tests::shared;

use super::{BACKEND, backend, connect, expect, live, policy, socket};

/// Connections that were refused because of the limit.
fn over_limit(node: &Node) -> Result<u64> {
    node.reason(Reason::OverLimit)
}

#[test]
fn connections_beyond_the_limit_are_refused() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", maxConnections: 3"))?;
        let _listener = TcpListener::bind(BACKEND)?;
        let mut clients: Vec<TcpStream> = (0..3).map(|_| connect()).collect::<io::Result<_>>()?;
        for refused in 1..=5 {
            assert_eq!(connect().unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
            assert_eq!((live(&node)?, over_limit(&node)?), (3, refused));
        }
        clients.pop();
        expect(&node, &[("closed", 1), ("established", 3), ("live", 2)])?;
        let _another = connect()?;
        assert_eq!(connect().unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
        Ok(())
    })
}

/// A server that closes first, so that what it has open is never more than what clients have.
#[derive(Default)]
struct Server {
    accepted: AtomicU64,
    open: AtomicU64,
    most_open: AtomicU64,
    held: Mutex<Vec<TcpStream>>,
    stop: AtomicBool,
}

impl Server {
    fn accept(&self, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_open.fetch_max(open, Ordering::SeqCst);
            self.held.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
            self.accepted.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Whether there was one.
    fn close_one(&self) -> bool {
        let Some(stream) = self.held.lock().unwrap_or_else(PoisonError::into_inner).pop() else {
            return false;
        };
        self.open.fetch_sub(1, Ordering::SeqCst);
        drop(stream);
        true
    }

    fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// What clients do until they are told to stop, and what came of it.
#[derive(Default)]
struct Clients {
    stop: AtomicBool,
    running: AtomicU64,
    refused: AtomicU64,
    broken: AtomicU64,
}

impl Clients {
    /// Connects again and again, and stays until the server closes.
    fn insist(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            match connect() {
                Ok(stream) if matches!((&stream).read(&mut [0]), Ok(0)) => {}
                Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => {
                    self.refused.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(100));
                }
                _ => {
                    self.broken.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A listener whose backlog has room for all.
fn roomy_listener() -> Result<TcpListener> {
    let socket = socket()?;
    net::bind(&socket, &BACKEND.parse::<SocketAddr>()?)?;
    net::listen(&socket, 4_096)?;
    Ok(TcpListener::from(socket))
}

/// With more clients than places who all go on trying, the places are all taken; whenever one
/// becomes free, exactly one more client is let in; and never, at no moment, are there more.
#[test]
fn a_thousand_clients_fill_a_limit_of_a_hundred_and_never_pass_it() -> Result<()> {
    in_own_network(|| {
        let limit = (100 / scale()).max(4);
        let mut node = shared::node()?;
        node.apply(&policy(&format!(", maxConnections: {limit}")))?;
        let listener = roomy_listener()?;
        let (server, clients) = (Server::default(), Clients::default());
        let outcome = thread::scope(|threads| -> Result<()> {
            threads.spawn(|| server.accept(&listener));
            for _ in 0..10 * limit {
                clients.running.fetch_add(1, Ordering::SeqCst);
                let builder = thread::Builder::new().stack_size(64 << 10);
                builder.spawn_scoped(threads, || clients.insist())?;
            }
            let outcome = crowd(&node, &server, &clients, limit);
            clients.stop.store(true, Ordering::SeqCst);
            eventually("all clients end", || {
                while server.close_one() {}
                Ok(clients.running.load(Ordering::SeqCst) == 0)
            })?;
            server.stop.store(true, Ordering::SeqCst);
            drop(TcpStream::connect(BACKEND)?);
            outcome
        });
        outcome?;
        let accepted = server.accepted();
        expect(&node, &[("closed", accepted), ("established", accepted)])?;
        assert_eq!(clients.broken.load(Ordering::SeqCst), 0, "refused is all that they are");
        assert_eq!(over_limit(&node)?, clients.refused.load(Ordering::SeqCst));
        assert_eq!(server.most_open.load(Ordering::SeqCst), limit);
        Ok(())
    })
}

/// The three things that are to be seen while clients crowd.
fn crowd(node: &Node, server: &Server, clients: &Clients, limit: u64) -> Result<()> {
    eventually("the limit is reached", || Ok(server.accepted() == limit))?;
    let refused = clients.refused.load(Ordering::SeqCst);
    eventually("others go on trying", || {
        ensure!(live(node)? == limit && server.accepted() == limit, "it moves");
        Ok(clients.refused.load(Ordering::SeqCst) > refused + 20 * limit)
    })?;
    for more in 1..=(200 / scale()).max(20) {
        ensure!(server.close_one(), "there is one to close");
        eventually("one more is let in", || Ok(server.accepted() == limit + more))?;
        assert_eq!((live(node)?, server.open.load(Ordering::SeqCst)), (limit, limit));
    }
    churn(node, server, limit)
}

/// Connections come and go as fast as they can.
fn churn(node: &Node, server: &Server, limit: u64) -> Result<()> {
    let enough = server.accepted() + 5_000 / scale();
    let is_over = AtomicBool::new(false);
    thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    server.close_one();
                    thread::yield_now();
                }
            });
        }
        let watched = eventually("many come and go", || {
            for _ in 0..1_000 {
                let (of_subset, of_backend) = (live(node)?, backend(node)?.cells[cell::LIVE]);
                ensure!(of_subset <= limit && of_backend <= limit, "{of_subset} {of_backend}");
            }
            Ok(server.accepted() >= enough)
        });
        is_over.store(true, Ordering::SeqCst);
        watched
    })
}
