//! Medians, and how sure they are.

use splitter_common::hash::mix;

/// How often a median is drawn again for its interval.
const RESAMPLES: usize = 2_000;

/// A median with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Lower end of the interval.
    pub low: f64,
    /// The median of the values.
    pub middle: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// The value below which a part of the values lies; 0 where there is none.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    value_at(&sorted, part)
}

/// The median; of an even number of values, the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sort_and_halve(&mut sorted)
}

/// The median with its interval by resampling. The same values give the same interval.
pub fn estimate(values: &[f64]) -> Estimate {
    let mut draws = 0_u64;
    let mut sample = values.to_vec();
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            for value in &mut sample {
                draws += 1;
                *value = values[draw(draws, values.len())];
            }
            sort_and_halve(&mut sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Estimate {
        low: value_at(&medians, 0.025),
        middle: median(values),
        high: value_at(&medians, 0.975),
    }
}

/// Quotients of what was measured in the same rounds. Rounds that one side lacks are left out.
pub fn ratios(of: &[(u32, f64)], to: &[(u32, f64)]) -> Vec<f64> {
    let base = |round: u32| to.iter().find(|(other, _)| *other == round).map(|(_, value)| *value);
    of.iter()
        .filter_map(|(round, value)| base(*round).filter(|base| *base > 0.0).map(|b| value / b))
        .collect()
}

fn draw(number: u64, below: usize) -> usize {
    // The upper half of a product of two 32-bit numbers: an even choice without a division.
    let random = mix(7, number) >> 32;
    usize::try_from((random * below as u64) >> 32).unwrap_or(0)
}

fn sort_and_halve(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (length, half) if length % 2 == 1 => values[half],
        (_, half) => f64::midpoint(values[half - 1], values[half]),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a part of the number of values, which is small"
)]
fn value_at(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles_are_of_sorted_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).total_cmp(&2.0), std::cmp::Ordering::Equal);
        assert_eq!(median(&[4.0, 1.0]).total_cmp(&2.5), std::cmp::Ordering::Equal);
        assert_eq!(quantile(&[5.0, 1.0, 9.0], 1.0).total_cmp(&9.0), std::cmp::Ordering::Equal);
        assert_eq!(quantile(&[], 0.5).total_cmp(&0.0), std::cmp::Ordering::Equal);
    }

    #[test]
    fn an_interval_holds_its_median_and_narrows_with_more_values() {
        let values = |n: u32| (0..n).map(|i| f64::from(i % 10)).collect::<Vec<_>>();
        let (few, many) = (estimate(&values(10)), estimate(&values(1_000)));
        for estimate in [few, many] {
            assert!(estimate.low <= estimate.middle && estimate.middle <= estimate.high);
        }
        assert!(many.high - many.low < few.high - few.low);
        assert_eq!(estimate(&values(10)), few);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let found = ratios(&[(0, 2.0), (1, 9.0), (2, 3.0)], &[(2, 1.0), (0, 4.0), (3, 1.0)]);
        assert_eq!(found, [0.5, 3.0]);
    }
}
