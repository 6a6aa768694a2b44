//! What a client is told to do and what it answers: one JSON object per line, in and out.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::histogram::Histogram;

/// Bytes of a request and of its answer.
pub const MESSAGE: usize = 64;

/// What a client does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// One UDP socket per client connects. Nothing but the system call, in batches; a latency is
    /// the mean of a batch.
    UdpConnect,
    /// One UDP socket per client sends datagrams and never connects. Nothing but the system call, in
    /// batches; a latency is the mean of a batch.
    UdpSend,
    /// One UDP socket per client, which never connects, sends a datagram and receives the answer,
    /// which has to bear the address that was sent to. A latency is that of both.
    UdpAsk,
    /// The same with a new socket each time. A latency is that of all of it.
    UdpAskAnew,
    /// Makes a TCP socket, connects, and resets the connection. A latency is that of `connect()`.
    TcpConnect,
    /// Makes a TCP socket, connects, sends a request, reads the answer, and resets the connection.
    /// A latency is that of all of it.
    Request,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// What is done.
    pub run: Work,
    /// What is dialled.
    pub to: SocketAddr,
    /// How often, by all clients together; at least once.
    pub count: u64,
    /// How many clients at a time, each a thread; at least 1.
    #[serde(default = "one")]
    pub clients: u32,
    /// The run ends after this many milliseconds even where `count` is not reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_ms: Option<u64>,
    /// Whether the order of the backends is answered. Costs a `getpeername()` for UDP, which has
    /// no answers, and needs one client.
    #[serde(default)]
    pub order: bool,
}

const fn one() -> u32 {
    1
}

impl Command {
    /// So many connections by one client.
    pub fn new(run: Work, to: SocketAddr, count: u64) -> Self {
        Self { run, to, count, clients: 1, limit_ms: None, order: false }
    }

    /// The same by several clients at a time.
    #[must_use]
    pub fn by(self, clients: u32) -> Self {
        Self { clients, ..self }
    }

    /// The same with an end in time.
    #[must_use]
    pub fn within_ms(self, limit_ms: u64) -> Self {
        Self { limit_ms: Some(limit_ms), ..self }
    }

    /// The same, answering the order of the backends.
    #[must_use]
    pub fn in_order(self) -> Self {
        Self { order: true, ..self }
    }
}

/// What came of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// From the start of the first client to the end of the last, in nanoseconds.
    pub elapsed_ns: u64,
    /// What succeeded.
    pub done: u64,
    /// Latencies of what succeeded.
    pub latency: Histogram,
    /// Failures by the name of their errno, or what else was wrong.
    pub failures: BTreeMap<String, u64>,
    /// How often each backend answered, as `ADDRESS:PORT`. Empty where nobody answers.
    pub backends: BTreeMap<String, u64>,
    /// Who answered, in order, as ordinals into the sorted keys of `backends`. Empty unless asked
    /// for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<u16>,
}

impl Outcome {
    /// Successes per second.
    #[expect(clippy::cast_precision_loss, reason = "a figure")]
    pub fn rate(&self) -> f64 {
        self.done as f64 * 1e9 / self.elapsed_ns.max(1) as f64
    }

    /// Number of failures of all kinds.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// The line that a process says when it is ready, and in place of an outcome when it could not
/// follow a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It waits for commands; or, a server, for connections.
    Ready,
    /// What came of a command.
    Done(Outcome),
    /// Why a command was not followed.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_command_means_one_client() {
        let line = r#"{"run":"udp-connect","to":"127.0.0.1:80","count":3}"#;
        let read: Command = serde_json::from_str(line).unwrap();
        let to = "127.0.0.1:80".parse().unwrap();
        assert_eq!(read, Command::new(Work::UdpConnect, to, 3));
        let long = read.by(8).within_ms(5).in_order();
        let text = serde_json::to_string(&long).unwrap();
        assert_eq!(serde_json::from_str::<Command>(&text).unwrap(), long);
    }

    #[test]
    fn unknown_words_are_refused() {
        let line = r#"{"run":"udp-connect","to":"127.0.0.1:80","count":3,"cuont":4}"#;
        assert!(serde_json::from_str::<Command>(line).is_err());
    }

    #[test]
    fn outcomes_keep_their_histogram() {
        let mut outcome = Outcome { elapsed_ns: 2_000_000_000, done: 10, ..Outcome::default() };
        (0..10).for_each(|i| outcome.latency.add(1_000 + i * 50));
        outcome.failures.insert("ECONNREFUSED".to_owned(), 2);
        let text = serde_json::to_string(&Reply::Done(outcome.clone())).unwrap();
        assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), Reply::Done(outcome.clone()));
        assert!((outcome.rate() - 5.0).abs() < 1e-9);
        assert_eq!(outcome.failed(), 2);
    }
}
