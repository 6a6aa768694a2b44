//! Other ways to choose, computed.

use anyhow::Result;
use splitter_common::hash::mix;

use super::error::Prefixes;
use super::{LARGEST, case, lengths};
use crate::run::Run;

/// Each connection draws a backend by weight; another round draws others.
pub(super) fn random(run: &mut Run, weights: &[u32], round: u32) -> Result<()> {
    let sum: u32 = weights.iter().sum();
    // Neighbouring seeds would draw the same numbers in nearly the same order.
    let seed = mix(7, u64::from(round));
    let draw = |number: u32| {
        let random = mix(seed, u64::from(number)) >> 32;
        backend_at(weights, u32::try_from((random * u64::from(sum)) >> 32).unwrap_or(0))
    };
    record(run, "random choice, computed", weights, round, draw)
}

/// All of one backend's turns, then all of the next one's: what a counter modulo 100 mapped to
/// ranges comes to.
pub(super) fn blocks(run: &mut Run, weights: &[u32]) -> Result<()> {
    let sum: u32 = weights.iter().sum();
    let turn = |number: u32| backend_at(weights, number % sum);
    record(run, "round robin in blocks, computed", weights, 0, turn)
}

fn record(
    run: &mut Run,
    arm: &str,
    weights: &[u32],
    round: u32,
    choose: impl Fn(u32) -> usize,
) -> Result<()> {
    let lengths = lengths(run.pace);
    let mut prefixes = Prefixes::new(weights);
    for number in 0..lengths.last().copied().unwrap_or(0) {
        prefixes.add(choose(number))?;
        if lengths.contains(&(number + 1)) {
            let case = case(weights, number + 1);
            run.sample((&case, arm), LARGEST, round, prefixes.largest())?;
        }
    }
    Ok(())
}

/// The backend in whose range a number below the sum of weights is.
fn backend_at(weights: &[u32], mut number: u32) -> usize {
    let is_past = |weight: &&u32| {
        let past = number >= **weight;
        number -= if past { **weight } else { 0 };
        past
    };
    weights.iter().take_while(is_past).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_as_wide_as_weights() {
        let backends: Vec<usize> = (0..6).map(|n| backend_at(&[1, 3, 2], n)).collect();
        assert_eq!(backends, [0, 1, 1, 1, 2, 2]);
    }
}
