//! Medians, and how sure they are.

use std::collections::BTreeMap;

use splitter_common::hash::mix;

/// How often a median is drawn again for its interval.
const RESAMPLES: usize = 2_000;

/// Two-sided 95 % points of Student's t for 2, 3, ... degrees of freedom.
const STUDENT: [f64; 9] = [4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

/// A figure and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// Figures of one sitting are of the same processes, maps and namespaces.
    pub sitting: u32,
    /// The round of the sitting.
    pub round: u32,
    /// The figure.
    pub value: f64,
}

/// A middle with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Lower end of the interval.
    pub low: f64,
    /// What the values lie around.
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

/// What values lie around, and how sure that is. The same values give the same answer.
///
/// Values of one sitting have more in common than their rounds tell: where its maps lie in memory,
/// which CPU a process was put on. So with three sittings or more, a sitting counts as one figure,
/// its median; the middle is their mean, and the interval is that in which the mean of as many
/// further sittings lies with 95 % (a prediction interval after Student). With fewer, it is the
/// median of all values, and its interval by resampling says nothing about another set-up.
pub fn estimate(values: &[Value]) -> Estimate {
    let medians = medians_of_sittings(values);
    match spread(&medians) {
        Some((middle, radius)) => Estimate { low: middle - radius, middle, high: middle + radius },
        None => resampled(&plain(values)),
    }
}

/// The values alone.
pub fn plain(values: &[Value]) -> Vec<f64> {
    values.iter().map(|value| value.value).collect()
}

fn medians_of_sittings(values: &[Value]) -> Vec<f64> {
    let mut sittings: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for value in values {
        sittings.entry(value.sitting).or_default().push(value.value);
    }
    sittings.into_values().map(|mut values| sort_and_halve(&mut values)).collect()
}

/// The mean, and how far from it the mean of as many others is with 95 %.
#[expect(clippy::cast_precision_loss, reason = "a handful of figures")]
fn spread(figures: &[f64]) -> Option<(f64, f64)> {
    let count = figures.len() as f64;
    let student = STUDENT.get(figures.len().checked_sub(3)?).or(STUDENT.last())?;
    let mean = figures.iter().sum::<f64>() / count;
    let variance =
        figures.iter().map(|figure| (figure - mean).powi(2)).sum::<f64>() / (count - 1.0);
    // Both means vary by variance / count, and so does their difference by twice that.
    Some((mean, student * (variance * 2.0 / count).sqrt()))
}

/// The median with its interval by resampling.
fn resampled(values: &[f64]) -> Estimate {
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

/// Quotients of what was measured in the same rounds of the same sittings. Rounds that one side
/// lacks are left out.
pub fn ratios(of: &[Value], to: &[Value]) -> Vec<Value> {
    let place = |value: &Value| (value.sitting, value.round);
    let bases: BTreeMap<_, f64> = to.iter().map(|value| (place(value), value.value)).collect();
    let ratio = |value: &Value| {
        let base = bases.get(&place(value)).filter(|base| **base > 0.0)?;
        Some(Value { value: value.value / base, ..*value })
    };
    of.iter().filter_map(ratio).collect()
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

    fn values(sitting: u32, values: impl IntoIterator<Item = f64>) -> Vec<Value> {
        let value = |(round, value)| Value { sitting, round, value };
        (0..).zip(values).map(value).collect()
    }

    #[test]
    fn an_interval_holds_its_median_and_narrows_with_more_values() {
        let values = |n: u32| values(0, (0..n).map(|i| f64::from(i % 10)));
        let (few, many) = (estimate(&values(10)), estimate(&values(1_000)));
        for estimate in [few, many] {
            assert!(estimate.low <= estimate.middle && estimate.middle <= estimate.high);
        }
        assert!(many.high - many.low < few.high - few.low);
        assert_eq!(estimate(&values(10)), few);
    }

    #[test]
    fn an_interval_is_as_wide_as_sittings_differ() {
        let sittings = |apart: f64| -> Vec<Value> {
            let middles = [1.0, 1.0 + apart, 1.0 - apart, 1.0];
            let around = |(n, middle): (u32, f64)| values(n, [middle - 0.5, middle, middle + 0.5]);
            (0..).zip(middles).flat_map(around).collect()
        };
        let (same, apart) = (estimate(&sittings(0.0)), estimate(&sittings(0.1)));
        assert!(same.high - same.low < 1e-9, "{same:?}");
        // The deviation is 0.1 * sqrt(2 / 3), times 3.182 for three degrees, times sqrt(2 / 4).
        assert!((apart.high - 1.1837).abs() < 1e-3, "{apart:?}");
        assert!((apart.middle - 1.0).abs() < 1e-9, "{apart:?}");
    }

    #[test]
    fn ratios_are_of_the_same_round_and_sitting() {
        let at = |sitting, round, value| Value { sitting, round, value };
        let of = [at(0, 0, 2.0), at(0, 1, 9.0), at(0, 2, 3.0), at(1, 2, 6.0)];
        let to = [at(0, 2, 1.0), at(0, 0, 4.0), at(0, 3, 1.0), at(1, 2, 2.0)];
        assert_eq!(ratios(&of, &to), [at(0, 0, 0.5), at(0, 2, 3.0), at(1, 2, 3.0)]);
    }
}
