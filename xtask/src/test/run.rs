//! What a run of several parts amounts to.

use std::process::ExitCode;

use anyhow::Result;

use super::tally::Tally;

/// Results so far.
#[derive(Default)]
pub(crate) struct Run {
    tally: Tally,
    /// Why parts broke that failed without a failed test.
    broken: Vec<String>,
}

impl Run {
    /// Does a part of the run. Its failure does not stop the run.
    pub(crate) fn part(&mut self, work: impl FnOnce(&mut Tally) -> Result<()>) {
        if let Err(error) = work(&mut self.tally) {
            eprintln!("error: {error:#}");
            self.broken.push(format!("{error:#}"));
        }
    }

    /// Prints what broke, then the closing line.
    pub(crate) fn close(self) -> ExitCode {
        for reason in &self.broken {
            println!("failed: {reason}");
        }
        let failed = self.tally.failed + self.broken.len();
        println!("{} passed, {failed} failed", self.tally.passed);
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
