//! Probes of real sockets on the loopback network.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::thread;

use super::*;
use crate::daemon::health::Target;
use crate::policy::model::HealthCheck;

/// Longer than any answer of a server here that answers takes, unless the machine is stuck.
const PATIENT_MS: u32 = 60_000;
/// For servers that never answer.
const HASTY_MS: u32 = 100;

async fn probe(addr: SocketAddr, probe: Probe, timeout_ms: u32) -> Option<String> {
    let target = Target { service: "web".into(), subset: "v1".into(), addr };
    let how = Arc::new(HealthCheck { timeout_ms, ..HealthCheck::new(probe) });
    Network::default().probe(&Check { target, how, is_caught: false }).await.failure
}

fn http(statuses: RangeInclusive<u16>) -> Probe {
    Probe::Http { path: "/healthz".to_owned(), host: None, statuses: vec![statuses] }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A server of one connection, which reads the request's head before it does its own.
fn serve(then: impl FnOnce(TcpStream, String) + Send + 'static) -> SocketAddr {
    let (listener, addr) = listen();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        then(stream, String::from_utf8(head).unwrap());
    });
    addr
}

fn answer(text: impl Into<Vec<u8>>) -> SocketAddr {
    let text = text.into();
    serve(move |mut stream, _| stream.write_all(&text).unwrap())
}

fn assert_says(failure: Option<&str>, words: &[&str]) {
    let failure = failure.expect("it failed");
    assert!(words.iter().all(|word| failure.contains(word)), "{failure}");
}

#[tokio::test]
async fn who_listens_is_healthy() {
    let (_listener, addr) = listen();
    assert_eq!(probe(addr, Probe::Tcp, PATIENT_MS).await, None);
}

#[tokio::test]
async fn who_does_not_listen_is_not() {
    let (listener, addr) = listen();
    drop(listener);
    let words = [&format!("connect to {addr}"), "Connection refused"];
    assert_says(probe(addr, Probe::Tcp, PATIENT_MS).await.as_deref(), &words.map(|it| it as &str));
    let refused = probe(addr, http(200..=299), PATIENT_MS).await;
    assert_says(refused.as_deref(), &["Connection refused"]);
}

#[tokio::test]
async fn a_connection_that_is_never_established_ends() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    // What is never accepted fills the queue, and the kernel drops every SYN after that.
    let mut waiting = Vec::new();
    let limit = || Limit::new(Instant::now(), Duration::from_millis(HASTY_MS.into()));
    while let Ok(stream) = dial(addr, &limit()).await {
        waiting.push(stream);
    }
    let failure = probe(addr, Probe::Tcp, HASTY_MS).await;
    assert_says(failure.as_deref(), &["connect to", "not done within 100ms"]);
}

#[tokio::test]
async fn a_server_that_accepts_and_is_silent_is_healthy_for_tcp_alone() {
    let (_listener, addr) = listen();
    assert_eq!(probe(addr, Probe::Tcp, PATIENT_MS).await, None);
    let failure = probe(addr, http(200..=299), HASTY_MS).await;
    assert_says(failure.as_deref(), &["GET /healthz from", "not done within 100ms"]);
}

#[tokio::test]
async fn only_named_statuses_are_good() {
    let found = "HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n";
    assert_says(
        probe(answer(found), http(200..=299), PATIENT_MS).await.as_deref(),
        &["status 302"],
    );
    assert_eq!(probe(answer(found), http(200..=302), PATIENT_MS).await, None);
    let broken = "HTTP/1.1 500\r\n\r\n";
    assert_says(
        probe(answer(broken), http(200..=299), PATIENT_MS).await.as_deref(),
        &["status 500"],
    );
}

#[tokio::test]
async fn the_request_is_what_servers_expect() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let addr = serve(move |mut stream, head| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        sender.send(head).unwrap();
    });
    let host = Some("shop.example".to_owned());
    let path = "/healthz?full=1".to_owned();
    let probed = probe(addr, Probe::Http { path, host, statuses: vec![200..=200] }, PATIENT_MS);
    assert_eq!(probed.await, None);
    let head = receiver.recv().unwrap();
    assert!(head.starts_with("GET /healthz?full=1 HTTP/1.1\r\nHost: shop.example\r\n"), "{head}");
}

#[tokio::test]
async fn a_server_that_drips_bytes_does_not_hold_a_probe_up() {
    let addr = serve(|mut stream, _| {
        let head = b"HTTP/1.1 200 OK\r\nX: ".iter().chain(std::iter::repeat(&b'x'));
        for byte in head {
            thread::sleep(Duration::from_millis(5));
            // The probe resets the connection in the end.
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
        }
    });
    let failure = probe(addr, http(200..=299), 300).await;
    assert_says(failure.as_deref(), &["not done within 300ms"]);
}

#[tokio::test]
async fn an_answer_that_ends_early_is_none() {
    let failure = probe(answer("HTTP/1.1 200 OK\r\nX:"), http(200..=299), PATIENT_MS).await;
    assert_says(failure.as_deref(), &["the answer ended after 19 bytes"]);
    let half_open = serve(|stream, _| {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Keeps its own end open for as long as the probe does.
        let _reset = (&stream).read(&mut [0]);
    });
    let failure = probe(half_open, http(200..=299), PATIENT_MS).await;
    assert_says(failure.as_deref(), &["the answer ended after 0 bytes"]);
}

#[tokio::test]
async fn answers_that_are_no_http_fail() {
    let mail = probe(answer("220 mail.example ESMTP\r\n"), http(200..=299), PATIENT_MS).await;
    assert_says(mail.as_deref(), &["not an answer over HTTP/1.1"]);
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1 << 20));
    let addr = serve(move |mut stream, _| {
        // The probe does not read it all.
        let _reset = stream.write_all(long.as_bytes());
    });
    let failure = probe(addr, http(200..=299), PATIENT_MS).await;
    assert_says(failure.as_deref(), &["longer than 16384 bytes"]);
}
