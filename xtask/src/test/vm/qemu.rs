//! Running one guest.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::exec;

/// Several times what a guest takes on an idle machine; it ends guests that hang.
const TIME_LIMIT: Duration = Duration::from_hours(1);

/// The plainest processor that Debian's programs and ours run on. A newer one has more for an emulator to
/// do at each step: page tables of five levels, and checks of what the kernel touches.
const PROCESSOR: &str = "Nehalem";
/// Guards against speculative execution, memory that is not cleared, and stacks that can be guessed make
/// an emulated kernel half as fast again, and nothing that is tested here depends on them.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 panic=-1 quiet mitigations=off init_on_alloc=0 \
                                randomize_kstack_offset=off";

/// Boots a guest and hands every line of its console to `on_line` until it powers off.
pub(super) fn boot(kernel: &Path, initramfs: &Path, on_line: impl FnMut(&str)) -> Result<()> {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", "2", "-m", "2G"])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-net", "none"])
        .args(["-no-reboot", "-append", KERNEL_ARGUMENTS])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    println!("$ {}", exec::show(&command));
    let mut guest = command.spawn().context("start qemu-system-x86_64")?;
    let outcome = follow(&console(&mut guest), on_line);
    if outcome.is_err() {
        guest.kill().context("stop the guest")?;
    }
    let status = guest.wait().context("end of the guest")?;
    outcome?;
    if status.success() { Ok(()) } else { bail!("qemu-system-x86_64: {status}") }
}

/// Lines come through a channel, because reading from a pipe knows no time limit.
fn console(guest: &mut Child) -> Receiver<Vec<u8>> {
    let (sender, lines) = mpsc::channel();
    let console = BufReader::new(guest.stdout.take().expect("stdout is piped"));
    thread::spawn(move || {
        for line in console.split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn follow(lines: &Receiver<Vec<u8>>, mut on_line: impl FnMut(&str)) -> Result<()> {
    let deadline = Instant::now() + TIME_LIMIT;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => on_line(String::from_utf8_lossy(&line).trim_end()),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the guest was stopped after {} s", TIME_LIMIT.as_secs())
            }
        }
    }
}
