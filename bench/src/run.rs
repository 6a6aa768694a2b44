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
    recorder: Recorder,
}

impl Run {
    /// A run that writes to a record.
    pub fn new(pace: Pace, recorder: Recorder) -> Self {
        Self { pace, recorder }
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
        self.recorder.write(Line::Sample(Sample { case, arm, metric, unit, round, value }))
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
