//! `splitter check`: everything that is wrong with a policy, at once.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::reading::{ReadingOptions, VipOptions, load_alone};
use super::{Exit, Output, complain, complain_of, count, print, print_json, read_sources};
use crate::compile::Note;
use crate::policy::Source;
use crate::policy::diagnostic::{Diagnostic, Severity};
use crate::policy::model::{Outbound, Policy, Service};
use crate::publish::Publisher;
use crate::rehearsal::{Rehearsal, imagine_ids};
use crate::tables::Sizes;
use crate::tables::memory::MemoryMaps;

/// Options of `check`.
#[derive(Args, Debug)]
#[command(after_help = "\
Neither privilege nor a daemon is needed. Whether the cgroups and network namespaces that the policy \
names exist, and what the hosts of egress documents resolve to, is not checked: that is known only \
on the node. The exit status is 1 where the policy would be refused; warnings leave it 0.")]
pub(crate) struct Options {
    /// Policy files, directories of them, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Also say how much room the policy takes in the kernel's maps
    #[arg(short, long)]
    verbose: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    reading: ReadingOptions,
    #[command(flatten)]
    vips: VipOptions,
}

/// What a check finds.
#[derive(Serialize)]
struct Findings<'a> {
    /// Whether the policy would be taken.
    ok: bool,
    /// Names of the sources that diagnostics refer to by number.
    sources: Vec<&'a str>,
    diagnostics: &'a [Diagnostic],
    notes: Vec<Remark>,
    services: usize,
    frontends: usize,
    backends: usize,
    /// Documents of what clients may reach.
    egress: usize,
    /// Room that the policy takes in each map.
    maps: Vec<Room>,
}

/// Something that a service or egress document gets only nearly, or that cannot be known here.
#[derive(Serialize)]
struct Remark {
    /// Name of the service, or of the egress document.
    service: String,
    place: String,
    message: String,
}

/// Room in one map.
#[derive(Serialize)]
struct Room {
    map: &'static str,
    /// Records that the policy takes, the reserved ones included.
    records: u32,
    /// Records that the map has where the daemon is not told otherwise.
    default_size: u32,
}

/// Runs `check`.
pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    let sources = read_sources(&options.files, &options.reading.reading())?;
    let (policy, diagnostics) = match load_alone(&sources, &options.vips) {
        Ok(loaded) => (Some(loaded.policy), loaded.warnings),
        Err(diagnostics) => (None, diagnostics),
    };
    let findings = find(policy.as_ref(), &diagnostics, &sources)?;
    match options.output {
        Output::Json => print_json(&findings)?,
        Output::Text => report(&findings, &sources, options.verbose)?,
    }
    Ok(if findings.ok { Exit::Success } else { Exit::Failure })
}

fn find<'a>(
    policy: Option<&Policy>,
    diagnostics: &'a [Diagnostic],
    sources: &'a [Source],
) -> anyhow::Result<Findings<'a>> {
    let services = policy.map_or(&[][..], |policy| &policy.services);
    let subsets = services.iter().flat_map(|service| &service.subsets);
    let mut findings = Findings {
        ok: policy.is_some(),
        sources: sources.iter().map(|source| source.name.as_str()).collect(),
        diagnostics,
        notes: Vec::new(),
        services: services.len(),
        frontends: services.iter().map(|service| service.frontends.len()).sum(),
        backends: subsets.map(|subset| subset.backends.len()).sum(),
        egress: policy.map_or(0, |policy| policy.outbound.len()),
        maps: Vec::new(),
    };
    if let Some(policy) = policy {
        let ids = imagine_ids(policy, &[]);
        let rehearsal = Rehearsal::new(policy, ids).context("put the policy into memory")?;
        let notes = rehearsal.notes().iter();
        findings.notes = notes.map(|(service, note)| remark(service, note)).collect();
        findings.notes.extend(services.iter().flat_map(unchecked_names));
        findings.notes.extend(policy.outbound.iter().flat_map(unchecked_clients));
        findings.notes.extend(policy.outbound.iter().flat_map(unresolved_hosts));
        findings.maps = rooms(&rehearsal);
    }
    Ok(findings)
}

fn rooms(rehearsal: &Rehearsal) -> Vec<Room> {
    let default = Publisher::adopt(MemoryMaps::new(Sizes::for_services(Sizes::DEFAULT_SERVICES)));
    let default = default.expect("empty tables are not damaged").usage();
    let usage = rehearsal.publisher().usage().into_iter().zip(default);
    usage
        .map(|((map, records, _), (_, _, default_size))| Room { map, records, default_size })
        .collect()
}

fn remark(service: &str, note: &Note) -> Remark {
    let (place, message) = match note {
        Note::Rounded { place, error_ppm } => {
            (place, format!("shares are rounded by up to {error_ppm} parts per million"))
        }
        Note::NoClient { place, why } => (place, why.clone()),
    };
    Remark { service: service.to_owned(), place: place.clone(), message }
}

fn unchecked_names(service: &Service) -> impl Iterator<Item = Remark> {
    service.routes.iter().flat_map(|route| {
        let cgroups = route.matches.iter().filter_map(|wanted| wanted.cgroup.as_ref());
        let cgroups = cgroups.map(|name| format!("the {name}"));
        let networks = route.matches.iter().filter_map(|wanted| wanted.netns.as_ref());
        let networks = networks.map(|name| format!("the network namespace {name}"));
        cgroups.chain(networks).map(|what| Remark {
            service: service.name.clone(),
            place: route.name.clone(),
            message: format!("whether {what} exists is known only on the node"),
        })
    })
}

fn unchecked_clients(said: &Outbound) -> impl Iterator<Item = Remark> {
    said.cgroups.iter().map(|name| Remark {
        service: said.name.clone(),
        place: "clients".to_owned(),
        message: format!("whether the {name} exists is known only on the node"),
    })
}

fn unresolved_hosts(said: &Outbound) -> impl Iterator<Item = Remark> {
    let hosts: BTreeSet<&str> = said.hosts().collect();
    hosts.into_iter().map(|host| Remark {
        service: said.name.clone(),
        place: "egress".to_owned(),
        message: format!("the addresses of {host} are known only on the node, which resolves it"),
    })
}

fn report(findings: &Findings<'_>, sources: &[Source], verbose: bool) -> anyhow::Result<()> {
    complain_of(findings.diagnostics, sources)?;
    let severity = |wanted| findings.diagnostics.iter().filter(|d| d.severity == wanted).count();
    let (errors, warnings) = (severity(Severity::Error), severity(Severity::Warning));
    if !findings.ok {
        let (errors, warnings) = (count(errors, "error"), count(warnings, "warning"));
        return complain(&format!("{errors}, {warnings}\n"));
    }
    for Remark { service, place, message } in &findings.notes {
        print(&format!("note: {service}, {place}: {message}\n"))?;
    }
    for Room { map, records, default_size } in &findings.maps {
        if records > default_size {
            let option = format!("--max-{}", map.to_lowercase());
            print(&format!(
                "note: {records} records of {map} are needed, and the daemon has {default_size}: \
                 run it with {option}\n"
            ))?;
        } else if verbose {
            print(&format!("{map}: {records} of {default_size} records\n"))?;
        }
    }
    let warned =
        if warnings > 0 { format!(", {}", count(warnings, "warning")) } else { String::new() };
    let (services, frontends) =
        (count(findings.services, "service"), count(findings.frontends, "frontend"));
    let backends = count(findings.backends, "backend");
    let egress = match findings.egress {
        0 => String::new(),
        n => format!(", {}", count(n, "egress document")),
    };
    print(&format!("{services}, {frontends}, {backends}{egress}: ok{warned}\n"))
}
