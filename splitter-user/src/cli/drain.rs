//! `splitter drain`: take a subset or a backend out of use, or back.

use std::fmt::Write as _;
use std::net::SocketAddr;

use clap::Args;

use super::client::{Address, Answer, unexpected};
use super::weight::show_weights;
use super::{Exit, Output, print, print_json};
use crate::daemon::control::{Request, Response};
use crate::daemon::engine::{DrainTarget, Drained};
use crate::policy::parse_duration_ms;

/// Options of `drain`.
#[derive(Args)]
pub(crate) struct Options {
    /// The subset, behind its service; or the service where `--backend` says the rest.
    #[arg(value_name = "SERVICE[/SUBSET]")]
    target: String,
    /// One backend, in every subset of the service that has it unless one is named.
    #[arg(long, value_name = "ADDRESS:PORT")]
    backend: Option<SocketAddr>,
    /// How long the connections that there are may go on, or `never` to leave them alone.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_deadline)]
    deadline: Deadline,
    /// End what was drained: connections come again, and those that are left go on.
    #[arg(long, conflicts_with = "deadline")]
    undo: bool,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    daemon: Address,
}

/// In milliseconds; `None` for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deadline(Option<u64>);

fn parse_deadline(word: &str) -> Result<Deadline, String> {
    if word == "never" {
        return Ok(Deadline(None));
    }
    let ms = parse_duration_ms(word).filter(|ms| u32::try_from(*ms).is_ok());
    ms.map(|ms| Deadline(Some(ms))).ok_or_else(|| {
        "write a time of at most 1193 hours such as `30s`, `1m30s` or `0s`, or `never`".to_owned()
    })
}

/// Drains or ends a drain, and tells what connections there are. Returns when new ones go elsewhere.
pub(crate) fn run(options: Options) -> anyhow::Result<Exit> {
    let Options { target, backend, deadline, undo, output, daemon } = options;
    let canonical = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let target = DrainTarget { name: target, backend: backend.map(canonical) };
    let request = if undo {
        Request::UndoDrain { target }
    } else {
        Request::Drain { target, deadline_ms: deadline.0 }
    };
    match daemon.ask(&request)? {
        Answer::Done(Response::Drained(drained)) => {
            match output {
                Output::Text => print(&text(&drained, undo))?,
                Output::Json => print_json(&drained)?,
            }
            Ok(Exit::Success)
        }
        Answer::Done(_) => Err(unexpected()),
        Answer::Refused => Ok(Exit::Failure),
    }
}

fn text(drained: &Drained, is_undone: bool) -> String {
    let Drained { service, backends, followed, deadline_ms, routes, generation } = drained;
    let end = match deadline_ms {
        _ if is_undone => "they go on".to_owned(),
        None => "left alone".to_owned(),
        Some(0) => "closed now".to_owned(),
        Some(ms) => format!("closed in {} s", ms.div_ceil(1_000)),
    };
    let mut text = String::new();
    for backend in backends {
        let (subset, address, n) = (&backend.subset, &backend.address, backend.connections);
        let _ = writeln!(text, "{service}/{subset} {address}: {n} connections, {end}");
    }
    if !followed {
        let _ = writeln!(text, "{service}: its connections are not followed, {end}");
    }
    for route in routes {
        let (before, after) = (show_weights(&route.before), show_weights(&route.after));
        let _ = writeln!(text, "{service} {}: {before} -> {after}", route.route);
    }
    let _ = writeln!(text, "generation {generation}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_times_or_never() {
        let ms = |word| parse_deadline(word).map(|deadline| deadline.0);
        assert_eq!(ms("30s"), Ok(Some(30_000)));
        assert_eq!(ms("0s"), Ok(Some(0)));
        assert_eq!(ms("1m30s"), Ok(Some(90_000)));
        assert_eq!(ms("never"), Ok(None));
        for wrong in ["", "30", "-1s", "Never", "1194h"] {
            assert!(ms(wrong).is_err(), "{wrong}");
        }
    }
}
