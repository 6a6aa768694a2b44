//! `splitter events`: what clients were not allowed to reach.

use std::thread;
use std::time::Duration;

use clap::Args;

use super::client::{Address, Answer, unexpected};
use super::{Exit, Output, print};
use crate::daemon::control::{Request, Response};
use crate::daemon::events::Event;

/// How often a daemon is asked for more.
const PAUSE: Duration = Duration::from_millis(200);

/// Options of `events`.
#[derive(Args)]
pub(crate) struct Options {
    /// Go on with what happens from now on, until the daemon ends or this is ended.
    #[arg(long)]
    follow: bool,
    /// Form of the output: JSON has one object per line.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    daemon: Address,
}

/// Prints the events that the daemon keeps, oldest first.
pub(crate) fn run(options: Options) -> anyhow::Result<Exit> {
    let Options { follow, output, daemon } = options;
    let mut after = 0;
    loop {
        let events = match daemon.ask(&Request::Events { after })? {
            Answer::Done(Response::Events { events }) => events,
            Answer::Done(_) => return Err(unexpected()),
            Answer::Refused => return Ok(Exit::Failure),
        };
        for event in &events {
            print(&line(event, output)?)?;
        }
        match events.last() {
            Some(last) => after = last.number,
            None if follow => thread::sleep(PAUSE),
            None => return Ok(Exit::Success),
        }
    }
}

fn line(event: &Event, output: Output) -> anyhow::Result<String> {
    if let Output::Json = output {
        return Ok(format!("{}\n", serde_json::to_string(event)?));
    }
    let Event { verdict, to, rule, process, command, uid, cgroup, .. } = event;
    let rule = rule.as_deref().unwrap_or("(a rule of an earlier daemon)");
    let cgroup = cgroup.as_deref().unwrap_or("(a process that is gone)");
    let (seconds, ms) = (event.at_ms / 1_000, event.at_ms % 1_000);
    Ok(format!(
        "{seconds}.{ms:03} {verdict} {to} by {rule}: {command}, process {process}, uid {uid}, \
         {cgroup}\n"
    ))
}
