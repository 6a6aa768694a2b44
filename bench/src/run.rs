//! A bench that runs: how thorough it is to be, and where its figures go.

use serde::{Deserialize, Serialize};

use anyhow::Result;

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

    /// Records a figure.
    pub fn sample(&mut self, sample: Sample) -> Result<()> {
        self.recorder.write(Line::Sample(sample))
    }

    /// Records what a reader of the figures has to know, and says it.
    #[expect(clippy::print_stdout, reason = "it reports to whoever runs the bench")]
    pub fn note(&mut self, note: impl Into<String>) -> Result<()> {
        let note = note.into();
        println!("  note: {note}");
        self.recorder.write(Line::Note(note))
    }

    /// Ends the run.
    pub fn into_recorder(self) -> Recorder {
        self.recorder
    }
}
