//! The order in which arms are measured.

use anyhow::Result;

/// Measures every arm once per round, forth in one round and back in the next: a block of two
/// rounds is A B B A, so that a drift favours nobody. `measure` gets the arm and the round.
pub fn interleave<A>(
    arms: &mut [A],
    rounds: u32,
    mut measure: impl FnMut(&mut A, u32) -> Result<()>,
) -> Result<()> {
    for round in 0..rounds {
        if round % 2 == 0 {
            arms.iter_mut().try_for_each(|arm| measure(arm, round))?;
        } else {
            arms.iter_mut().rev().try_for_each(|arm| measure(arm, round))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_go_forth_and_back() {
        let mut order = String::new();
        interleave(&mut ['a', 'b'], 3, |arm, _| {
            order.push(*arm);
            Ok(())
        })
        .unwrap();
        assert_eq!(order, "abbaab");
    }
}
