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

/// Compares both kinds of load, in rounds that alternate, so that what disturbs one side disturbs
/// the other as well.
pub(super) fn compare(stage: &Stage, pace: Pace) -> Result<()> {
    heading("6. Direct against split");
    println!("v2 serves both sides: dialled directly where no hook is, and through the split.");
    println!("{} rounds of each load; medians, in requests per second:", pace.rounds);
    println!("  load         direct     split  split / direct");
    for (name, short) in [("keep-alive", false), ("short", true)] {
        let (direct, split) = rounds(stage, pace, short)?;
        let (direct, split) = (median(direct), median(split));
        println!("  {name:<10} {direct:>8}  {split:>8}  {:>14}", ratio(split, direct));
    }
    println!("Loads of a second are noisy; docs/benchmarks.md has longer ones, and more of them.");
    println!("The commands of a round of short connections:");
    for load in [direct(true), split(true)] {
        println!("$ {}", load.show());
    }
    Ok(())
}

fn direct(short: bool) -> Load<'static> {
    Load { role: Role::Beside, address: ADDRESSES[1], ..split(short) }
}

fn split(short: bool) -> Load<'static> {
    let (role, address) = (Role::Client, FRONTEND);
    Load { role, address, connections: CONNECTIONS, short, seconds: 1 }
}

/// The rates of both sides. Which side begins changes from round to round.
fn rounds(stage: &Stage, pace: Pace, short: bool) -> Result<(Vec<u64>, Vec<u64>)> {
    let (mut directs, mut splits) = (Vec::new(), Vec::new());
    for round in 0..pace.rounds {
        let measure = |load: Load<'_>, rates: &mut Vec<u64>| -> Result<()> {
            let outcome = load.run(&stage.place)?;
            if !outcome.failures.is_empty() {
                bail!("requests of `{}` failed: {}", load.show(), outcome.failures.join("; "));
            }
            rates.push(outcome.per_second);
            Ok(())
        };
        if round % 2 == 0 {
            measure(direct(short), &mut directs)?;
            measure(split(short), &mut splits)?;
        } else {
            measure(split(short), &mut splits)?;
            measure(direct(short), &mut directs)?;
        }
    }
    Ok((directs, splits))
}

fn median(mut rates: Vec<u64>) -> u64 {
    rates.sort_unstable();
    rates.get(rates.len() / 2).copied().unwrap_or(0)
}

/// With three decimals.
fn ratio(part: u64, whole: u64) -> String {
    match (part * 1_000 + whole / 2).checked_div(whole) {
        Some(thousandths) => format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![5, 1, 3]), 3);
        assert_eq!(median(Vec::new()), 0);
        assert_eq!(ratio(999, 1_000), "0.999");
    }
}
