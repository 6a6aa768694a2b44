//! Latencies in buckets that are narrow everywhere: each is at most 1/2048 of its value wide.
//!
//! Latencies are in picoseconds: the mean of a batch is finer than the clock, and a comparison that
//! is about a hundredth must not be decided by the width of buckets.

use serde::{Deserialize, Serialize};

/// Buckets per power of two, as a power of two.
const FINE_BITS: u32 = 11;
const FINE: u64 = 1 << FINE_BITS;
/// Values up to 2^50 ps (19 minutes) have a bucket; longer ones share the last.
const POWERS: u32 = 50;
const BUCKETS: usize = (POWERS as usize - FINE_BITS as usize + 1) << FINE_BITS;

/// How often which latency was seen.
///
/// In JSON it is the list of buckets that hold something: upper end and count, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Histogram {
    /// All buckets, or none while it is empty.
    counts: Vec<u64>,
}

impl Histogram {
    /// One with its memory at hand, so that adding never allocates.
    pub fn ready() -> Self {
        Self { counts: vec![0; BUCKETS] }
    }

    /// Adds a latency.
    pub fn add(&mut self, picoseconds: u64) {
        self.add_many(picoseconds, 1);
    }

    /// Adds a latency that was seen several times.
    pub fn add_many(&mut self, picoseconds: u64, times: u64) {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        self.counts[bucket(picoseconds)] += times;
    }

    /// Adds what another one holds.
    pub fn merge(&mut self, other: &Self) {
        for (upper, count) in other.pairs() {
            self.add_many(upper, count);
        }
    }

    /// Number of latencies.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The latency in nanoseconds that a part (0 to 1) of all stayed at or below, as the upper end of
    /// its bucket. 0 where there is none.
    #[expect(clippy::cast_precision_loss, reason = "a latency is far below 2^52 ps")]
    pub fn nanoseconds(&self, part: f64) -> f64 {
        self.quantile(part) as f64 / 1e3
    }

    /// The same in picoseconds.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a rank among counts that are far below 2^52"
    )]
    fn quantile(&self, part: f64) -> u64 {
        let rank = ((self.total() as f64 * part).ceil() as u64).max(1);
        let mut below = 0;
        let reaches = |(_, count): &(u64, u64)| {
            below += count;
            below >= rank
        };
        self.pairs().find(reaches).map_or(0, |(upper, _)| upper)
    }

    /// Upper ends, in picoseconds, and counts of the buckets that hold something, ascending.
    pub fn pairs(&self) -> impl Iterator<Item = (u64, u64)> {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(bucket, count)| (upper(bucket), *count))
    }
}

impl From<Vec<(u64, u64)>> for Histogram {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut histogram = Self::default();
        for (upper, count) in pairs {
            histogram.add_many(upper, count);
        }
        histogram
    }
}

impl From<Histogram> for Vec<(u64, u64)> {
    fn from(histogram: Histogram) -> Self {
        histogram.pairs().collect()
    }
}

/// Values below 2048 have a bucket each; of larger ones, the first twelve bits count.
fn bucket(value: u64) -> usize {
    let value = value.min((1 << POWERS) - 1);
    let bucket = match value.checked_ilog2().and_then(|log| log.checked_sub(FINE_BITS)) {
        None => value,
        // Of the twelve bits, the first is always set.
        Some(shift) => u64::from(shift) * FINE + (value >> shift),
    };
    usize::try_from(bucket).unwrap_or(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let (row, in_row) = (bucket as u64 / FINE, bucket as u64 % FINE);
    match row.checked_sub(1) {
        None => in_row,
        Some(shift) => ((FINE + in_row + 1) << shift) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_narrow_bucket_that_ends_above_it() {
        for power in 0..POWERS {
            for value in [1_u64 << power, (1 << power) + 1, (1 << power) * 3 / 2, (2 << power) - 1]
            {
                let value = value.min((1 << POWERS) - 1);
                let end = upper(bucket(value));
                assert!(end >= value && end - value <= value / FINE, "{value} in {end}");
                assert_eq!(bucket(end), bucket(value));
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn buckets_are_in_order() {
        for index in 1..BUCKETS {
            assert!(upper(index - 1) < upper(index));
            assert_eq!(bucket(upper(index)), index);
        }
    }

    #[test]
    fn quantiles_are_of_all_that_was_added() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        (1..=100).for_each(|value| histogram.add(value));
        assert_eq!(histogram.quantile(0.5), 50);
        assert_eq!(histogram.quantile(0.99), 99);
        assert_eq!(histogram.quantile(1.0), 100);
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!(twice.total(), 200);
        assert_eq!(twice.quantile(0.5), 50);
    }
}
