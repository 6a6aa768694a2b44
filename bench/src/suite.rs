//! Runs benches one after the other and keeps their records.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::benches::{ALL, Bench};
use crate::machine::{Machine, Ticks, is_busy, load_average, wait_for_quiet};
use crate::record::{After, Header, Line, Record, Recorder};
use crate::run::{Pace, Run};

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Suite {
    /// How thorough.
    pub pace: Pace,
    /// Where records go.
    pub directory: PathBuf,
    /// Which benches.
    pub benches: Vec<&'static Bench>,
}

/// Benches by name; all where none is named.
pub fn select(names: &[String]) -> Result<Vec<&'static Bench>> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    let find = |name: &String| {
        ALL.iter().find(|bench| bench.name == name).with_context(|| {
            let known: Vec<&str> = ALL.iter().map(|bench| bench.name).collect();
            format!("there is no bench `{name}`; there are: {}", known.join(", "))
        })
    };
    names.iter().map(find).collect()
}

impl Suite {
    /// Runs all of them. One that fails does not stop the others; the error names those that did.
    #[expect(clippy::print_stdout, reason = "it reports to whoever runs the benches")]
    pub fn run(&self) -> Result<()> {
        self.wait()?;
        let mut failures = Vec::new();
        for bench in &self.benches {
            let start = Instant::now();
            println!("==> {}: {}", bench.name, bench.title);
            let verdict = match self.run_one(bench) {
                Ok(record) => format!("{} figures", record.samples.len()),
                Err(error) => {
                    failures.push(format!("{}: {error:#}", bench.name));
                    format!("FAILED: {error:#}")
                }
            };
            println!("<== {}: {verdict}, {:.1} s", bench.name, start.elapsed().as_secs_f64());
        }
        if !failures.is_empty() {
            bail!("{} benches failed:\n- {}", failures.len(), failures.join("\n- "));
        }
        Ok(())
    }

    /// Waits for a quiet machine before the first bench only: later, the load is the benches' own.
    #[expect(clippy::print_stdout, reason = "it reports to whoever runs the benches")]
    fn wait(&self) -> Result<()> {
        let longest = Duration::from_secs(self.pace.pick(0, 15, 120));
        let load = wait_for_quiet(longest)?;
        if is_busy(load) {
            println!("the machine is not quiet: its load average is {load:.2}; going on");
        }
        Ok(())
    }

    fn run_one(&self, bench: &Bench) -> Result<Record> {
        let header =
            Header { bench: bench.name.to_owned(), pace: self.pace, machine: Machine::look()? };
        let mut run = Run::new(self.pace, Recorder::create(&self.directory, header)?);
        let (start, ticks) = (Instant::now(), Ticks::read()?);
        (bench.run)(&mut run)?;
        let after = After {
            load: load_average()?,
            stolen_percent: Ticks::read()?.stolen_percent_since(&ticks),
            seconds: start.elapsed().as_secs_f64(),
        };
        let mut recorder = run.into_recorder();
        recorder.write(Line::After(after))?;
        recorder.finish()
    }
}

/// The records of all benches that ran to their end, in the order of the report.
pub fn read_records(directory: &Path) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for bench in ALL {
        records.extend(Record::read(directory, bench.name)?);
    }
    Ok(records)
}
