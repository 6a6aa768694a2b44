//! Direct connections against split ones.

use anyhow::{Result, bail};

use super::daemon::FRONTEND;
use super::place::Role;
use super::servers::ADDRESSES;
use super::stage::Stage;
use super::wrk::Load;
use super::{Pace, heading};

/// Connections at a time.
const CONNECTIONS: u32 = 16;

/// What one kind of load reached, in requests per second, round by round.
struct Rates {
    direct: Vec<u64>,
    split: Vec<u64>,
}

/// Compares both kinds of load, in rounds that alternate, so that what disturbs one side disturbs
/// the other as well.
pub(super) fn compare(stage: &Stage, pace: Pace) -> Result<()> {
    heading("6. Direct against split");
    println!("v2 serves both sides: dialled directly where no hook is, and through the split.");
    println!("{} rounds of a second each, in requests per second:", pace.rounds);
    println!("  load        direct (median)  split (median)  split / direct (median, range)");
    for (name, short) in [("keep-alive", false), ("short", true)] {
        rounds(stage, pace, short)?.print(name);
    }
    println!("Loads of a second are noisy; `cargo xtask bench` has longer ones.");
    println!("The commands of a round of short connections:");
    for load in [direct(true), split(true)] {
        println!("$ {}", load.show());
    }
    Ok(())
}

impl Rates {
    fn print(mut self, name: &str) {
        // Round by round: what slows the machine down slows both sides of a round.
        let rounds = self.split.iter().zip(&self.direct);
        let mut ratios: Vec<u64> = rounds.map(|(split, direct)| split * 1_000 / direct).collect();
        let [direct, split, ratio] =
            [&mut self.direct, &mut self.split, &mut ratios].map(|values| median(values));
        let (lowest, highest) = (ratios.first().copied(), ratios.last().copied());
        println!(
            "  {name:<10} {direct:>16} {split:>15} {:>15} ({} to {})",
            decimal(ratio),
            decimal(lowest.unwrap_or(0)),
            decimal(highest.unwrap_or(0)),
        );
    }
}

fn direct(short: bool) -> Load<'static> {
    Load { role: Role::Beside, address: ADDRESSES[1], ..split(short) }
}

fn split(short: bool) -> Load<'static> {
    let (role, address) = (Role::Client, FRONTEND);
    Load { role, address, connections: CONNECTIONS, short, seconds: 1 }
}

/// Which side begins changes from round to round.
fn rounds(stage: &Stage, pace: Pace, short: bool) -> Result<Rates> {
    let mut rates = Rates { direct: Vec::new(), split: Vec::new() };
    for round in 0..pace.rounds {
        if round % 2 == 0 {
            rates.direct.push(measure(stage, direct(short))?);
            rates.split.push(measure(stage, split(short))?);
        } else {
            rates.split.push(measure(stage, split(short))?);
            rates.direct.push(measure(stage, direct(short))?);
        }
    }
    Ok(rates)
}

/// Requests per second, at least 1.
fn measure(stage: &Stage, load: Load<'_>) -> Result<u64> {
    let outcome = load.run(&stage.place)?;
    if !outcome.failures.is_empty() || outcome.per_second == 0 {
        bail!("requests of `{}` failed: {}", load.show(), outcome.failures.join("; "));
    }
    Ok(outcome.per_second)
}

/// Sorts, and answers the middle.
fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// Thousandths with three decimals.
fn decimal(thousandths: u64) -> String {
    format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&mut [5, 1, 3]), 3);
        assert_eq!(median(&mut []), 0);
        assert_eq!(decimal(999), "0.999");
    }
}
