//! Counts from the lines with which test executables close.

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub(crate) passed: usize,
    /// Tests that failed.
    pub(crate) failed: usize,
}

impl Tally {
    /// Adds what another has.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Counts a line if it is libtest's closing line. The line starts anywhere, because a console
    /// may put something before it.
    pub(crate) fn read(&mut self, line: &str) {
        let Some((_, result)) = line.split_once("test result: ") else { return };
        self.passed += number_before(result, " passed").unwrap_or(0);
        self.failed += number_before(result, " failed").unwrap_or(0);
    }
}

fn number_before(text: &str, word: &str) -> Option<usize> {
    let (before, _) = text.split_once(word)?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_add_up_and_other_lines_do_not_count() {
        let mut tally = Tally::default();
        tally.read("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.read("[1.0] test result: FAILED. 1 passed; 2 failed; 0 ignored; finished in 0.01s");
        tally.read("test tests::three_passed ... ok");
        assert_eq!(tally, Tally { passed: 13, failed: 2 });
    }
}
