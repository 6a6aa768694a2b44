//! Failures that routes make on purpose.

use std::time::{Duration, Instant};

use anyhow::Result;
use splitter_tests::net::in_own_network;
use splitter_tests::peers::PortServer;
use splitter_tests::shared;

use super::{BACKEND, connect, policy};

#[test]
fn aborts_are_an_exact_share() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        let fault = "split: {v1: 1}, fault: {abort: {percent: 30, errno: EHOSTUNREACH}}";
        node.apply(&policy("").replace("split: {v1: 1}", fault))?;
        let _serving = PortServer::start(BACKEND)?;
        let aborted =
            |_: &u32| connect().err().and_then(|e| e.raw_os_error()) == Some(libc::EHOSTUNREACH);
        assert_eq!((0..1_000).filter(aborted).count(), 300);
        Ok(())
    })
}

#[test]
fn a_delayed_connection_is_established_later() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        let fault = "split: {v1: 1}, fault: {delay: {percent: 50, time: 100ms}}";
        node.apply(&policy("").replace("split: {v1: 1}", fault))?;
        let _serving = PortServer::start(BACKEND)?;
        let mut late = 0;
        for _ in 0..10 {
            let start = Instant::now();
            connect()?;
            // No more than telling the two kinds apart.
            late += u32::from(start.elapsed() > Duration::from_millis(90));
        }
        assert_eq!(late, 5);
        Ok(())
    })
}
