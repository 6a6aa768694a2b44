//! A run of connections, while everything else happens.

use anyhow::{Result, ensure};
use splitter_tests::daemon::{Daemon, Site};
use splitter_tests::peers::UdpClient;

use super::error::Prefixes;
use super::{CANARY, FIRST_PORT, FRONTEND, LARGEST, SURVIVING, WHOLE, case, policy};
use crate::policies::Shape;
use crate::run::Run;

/// Connections between two events. Prime, so that events come at all places of the wheel.
const BETWEEN: u32 = 97;

/// Another service changes after every stretch; after every tenth, the daemon is killed and
/// started again.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let site = Site::new()?;
    let path = site.write("policy.yaml", policy(CANARY))?;
    let options = ["--policy", path.as_str()];
    let mut daemon = site.run(&options)?;
    let client = UdpClient::new(FRONTEND)?;
    let mut prefixes = Prefixes::new(CANARY);
    let stretches = run.pace.pick(11, 101, 1_001);
    for stretch in 0..stretches {
        for _ in 0..BETWEEN {
            prefixes.add(usize::from(client.connect_port()? - FIRST_PORT))?;
        }
        daemon = disturb(&site, daemon, &options, stretch)?;
    }
    daemon.terminate()?;
    let case = case(CANARY, stretches * BETWEEN);
    run.sample((&case, SURVIVING), LARGEST, 0, prefixes.largest())?;
    run.sample((&case, SURVIVING), WHOLE, 0, prefixes.largest_whole())
}

fn disturb(site: &Site, daemon: Daemon, options: &[&str], stretch: u32) -> Result<Daemon> {
    if stretch % 10 == 9 {
        daemon.kill()?;
        return site.run(options);
    }
    let other = Shape::new("other", "127.10.0.9:80").weighing(1 + stretch % 7, 5);
    let source = serde_json::json!({"name": "other.yaml", "text": other.to_yaml()});
    let answer = site.ask(&serde_json::json!({"verb": "apply", "sources": [source]}))?;
    ensure!(answer["answer"] == "applied", "another service was refused: {answer}");
    Ok(daemon)
}
