//! `splitter-bench`: runs benches, records their figures and writes the report.
//!
//! Run it by `cargo xtask bench`, which builds it and everything that it needs in release.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it reports to whoever runs it")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use splitter_bench::benches::Bench;
use splitter_bench::peers::envoy;
use splitter_bench::record::Record;
use splitter_bench::run::Pace;
use splitter_bench::suite::{Suite, read_records, select};
use splitter_bench::{benches, report};

/// Measures splitter side by side with direct connections and with other ways to split.
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
#[derive(Parser)]
struct Options {
    /// Benches to run; all where none is named
    names: Vec<String>,
    /// Take three minutes rather than thirty: wider intervals
    #[arg(long)]
    quick: bool,
    /// Only show that everything runs; the figures mean nothing
    #[arg(long, conflicts_with = "quick")]
    smoke: bool,
    /// Write the report where the documentation has it; benches that are not named keep the figures of
    /// their last full run
    #[arg(long, conflicts_with_all = ["quick", "smoke"])]
    write: bool,
    /// List the benches and run none
    #[arg(long)]
    list: bool,
    /// First fetch Envoy into the directory of the records
    #[arg(long)]
    install: bool,
    /// Where records go, and the report unless it is written
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Where the documentation has the report
    #[arg(long, default_value = "docs/benchmarks")]
    docs: PathBuf,
}

fn main() -> ExitCode {
    run(&Options::parse()).map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn run(options: &Options) -> Result<()> {
    if options.list {
        for bench in benches::ALL {
            println!("{:<12} {}", bench.name, bench.title);
        }
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("benches attach programs to cgroups of their own: run `cargo xtask bench` as root");
    }
    if options.install {
        println!("{}", envoy::install()?.display());
    }
    let suite = Suite {
        pace: pace(options),
        directory: options.out.clone(),
        benches: select(&options.names)?,
    };
    let ran = suite.run();
    // What did run is reported, whatever became of the rest.
    let target = if options.write { options.docs.clone() } else { options.out.join("report") };
    if ran.is_ok() || !options.write {
        let records = read_records(&options.out)?;
        if options.write {
            check_full(&records)?;
        }
        let page = report::write(&target, &records)?;
        println!("{}", page.display());
    }
    ran
}

/// The documentation has every bench, and none that was hurried.
fn check_full(records: &[Record]) -> Result<()> {
    let is_full = |bench: &&Bench| {
        let record = records.iter().find(|record| record.header.bench == bench.name);
        record.is_some_and(|record| record.header.pace == Pace::Full)
    };
    let lacking = benches::ALL.iter().filter(|bench| !is_full(bench));
    let names: Vec<&str> = lacking.map(|bench| bench.name).collect();
    if !names.is_empty() {
        bail!("no full run of {} yet, so no report was written", names.join(", "));
    }
    Ok(())
}

fn pace(options: &Options) -> Pace {
    match (options.smoke, options.quick) {
        (true, _) => Pace::Smoke,
        (_, true) => Pace::Quick,
        _ => Pace::Full,
    }
}
