//! Names of rules, which the kernel knows by number only.
//!
//! They are kept in the state directory, written before the commit of their set: whichever set the
//! next daemon finds in force, its names are there.

use std::collections::VecDeque;

/// Sets that are remembered, for events that come late.
const SETS: usize = 16;

/// Names by the numbers of the rules, of some sets, the latest last.
#[derive(Debug, Default)]
pub(super) struct RuleNames(VecDeque<(u32, Vec<String>)>);

impl RuleNames {
    /// What an earlier daemon kept. Where that is damaged, its names are not known.
    pub(super) fn read(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap_or_default())
    }

    /// What the next daemon reads.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(&self.0).expect("numbers and strings are JSON")
    }

    /// Takes in a set, in place of one of the same number that was never in force.
    pub(super) fn learn(&mut self, set: u32, names: Vec<String>) {
        self.0.retain(|(known, _)| *known != set);
        self.0.push_back((set, names));
        if self.0.len() > SETS {
            self.0.pop_front();
        }
    }

    /// Names of a set; empty where it is not known.
    pub(super) fn of(&self, set: u32) -> &[String] {
        let found = self.0.iter().find(|(known, _)| *known == set);
        found.map_or(&[], |(_, names)| names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_sets_are_remembered_and_read_again() {
        let mut names = RuleNames::default();
        let name = |set: u32| vec![format!("default/e{set}")];
        (1..=20).for_each(|set| names.learn(set, name(set)));
        names.learn(20, name(7));
        let read = RuleNames::read(&names.to_text());
        assert_eq!((read.of(4).len(), read.of(5), read.of(20)), (0, &name(5)[..], &name(7)[..]));
        assert!(RuleNames::read("").of(20).is_empty() && RuleNames::read("{").of(20).is_empty());
    }
}
