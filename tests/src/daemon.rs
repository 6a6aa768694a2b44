//! The real `splitter` binary: a daemon in a place of the test's own, and commands to it.
//!
//! The daemon itself is outside the test's cgroup, as a daemon is outside the cgroups of the
//! clients whose connections it splits. It dies with its [`Daemon`], or with the test's process.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::place::Place;

/// Nothing that is waited for takes so long unless it never comes.
const LONGEST_WAIT: Duration = Duration::from_mins(3);
/// No test takes so long unless it hangs.
const LONGEST_TEST: Duration = Duration::from_mins(15);

/// Where daemons of one test live: a cgroup, pins, and a directory for everything else.
pub struct Site {
    place: Place,
    dir: TempDir,
    binary: PathBuf,
    next_log: AtomicU32,
    /// Ends the watch when it is dropped.
    _watch: mpsc::Sender<()>,
}

impl Site {
    /// Makes the place and moves this process into its cgroup.
    pub fn new() -> Result<Self> {
        let binary = find_binary()?;
        let place = Place::new()?;
        let dir = tempfile::Builder::new().prefix("splitter-test-").tempdir()?;
        // Commands of other users have to reach the socket.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        Ok(Self { place, dir, binary, next_log: AtomicU32::new(0), _watch: watch_test() })
    }

    /// The cgroup and the pins.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into the directory, in place. Answers its path, as options take it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<String> {
        let path = self.path(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        path.into_os_string().into_string().ok().context("a path of odd bytes")
    }

    /// Writes a file beside its place and renames it there.
    pub fn replace(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let new = self.write(&format!("{name}.new"), content)?;
        Ok(fs::rename(new, self.path(name))?)
    }

    /// Starts a daemon and waits until it answers.
    pub fn run(&self, options: &[&str]) -> Result<Daemon> {
        let mut daemon = self.spawn(options)?;
        let pid = u64::from(daemon.pid());
        eventually("the daemon answers", || {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("the daemon ended with {status}:\n{}", daemon.log());
            }
            Ok(self.status().is_ok_and(|status| status["pid"].as_u64() == Some(pid)))
        })
        .with_context(|| daemon.log())?;
        Ok(daemon)
    }

    /// Starts a daemon with this place's cgroup, pins, socket and state directory, except where
    /// the options say otherwise.
    pub fn spawn(&self, options: &[&str]) -> Result<Daemon> {
        let log = self.path(&format!("{}.log", self.next_log.fetch_add(1, Ordering::Relaxed)));
        let mut command = Command::new(&self.binary);
        command.arg("run").args(self.missing_options(options)).args(options);
        command.env_remove("SPLITTER_LOG").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&log)?);
        die_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("run {}", self.binary.display()))?;
        let daemon = Daemon { child, log };
        self.place.put_outside(daemon.pid())?;
        Ok(daemon)
    }

    fn missing_options(&self, given: &[&str]) -> Vec<OsString> {
        let all = [
            ("--cgroup", self.place.cgroup().to_owned()),
            ("--pin-dir", self.place.pins().to_owned()),
            ("--socket", self.socket()),
            ("--state-dir", self.path("state")),
        ];
        let missing = all.into_iter().filter(|(option, _)| !given.contains(option));
        missing.flat_map(|(option, path)| [option.into(), path.into_os_string()]).collect()
    }

    fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// A command to the daemon, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&self.binary, arguments)
    }

    /// The same by another program file.
    pub fn command_of(&self, binary: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command.args(arguments).env("SPLITTER_SOCKET", self.socket()).env("NO_COLOR", "1");
        command.stdin(Stdio::null());
        command
    }

    /// A copy of the binary that every user can run.
    pub fn public_binary(&self) -> Result<PathBuf> {
        let copy = self.path("splitter");
        fs::copy(&self.binary, &copy).context("copy the binary")?;
        fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
        Ok(copy)
    }

    /// Runs a command to its end.
    pub fn splitter(&self, arguments: &[&str]) -> Result<Answer> {
        Answer::of(&mut self.command(arguments))
    }

    /// Runs a command that succeeds and prints JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let out = self.splitter(&[arguments, &["-o", "json"]].concat())?.success()?;
        serde_json::from_str(&out).with_context(|| format!("{arguments:?} printed: {out}"))
    }

    /// What the daemon says of itself, problems included.
    pub fn status(&self) -> Result<Value> {
        self.ask(&serde_json::json!({"verb": "status", "services": [], "all": true}))
    }

    /// The committed generation.
    pub fn generation(&self) -> Result<u64> {
        self.status()?["generation"].as_u64().context("no generation in the status")
    }

    /// Says what is wrong, as the daemon sees it.
    pub fn problems(&self) -> Result<Vec<Value>> {
        Ok(self.status()?["problems"].as_array().context("no problems")?.clone())
    }

    /// Connects to the control socket.
    pub fn dial(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.socket())
    }

    /// Asks the daemon over its socket, without the command line.
    pub fn ask(&self, request: &Value) -> Result<Value> {
        let mut stream = self.dial()?;
        let bytes = request.to_string().into_bytes();
        stream.write_all(&u32::try_from(bytes.len())?.to_le_bytes())?;
        stream.write_all(&bytes)?;
        read_answer(&mut stream)
    }
}

/// Reads an answer from the control socket: its content, with its kind as `answer`.
pub fn read_answer(stream: &mut UnixStream) -> Result<Value> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).context("read the answer's length")?;
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut bytes).context("read the answer")?;
    let mut answer: Value = serde_json::from_slice(&bytes).context("parse the answer")?;
    // What kind it is stands beside what it says, for tests that look at both.
    let kind = answer["answer"].take();
    let mut content = answer["content"].take();
    if let Some(fields) = content.as_object_mut() {
        fields.insert("answer".to_owned(), kind);
    }
    Ok(content)
}

/// A process of `splitter run`, killed when this is dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?).context("a process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until it ended.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let mut status = None;
        eventually("the daemon ends", || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })
        .with_context(|| self.log())?;
        status.context("it ended")
    }

    /// Kills it as the kernel would, without a chance to tidy up.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it by SIGTERM, which must succeed. Answers its log.
    pub fn terminate(mut self) -> Result<String> {
        self.signal(Signal::TERM)?;
        let status = self.wait()?;
        ensure!(status.success(), "SIGTERM ended it with {status}:\n{}", self.log());
        Ok(self.log())
    }

    /// Waits for the end of a daemon that cannot start. Answers its log.
    pub fn failure(mut self) -> Result<String> {
        let status = self.wait()?;
        ensure!(status.code() == Some(1), "it ended with {status}:\n{}", self.log());
        Ok(self.log())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Answer {
    /// Its exit status, `None` where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Answer {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Result<Self> {
        let output = command.output().with_context(|| format!("run {command:?}"))?;
        Ok(Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8(output.stderr)?,
        })
    }

    /// Standard output of a command that succeeded.
    pub fn success(self) -> Result<String> {
        ensure!(self.code == Some(0), "it failed: {self:?}");
        Ok(self.out)
    }

    /// Standard error of a command that was refused, with status 1 and a reason.
    pub fn refusal(self) -> Result<String> {
        ensure!(self.code == Some(1) && !self.err.is_empty(), "it was not refused: {self:?}");
        Ok(self.err)
    }
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !holds()? {
        ensure!(start.elapsed() < LONGEST_WAIT, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The binary under test: `SPLITTER_BIN`, or what was built beside this test's executable.
pub fn find_binary() -> Result<PathBuf> {
    if let Some(binary) = env::var_os("SPLITTER_BIN") {
        return fs::canonicalize(&binary)
            .with_context(|| format!("SPLITTER_BIN={}", binary.display()));
    }
    let test = env::current_exe()?;
    let target = test.ancestors().nth(3).context("the executable is in no target directory")?;
    let built = ["debug", "release"].map(|profile| target.join(profile).join("splitter"));
    built.into_iter().find(|binary| binary.is_file()).with_context(|| {
        format!(
            "there is no splitter binary in {}: build it with `cargo xtask build`, or name one in \
             SPLITTER_BIN",
            target.display()
        )
    })
}

/// Has the kernel kill the child when the thread that starts it ends, however that ends.
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let arrange = move || {
        // SAFETY: a system call on numbers.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let is_orphan = rustix::process::getppid() != Some(parent);
        if is_orphan { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    };
    // SAFETY: two system calls, which are safe between fork and exec; nothing is allocated.
    unsafe { command.pre_exec(arrange) };
}

/// Aborts a test that hangs, so that whoever runs many does not wait for ever.
fn watch_test() -> mpsc::Sender<()> {
    let (sender, ended) = mpsc::channel();
    let name = thread::current().name().unwrap_or("a test").to_owned();
    thread::spawn(move || {
        if ended.recv_timeout(LONGEST_TEST) == Err(RecvTimeoutError::Timeout) {
            let _ = writeln!(io::stderr(), "{name} hangs");
            process::abort();
        }
    });
    sender
}
