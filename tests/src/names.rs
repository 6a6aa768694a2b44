//! Name servers that know one address for every name, and a name service that is split over two.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use splitter_common::abi::cell;
use splitter_user::sockets::SockDiag;

use crate::datagrams::{DatagramServer, datagram_socket};
use crate::node::{Node, two_versions};
use crate::shared::with_node;

/// What is asked in [`with_split_names`].
const NAME_SERVICE: &str = "127.10.0.1:53";
/// How long a stream is waited for that should be asked over, and a state that should be left.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs beside a name service that is split 80/20 over two servers, whose answers are `127.9.9.1`
/// and `127.9.9.2`, and finds that nothing of its clients is left after.
pub fn with_split_names<T: Send>(
    datagrams: Datagrams,
    run: impl FnOnce(&[NameServer; 2]) -> Result<T> + Send,
) -> Result<T> {
    with_node(|node| {
        let both = format!("\"{NAME_SERVICE}/udp\", \"{NAME_SERVICE}/tcp\"");
        node.apply(&two_versions("udp", 80, 20).replace("\"127.10.0.1:8080/udp\"", &both))?;
        let start = |port: u16, version| NameServer::start(port, [127, 9, 9, version], datagrams);
        let came = run(&[start(19_001, 1)?, start(19_002, 2)?])?;
        ensure_left(node)?;
        Ok(came)
    })
}

/// Waits until no connection counts and no connected socket is known.
fn ensure_left(node: &mut Node) -> Result<()> {
    let list = node.socket_list()?;
    let start = Instant::now();
    loop {
        let mut sockets = 0;
        SockDiag::open_with(&list)?.list_datagrams(|_| true, |_| sockets += 1)?;
        let states = node.states("shop")?;
        let held = |at: usize| states.values().map(|state| state.cells[at]).sum::<u64>();
        let left = [sockets, held(cell::LIVE), held(cell::PENDING)];
        if left == [0; 3] {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "sockets, live and pending connections: {left:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What a name server says in datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagrams {
    /// The answer.
    Whole,
    /// That the answer is too long, and to be asked for over TCP.
    Truncated,
}

/// A name server that has one address for every name, over UDP and TCP, until it is dropped.
pub struct NameServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    streams: Option<JoinHandle<()>>,
    _datagrams: DatagramServer,
}

/// What a server's threads share with its owner.
#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    by_datagram: AtomicU64,
    by_stream: AtomicU64,
}

impl NameServer {
    /// Answers at a port of `127.0.0.1`.
    pub fn start(port: u16, known: [u8; 4], datagrams: Datagrams) -> Result<Self> {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(addr).with_context(|| format!("listen on {addr}"))?;
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let server = DatagramServer::start(addr, move |asked| {
            seen.by_datagram.fetch_add(1, Ordering::AcqRel);
            answer(asked, known, datagrams)
        })?;
        let seen = Arc::clone(&shared);
        let streams = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if seen.ends.load(Ordering::Acquire) {
                    return;
                }
                // A client that is gone misses nothing.
                let _answered = answer_stream(stream, known, &seen.by_stream);
            }
        });
        Ok(Self { addr, shared, streams: Some(streams), _datagrams: server })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        // So that it looks.
        let _seen = TcpStream::connect(self.addr);
        self.streams.take().map(JoinHandle::join);
    }
}

/// Answers all questions of one connection.
fn answer_stream(mut stream: TcpStream, known: [u8; 4], count: &AtomicU64) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut asked = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut asked)?;
        count.fetch_add(1, Ordering::AcqRel);
        let answer = answer(&asked, known, Datagrams::Whole);
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat())?;
    }
}

/// The answer to a question by a datagram: one address, for every name.
pub fn answer_name(asked: &[u8], addr: [u8; 4]) -> Vec<u8> {
    answer(asked, addr, Datagrams::Whole)
}

/// The answer to a question, RFC 1035 and 6891.
fn answer(asked: &[u8], known: [u8; 4], datagrams: Datagrams) -> Vec<u8> {
    const TYPE_A: [u8; 2] = [0, 1];
    // No name, OPT, 1232 bytes of datagram, no flags and no data.
    const EXTENSION: [u8; 11] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    // A header of 12 bytes, and one question: a name that ends with a zero, a type, a class.
    let name = asked[12..].iter().position(|byte| *byte == 0).expect("a name ends");
    let end = 12 + name + 1 + 4;
    let is_truncated = datagrams == Datagrams::Truncated;
    let has_answer = asked[end - 4..end - 2] == TYPE_A && !is_truncated;
    // Extensions are the only record that resolvers add to a question.
    let is_extended = asked[11] > 0;
    let mut answer = asked[..end].to_vec();
    // An answer that can recurse; one question, maybe one answer, nothing else.
    let (flags, answers) = (0x81 | u8::from(is_truncated) << 1, u8::from(has_answer));
    let counts = [0, 1, 0, answers, 0, 0, 0, u8::from(is_extended)];
    answer[2..12].copy_from_slice(&[&[flags, 0x80], &counts[..]].concat());
    if has_answer {
        // The name of the question, address, Internet, for no time, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(known);
    }
    if is_extended {
        answer.extend(EXTENSION);
    }
    answer
}

/// Asks a name server for an address by a datagram from a new socket.
pub fn ask_name(server: SocketAddr) -> Result<Ipv4Addr> {
    // Number 0x1234, recursion is desired, one question.
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend(b"\x04shop\x07example\x00");
    question.extend([0, 1, 0, 1]);
    let socket = datagram_socket("127.0.0.1:0")?;
    socket.send_to(&question, server)?;
    let mut answer = [0; 512];
    let (n, from) = socket.recv_from(&mut answer).with_context(|| format!("ask {server}"))?;
    ensure!(from == server, "{from} answers for {server}");
    let answer = &answer[..n];
    ensure!(answer[..2] == question[..2] && answer[7] == 1, "{server} answers {answer:?}");
    // The record's name is two bytes, and its data are after ten more.
    let data = question.len() + 12;
    let addr: [u8; 4] = answer[data..data + 4].try_into()?;
    Ok(addr.into())
}

/// Questions that each server was asked in datagrams and over TCP. A resolver that misses an answer
/// asks again.
pub fn asked(servers: &[NameServer; 2]) -> [[u64; 2]; 2] {
    servers.each_ref().map(|NameServer { shared, .. }| {
        [&shared.by_datagram, &shared.by_stream].map(|count| count.load(Ordering::Acquire))
    })
}

/// How often each of the servers of [`with_split_names`] is among what a program says.
pub fn count_versions(said: &str) -> [usize; 2] {
    ["127.9.9.1", "127.9.9.2"].map(|version| said.matches(version).count())
}
