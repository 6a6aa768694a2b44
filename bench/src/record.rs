//! What was measured, one JSON object per line: `target/bench/NAME.jsonl`.
//!
//! A file holds one run of one bench: its [`Header`], then samples and notes as they came.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::run::Pace;

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
    /// Last in every file of a bench that ran to its end.
    After(After),
}

/// What the machine was like while the bench ran.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct After {
    /// Load average over the last minute, at the end. The bench's own load is in it.
    pub load: f64,
    /// Part of all CPUs' time that the hypervisor gave to others, in percent.
    pub stolen_percent: f64,
    /// How long it ran.
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
    /// The round; figures of one round and case are compared with each other.
    pub round: u32,
    /// The figure.
    pub value: f64,
}

/// The record of a bench that runs.
#[derive(Debug)]
pub struct Recorder {
    file: BufWriter<File>,
    lines: Vec<Line>,
}

impl Recorder {
    /// Begins the file of a bench anew.
    pub fn create(directory: &Path, header: Header) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        let path = directory.join(format!("{}.jsonl", header.bench));
        let file = File::create(&path).with_context(|| format!("write {}", path.display()))?;
        let mut recorder = Self { file: BufWriter::new(file), lines: Vec::new() };
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
        Record::new(self.lines)
    }
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
    /// How it ended; none where it broke off.
    pub after: Option<After>,
}

impl Record {
    fn new(lines: Vec<Line>) -> Result<Self> {
        let mut lines = lines.into_iter();
        let Some(Line::Header(header)) = lines.next() else {
            anyhow::bail!("a record begins with a header");
        };
        let mut record = Self { header, samples: Vec::new(), notes: Vec::new(), after: None };
        for line in lines {
            match line {
                Line::Header(_) => anyhow::bail!("a record has one header"),
                Line::Sample(sample) => record.samples.push(sample),
                Line::Note(note) => record.notes.push(note),
                Line::After(after) => record.after = Some(after),
            }
        }
        Ok(record)
    }

    /// Reads the record of a bench; none where it never ran.
    pub fn read(directory: &Path, bench: &str) -> Result<Option<Self>> {
        let path = directory.join(format!("{bench}.jsonl"));
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let lines: serde_json::Result<Vec<Line>> = text.lines().map(serde_json::from_str).collect();
        let lines = lines.with_context(|| format!("read {}", path.display()))?;
        Self::new(lines).with_context(|| format!("read {}", path.display())).map(Some)
    }

    /// The values of one arm with their rounds.
    pub fn values(&self, case: &str, arm: &str, metric: &str) -> Vec<(u32, f64)> {
        let is_wanted =
            |sample: &&Sample| sample.case == case && sample.arm == arm && sample.metric == metric;
        self.samples.iter().filter(is_wanted).map(|sample| (sample.round, sample.value)).collect()
    }
}
