//! A table for choosing a backend by the client's hash, of which little moves when backends change.
//!
//! Maglev's population (Eisenbud et al., Maglev: A Fast and Reliable Software Network Load
//! Balancer, NSDI 2016, section 3.4): every backend walks its own permutation of the table and
//! takes the first free place, in turns that follow the weights.

use splitter_common::hash::bucket;

/// Table sizes, all prime so that every step width visits every place.
const SIZES: [u32; 5] = [251, 1_009, 4_093, 8_191, 9_973];
/// Places per backend below which shares become uneven.
const PLACES_PER_BACKEND: usize = 100;

/// Builds the table for backends given by a stable hash and a weight; some weight is not 0.
pub(super) fn build_table(backends: &[(u64, u32)]) -> Vec<u16> {
    let size = table_size(backends.iter().filter(|(_, weight)| *weight > 0).count());
    let mut table = vec![None; size as usize];
    let mut walkers: Vec<Walker> =
        backends.iter().map(|(hash, weight)| Walker::new(*hash, *weight, size)).collect();
    let heaviest = u64::from(backends.iter().map(|(_, weight)| *weight).max().unwrap_or(0));
    let mut free = table.len();
    while free > 0 {
        for (ordinal, walker) in walkers.iter_mut().enumerate() {
            if free > 0 && walker.has_turn(heaviest) {
                walker.take_place(&mut table, ordinal);
                free -= 1;
            }
        }
    }
    table.into_iter().map(|place| place.expect("every place was taken")).collect()
}

fn table_size(n_backends: usize) -> u32 {
    let wanted = n_backends * PLACES_PER_BACKEND;
    let [.., largest] = SIZES;
    SIZES.into_iter().find(|size| *size as usize >= wanted).unwrap_or(largest)
}

/// One backend on its way through the table.
struct Walker {
    at: u32,
    step: u32,
    size: u32,
    weight: u64,
    credit: u64,
}

impl Walker {
    fn new(hash: u64, weight: u32, size: u32) -> Self {
        Self {
            at: bucket(0, hash) % size,
            step: bucket(1, hash) % (size - 1) + 1,
            size,
            weight: u64::from(weight),
            credit: 0,
        }
    }

    /// Whether it is this backend's turn: the heaviest has one in every round.
    fn has_turn(&mut self, heaviest: u64) -> bool {
        self.credit += self.weight;
        let has = self.weight > 0 && self.credit >= heaviest;
        if has {
            self.credit -= heaviest;
        }
        has
    }

    fn take_place(&mut self, table: &mut [Option<u16>], ordinal: usize) {
        while table[self.at as usize].is_some() {
            self.at = (self.at + self.step) % self.size;
        }
        table[self.at as usize] = u16::try_from(ordinal).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(n: u64) -> Vec<(u64, u32)> {
        (0..n).map(|i| (i * 7 + 1, 1)).collect()
    }

    fn share(table: &[u16], ordinal: u16) -> f64 {
        let n = table.iter().filter(|place| **place == ordinal).count();
        f64::from(u32::try_from(n).unwrap()) / f64::from(u32::try_from(table.len()).unwrap())
    }

    #[test]
    fn shares_follow_weights() {
        let table = build_table(&[(1, 3), (2, 1), (3, 0)]);
        assert!((share(&table, 0) - 0.75).abs() < 0.02);
        assert!((share(&table, 1) - 0.25).abs() < 0.02);
        assert!(!table.contains(&2));
    }

    #[test]
    fn losing_one_backend_moves_little_else() {
        let before = build_table(&backends(10));
        let mut fewer = backends(10);
        fewer[9].1 = 0;
        let after = build_table(&fewer);
        assert_eq!(before.len(), after.len());
        let moved = before.iter().zip(&after).filter(|(b, a)| **b != 9 && b != a).count();
        assert!(moved * 10 < before.len(), "{moved} of {}", before.len());
    }
}
