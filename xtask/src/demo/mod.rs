//! `cargo xtask demo`: a canary from dark launch to full, with real servers, clients and a daemon.
//!
//! [`acts`] and [`throughput`] are the play, [`istio`] is another one; [`place`] is the stage, which [`janitor`] sets and
//! clears, however the demo ends. Every command that matters is printed as one would type it, and
//! every claim is checked: a number that is not as it should be makes the demo fail.

mod acts;
mod daemon;
mod istio;
mod janitor;
mod place;
mod servers;
mod stage;
mod table;
mod throughput;
mod wrk;

use std::time::Duration;

use anyhow::{Result, bail};

use crate::bpf::ToolchainChoice;
use crate::build::{self, Profile};
use crate::{exec, setup, workspace};
use janitor::Janitor;
use stage::Stage;

/// Programs that the demo runs.
const PROGRAMS: [&str; 5] = ["curl", "ip", "nginx", "nsenter", "wrk"];

/// What a caller may choose.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Options {
    /// Take a third of the time, with load that is as real but shorter
    #[arg(long)]
    quick: bool,
    /// Play the rollout with files of Istio and of the Gateway API
    #[arg(long)]
    istio: bool,
    /// Make a place, and remove it at the end of standard input: how the demo runs itself
    #[arg(long, hide = true)]
    janitor: bool,
}

/// How long loads run. `wrk` counts in whole seconds.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Seconds of one load.
    load: u64,
    /// Seconds of a load during which something happens.
    eventful: u64,
    /// Rounds of the comparison with direct connections.
    rounds: usize,
}

impl Pace {
    fn new(quick: bool) -> Self {
        if quick {
            Self { load: 1, eventful: 2, rounds: 3 }
        } else {
            Self { load: 2, eventful: 4, rounds: 9 }
        }
    }

    /// When, in a load during which something happens, its first half is over.
    fn half(self) -> Duration {
        Duration::from_millis(self.eventful * 500)
    }
}

impl Options {
    /// The short demos, for continuous integration.
    pub(crate) fn quick() -> [Self; 2] {
        [false, true].map(|istio| Self { quick: true, istio, janitor: false })
    }

    /// What is built of splitter. Connections never meet the daemon, so they are as fast beside one
    /// that takes a quarter of the time to build.
    fn profile(self) -> Profile {
        if self.quick { Profile::Dev } else { Profile::Release }
    }
}

/// Builds what the demo needs and plays it.
pub(crate) fn run(toolchain: ToolchainChoice, options: Options) -> Result<()> {
    if options.janitor {
        return janitor::serve();
    }
    if !workspace::is_root() {
        bail!("the demo attaches programs to a cgroup of its own: run `cargo xtask demo` as root");
    }
    prepare(toolchain, options.profile())?;
    let janitor = Janitor::start()?;
    let played = play(&janitor, options);
    // The place is cleared whatever became of the play, and the play's error is told first.
    let cleared = janitor.finish();
    played.and(cleared)?;
    println!("\nEverything was as it should be, and everything that the demo made is removed.");
    Ok(())
}

/// Sets up only where something is missing: a look at everything takes longer than the demo's acts.
fn prepare(toolchain: ToolchainChoice, profile: Profile) -> Result<()> {
    let is_absent = |program: &&str| exec::find(program).is_none();
    if toolchain.find().is_none() || PROGRAMS.iter().any(is_absent) {
        setup::run(toolchain)?;
    }
    build::run(toolchain, profile)
}

fn play(janitor: &Janitor, options: Options) -> Result<()> {
    let pace = Pace::new(options.quick);
    let subject = if options.istio { istio::ISTIO } else { acts::NATIVE };
    let mut stage = Stage::new(janitor.place(), subject, build::binary(options.profile()))?;
    stage.describe();
    if options.istio {
        return istio::play(&mut stage, pace);
    }
    acts::dark_launch(&mut stage)?;
    acts::canary(&mut stage, pace)?;
    acts::half_way(&mut stage, pace)?;
    acts::finished(&mut stage, pace)?;
    acts::daemon_dies(&mut stage, pace)?;
    throughput::compare(&stage, pace)?;
    acts::detach(&mut stage)
}

/// Begins a part of the demo.
fn heading(text: &str) {
    println!("\n=== {text}");
}
