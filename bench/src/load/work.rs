//! The client's side: follows commands, counting what fails.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::histogram::Histogram;
use super::protocol::{Command, MESSAGE, Outcome, Work};

/// UDP connects or datagrams between two looks at the clock, which takes as long as a tenth of one.
const BATCH: u64 = 64;
/// An answer to a datagram that takes so long is lost.
const LONGEST_ANSWER: Duration = Duration::from_secs(1);
/// What is sent, of which nobody reads anything.
const QUESTION: [u8; MESSAGE] = [0; MESSAGE];
/// More threads than this are no client but an accident.
const MOST_CLIENTS: u32 = 1_024;

/// Follows a command.
pub fn follow(command: &Command) -> Result<Outcome> {
    ensure!(command.count > 0, "a count of at least 1 is needed");
    let clients = command.clients;
    ensure!((1..=MOST_CLIENTS).contains(&clients), "1 to {MOST_CLIENTS} clients, not {clients}");
    ensure!(!command.order || clients == 1, "several clients have no common order");
    let barrier = Barrier::new(clients as usize);
    let tallies: Result<Vec<Tally>> = thread::scope(|scope| {
        let barrier = &barrier;
        let start = |client| scope.spawn(move || client_thread(command, client, barrier));
        let threads: Vec<_> = (0..clients).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("clients do not panic")).collect()
    });
    Ok(sum_up(&tallies?))
}

/// What one client saw.
struct Tally {
    begin: Instant,
    end: Instant,
    latency: Histogram,
    failures: BTreeMap<String, u64>,
    /// Backends in the order of their first answers, and how often each answered.
    backends: Vec<([u8; MESSAGE], u64)>,
    /// Ordinals into `backends`.
    order: Vec<u16>,
}

impl Tally {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            begin: now,
            end: now,
            latency: Histogram::ready(),
            failures: BTreeMap::new(),
            backends: Vec::new(),
            order: Vec::new(),
        }
    }

    fn fail(&mut self, error: &io::Error) {
        *self.failures.entry(name_of(error)).or_default() += 1;
    }

    fn answered(&mut self, by: [u8; MESSAGE], keep_order: bool) {
        let known = self.backends.iter().position(|(name, _)| *name == by);
        let ordinal = known.unwrap_or_else(|| {
            self.backends.push((by, 0));
            self.backends.len() - 1
        });
        self.backends[ordinal].1 += 1;
        if keep_order {
            self.order.push(u16::try_from(ordinal).unwrap_or(u16::MAX));
        }
    }
}

/// `ECONNREFUSED` rather than a number or a sentence.
fn name_of(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || format!("{:?}", error.kind()),
        |number| format!("{:?}", Errno::from_raw(number)),
    )
}

fn client_thread(command: &Command, client: u32, barrier: &Barrier) -> Result<Tally> {
    let clients = u64::from(command.clients);
    let share = command.count / clients + u64::from(u64::from(client) < command.count % clients);
    // Made before, and by those who have no use for one too, which costs them no time.
    let udp = udp_socket(command.to).context("make a UDP socket")?;
    barrier.wait();
    let mut tally = Tally::new();
    let until = command.limit_ms.map(|ms| tally.begin + Duration::from_millis(ms));
    let is_over = || until.is_some_and(|until| Instant::now() >= until);
    match command.run {
        Work::UdpConnect => {
            in_batches(share, &mut tally, is_over, |tally| udp_connect(&udp, command, tally));
        }
        Work::UdpSend => {
            in_batches(share, &mut tally, is_over, |_| {
                udp.send_to(&QUESTION, command.to).map(drop)
            });
        }
        Work::UdpAsk => repeat(share, &mut tally, is_over, |tally| udp_ask(&udp, command, tally)),
        Work::UdpAskAnew => repeat(share, &mut tally, is_over, |tally| ask_anew(command, tally)),
        Work::Request => repeat(share, &mut tally, is_over, |tally| request(command, tally)),
        Work::TcpConnect => repeat(share, &mut tally, is_over, |_| tcp_connect(command.to)),
    }
    tally.end = Instant::now();
    Ok(tally)
}

fn repeat(
    times: u64,
    tally: &mut Tally,
    is_over: impl Fn() -> bool,
    mut once: impl FnMut(&mut Tally) -> io::Result<Duration>,
) {
    for _ in 0..times {
        match once(tally) {
            Ok(took) => tally.latency.add(picoseconds(took)),
            Err(error) => tally.fail(&error),
        }
        if is_over() {
            return;
        }
    }
}

fn udp_socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let local: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, 0).into(),
    };
    let socket = UdpSocket::bind(local)?;
    socket.set_read_timeout(Some(LONGEST_ANSWER))?;
    Ok(socket)
}

fn in_batches(
    times: u64,
    tally: &mut Tally,
    is_over: impl Fn() -> bool,
    mut once: impl FnMut(&mut Tally) -> io::Result<()>,
) {
    let mut left = times;
    while left > 0 && !is_over() {
        let batch = left.min(BATCH);
        left -= batch;
        let start = Instant::now();
        let mut done = 0;
        for _ in 0..batch {
            match once(tally) {
                Ok(()) => done += 1,
                Err(error) => tally.fail(&error),
            }
        }
        let mean = picoseconds(start.elapsed()) / batch;
        tally.latency.add_many(mean, done);
    }
}

fn udp_connect(socket: &UdpSocket, command: &Command, tally: &mut Tally) -> io::Result<()> {
    socket.connect(command.to)?;
    if command.order {
        peer_of(socket, tally);
    }
    Ok(())
}

/// How long it took from a datagram to its answer.
fn udp_ask(socket: &UdpSocket, command: &Command, tally: &mut Tally) -> io::Result<Duration> {
    let mut message = QUESTION;
    let start = Instant::now();
    socket.send_to(&message, command.to)?;
    let (_, from) = socket.recv_from(&mut message)?;
    let took = start.elapsed();
    if from != command.to {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a stranger's answer"));
    }
    tally.answered(message, command.order);
    Ok(took)
}

/// The same, and to make the socket and to close it.
fn ask_anew(command: &Command, tally: &mut Tally) -> io::Result<Duration> {
    let start = Instant::now();
    let socket = udp_socket(command.to)?;
    udp_ask(&socket, command, tally)?;
    drop(socket);
    Ok(start.elapsed())
}

fn peer_of(socket: &UdpSocket, tally: &mut Tally) {
    if let Ok(peer) = socket.peer_addr() {
        tally.answered(name_tag(peer), true);
    }
}

/// How long `connect()` took.
fn tcp_connect(to: SocketAddr) -> io::Result<Duration> {
    let socket = tcp_socket(to)?;
    let start = Instant::now();
    connect(&socket, &to)?;
    Ok(start.elapsed())
}

/// How long all of a connection took.
fn request(command: &Command, tally: &mut Tally) -> io::Result<Duration> {
    let start = Instant::now();
    let socket = tcp_socket(command.to)?;
    connect(&socket, &command.to)?;
    let mut stream = TcpStream::from(socket);
    let mut message = QUESTION;
    stream.write_all(&message)?;
    stream.read_exact(&mut message)?;
    drop(stream);
    let took = start.elapsed();
    tally.answered(message, command.order);
    Ok(took)
}

/// A socket that is reset when it is closed: a port in `TIME_WAIT` is lost for a minute, and there
/// are fewer of them than connections.
fn tcp_socket(to: SocketAddr) -> io::Result<rustix::fd::OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_linger(&socket, Some(Duration::ZERO))?;
    Ok(socket)
}

/// A backend's name as it stands in a message.
pub(super) fn name_tag(addr: SocketAddr) -> [u8; MESSAGE] {
    let mut tag = [b' '; MESSAGE];
    let name = addr.to_string();
    // The longest, an IPv6 address with port and scope, is shorter than a message.
    tag.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    tag
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn picoseconds(duration: Duration) -> u64 {
    nanoseconds(duration).saturating_mul(1_000)
}

fn sum_up(tallies: &[Tally]) -> Outcome {
    let mut outcome = Outcome { latency: Histogram::ready(), ..Outcome::default() };
    let begin = tallies.iter().map(|tally| tally.begin).min();
    let end = tallies.iter().map(|tally| tally.end).max();
    if let (Some(begin), Some(end)) = (begin, end) {
        outcome.elapsed_ns = nanoseconds(end - begin);
    }
    for tally in tallies {
        outcome.latency.merge(&tally.latency);
        for (name, count) in &tally.failures {
            *outcome.failures.entry(name.clone()).or_default() += count;
        }
        for (tag, count) in &tally.backends {
            *outcome.backends.entry(read_tag(tag)).or_default() += count;
        }
    }
    outcome.done = outcome.latency.total();
    outcome.order = tallies.first().map(|tally| in_order(tally, &outcome)).unwrap_or_default();
    outcome
}

/// Ordinals among the sorted names.
fn in_order(tally: &Tally, outcome: &Outcome) -> Vec<u16> {
    let sorted = |(tag, _): &([u8; MESSAGE], u64)| {
        let place = outcome.backends.keys().position(|name| *name == read_tag(tag));
        place.and_then(|place| u16::try_from(place).ok()).unwrap_or(u16::MAX)
    };
    let places: Vec<u16> = tally.backends.iter().map(sorted).collect();
    tally.order.iter().map(|ordinal| places[usize::from(*ordinal)]).collect()
}

fn read_tag(tag: &[u8; MESSAGE]) -> String {
    String::from_utf8_lossy(tag).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::serve::{serve_datagrams, serve_requests};
    use super::*;

    fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        serve_requests(&listener).unwrap();
        addr
    }

    #[test]
    fn requests_are_answered_by_the_name_of_the_server() {
        let to = server();
        let outcome = follow(&Command::new(Work::Request, to, 50).by(3)).unwrap();
        assert_eq!((outcome.done, outcome.failed()), (50, 0), "{outcome:?}");
        assert_eq!(outcome.backends, BTreeMap::from([(to.to_string(), 50)]));
        assert_eq!(outcome.latency.total(), 50);
        assert!(outcome.order.is_empty());
    }

    #[test]
    fn the_order_is_that_of_the_answers() {
        let to = server();
        let outcome = follow(&Command::new(Work::Request, to, 5).in_order()).unwrap();
        assert_eq!(outcome.order, [0; 5]);
        let udp = follow(&Command::new(Work::UdpConnect, to, 70).in_order()).unwrap();
        assert_eq!(udp.order, [0; 70]);
        assert_eq!(udp.backends, BTreeMap::from([(to.to_string(), 70)]));
        assert!(follow(&Command::new(Work::Request, to, 5).by(2).in_order()).is_err());
    }

    #[test]
    fn datagrams_are_answered_by_the_name_of_the_server() {
        let to = serve_datagrams("127.0.0.1:0".parse().unwrap()).unwrap();
        for work in [Work::UdpAsk, Work::UdpAskAnew] {
            let outcome = follow(&Command::new(work, to, 20).by(2)).unwrap();
            assert_eq!((outcome.done, outcome.failed()), (20, 0), "{outcome:?}");
            assert_eq!(outcome.backends, BTreeMap::from([(to.to_string(), 20)]));
        }
        let sent = follow(&Command::new(Work::UdpSend, to, 70)).unwrap();
        assert_eq!((sent.done, sent.latency.total()), (70, 70), "{sent:?}");
    }

    #[test]
    fn failures_have_names_and_end_nothing() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let outcome = follow(&Command::new(Work::TcpConnect, closed, 4)).unwrap();
        assert_eq!(outcome.failures, BTreeMap::from([("ECONNREFUSED".to_owned(), 4)]));
        assert_eq!((outcome.done, outcome.latency.total()), (0, 0));
    }

    #[test]
    fn a_limit_in_time_ends_a_run() {
        let to = "127.0.0.1:9".parse().unwrap();
        let endless = Command::new(Work::UdpConnect, to, u64::MAX).within_ms(5);
        let outcome = follow(&endless).unwrap();
        assert!(outcome.done > 0);
    }
}
