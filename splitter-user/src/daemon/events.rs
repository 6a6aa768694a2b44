//! What was refused, or would have been: from the kernel's ring to people.
//!
//! The latest are kept for who asks, and a few a second are logged.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use splitter_common::abi::{EgressEvent, UDP};
use tracing::{info, warn};

use super::clients::own_cgroup;
use super::dump::socket_addr;
use super::outcomes::monotonic_ns;
use super::requests::KernelEngine;
use crate::kernel::EventRing;

/// Events that are kept.
const KEPT: usize = 8_192;
/// Events that are logged in a second.
const MOST_LOGGED: u32 = 10;
/// Events that are taken at once, so that nobody else waits.
const MOST_TAKEN: usize = 1_024;

/// One connection or datagram that a client may not make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Its number: each is one more than the one before.
    pub(crate) number: u64,
    /// When, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// `refused`, or `audited` where it went on.
    pub(crate) verdict: String,
    /// What was dialled, as `ADDRESS:PORT/PROTOCOL`.
    pub(crate) to: String,
    /// Name of the egress document; `None` where an earlier daemon had it and could not keep it.
    pub(crate) rule: Option<String>,
    /// Process id of the client.
    pub(crate) process: u32,
    /// Its command name.
    pub(crate) command: String,
    /// Its effective user id.
    pub(crate) uid: u32,
    /// Its effective group id.
    pub(crate) gid: u32,
    /// Path of its cgroup, where the process was still there and could be looked at.
    pub(crate) cgroup: Option<String>,
    /// Id of its cgroup.
    pub(crate) cgroup_id: u64,
    /// Cookie of its network namespace.
    pub(crate) netns: u64,
}

/// The latest events.
pub(super) struct Events {
    kept: VecDeque<Event>,
    next: u64,
    /// When the second began that is counted, and how many were logged in it.
    second: (Instant, u32),
    unlogged: u64,
}

impl Events {
    pub(super) fn new() -> Self {
        let second = (Instant::now(), 0);
        Self { kept: VecDeque::new(), next: 1, second, unlogged: 0 }
    }

    /// Takes what is in the ring, or a part of it. Answers whether nothing was left.
    pub(super) fn take(&mut self, ring: &mut EventRing, engine: &KernelEngine) -> bool {
        for _ in 0..MOST_TAKEN {
            let Some(event) = ring.take() else { return true };
            let event = describe(&event, self.next, engine);
            self.next += 1;
            self.log(&event);
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(event);
        }
        false
    }

    /// Those after a number that are kept, at most so many.
    pub(super) fn after(&self, number: u64, most: usize) -> Vec<Event> {
        let first = self.kept.partition_point(|event| event.number <= number);
        self.kept.iter().skip(first).take(most).cloned().collect()
    }

    fn log(&mut self, event: &Event) {
        if self.second.0.elapsed() >= Duration::from_secs(1) {
            if self.unlogged > 0 {
                warn!("{} more were refused or audited: `splitter events`", self.unlogged);
            }
            (self.second, self.unlogged) = ((Instant::now(), 0), 0);
        }
        if self.second.1 >= MOST_LOGGED {
            self.unlogged += 1;
            return;
        }
        self.second.1 += 1;
        let Event { verdict, to, rule, process, command, uid, .. } = event;
        let rule = rule.as_deref().unwrap_or("of an earlier daemon");
        info!(%to, rule, process, command, uid, "{verdict}");
    }
}

fn describe(event: &EgressEvent, number: u64, engine: &KernelEngine) -> Event {
    let to: SocketAddr = socket_addr(event.addr, event.port_be);
    let protocol = if event.protocol == UDP { "udp" } else { "tcp" };
    let command = event.command.split(|byte| *byte == 0).next().unwrap_or_default();
    Event {
        number,
        at_ms: wall_clock_ms(event.at_ns),
        verdict: if event.audited != 0 { "audited" } else { "refused" }.to_owned(),
        to: format!("{to}/{protocol}"),
        rule: engine.egress_name(event.set, event.rule).map(str::to_owned),
        process: event.process,
        command: String::from_utf8_lossy(command).into_owned(),
        uid: event.uid,
        gid: event.gid,
        cgroup: find_cgroup(event.process),
        cgroup_id: event.cgroup,
        netns: event.netns,
    }
}

fn wall_clock_ms(at_ns: u64) -> u64 {
    let ago = Duration::from_nanos(monotonic_ns().saturating_sub(at_ns));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.saturating_sub(ago).as_millis()).unwrap_or(u64::MAX)
}

fn find_cgroup(process: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    own_cgroup(&text).map(str::to_owned)
}
