//! The slots of a wheel as the kernel has them: ordinals packed into words.
//!
//! What the order of slots is, and which ordinals they hold, is the business of the other modules.

use std::sync::Arc;

use smallvec::SmallVec;
use splitter_common::abi::INLINE_WORDS;

/// Ordinals in the order of a wheel. Cheap to clone: wheels of the same weights share them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots(Arc<Packed>);

#[derive(Debug, PartialEq, Eq)]
struct Packed {
    len: u16,
    slot_bits: u16,
    words: SmallVec<[u64; INLINE_WORDS]>,
}

impl Slots {
    /// Packs at most `abi::MAX_WHEEL` ordinals as tightly as the greatest allows.
    pub fn pack(ordinals: &[u16]) -> Self {
        let slot_bits = slot_bits(ordinals);
        let pack = |word: &[u16]| {
            word.iter().rev().fold(0, |packed, slot| packed << slot_bits | u64::from(*slot))
        };
        let words = ordinals.chunks(per_word(slot_bits)).map(pack).collect();
        let len = u16::try_from(ordinals.len()).expect("at most MAX_WHEEL slots");
        Self(Arc::new(Packed { len, slot_bits, words }))
    }

    /// Slots that were packed before; `None` where the words are none of that.
    pub fn from_words(len: u16, slot_bits: u16, words: &[u64]) -> Option<Self> {
        let n = n_words(len, slot_bits)?;
        let words = words.get(..n)?.into();
        Some(Self(Arc::new(Packed { len, slot_bits, words })))
    }

    /// Number of slots.
    pub fn len(&self) -> u16 {
        self.0.len
    }

    /// Whether there are none, which no wheel has.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Bits of a slot, as `abi::Wheel` has them.
    pub fn slot_bits(&self) -> u16 {
        self.0.slot_bits
    }

    /// The words of slots.
    pub fn words(&self) -> &[u64] {
        &self.0.words
    }

    /// Cells that the words take; 0 where they fit into the wheel's own record.
    pub fn n_cells(&self) -> u32 {
        let n = self.0.words.len();
        if n <= INLINE_WORDS { 0 } else { u32::try_from(n).expect("at most MAX_WHEEL") }
    }

    /// The ordinal of a wheel of one slot.
    pub fn only(&self) -> Option<u16> {
        self.iter().next().filter(|_| self.0.len == 1)
    }

    /// The ordinals in their order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        let (bits, words) = (self.0.slot_bits, &self.0.words);
        let mask = u16::MAX >> (16 - bits);
        (0..usize::from(self.0.len)).map(move |slot| {
            let word = words[slot / per_word(bits)];
            low16(word >> (slot % per_word(bits) * usize::from(bits))) & mask
        })
    }
}

/// Number of words of so many slots; `None` where slots have no such width.
pub fn n_words(len: u16, slot_bits: u16) -> Option<usize> {
    let is_width = slot_bits.is_power_of_two() && slot_bits <= 16;
    is_width.then(|| usize::from(len).div_ceil(per_word(slot_bits)))
}

fn per_word(slot_bits: u16) -> usize {
    64 / usize::from(slot_bits)
}

/// The least of 1, 2, 4, 8, 16 bits that every ordinal fits into.
fn slot_bits(ordinals: &[u16]) -> u16 {
    let greatest = ordinals.iter().copied().max().unwrap_or(0);
    let bits = u16::BITS - greatest.leading_zeros();
    u16::try_from(bits.max(1).next_power_of_two()).expect("at most 16")
}

fn low16(word: u64) -> u16 {
    u16::try_from(word & 0xffff).expect("16 bits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_canary_of_a_hundred_slots_needs_no_cells() {
        let two: Vec<u16> = (0..100).map(|i| u16::from(i % 10 == 9)).collect();
        assert_eq!((Slots::pack(&two).slot_bits(), Slots::pack(&two).n_cells()), (1, 0));
        let wide: Vec<u16> = (0..25).map(|i| 4_095 - i).collect();
        assert_eq!((Slots::pack(&wide).slot_bits(), Slots::pack(&wide).n_cells()), (16, 7));
    }

    proptest! {
        #[test]
        fn packed_ordinals_come_back(
            greatest in 0_u16..4_096, picks in prop::collection::vec(any::<u16>(), 1..300),
        ) {
            let ordinals: Vec<u16> = picks.iter().map(|pick| pick % (greatest + 1)).collect();
            let slots = Slots::pack(&ordinals);
            prop_assert_eq!(slots.iter().collect::<Vec<_>>(), ordinals);
            let again = Slots::from_words(slots.len(), slots.slot_bits(), slots.words());
            prop_assert_eq!(again, Some(slots));
        }

        #[test]
        fn words_that_are_no_slots_are_refused(
            len in 0_u16..300, bits in 0_u16..40, words in prop::collection::vec(any::<u64>(), 0..80),
        ) {
            if let Some(slots) = Slots::from_words(len, bits, &words) {
                prop_assert_eq!(slots.iter().count(), usize::from(len));
            }
        }
    }
}
