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
