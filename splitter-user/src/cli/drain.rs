//! `splitter drain`: take a subset or a backend out of use, or back.

use std::fmt::Write as _;
use std::net::SocketAddr;

use clap::Args;

use super::client::{Address, Answer, unexpected};
use super::weight::show_weights;
use super::{Exit, Output, count, print, print_json};
use crate::daemon::control::{Request, Response};
use crate::daemon::engine::{Datagrams, DrainTarget, Drained};
use crate::policy::parse_duration_ms;

/// Options of `drain`.
#[derive(Args)]
pub(crate) struct Options {
    /// The subset, behind its service; or the service where `--backend` says the rest.
    #[arg(value_name = "SERVICE[/SUBSET]")]
    target: String,
    /// One backend, in every subset of the service that has it unless one is named.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_backend)]
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

fn parse_backend(word: &str) -> Result<SocketAddr, String> {
    let help = "write an address and a port, such as `127.0.0.1:9001` or `[::1]:9001`";
    let addr: SocketAddr = word.parse().map_err(|_| help.to_owned())?;
    Ok(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
}

/// Drains or ends a drain, and tells what connections there are. Returns when new ones go elsewhere.
pub(crate) fn run(options: Options) -> anyhow::Result<Exit> {
    let Options { target, backend, deadline, undo, output, daemon } = options;
    let target = DrainTarget { name: target, backend };
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
    let Drained { service, backends, followed, deadline_ms, routes, generation, .. } = drained;
    let Drained { has_connections, datagrams, .. } = drained;
    let end = match deadline_ms {
        _ if is_undone => "they go on".to_owned(),
        None => "left alone".to_owned(),
        Some(0) => "closed now".to_owned(),
        Some(ms) => format!("closed in {} s", ms.div_ceil(1_000)),
    };
    let mut text = String::new();
    for backend in backends {
        let (subset, address) = (&backend.subset, &backend.address);
        let connections = count(backend.connections, "connection");
        // Nobody counts sockets before it is looked through all of them.
        let what = match (has_connections, datagrams) {
            (true, Some(_)) => format!("{connections} and connected UDP sockets"),
            (false, Some(_)) => "connected UDP sockets".to_owned(),
            (_, None) => connections,
        };
        let _ = writeln!(text, "{service}/{subset} {address}: {what}, {end}");
    }
    if *datagrams == Some(Datagrams::All) && !is_undone {
        let _ = writeln!(
            text,
            "{service}: UDP sockets that never connect go elsewhere with their next datagram"
        );
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
    use crate::daemon::engine::DrainedBackend;

    #[test]
    fn what_nobody_counts_has_no_number() {
        let (subset, address) = ("v1".to_owned(), "127.0.0.1:9001".to_owned());
        let mut drained = Drained {
            service: "shop".to_owned(),
            backends: vec![DrainedBackend { subset, address, connections: 1 }],
            followed: true,
            has_connections: true,
            datagrams: None,
            deadline_ms: Some(30_000),
            routes: Vec::new(),
            generation: 7,
        };
        let line =
            |drained: &Drained| text(drained, false).lines().next().unwrap_or_default().to_owned();
        let told = "shop/v1 127.0.0.1:9001: 1 connection, closed in 30 s";
        assert_eq!(line(&drained), told);
        drained.datagrams = Some(Datagrams::Connected);
        assert!(line(&drained).contains(": 1 connection and connected UDP sockets, closed in"));
        drained.has_connections = false;
        drained.datagrams = Some(Datagrams::All);
        let told = "shop/v1 127.0.0.1:9001: connected UDP sockets, closed in 30 s";
        assert_eq!(line(&drained), told);
        assert!(text(&drained, false).contains("never connect go elsewhere"));
        assert!(!text(&drained, true).contains("never connect go elsewhere"));
    }

    #[test]
    fn backends_are_addresses_with_ports() {
        let mapped = parse_backend("[::ffff:127.0.0.1]:80").map(|addr| addr.to_string());
        assert_eq!(mapped.as_deref(), Ok("127.0.0.1:80"));
        for wrong in ["foo", "127.0.0.1", "::1:80", ""] {
            let help = parse_backend(wrong).unwrap_err();
            assert!(help.contains("such as `127.0.0.1:9001`"), "{wrong}: {help}");
        }
    }

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
