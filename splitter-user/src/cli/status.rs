//! `splitter status`: what the kernel and the daemon say.

mod egress;

use std::fmt::{self, Write as _};

use clap::Args;

use super::client::{Address, Answer, unexpected};
use super::weight::show_weights;
use super::{Exit, Output, count, print, print_json};
use crate::daemon::assignments::AssignmentStatus;
use crate::daemon::control::{Request, Response};
use crate::daemon::engine::DrainStatus;
use crate::daemon::health::{HealthCounts, HealthStatus, HealthSummary};
use crate::daemon::hooks::HookStatus;
use crate::daemon::outcomes::{OutOfUse, Outcomes};
use crate::daemon::resolver::DnsStatus;
use crate::daemon::status::{ServiceStatus, Status, SubsetStatus};
use crate::daemon::sweep::SweepStatus;

/// Names of services that a line has at most.
const MOST_NAMES: usize = 16;
/// Drains that have a line.
const MOST_DRAINS: usize = 32;

/// Options of `status`.
#[derive(Args)]
pub(crate) struct Options {
    /// Services to show in detail; a few of them where none is named.
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Show every service in detail.
    #[arg(long, conflicts_with = "services")]
    all: bool,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    daemon: Address,
}

/// Prints the state. Status 1 where something is wrong.
pub(crate) fn run(options: Options) -> anyhow::Result<Exit> {
    let Options { services, all, output, daemon } = options;
    match daemon.ask(&Request::Status { services, all })? {
        Answer::Done(Response::Status(status)) => {
            match output {
                Output::Text => print(&text(&status)?)?,
                Output::Json => print_json(&status)?,
            }
            Ok(if status.problems.is_empty() { Exit::Success } else { Exit::Failure })
        }
        Answer::Done(_) => Err(unexpected()),
        Answer::Refused => Ok(Exit::Failure),
    }
}

fn text(status: &Status) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for problem in &status.problems {
        writeln!(text, "PROBLEM: {problem}")?;
    }
    write_daemon(&mut text, status)?;
    for service in &status.services {
        write_service(&mut text, service)?;
    }
    if status.n_omitted > 0 {
        let more = count(status.n_omitted, "more service");
        writeln!(text, "\n{more}: name what you want to see, or use --all")?;
    }
    Ok(text)
}

fn write_daemon(text: &mut String, status: &Status) -> fmt::Result {
    let Status { version, pid, uptime_seconds, generation, n_services, cgroup, .. } = status;
    let services = count(*n_services, "service");
    writeln!(text, "daemon      {version}, process {pid}, up {uptime_seconds} s")?;
    writeln!(text, "policy      generation {generation}, {services}")?;
    for path in &status.policy {
        writeln!(text, "            from {path}")?;
    }
    write_overrides(text, &status.overrides)?;
    write_overrides(text, &status.documents)?;
    write_dns(text, &status.dns)?;
    write_health(text, &status.health)?;
    write_sweep(text, &status.sweep)?;
    write_draining(text, &status.draining)?;
    write_assignments(text, &status.assignments)?;
    egress::write(text, &status.egress)?;
    writeln!(text, "cgroup      {cgroup}")?;
    for hook in &status.hooks {
        writeln!(text, "hook        {:<13} {}", hook.hook, show_hook(hook))?;
    }
    for program in &status.programs {
        writeln!(
            text,
            "program     {:<16} {} instructions verified, {} bytes",
            program.name, program.verified_instructions, program.jited_bytes
        )?;
    }
    for map in &status.maps {
        writeln!(text, "map         {:<13} {} of {}", map.map, map.used, map.size)?;
    }
    for (reason, connections) in status.reasons.iter().filter(|(_, n)| **n > 0) {
        writeln!(text, "not split   {reason:<13} {}", count(*connections, "connection"))?;
    }
    Ok(())
}

/// All of them are in the JSON form.
fn write_overrides(text: &mut String, overrides: &[String]) -> fmt::Result {
    let (few, more) = overrides.split_at(overrides.len().min(MOST_NAMES));
    if few.is_empty() {
        return Ok(());
    }
    write!(text, "            by command: {}", few.join(" "))?;
    match more.len() {
        0 => writeln!(text),
        n => writeln!(text, " and {n} more"),
    }
}

fn write_dns(text: &mut String, dns: &DnsStatus) -> fmt::Result {
    let DnsStatus { names, lookups, failures, changed_answers, .. } = dns;
    if *names == 0 && *lookups == 0 {
        return Ok(());
    }
    let (lookups, answers) = (count(*lookups, "lookup"), count(*changed_answers, "changed answer"));
    writeln!(
        text,
        "names       {names} resolved again and again: {lookups}, {failures} failed, {answers}"
    )
}

fn write_health(text: &mut String, health: &HealthSummary) -> fmt::Result {
    let HealthCounts { healthy, unhealthy, not_probed } = health.backends;
    if health.backends.total() == 0 {
        return Ok(());
    }
    write!(text, "health      {healthy} healthy, {unhealthy} unhealthy")?;
    if not_probed > 0 {
        write!(text, ", {not_probed} not probed")?;
    }
    writeln!(text, ": {}", count(health.probes, "probe"))
}

fn write_sweep(text: &mut String, sweep: &SweepStatus) -> fmt::Result {
    let SweepStatus { services, closed_idle, closed_too_old, rounds, namespaces, .. } = sweep;
    let SweepStatus { closed_drained, closed_down, closed_rebalanced, .. } = sweep;
    if *services > 0 || *rounds > 0 {
        let ask = if *services == 1 { "asks" } else { "ask" };
        let (services, rounds) = (count(*services, "service"), count(*rounds, "round"));
        let namespaces = count(*namespaces, "network namespace");
        writeln!(
            text,
            "closed      {closed_idle} idle, {closed_too_old} too old, {closed_drained} drained, \
             {closed_down} at backends that are down, {closed_rebalanced} rebalanced, as {services} \
             {ask}: {rounds}, the last through {namespaces}"
        )?;
    }
    match sweep.unbalanced {
        0 => {}
        1 => writeln!(text, "            1 route whose live split is to come to its weights")?,
        n => writeln!(text, "            {n} routes whose live split is to come to their weights")?,
    }
    match sweep.hidden {
        0 => {}
        1 => writeln!(text, "            1 process whose network namespace cannot be looked at")?,
        n => writeln!(
            text,
            "            {n} processes whose network namespaces cannot be looked at"
        )?,
    }
    match &sweep.confined {
        Some(why) => writeln!(text, "            {why}"),
        None => Ok(()),
    }
}

/// All of them are in the JSON form.
fn write_draining(text: &mut String, draining: &[DrainStatus]) -> fmt::Result {
    for (i, drain) in draining.iter().take(MOST_DRAINS).enumerate() {
        let label = if i == 0 { "draining" } else { "" };
        writeln!(text, "{label:<11} {}", show_drain(drain))?;
    }
    match draining.len().saturating_sub(MOST_DRAINS) {
        0 => Ok(()),
        n => writeln!(text, "            and {n} more"),
    }
}

fn write_assignments(text: &mut String, assignments: &[AssignmentStatus]) -> fmt::Result {
    for (i, AssignmentStatus { service, subset, commands }) in assignments.iter().enumerate() {
        let label = if i == 0 { "exec" } else { "" };
        let subset = subset.as_deref().unwrap_or("(a subset that is gone)");
        let commands = match commands {
            1 => "1 command".to_owned(),
            n => format!("{n} commands"),
        };
        writeln!(text, "{label:<11} {service}={subset}: {commands}")?;
    }
    Ok(())
}

fn show_drain(drain: &DrainStatus) -> String {
    let DrainStatus { service, subset, backend, connections, sockets, for_ms, by, undo } = drain;
    let who = format!("{service}/{subset} {backend}");
    let left = show_left(*connections, *sockets);
    let end = match (for_ms, undo) {
        (None, _) => "left alone".to_owned(),
        (Some(0), Some(undo)) if left.is_none() => {
            return format!(
                "{who}: nothing left, by {by}; `splitter drain --undo {undo}` has connections come \
                 again"
            );
        }
        (Some(0), _) => "closed now".to_owned(),
        (Some(ms), _) => format!("closed in {} s", ms.div_ceil(1_000)),
    };
    let left = left.unwrap_or_else(|| "nothing".to_owned());
    format!("{who}: {left} left, {end}, by {by}")
}

/// What is left at a backend; nothing where nothing is. Sockets are those of UDP.
fn show_left(connections: u64, sockets: Option<u64>) -> Option<String> {
    let connections = Some(connections).filter(|n| *n > 0).map(|n| count(n, "connection"));
    let sockets = sockets.filter(|n| *n > 0).map(|n| count(n, "connected UDP socket"));
    match (connections, sockets) {
        (Some(connections), Some(sockets)) => Some(format!("{connections} and {sockets}")),
        (one, other) => one.or(other),
    }
}

fn show_hook(hook: &HookStatus) -> String {
    if !hook.wanted && hook.state == "detached" {
        return "not needed".to_owned();
    }
    let others = |n| count(n, "other program");
    let others = match (hook.before, hook.after) {
        (0, 0) => String::new(),
        (before, 0) => format!(", behind {}", others(before)),
        (0, after) => format!(", before {}, which may rewrite again", others(after)),
        (before, after) => {
            format!(", behind {before} and before {}, which may rewrite again", others(after))
        }
    };
    format!("{}{others}{}", hook.state, show_needs(hook))
}

/// Which services a hook is there for; nothing for one that all of them need.
fn show_needs(hook: &HookStatus) -> String {
    let names = hook.needed_by.join(" ");
    match (hook.needed_by.len(), hook.n_needed_by) {
        (_, 0) => String::new(),
        (0, n) => format!(", for {}", count(n, "service")),
        (few, n) if few < n => format!(", for {names} and {}", count(n - few, "more service")),
        _ => format!(", for {names}"),
    }
}

fn write_service(text: &mut String, service: &ServiceStatus) -> fmt::Result {
    writeln!(text, "\nservice {}  ({})", service.name, service.origin)?;
    writeln!(text, "  dialled at {}", service.frontends.join(" "))?;
    for note in &service.notes {
        writeln!(text, "  note: {note}")?;
    }
    for route in &service.routes {
        let action = match route.weights[..] {
            [] => route.action.clone(),
            _ => format!("{} {}", route.action, show_weights(&route.weights)),
        };
        writeln!(
            text,
            "  route {:<20} {:>12} connections  {action}",
            route.name, route.connections
        )?;
        if let Some(outcomes) = &route.outcomes {
            write_outcomes(text, "    ", outcomes)?;
        }
    }
    for subset in &service.subsets {
        write_subset(text, subset)?;
    }
    Ok(())
}

fn write_subset(text: &mut String, subset: &SubsetStatus) -> fmt::Result {
    let share = show_share(subset.share_ppm);
    let asked = show_share(subset.asked_ppm);
    let name = &subset.name;
    writeln!(
        text,
        "  subset {name:<19} {:>12} connections  {share} of {asked} asked",
        subset.connections
    )?;
    for backend in &subset.backends {
        let share = show_share(backend.share_ppm);
        let (address, weight) = (&backend.address, backend.weight);
        let n = backend.connections;
        writeln!(text, "    backend {address:<16} {n:>12} connections  {share}, weight {weight}")?;
        if let Some(why) = &backend.out_of_use {
            writeln!(text, "      gets none: {}", show_out_of_use(why))?;
        }
        if backend.unheard > 0 {
            let times = count(backend.unheard, "time");
            writeln!(text, "      stepped over {times}: nobody listened there (requireListener)")?;
        }
        if let Some(outcomes) = &backend.outcomes {
            write_outcomes(text, "      ", outcomes)?;
        }
        if let Some(health) = &backend.health {
            writeln!(text, "      {}", show_health(health))?;
        }
    }
    Ok(())
}

/// What came of connections: those that stand, those that failed by kind, and times.
fn write_outcomes(text: &mut String, indent: &str, outcomes: &Outcomes) -> fmt::Result {
    let Outcomes { live, pending, established, abandoned, closed, reset, lost, .. } = outcomes;
    write!(text, "{indent}live {live} ({pending} pending), established {established}")?;
    let failures = [
        ("refused", outcomes.refused),
        ("timed out", outcomes.timed_out),
        ("unreachable", outcomes.unreachable),
        ("abandoned", *abandoned),
    ];
    let ends = [("closed", *closed), ("reset", *reset), ("lost", *lost)];
    for (what, n) in failures.into_iter().chain(ends).filter(|(_, n)| *n > 0) {
        write!(text, ", {what} {n}")?;
    }
    writeln!(text)?;
    if *established == 0 {
        return Ok(());
    }
    let below = |percent| {
        let longest = || "of more than 4 s".to_owned();
        outcomes.latency_us(percent).map_or_else(longest, |us| format!("below {us} us"))
    };
    write!(text, "{indent}handshakes {} (50 %), {} (99 %)", below(50), below(99))?;
    if let Some(rtt) = outcomes.rtt_us() {
        let Outcomes { retransmits, bytes_sent, bytes_received, .. } = outcomes;
        write!(
            text,
            "; round trips {rtt} us, {retransmits} segments sent again, {bytes_sent} bytes sent, \
             {bytes_received} received"
        )?;
    }
    writeln!(text)
}

fn show_out_of_use(why: &OutOfUse) -> String {
    match why {
        OutOfUse::Down => "its health checks fail".to_owned(),
        OutOfUse::Draining => "it is drained by command".to_owned(),
        OutOfUse::Ejected { for_ms } => format!("ejected for another {for_ms} ms"),
    }
}

/// What a backend is, and why.
fn show_health(health: &HealthStatus) -> String {
    let HealthStatus { state, seconds, probes, successes, failures, .. } = health;
    let last = match (probes, &health.last_error) {
        (0, _) => "no probe yet".to_owned(),
        (_, Some(error)) if *failures > 0 => format!("last {failures} failed: {error}"),
        _ => format!("last {successes} succeeded"),
    };
    let took = health.last_microseconds.map(|us| format!(", in {us} us")).unwrap_or_default();
    format!("{state} for {seconds} s, {}, {last}{took}", count(*probes, "probe"))
}

/// Parts per million as a percentage with two digits behind the point.
fn show_share(ppm: Option<u32>) -> String {
    let Some(ppm) = ppm else { return "-".to_owned() };
    let hundredths = (ppm + 50) / 100;
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_told_with_its_reason() {
        let mut health = HealthStatus { state: "healthy".to_owned(), ..HealthStatus::default() };
        assert_eq!(show_health(&health), "healthy for 0 s, 0 probes, no probe yet");
        health.probes = 7;
        health.successes = 5;
        health.last_microseconds = Some(80);
        health.last_error = Some("refused".to_owned());
        let told = "healthy for 0 s, 7 probes, last 5 succeeded, in 80 us";
        assert_eq!(show_health(&health), told);
        (health.successes, health.failures) = (0, 2);
        let told = "healthy for 0 s, 7 probes, last 2 failed: refused, in 80 us";
        assert_eq!(show_health(&health), told);
    }

    #[test]
    fn a_hook_is_told_with_who_needs_it() {
        let mut hook = HookStatus { state: "attached".to_owned(), ..HookStatus::default() };
        assert_eq!(show_hook(&hook), "attached");
        hook.n_needed_by = 2;
        assert_eq!(show_hook(&hook), "attached, for 2 services");
        hook.needed_by = vec!["shop".to_owned(), "web".to_owned()];
        assert_eq!(show_hook(&hook), "attached, for shop web");
        hook.n_needed_by = 9;
        assert_eq!(show_hook(&hook), "attached, for shop web and 7 more services");
    }

    #[test]
    fn drains_are_told_with_their_ends() {
        let mut drain = DrainStatus {
            service: "shop/web".to_owned(),
            subset: "v2".to_owned(),
            backend: "127.0.0.1:9002".to_owned(),
            connections: 12,
            sockets: None,
            for_ms: Some(20_001),
            by: "command".to_owned(),
            undo: Some("shop/web/v2".to_owned()),
        };
        let told = "shop/web/v2 127.0.0.1:9002: 12 connections left, closed in 21 s, by command";
        assert_eq!(show_drain(&drain), told);
        (drain.connections, drain.sockets) = (1, Some(2));
        assert!(show_drain(&drain).contains(": 1 connection and 2 connected UDP sockets left, "));
        drain.for_ms = Some(0);
        assert!(show_drain(&drain).contains("sockets left, closed now, by command"));
        (drain.connections, drain.sockets) = (0, Some(0));
        let told = "shop/web/v2 127.0.0.1:9002: nothing left, by command; \
                    `splitter drain --undo shop/web/v2` has connections come again";
        assert_eq!(show_drain(&drain), told);
        (drain.connections, drain.for_ms) = (12, None);
        assert!(show_drain(&drain).contains("12 connections left, left alone"));
        let mut text = String::new();
        write_draining(&mut text, &vec![drain; MOST_DRAINS + 2]).unwrap();
        assert!(text.starts_with("draining    shop/web/v2 ") && text.ends_with("and 2 more\n"));
    }

    #[test]
    fn one_of_a_kind_is_told_as_one() {
        let sweep =
            SweepStatus { services: 1, rounds: 1, unbalanced: 1, hidden: 1, ..Default::default() };
        let mut text = String::new();
        write_sweep(&mut text, &sweep).unwrap();
        for told in [
            "as 1 service asks: 1 round, the last through 0 network namespaces\n",
            " 1 route whose live split is to come to its weights\n",
            " 1 process whose network namespace cannot be looked at\n",
        ] {
            assert!(text.contains(told), "{text}");
        }
    }

    #[test]
    fn shares_are_rounded_to_two_digits() {
        assert_eq!(show_share(Some(1_000_000)), "100.00 %");
        assert_eq!(show_share(Some(333_333)), "33.33 %");
        assert_eq!(show_share(Some(50)), "0.01 %");
        assert_eq!(show_share(None), "-");
    }
}
