//! The daemon's log: what goes where, and in which form.

use std::io;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
}

/// The environment variable that filters the log, in the syntax of `tracing`'s `EnvFilter`.
const FILTER: &str = "SPLITTER_LOG";

/// Starts the log on standard error. `default_filter` counts where the environment has none.
pub(crate) fn start_log(format: LogFormat, default_filter: &str) -> anyhow::Result<()> {
    let filter = match std::env::var(FILTER) {
        Ok(filter) => EnvFilter::try_new(filter)
            .map_err(|error| anyhow::anyhow!("the environment variable {FILTER}: {error}"))?,
        Err(_) => EnvFilter::new(default_filter),
    };
    // Where nobody reads the log any more, lines are lost; telling so on the same standard error would
    // panic.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .log_internal_errors(false);
    let started = match format {
        LogFormat::Text => log.with_target(false).with_ansi(colored()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("start the log: {error}"))
}

fn colored() -> bool {
    use io::IsTerminal as _;
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
