//! What was measured, one JSON object per line: `target/bench/NAME.jsonl`.
//!
//! A file holds one run of one bench: its [`Header`], then the samples and notes of each sitting as
//! they came, and at its end what the machine was like.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::run::Pace;
use crate::stats::Value;

/// One line of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// First in every file.
    Header(Header),
    /// A figure.
    Sample(Sample),
    /// Something that a reader of the figures has to know, such as what was left out and why.
    Note(String),
    /// The end of a sitting; the last is the end of the file.
    Sitting(Sitting),
}

/// What the machine was like during a sitting: from a bench's set-up to the end of what it set up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sitting {
    /// Load average over the last minute when it began.
    pub load_before: f64,
    /// The same at its end. The bench's own load is in it.
    pub load_after: f64,
    /// Part of all CPUs' time that the hypervisor gave to others, in percent.
    pub stolen_percent: f64,
    /// How long it took.
    pub seconds: f64,
}

/// What was run, on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Name of the bench.
    pub bench: String,
    /// How thorough it was.
    pub pace: Pace,
    /// Where.
    pub machine: Machine,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What all arms of a comparison share, such as the number of services or of clients. May be
    /// empty.
    pub case: String,
    /// Which side of the comparison.
    pub arm: String,
    /// What the figure is, such as `p50` or `parse`.
    pub metric: String,
    /// Its unit: `ns`, `us`, `ms`, `1/s`, `B`, `%`, or empty for a number.
    pub unit: String,
    /// The sitting: figures of one are of the same processes, maps and namespaces.
    pub sitting: u32,
    /// The round of the sitting; figures of one round and case are compared with each other.
    pub round: u32,
    /// The figure.
    pub value: f64,
}

/// The record of a bench that runs. Its file has another name until it is whole, so that a run that
/// breaks off leaves what an earlier one recorded.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    file: BufWriter<File>,
    lines: Vec<Line>,
}

impl Recorder {
    /// Begins the file of a bench anew.
    pub fn create(directory: &Path, header: Header) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        let path = directory.join(format!("{}.jsonl", header.bench));
        let partial = partial(&path);
        let file =
            File::create(&partial).with_context(|| format!("write {}", partial.display()))?;
        let mut recorder = Self { path, file: BufWriter::new(file), lines: Vec::new() };
        recorder.write(Line::Header(header))?;
        Ok(recorder)
    }

    /// Adds a line.
    pub fn write(&mut self, line: Line) -> Result<()> {
        serde_json::to_writer(&mut self.file, &line).context("write a record")?;
        self.file.write_all(b"\n").context("write a record")?;
        self.lines.push(line);
        Ok(())
    }

    /// Ends the record with what it holds.
    pub fn finish(mut self) -> Result<Record> {
        self.file.flush().context("write a record")?;
        let record = Record::new(self.lines)?;
        fs::rename(partial(&self.path), &self.path)
            .with_context(|| format!("write {}", self.path.display()))?;
        Ok(record)
    }
}

fn partial(path: &Path) -> PathBuf {
    path.with_extension("jsonl.partial")
}

/// The record of a bench that ran.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What was run.
    pub header: Header,
    /// All figures, in the order of their taking.
    pub samples: Vec<Sample>,
    /// What has to be known of them.
    pub notes: Vec<String>,
    /// How each sitting went; there is at least one.
    pub sittings: Vec<Sitting>,
}

impl Record {
    fn new(lines: Vec<Line>) -> Result<Self> {
        let mut lines = lines.into_iter();
        let Some(Line::Header(header)) = lines.next() else {
            anyhow::bail!("a record begins with a header");
        };
        let (samples, notes, sittings) = (Vec::new(), Vec::new(), Vec::new());
        let mut record = Self { header, samples, notes, sittings };
        for line in lines {
            match line {
                Line::Header(_) => anyhow::bail!("a record is of one run"),
                Line::Sitting(sitting) => record.sittings.push(sitting),
                Line::Sample(sample) => record.samples.push(sample),
                Line::Note(note) => record.notes.push(note),
            }
        }
        anyhow::ensure!(!record.sittings.is_empty(), "a record has at least one sitting");
        Ok(record)
    }

    /// Reads the record of a bench; none where it never ran.
    pub fn read(directory: &Path, bench: &str) -> Result<Option<Self>> {
        let path = directory.join(format!("{bench}.jsonl"));
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let lines: serde_json::Result<Vec<Line>> = text.lines().map(serde_json::from_str).collect();
        // Records outlive the program that wrote them.
        let what = || format!("read {}: run `{bench}` again, or remove the file", path.display());
        Self::new(lines.with_context(what)?).with_context(what).map(Some)
    }

    /// The values of one arm.
    pub fn values(&self, case: &str, arm: &str, metric: &str) -> Vec<Value> {
        let is_wanted =
            |sample: &&Sample| sample.case == case && sample.arm == arm && sample.metric == metric;
        let value = |sample: &Sample| Value {
            sitting: sample.sitting,
            round: sample.round,
            value: sample.value,
        };
        self.samples.iter().filter(is_wanted).map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record_of;

    #[test]
    fn a_run_that_breaks_off_leaves_the_record_of_an_earlier_one() {
        let directory = tempfile::tempdir().unwrap();
        let old = record_of("apply", Vec::new());
        let begin = || Recorder::create(directory.path(), old.header.clone()).unwrap();
        drop(begin());
        assert_eq!(Record::read(directory.path(), "apply").unwrap(), None);
        let mut whole = begin();
        whole.write(Line::Note("a note".to_owned())).unwrap();
        whole.write(Line::Sitting(old.sittings[0])).unwrap();
        let record = whole.finish().unwrap();
        drop(begin());
        assert_eq!(Record::read(directory.path(), "apply").unwrap(), Some(record));
    }
}
