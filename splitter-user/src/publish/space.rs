//! Which records of the arenas are in use.

use std::collections::BTreeMap;

use crate::tables::{Arena, Sizes};

/// Something that is handed out in ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// Records of an arena.
    Arena(Arena),
    /// Counters.
    Counters,
}

/// Consecutive records of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) pool: Pool,
    pub(super) start: u32,
    pub(super) len: u32,
}

/// A pool had no room for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom {
    pub(super) pool: Pool,
    pub(super) wanted: u32,
}

/// The free records of every pool.
pub(super) struct Space {
    arenas: Vec<Free>,
    counters: Free,
}

impl Space {
    /// Everything is free but the reserved record 0 and the counters of reasons.
    pub(super) fn new(sizes: &Sizes, first_counter: u32) -> Self {
        Self {
            arenas: Arena::ALL.map(|arena| Free::new(1, sizes.records(arena))).into(),
            counters: Free::new(first_counter, sizes.counters),
        }
    }

    /// As after handing out exactly `used`.
    pub(super) fn with_used(sizes: &Sizes, first_counter: u32, used: &[Range]) -> Self {
        let mut space = Self::new(sizes, first_counter);
        let mut ranges: BTreeMap<usize, Vec<(u32, u32)>> = BTreeMap::new();
        for range in used {
            ranges.entry(slot(range.pool)).or_default().push((range.start, range.len));
        }
        for (pool, used) in ranges {
            space.free_of(pool).reserve(used);
        }
        space
    }

    /// Takes `len` consecutive records; none for 0.
    pub(super) fn take(&mut self, pool: Pool, len: u32) -> Result<u32, NoRoom> {
        if len == 0 {
            return Ok(0);
        }
        self.free_of(slot(pool)).take(len).ok_or(NoRoom { pool, wanted: len })
    }

    /// Gives a range back.
    pub(super) fn give(&mut self, range: Range) {
        if range.len > 0 {
            self.free_of(slot(range.pool)).give(range.start, range.len);
        }
    }

    /// Records in use, the reserved ones included.
    pub(super) fn used(&self, pool: Pool) -> u32 {
        let free = match pool {
            Pool::Arena(arena) => &self.arenas[arena as usize],
            Pool::Counters => &self.counters,
        };
        free.capacity - free.total()
    }

    fn free_of(&mut self, slot: usize) -> &mut Free {
        self.arenas.get_mut(slot).unwrap_or(&mut self.counters)
    }
}

/// Position of a pool among the arenas; past their end for the counters.
fn slot(pool: Pool) -> usize {
    match pool {
        Pool::Arena(arena) => arena as usize,
        Pool::Counters => Arena::ALL.len(),
    }
}

/// Free ranges by length, and an end behind which nothing was ever taken.
struct Free {
    by_len: BTreeMap<u32, Vec<u32>>,
    end: u32,
    capacity: u32,
}

impl Free {
    fn new(first: u32, capacity: u32) -> Self {
        Self { by_len: BTreeMap::new(), end: first.min(capacity), capacity }
    }

    fn total(&self) -> u32 {
        let holes: u32 = self
            .by_len
            .iter()
            .map(|(len, starts)| len * u32::try_from(starts.len()).unwrap_or(u32::MAX))
            .sum();
        self.capacity - self.end + holes
    }

    fn take(&mut self, len: u32) -> Option<u32> {
        self.take_exact(len)
            .or_else(|| self.take_end(len))
            .or_else(|| self.split_larger(len))
            .or_else(|| {
                self.merge();
                self.take_exact(len)
                    .or_else(|| self.take_end(len))
                    .or_else(|| self.split_larger(len))
            })
    }

    fn take_exact(&mut self, len: u32) -> Option<u32> {
        self.by_len.get_mut(&len)?.pop()
    }

    fn take_end(&mut self, len: u32) -> Option<u32> {
        (len <= self.capacity - self.end).then(|| {
            let start = self.end;
            self.end += len;
            start
        })
    }

    fn split_larger(&mut self, len: u32) -> Option<u32> {
        let mut larger = self.by_len.range_mut(len + 1..).filter(|(_, starts)| !starts.is_empty());
        let (whole, starts) = larger.next()?;
        let (whole, start) = (*whole, starts.pop()?);
        self.give(start + len, whole - len);
        Some(start)
    }

    fn give(&mut self, start: u32, len: u32) {
        self.by_len.entry(len).or_default().push(start);
    }

    /// Joins neighbours, and lets go of what touches the end.
    fn merge(&mut self) {
        let mut holes: Vec<(u32, u32)> = std::mem::take(&mut self.by_len)
            .into_iter()
            .flat_map(|(len, starts)| starts.into_iter().map(move |start| (start, len)))
            .collect();
        holes.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::new();
        for (start, len) in holes {
            match joined.last_mut() {
                Some((before, length)) if *before + *length == start => *length += len,
                _ => joined.push((start, len)),
            }
        }
        if let Some((start, _)) = joined.pop_if(|(start, len)| *start + *len == self.end) {
            self.end = start;
        }
        for (start, len) in joined {
            self.give(start, len);
        }
    }

    /// Takes exactly these ranges out of an untouched pool.
    fn reserve(&mut self, mut used: Vec<(u32, u32)>) {
        used.sort_unstable();
        for (start, len) in used {
            if start > self.end {
                self.give(self.end, start - self.end);
            }
            self.end = self.end.max(start + len);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZES: Sizes = Sizes::for_services(10);
    const POOL: Pool = Pool::Arena(Arena::Routes);

    #[test]
    fn a_full_pool_says_so_and_merged_holes_serve_again() {
        let mut space = Space::new(&SIZES, 16);
        let all = SIZES.routes - 1;
        let starts: Vec<u32> = (0..all).map(|_| space.take(POOL, 1).unwrap()).collect();
        assert_eq!(space.take(POOL, 1), Err(NoRoom { pool: POOL, wanted: 1 }));
        for start in starts {
            space.give(Range { pool: POOL, start, len: 1 });
        }
        assert_eq!(space.take(POOL, all), Ok(1));
        assert_eq!(space.used(POOL), SIZES.routes);
    }

    proptest! {
        #[test]
        fn ranges_never_overlap(steps in prop::collection::vec((1_u32..6, any::<bool>()), 1..200)) {
            let mut space = Space::new(&SIZES, 16);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (len, give) in steps {
                if give && !held.is_empty() {
                    let (start, len) = held.remove(held.len() / 2);
                    space.give(Range { pool: POOL, start, len });
                } else if let Ok(start) = space.take(POOL, len) {
                    prop_assert!(start >= 1 && start + len <= SIZES.routes);
                    prop_assert!(held.iter().all(|(s, l)| start + len <= *s || s + l <= start));
                    held.push((start, len));
                }
                let used: u32 = held.iter().map(|(_, len)| len).sum();
                prop_assert_eq!(space.used(POOL), used + 1);
            }
            let ranges: Vec<Range> =
                held.iter().map(|(start, len)| Range { pool: POOL, start: *start, len: *len }).collect();
            let again = Space::with_used(&SIZES, 16, &ranges);
            prop_assert_eq!(again.used(POOL), space.used(POOL));
        }
    }
}
