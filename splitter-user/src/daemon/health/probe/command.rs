//! A program that exits with 0 where a backend serves.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tracing::warn;

use super::Limit;

/// Runs a program. Fails where it does not exit with 0 in time; it is killed then, with what it
/// started in its process group.
pub(super) async fn run(
    program: &str,
    arguments: &[String],
    addr: SocketAddr,
    limit: &Limit,
) -> Result<(), String> {
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("BACKEND_ADDR", addr.to_string())
        .env("BACKEND_IP", addr.ip().to_string())
        .env("BACKEND_PORT", addr.port().to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("run {program}: {error}"))?;
    let mut running = Running(child);
    let ended = limit.hold_io(&format!("run {program}"), running.0.wait()).await;
    if ended.is_err() {
        running.kill();
        // Reaped before the next probe. What is killed ends soon.
        running.0.wait().await.map_err(|error| format!("wait for {program}: {error}"))?;
    }
    check_status(program, ended?)
}

fn check_status(program: &str, status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}")) }
}

/// A process that is killed when nobody waits for it any more.
struct Running(Child);

impl Running {
    /// Kills the process and its group, unless it was reaped: its number may be another's then.
    fn kill(&self) {
        let Some(pid) = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
        else {
            return;
        };
        if let Err(error) = kill_process_group(pid, Signal::KILL) {
            warn!("kill the command of a health check, process {pid:?}: {error}");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use tempfile::{TempDir, tempdir};
    use tokio::time::{Instant, sleep};

    use super::*;

    /// Longer than any command here that ends takes, unless the machine is stuck.
    const PATIENT: Duration = Duration::from_mins(1);

    async fn run_for(limit: Duration, program: &str, arguments: &[&str]) -> Result<(), String> {
        let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let addr = "[::1]:9001".parse().unwrap();
        run(program, &arguments, addr, &Limit::new(Instant::now(), limit)).await
    }

    #[tokio::test]
    async fn the_exit_status_is_the_verdict() {
        assert_eq!(run_for(PATIENT, "/bin/sh", &["-c", "exit 0"]).await, Ok(()));
        let failed = run_for(PATIENT, "/bin/sh", &["-c", "exit 3"]).await;
        assert_eq!(failed, Err("/bin/sh: exit status: 3".to_owned()));
        let missing = run_for(PATIENT, "/nonexistent/check", &[]).await.unwrap_err();
        assert!(missing.starts_with("run /nonexistent/check: No such file"), "{missing}");
    }

    #[tokio::test]
    async fn three_variables_are_all_that_a_command_has() {
        let dir = tempdir().unwrap();
        let copy = dir.path().join("environ");
        let arguments = ["--no-preserve=all", "/proc/self/environ", copy.to_str().unwrap()];
        assert_eq!(run_for(PATIENT, "/bin/cp", &arguments).await, Ok(()));
        let environ = fs::read_to_string(copy).unwrap();
        let mut variables: Vec<&str> = environ.split_terminator('\0').collect();
        variables.sort_unstable();
        assert_eq!(variables, ["BACKEND_ADDR=[::1]:9001", "BACKEND_IP=::1", "BACKEND_PORT=9001"]);
    }

    /// A shell that starts another process, writes both numbers into a file, and waits.
    fn script(dir: &TempDir) -> String {
        let path = dir.path().join("pids");
        let path = path.to_str().unwrap();
        format!("sleep 1000 & echo $$ $! > {path}.new; mv {path}.new {path}; wait")
    }

    /// The numbers, as soon as they are there.
    async fn pids(dir: &TempDir) -> Vec<String> {
        loop {
            if let Ok(pids) = fs::read_to_string(dir.path().join("pids")) {
                return pids.split_whitespace().map(str::to_owned).collect();
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether a process runs. One that only waits for its parent to look at it does not.
    fn runs(pid: &str) -> bool {
        let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    async fn wait_for(what: impl Fn() -> bool) {
        while !what() {
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_command_that_takes_too_long() {
        let dir = tempdir().unwrap();
        let limit = Duration::from_secs(3);
        let late = run_for(limit, "/bin/sh", &["-c", &script(&dir)]).await;
        assert_eq!(late, Err("run /bin/sh: not done within 3s".to_owned()));
        let pids = pids(&dir).await;
        assert!(!Path::new("/proc").join(&pids[0]).exists(), "it was waited for");
        wait_for(|| !runs(&pids[1])).await;
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_command_that_nobody_waits_for() {
        let dir = tempdir().unwrap();
        let script = script(&dir);
        let task = tokio::spawn(async move { run_for(PATIENT, "/bin/sh", &["-c", &script]).await });
        let pids = pids(&dir).await;
        task.abort();
        wait_for(|| !Path::new("/proc").join(&pids[0]).exists()).await;
        wait_for(|| !runs(&pids[1])).await;
    }
}
