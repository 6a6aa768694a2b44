//! From weights to a wheel of slots.
//!
//! Order: Tijdeman's chairman assignment (R. Tijdeman, The chairman assignment problem, Discrete
//! Mathematics 32, 1980). In every prefix of `N` slots each of `k` ordinals stands within
//! `1 - 1/(2k-2)` of its ideal `N * weight / sum`. Smooth weighted round robin has no such bound.

use splitter_common::abi::MAX_WHEEL;

/// A wheel and how far its shares are from the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wheel {
    /// Ordinals in order; those without weight do not occur.
    pub slots: Vec<u16>,
    /// Largest difference of a share from its weight, in parts per million of all connections.
    /// 0 unless the reduced weights sum to more than `abi::MAX_WHEEL`.
    pub error_ppm: u32,
}

/// Builds the wheel of weights that sum to more than 0 and at most `u32::MAX`.
pub fn build_wheel(weights: &[u32]) -> Wheel {
    let (shares, error_ppm) = apportion(&reduce(weights));
    Wheel { slots: order_slots(&reduce(&shares)), error_ppm }
}

/// Divides weights by their greatest common divisor.
fn reduce(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    weights.iter().map(|weight| weight / divisor).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Fits weights onto at most `MAX_WHEEL` slots by largest remainder (Hamilton's method).
fn apportion(weights: &[u32]) -> (Vec<u32>, u32) {
    let sum: u64 = weights.iter().copied().map(u64::from).sum();
    if sum <= u64::from(MAX_WHEEL) {
        return (weights.to_vec(), 0);
    }
    let quota = |weight: u32| u64::from(weight) * u64::from(MAX_WHEEL);
    let mut shares: Vec<u32> = weights
        .iter()
        .map(|weight| u32::try_from(quota(*weight) / sum).expect("a share of MAX_WHEEL"))
        .collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|i| std::cmp::Reverse(quota(weights[*i]) % sum));
    let missing = MAX_WHEEL - shares.iter().sum::<u32>();
    for i in by_remainder.into_iter().take(missing as usize) {
        shares[i] += 1;
    }
    let error_ppm = largest_error_ppm(weights, sum, &shares);
    (shares, error_ppm)
}

fn largest_error_ppm(weights: &[u32], sum: u64, shares: &[u32]) -> u32 {
    let ppm = |(weight, share): (&u32, &u32)| {
        let ideal = u128::from(*weight) * u128::from(MAX_WHEEL);
        let real = u128::from(*share) * u128::from(sum);
        let error = ideal.abs_diff(real) * 1_000_000 / (u128::from(sum) * u128::from(MAX_WHEEL));
        u32::try_from(error).expect("at most a million")
    };
    weights.iter().zip(shares).map(ppm).max().unwrap_or(0)
}

/// Orders `weights[i]` slots of each ordinal `i` by earliest deadline among those released.
///
/// With `k` ordinals and `d = 2k - 2`, occurrence `x` (from 0) of ordinal `i` is released in slot
/// `t` (from 1) once `weight * t / sum >= x + 1/d`, and is due at `(x + 1 - 1/d) * sum / weight`.
/// Everything is multiplied out, so that the comparison is exact.
fn order_slots(weights: &[u32]) -> Vec<u16> {
    let present: Vec<usize> = (0..weights.len()).filter(|i| weights[*i] > 0).collect();
    let ordinal = |i: usize| u16::try_from(i).expect("at most MAX_BACKENDS ordinals");
    if let [only] = present[..] {
        return vec![ordinal(only)];
    }
    if present.iter().all(|i| weights[*i] == 1) {
        return present.into_iter().map(ordinal).collect();
    }
    let sum: u64 = weights.iter().copied().map(u64::from).sum();
    let d = 2 * present.len() as u64 - 2;
    let mut queue: Vec<Chairman> =
        present.iter().map(|i| Chairman::new(*i, u64::from(weights[*i]))).collect();
    (1..=sum).map(|t| ordinal(pick_chairman(&mut queue, t, sum, d))).collect()
}

/// An ordinal and how often it was picked.
struct Chairman {
    ordinal: usize,
    weight: u64,
    picked: u64,
}

impl Chairman {
    fn new(ordinal: usize, weight: u64) -> Self {
        Self { ordinal, weight, picked: 0 }
    }

    fn released(&self, t: u64, sum: u64, d: u64) -> bool {
        self.weight * t * d >= self.picked * sum * d + sum
    }

    /// Whether this one's deadline, `(picked * d + d - 1) * sum / (d * weight)`, comes first.
    fn due_before(&self, other: &Self, d: u64) -> bool {
        (self.picked * d + d - 1) * other.weight < (other.picked * d + d - 1) * self.weight
    }
}

fn pick_chairman(queue: &mut [Chairman], t: u64, sum: u64, d: u64) -> usize {
    let mut best: Option<usize> = None;
    for (i, chairman) in queue.iter().enumerate() {
        let earlier = best.is_none_or(|b| chairman.due_before(&queue[b], d));
        if earlier && chairman.released(t, sum, d) {
            best = Some(i);
        }
    }
    let chairman = &mut queue[best.expect("Tijdeman: some ordinal is always released")];
    chairman.picked += 1;
    chairman.ordinal
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The largest `|count * sum - n * weight|` over all prefixes, in units of `1 / sum`.
    fn worst_prefix(slots: &[u16], weights: &[u32]) -> u64 {
        let sum: u64 = weights.iter().copied().map(u64::from).sum();
        let mut counts = vec![0_u64; weights.len()];
        let mut worst = 0;
        for (n, slot) in slots.iter().enumerate() {
            counts[usize::from(*slot)] += 1;
            for (count, weight) in counts.iter().zip(weights) {
                worst = worst.max((count * sum).abs_diff((n as u64 + 1) * u64::from(*weight)));
            }
        }
        worst
    }

    #[test]
    fn eighty_twenty_is_four_to_one() {
        assert_eq!(build_wheel(&[80, 20]).slots, [0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_sum_above_the_limit_is_apportioned_and_reported() {
        let wheel = build_wheel(&[999_983, 1]);
        assert_eq!(wheel.slots.len(), 1, "the share of 1 rounds to nothing");
        assert_eq!(wheel.error_ppm, 1);
        let wheel = build_wheel(&[9_973, 9_967]);
        assert_eq!(wheel.slots.len(), 5_000, "5002 and 4998 of 10000, reduced");
        assert!(wheel.error_ppm < 100);
    }

    #[test]
    fn many_backends_stay_within_one() {
        let weights: Vec<u32> = (0..500).map(|i| 1 + i % 7).collect();
        let sum = weights.iter().map(|w| u64::from(*w)).sum();
        assert!(worst_prefix(&build_wheel(&weights).slots, &weights) < sum);
    }

    proptest! {
        #[test]
        fn every_prefix_is_within_one(weights in prop::collection::vec(0_u32..300, 1..16)) {
            prop_assume!(weights.iter().any(|w| *w > 0));
            let wheel = build_wheel(&weights);
            let sum: u64 = weights.iter().copied().map(u64::from).sum();
            prop_assert!(worst_prefix(&wheel.slots, &weights) < sum);
            prop_assert!(wheel.slots.iter().all(|slot| weights[usize::from(*slot)] > 0));
            for (i, weight) in weights.iter().enumerate() {
                let count = wheel.slots.iter().filter(|slot| usize::from(**slot) == i).count();
                prop_assert_eq!(count as u64 * sum, u64::from(*weight) * wheel.slots.len() as u64);
            }
        }

        #[test]
        fn apportioned_shares_are_within_a_slot(weights in prop::collection::vec(0_u32..=1 << 27, 2..16)) {
            prop_assume!(weights.iter().any(|w| *w > 0));
            let wheel = build_wheel(&weights);
            prop_assert!(wheel.slots.len() <= MAX_WHEEL as usize);
            prop_assert!(wheel.error_ppm <= 1_000_000 / MAX_WHEEL);
        }
    }
}
