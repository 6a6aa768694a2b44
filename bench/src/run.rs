//! A bench that runs: how thorough it is to be, and where its figures go.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::record::{Line, Recorder, Sample};

/// How thorough a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// Shows that everything runs; its figures mean nothing.
    Smoke,
    /// All benches within three minutes.
    Quick,
    /// All benches within half an hour.
    Full,
}

impl Pace {
    /// How often a bench that is set up anew is.
    pub fn sittings(self) -> u32 {
        self.pick(1, 3, 8)
    }

    /// One of three, by the pace.
    pub fn pick<T>(self, smoke: T, quick: T, full: T) -> T {
        match self {
            Self::Smoke => smoke,
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// What a figure is: its name and its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric(pub &'static str, pub &'static str);

/// A bench that runs.
#[derive(Debug)]
pub struct Run {
    /// How thorough it is to be.
    pub pace: Pace,
    sitting: u32,
    sittings: u32,
    recorder: Recorder,
}

impl Run {
    /// One of several sittings of a bench, the first of which is 0. It writes to a record.
    pub fn new(pace: Pace, (sitting, sittings): (u32, u32), recorder: Recorder) -> Self {
        Self { pace, sitting, sittings, recorder }
    }

    /// This sitting's part of so many rounds by the pace.
    pub fn rounds(&self, smoke: u32, quick: u32, full: u32) -> u32 {
        self.pace.pick(smoke, quick, full).div_ceil(self.sittings)
    }

    /// Whether what is too dear to be measured in every sitting is measured in this one.
    pub fn is_first_sitting(&self) -> bool {
        self.sitting == 0
    }

    /// Records a figure; see [`Sample`] for what is what.
    pub fn sample(
        &mut self,
        (case, arm): (&str, &str),
        Metric(metric, unit): Metric,
        round: u32,
        value: f64,
    ) -> Result<()> {
        let [case, arm, metric, unit] = [case, arm, metric, unit].map(str::to_owned);
        let sitting = self.sitting;
        self.recorder.write(Line::Sample(Sample { case, arm, metric, unit, sitting, round, value }))
    }

    /// Records what a reader of the figures has to know, and says it.
    #[expect(clippy::print_stdout, reason = "it reports to whoever runs the bench")]
    pub fn note(&mut self, note: impl Into<String>) -> Result<()> {
        let note = note.into();
        println!("    note: {note}");
        self.recorder.write(Line::Note(note))
    }

    /// Ends the run.
    pub fn into_recorder(self) -> Recorder {
        self.recorder
    }
}

/// A time in microseconds.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A time in milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A number with its thousands apart, as cases are called.
pub fn thousands(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of something: `1 service`, `10,000 services`.
pub fn count_of(number: u32, what: &str) -> String {
    format!("{} {what}{}", thousands(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_groups() {
        assert_eq!(count_of(1, "service"), "1 service");
        assert_eq!(count_of(999, "service"), "999 services");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
