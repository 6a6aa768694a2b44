//! How it is found out whether a backend serves.

use std::ops::RangeInclusive;

/// How it is found out, again and again, whether a backend serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// What is tried.
    pub probe: Probe,
    /// Port that is probed, not 0; the backend's own where `None`.
    pub port: Option<u16>,
    /// Time from the begin of a probe to that of the next one, in milliseconds, at least 1.
    pub interval_ms: u32,
    /// Longest time that a probe takes, in milliseconds, at least 1.
    pub timeout_ms: u32,
    /// Successes in a row after which an unhealthy backend is healthy, at least 1.
    pub healthy_threshold: u32,
    /// Failures in a row after which a healthy backend is unhealthy, at least 1.
    pub unhealthy_threshold: u32,
    /// Most that is added to an interval at random, as a share of it in percent, 0 to 100.
    pub jitter_percent: u8,
    /// Whether a backend is unhealthy until enough probes said otherwise.
    pub starts_unhealthy: bool,
}

impl HealthCheck {
    /// A check with every default.
    pub const fn new(probe: Probe) -> Self {
        Self {
            probe,
            port: None,
            interval_ms: 5_000,
            timeout_ms: 1_000,
            healthy_threshold: 2,
            unhealthy_threshold: 3,
            jitter_percent: 10,
            starts_unhealthy: false,
        }
    }
}

/// What is tried to find out whether a backend serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// A TCP connection is established.
    Tcp,
    /// A GET request over HTTP/1.1 is answered with a good status.
    Http {
        /// Path and query: starts with `/`, printable ASCII without spaces.
        path: String,
        /// The `Host` header, printable ASCII without spaces; the address probed where `None`.
        host: Option<String>,
        /// Good statuses, each from 200 to 599, in the order of the text; at least one range, none
        /// of them empty.
        statuses: Vec<RangeInclusive<u16>>,
    },
    /// A program exits with 0.
    Command {
        /// Absolute path of the program.
        program: String,
        /// Its arguments, without control characters.
        arguments: Vec<String>,
    },
}
