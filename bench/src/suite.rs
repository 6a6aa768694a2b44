//! Runs benches one after the other and keeps their records.

use std::mem;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::benches::{ALL, Bench};
use crate::machine::{Machine, Ticks, is_busy, load_average, wait_for_quiet};
use crate::record::{Header, Line, Record, Recorder, Sitting};
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
    /// Runs all of them, sitting by sitting. One that fails does not stop the others; the error
    /// names those that did.
    pub fn run(&self) -> Result<()> {
        self.wait()?;
        let mut seats =
            self.benches.iter().map(|bench| self.seat(bench)).collect::<Result<Vec<_>>>()?;
        for sitting in 0..self.pace.sittings() {
            for seat in &mut seats {
                seat.sit(sitting);
            }
        }
        let finished = seats.into_iter().map(Seat::finish);
        let failures: Vec<String> =
            finished.filter_map(Result::err).map(|error| format!("{error:#}")).collect();
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

    fn seat(&self, bench: &'static Bench) -> Result<Seat> {
        let header =
            Header { bench: bench.name.to_owned(), pace: self.pace, machine: Machine::look()? };
        let recorder = Recorder::create(&self.directory, header)?;
        let sittings = if bench.sits_again { self.pace.sittings() } else { 1 };
        Ok(Seat { bench, pace: self.pace, sittings, recorder: Ok(recorder) })
    }
}

/// A bench between its sittings.
struct Seat {
    bench: &'static Bench,
    pace: Pace,
    sittings: u32,
    /// What is recorded so far, or why there is no more.
    recorder: Result<Recorder>,
}

impl Seat {
    /// Has one sitting, unless it had all of them or one failed.
    #[expect(clippy::print_stdout, reason = "it reports to whoever runs the benches")]
    fn sit(&mut self, sitting: u32) {
        if sitting >= self.sittings || self.recorder.is_err() {
            return;
        }
        let Bench { name, title, .. } = self.bench;
        println!("==> {name}: {title} ({} of {})", sitting + 1, self.sittings);
        let gone = Err(anyhow!("{name}: a sitting did not end"));
        let recorder = mem::replace(&mut self.recorder, gone);
        let start = Instant::now();
        self.recorder = recorder.and_then(|recorder| self.measure(sitting, recorder));
        let verdict = match &self.recorder {
            Ok(_) => "done".to_owned(),
            Err(error) => format!("FAILED: {error:#}"),
        };
        println!("<== {name}: {verdict}, {:.1} s", start.elapsed().as_secs_f64());
    }

    fn measure(&self, sitting: u32, recorder: Recorder) -> Result<Recorder> {
        let (load_before, start, ticks) = (load_average()?, Instant::now(), Ticks::read()?);
        let mut run = Run::new(self.pace, (sitting, self.sittings), recorder);
        (self.bench.run)(&mut run).with_context(|| self.bench.name)?;
        let mut recorder = run.into_recorder();
        recorder.write(Line::Sitting(Sitting {
            load_before,
            load_after: load_average()?,
            stolen_percent: Ticks::read()?.stolen_percent_since(&ticks),
            seconds: start.elapsed().as_secs_f64(),
        }))?;
        Ok(recorder)
    }

    fn finish(self) -> Result<Record> {
        self.recorder?.finish()
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
