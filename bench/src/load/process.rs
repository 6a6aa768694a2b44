//! Processes of `splitter-load`, and what they are told.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::protocol::{Command, Outcome, Reply};
use super::{CLIENT_CPU, SERVER_CPU};
use crate::arm::{Arm, Network};

/// No command takes so long unless somebody hangs.
const LONGEST_WAIT: Duration = Duration::from_mins(2);

/// A client in the network and the cgroup of an arm.
#[derive(Debug)]
pub struct Client {
    process: Process,
}

impl Client {
    /// Starts one on the CPU for clients.
    pub fn start(arm: &Arm) -> Result<Self> {
        Self::start_on(arm, CLIENT_CPU)
    }

    /// Starts one on a CPU.
    pub fn start_on(arm: &Arm, cpu: usize) -> Result<Self> {
        let mut command = std::process::Command::new("nsenter");
        command.arg(format!("--net={}", arm.network.display())).arg(program()?);
        command.args(["client", "--cpu", &cpu.to_string()]);
        let process = Process::start(command)?;
        // It has no sockets yet, and a socket is of the cgroup that it was made in.
        let path = arm.cgroup.join("cgroup.procs");
        fs::write(&path, process.id().to_string())
            .with_context(|| format!("move a client into {}", arm.cgroup.display()))?;
        Ok(Self { process })
    }

    /// Has it do something. Failed connections are part of the outcome.
    pub fn run(&mut self, command: &Command) -> Result<Outcome> {
        self.process.say(command)?;
        match self.process.hear()? {
            Reply::Done(outcome) => Ok(outcome),
            Reply::Refused(why) => bail!("the client refused {command:?}: {why}"),
            Reply::Ready => bail!("the client answered out of turn"),
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

/// A command of any client program, in the network and the cgroup of an arm from its first
/// instruction on. It runs on the CPU for clients.
pub fn client_command(arm: &Arm, program: &str) -> std::process::Command {
    let mut command = std::process::Command::new("nsenter");
    command.arg(format!("--net={}", arm.network.display()));
    command.args(["sh", "-c", r#"echo 0 >"$0" && exec "$@""#]).arg(arm.cgroup.join("cgroup.procs"));
    command.args(["taskset", "-c", &CLIENT_CPU.to_string(), program]);
    command
}

/// A server of backends in a network.
#[derive(Debug)]
pub struct Server {
    process: Process,
}

impl Server {
    /// Starts one, on the CPU for servers, that answers requests at all addresses. Answers when it
    /// listens.
    pub fn start(network: &Network, addrs: &[SocketAddr]) -> Result<Self> {
        Self::start_with(network, addrs, &[])
    }

    /// The same, but connections are only accepted, now and then, and closed.
    pub fn start_drain(network: &Network, addrs: &[SocketAddr]) -> Result<Self> {
        Self::start_with(network, addrs, &["--drain"])
    }

    /// Starts one that answers datagrams.
    pub fn start_datagrams(network: &Network, addrs: &[SocketAddr]) -> Result<Self> {
        Self::start_with(network, addrs, &["--datagrams"])
    }

    fn start_with(network: &Network, addrs: &[SocketAddr], options: &[&str]) -> Result<Self> {
        let mut command = network.command(&program()?);
        command.args(["serve", "--cpu", &SERVER_CPU.to_string()]).args(options);
        command.args(addrs.iter().map(ToString::to_string));
        Ok(Self { process: Process::start(command)? })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

/// A process that reads and writes lines; it is gone when this is dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    replies: Receiver<String>,
}

impl Process {
    /// Starts one and waits until it is ready.
    fn start(mut command: std::process::Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("run {command:?}"))?;
        let output = child.stdout.take().context("its output is a pipe")?;
        let mut process = Self { child, replies: read_lines(output) };
        match process.hear().with_context(|| format!("start {command:?}"))? {
            Reply::Ready => Ok(process),
            other => bail!("{command:?} began with {other:?}"),
        }
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    fn say(&mut self, command: &Command) -> Result<()> {
        let input = self.child.stdin.as_mut().context("its input is a pipe")?;
        let line = serde_json::to_string(command).context("write a command")?;
        writeln!(input, "{line}").context("tell a client what to do")
    }

    fn hear(&mut self) -> Result<Reply> {
        match self.replies.recv_timeout(LONGEST_WAIT) {
            Ok(line) => serde_json::from_str(&line).with_context(|| format!("it said {line:?}")),
            Err(RecvTimeoutError::Timeout) => bail!("no answer within {LONGEST_WAIT:?}"),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("it ended with {}; its errors are above", self.child.wait()?)
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(output: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The binary `splitter-load`, which is built beside this one.
fn program() -> Result<String> {
    let own = env::current_exe().context("find the own executable")?;
    // Test executables are one directory further down.
    let built: Vec<PathBuf> =
        own.ancestors().skip(1).take(2).map(|dir| dir.join("splitter-load")).collect();
    let found = built.iter().find(|path| path.is_file());
    let found = found.with_context(|| {
        format!(
            "there is no splitter-load beside {}: build it with `cargo build -p splitter-bench`",
            own.display()
        )
    })?;
    found.clone().into_os_string().into_string().ok().context("a path of odd bytes")
}
