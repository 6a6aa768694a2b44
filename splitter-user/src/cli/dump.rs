//! `splitter dump`: the tables as the kernel reads them.

use std::fmt::{self, Write as _};

use clap::Args;

use super::client::{Address, Answer, unexpected};
use super::{Exit, Output, print, print_json};
use crate::daemon::control::{Request, Response};
use crate::daemon::dump::{ChoiceDump, Dump, EgressDump, FrontendDump, NetworkDump, RuleDump};

/// Options of `dump`.
#[derive(Args)]
pub(crate) struct Options {
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    daemon: Address,
}

/// Prints the tables.
pub(crate) fn run(options: Options) -> anyhow::Result<Exit> {
    let Options { output, daemon } = options;
    match daemon.ask(&Request::Dump)? {
        Answer::Done(Response::Dump(dump)) => {
            match output {
                Output::Text => print(&text(&dump)?)?,
                Output::Json => print_json(&dump)?,
            }
            Ok(Exit::Success)
        }
        Answer::Done(_) => Err(unexpected()),
        Answer::Refused => Ok(Exit::Failure),
    }
}

fn text(dump: &Dump) -> Result<String, fmt::Error> {
    let mut text = String::new();
    writeln!(text, "generation {}", dump.generation)?;
    for frontend in &dump.frontends {
        write_frontend(&mut text, frontend)?;
    }
    write_egress(&mut text, &dump.egress)?;
    Ok(text)
}

fn write_egress(text: &mut String, egress: &EgressDump) -> fmt::Result {
    let EgressDump { set, since, everyone, clients, networks } = egress;
    if *since == 0 {
        return Ok(());
    }
    writeln!(text, "egress set={set} since={since}")?;
    if let Some(rule) = everyone {
        writeln!(text, "  everyone {}", show_rule(rule))?;
    }
    for (cgroup, rule) in clients {
        writeln!(text, "  cgroup {cgroup} {}", show_rule(rule))?;
    }
    for NetworkDump { rule, network, ranges } in networks {
        writeln!(text, "  network {network} rule={rule} {}", ranges.join(","))?;
    }
    Ok(())
}

fn show_rule(dump: &RuleDump) -> String {
    let RuleDump { rule, name, errno, flags } = dump;
    let name = name.as_deref().unwrap_or("(not known)");
    format!("rule={rule} {name} errno={errno} {}", flags.join(","))
}

fn write_frontend(text: &mut String, frontend: &FrontendDump) -> fmt::Result {
    let FrontendDump { frontend: name, pair, plan, since, service, routes, subsets } = frontend;
    writeln!(text, "frontend {name} pair={pair} plan={plan} since={since} service={service}")?;
    for route in routes {
        let (index, name, client) = (route.index, &route.name, route.client);
        let counter = route.counter;
        writeln!(
            text,
            "  route {index} {name} client={client} counter={counter} {}{}",
            route.action,
            show_choice(route.choice.as_ref())
        )?;
    }
    for subset in subsets {
        let choice = match &subset.choice {
            Some(choice) => show_choice(Some(choice)),
            None => " unusable".to_owned(),
        };
        let (index, name, counter) = (subset.index, &subset.name, subset.counter);
        writeln!(text, "  subset {index} {name} counter={counter}{choice}")?;
        for backend in &subset.backends {
            let (index, address) = (backend.index, &backend.address);
            writeln!(text, "    backend {index} {address} counter={}", backend.counter)?;
        }
    }
    Ok(())
}

fn show_choice(choice: Option<&ChoiceDump>) -> String {
    let Some(choice) = choice else { return String::new() };
    let mut fields = vec![choice.pick.clone()];
    let mut field = |name: &str, value: String| fields.push(format!("{name}={value}"));
    if let Some(only) = choice.only {
        field("ordinal", only.to_string());
    }
    if let Some(wheel) = choice.wheel {
        field("wheel", wheel.to_string());
    }
    if let Some(ticket) = choice.ticket {
        field("ticket", ticket.to_string());
    }
    if !choice.slots.is_empty() {
        field("slots", join(choice.slots.iter()));
    }
    for (end, ordinal) in &choice.thresholds {
        field("below", format!("{end}:{ordinal}"));
    }
    format!(" {}", fields.join(" "))
}

fn join(numbers: impl Iterator<Item = impl ToString>) -> String {
    numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(",")
}
