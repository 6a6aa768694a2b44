//! Differences between counts and shares.

use anyhow::{Context as _, Result};

/// A run of connections, one after the other.
pub(super) struct Prefixes {
    weights: Vec<u64>,
    sum: u64,
    counts: Vec<u64>,
    connections: u64,
    /// Largest differences, in parts of a connection: there are `sum` parts to one.
    largest: u64,
    largest_whole: u64,
}

impl Prefixes {
    /// None yet.
    pub(super) fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight)).max(1);
        let weights: Vec<u64> = weights.iter().map(|weight| u64::from(weight / divisor)).collect();
        let (sum, counts) = (weights.iter().sum(), vec![0; weights.len()]);
        Self { weights, sum, counts, connections: 0, largest: 0, largest_whole: 0 }
    }

    /// One more connection went to a backend.
    pub(super) fn add(&mut self, backend: usize) -> Result<()> {
        *self.counts.get_mut(backend).context("a backend without a weight")? += 1;
        self.connections += 1;
        let shares = self.weights.iter().map(|weight| weight * self.connections);
        let differences =
            self.counts.iter().zip(shares).map(|(count, share)| (count * self.sum).abs_diff(share));
        let error = differences.max().unwrap_or(0);
        self.largest = self.largest.max(error);
        if self.connections.is_multiple_of(self.sum) {
            self.largest_whole = self.largest_whole.max(error);
        }
        Ok(())
    }

    /// Largest difference of all prefixes so far, in connections.
    pub(super) fn largest(&self) -> f64 {
        self.in_connections(self.largest)
    }

    /// Largest difference of prefixes that were whole turns of the wheel.
    pub(super) fn largest_whole(&self) -> f64 {
        self.in_connections(self.largest_whole)
    }

    #[expect(clippy::cast_precision_loss, reason = "a figure")]
    fn in_connections(&self, parts: u64) -> f64 {
        parts as f64 / self.sum as f64
    }
}

/// Largest difference of counts from their shares, in connections.
#[expect(clippy::cast_precision_loss, reason = "a figure")]
pub(super) fn error_of_counts(weights: &[u32], counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let share = |weight: u32| total as f64 * f64::from(weight) / sum as f64;
    let differences =
        weights.iter().zip(counts).map(|(w, count)| (*count as f64 - share(*w)).abs());
    differences.fold(0.0, f64::max)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, wanted: f64) -> bool {
        (value - wanted).abs() < 1e-9
    }

    #[test]
    fn errors_are_of_the_worst_prefix() {
        let mut run = Prefixes::new(&[90, 10]);
        (0..9).for_each(|_| run.add(0).unwrap());
        assert!(near(run.largest(), 0.9) && near(run.largest_whole(), 0.0));
        run.add(0).unwrap();
        assert!(near(run.largest(), 1.0) && near(run.largest_whole(), 1.0));
        assert!(run.add(2).is_err());
    }

    #[test]
    fn counts_are_compared_with_shares() {
        assert!(near(error_of_counts(&[1, 1], &[6, 4]), 1.0));
        assert!(near(error_of_counts(&[3, 1], &[75, 25]), 0.0));
    }
}
