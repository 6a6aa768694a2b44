//! The hash that turns a client into a bucket. Kernel and user space must agree on it.

/// Mixes a client identity with a salt into 64 evenly spread bits.
///
/// The finalizer is `SplitMix64`'s (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, OOPSLA 2014): every input bit flips every output bit with probability one half.
#[inline(always)]
#[must_use]
pub const fn mix(salt: u64, client: u64) -> u64 {
    let mut x = client.wrapping_add(salt).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The 32-bit bucket of a client in front of a wheel.
#[inline(always)]
#[must_use]
pub const fn bucket(salt: u64, client: u64) -> u32 {
    (mix(salt, client) >> 32) as u32
}

/// The 32-bit bucket of a client in front of one subset's threshold: another for every subset.
#[inline(always)]
#[must_use]
pub const fn subset_bucket(salt: u64, client: u64, subset: u16) -> u32 {
    bucket(subset as u64, mix(salt, client))
}

/// Maps 32 random bits onto `0..n` without a division (Lemire: Fast Random Integer Generation in
/// an Interval, 2019; the multiply-shift step alone, bias below `n / 2^32`).
#[inline(always)]
#[must_use]
pub const fn scale(random: u32, n: u32) -> u32 {
    // Below n by construction, so it fits.
    ((random as u64 * n as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_stays_below_n_and_reaches_both_ends() {
        assert_eq!(scale(0, 10), 0);
        assert_eq!(scale(u32::MAX, 10), 9);
        assert_eq!(scale(u32::MAX, 1), 0);
    }

    #[test]
    fn mix_spreads_consecutive_clients() {
        let mut buckets = [0_u32; 10];
        for client in 0..100_000 {
            let bucket = scale((mix(7, client) >> 32) as u32, 10);
            buckets[bucket as usize] += 1;
        }
        assert!(buckets.iter().all(|n| (9_600..10_400).contains(n)), "{buckets:?}");
    }
}
