//! How long what is asked for in time takes: never less, but for a step of the timer. How much more is printed where
//! `SPLITTER_TEST_TIMES` says how often to measure; nothing is asserted about it.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Result, ensure};
use splitter_tests::net::{full_listener, in_own_network};
use splitter_tests::peers::PortServer;
use splitter_tests::shared;

use super::{BACKEND, connect, policy};

/// One step of the slowest timer. The kernel counts in steps, which lag behind the clock where the
/// processor is emulated and ticks come late.
const STEP: Duration = Duration::from_millis(10);

/// Measurements of each time, where they are asked for.
fn rounds() -> Option<u32> {
    env::var("SPLITTER_TEST_TIMES").ok()?.parse().ok()
}

/// Measures one time that the policy asks for, and prints a row of the table.
fn measure((name, asked_ms): (&str, u64), is_ok: bool) -> Result<()> {
    let mut took = Vec::new();
    for _ in 0..rounds().unwrap_or(1) {
        let start = Instant::now();
        let result = connect();
        took.push(start.elapsed());
        ensure!(result.is_ok() == is_ok, "{name}: {result:?}");
    }
    took.sort_unstable();
    let shortest = took[0];
    let asked = Duration::from_millis(asked_ms);
    ensure!(shortest + STEP > asked, "{name} was cut short: {shortest:?}");
    if rounds().is_some() {
        let ms = |part: usize| took[(took.len() - 1) * part / 2].as_secs_f64() * 1e3;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let (low, middle, high) = (ms(0), ms(1), ms(2));
        let row = format!("| `{name}` | {low:.1} ms | {middle:.1} ms | {high:.1} ms |");
        // Past the harness, which keeps what tests print.
        writeln!(io::stderr(), "times of {}: {row}", kernel.trim())?;
    }
    Ok(())
}

#[test]
fn a_connect_is_given_up_no_earlier_than_asked() -> Result<()> {
    in_own_network(|| {
        let _full = full_listener(BACKEND)?;
        let mut node = shared::node()?;
        for asked in [100, 250, 500, 900, 2_000] {
            let key = format!("connectTimeout: {asked}ms");
            node.apply(&policy(&format!(", {key}")))?;
            measure((&key, asked), false)?;
        }
        Ok(())
    })
}

#[test]
fn a_delay_is_no_shorter_than_asked() -> Result<()> {
    in_own_network(|| {
        let _serving = PortServer::start(BACKEND)?;
        let mut node = shared::node()?;
        for asked in [20, 100, 300] {
            let key = format!("delay: {{time: {asked}ms}}");
            let fault = format!("fault: {{delay: {{percent: 100, time: {asked}ms}}}}");
            let yaml = policy("").replace("split: {v1: 1}", &format!("split: {{v1: 1}}, {fault}"));
            node.apply(&yaml)?;
            measure((&key, asked), true)?;
        }
        Ok(())
    })
}
