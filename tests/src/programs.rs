//! Programs as clients: what they are run with, and the servers that they talk to.

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// Seconds after which a program is ended that should have ended by itself, hours before.
const LONGEST_RUN: &str = "240";
/// No program takes so long to listen unless it never does.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// A program with its arguments, which is ended if it hangs. It is looked for here, so that what is
/// missing is named.
pub fn program(name: impl AsRef<Path>, arguments: &[&str]) -> Result<Command> {
    let (name, path) = (name.as_ref(), env::var_os("PATH").unwrap_or_default());
    // A path from the root stands for itself in every folder.
    let found = env::split_paths(&path).any(|folder| folder.join(name).is_file());
    ensure!(found, "there is no {} here: `cargo xtask setup`", name.display());
    let mut command = Command::new("timeout");
    command.arg(LONGEST_RUN).arg(name).args(arguments).stdin(Stdio::null());
    Ok(command)
}

/// Runs a program to its end, and answers what it prints.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    Ok(out.into_owned())
}

/// A static program of `tests/clients`, by its name there.
pub fn static_client(name: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients").join(name);
    ensure!(
        path.is_file(),
        "there is no {}: `cargo xtask test kernel --only compat` makes it",
        path.display()
    );
    Ok(path)
}

/// A program that runs beside the test until this is dropped.
pub struct Running(Child);

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        command.stdout(Stdio::null());
        Ok(Self(command.spawn().with_context(|| format!("run {command:?}"))?))
    }

    /// Starts it, and waits until it listens on an address.
    pub fn start_listening(command: &mut Command, addr: &str) -> Result<Self> {
        let running = Self::start(command)?;
        let start = Instant::now();
        while TcpStream::connect(addr).is_err() {
            ensure!(start.elapsed() < LONGEST_WAIT, "{command:?} does not listen on {addr}");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM, which `timeout` hands on.
        if let Ok(pid) = self.0.id().try_into()
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// A server of HTTP that answers each connection once, with its name and a line break, until it is
/// dropped.
pub struct HttpServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What a server's thread shares with its owner.
#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    answered: AtomicU64,
}

impl HttpServer {
    /// Listens on an address.
    pub fn start(addr: &str, name: &'static str) -> Result<Self> {
        let listener = TcpListener::bind(addr).with_context(|| format!("listen on {addr}"))?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if seen.ends.load(Ordering::Acquire) {
                    return;
                }
                seen.answered.fetch_add(1, Ordering::AcqRel);
                // A client that is gone misses nothing.
                let _answered = answer(&stream, name);
            }
        });
        Ok(Self { addr, shared, thread: Some(thread) })
    }

    /// Connections so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Acquire)
    }
}

fn answer(mut stream: &TcpStream, name: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let length = name.len() + 1;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{name}\n"
    )
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        // So that it looks.
        let _seen = TcpStream::connect(self.addr);
        self.thread.take().map(JoinHandle::join);
    }
}
