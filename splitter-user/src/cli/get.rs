//! `splitter get`: the running policy.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::client::{Answer, LiveAddress, unexpected};
use super::reading::{ReadingOptions, VipOptions, load_files};
use super::weight::show_weights;
use super::{Exit, print, print_json};
use crate::daemon::control::{EgressView, Request, Response, RouteView, ServiceView};
use crate::daemon::health::HealthCounts;
use crate::policy::model::Policy;
use crate::policy::native::{outbound_to_yaml, to_yaml};

/// Options of `get`.
#[derive(Args)]
#[command(after_help = "\
With --as native, words that name files or directories, and - for standard input, are loaded instead \
of asking the daemon, and what they mean is printed: documents of Istio, Kubernetes and the Gateway \
API as the services that they come to.")]
pub(crate) struct Options {
    /// Services, and egress documents as Egress/NAMESPACE/NAME; all of them where none is named.
    #[arg(value_name = "SERVICE|FILE")]
    words: Vec<String>,
    /// Form of the documents, whatever they were written in.
    #[arg(long = "as", value_enum, value_name = "FORM", conflicts_with = "output")]
    language: Option<Language>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    daemon: LiveAddress,
    #[command(flatten)]
    reading: ReadingOptions,
    #[command(flatten)]
    vips: VipOptions,
}

/// The running policy for programs.
#[derive(Serialize)]
struct Got {
    services: Vec<ServiceView>,
    egress: Vec<EgressView>,
}

/// Forms of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    /// Documents of `apiVersion: splitter.dev/v1`.
    Native,
}

/// Forms of the running policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A table for people.
    #[default]
    Text,
    /// Native documents, which load to the same policy.
    Yaml,
    /// For programs.
    Json,
}

/// Prints the running policy, or what files mean.
pub(crate) fn run(options: Options) -> anyhow::Result<Exit> {
    let is_native = options.language == Some(Language::Native);
    if is_native && options.words.iter().any(|word| is_file(word)) {
        return print_files(&options);
    }
    options.reading.refuse_without_files();
    options.vips.refuse_without_files();
    let form = if is_native { Form::Yaml } else { options.output };
    let details = form != Form::Text;
    match options.daemon.find().ask(&Request::Get { services: options.words, details })? {
        Answer::Done(Response::Services { services, egress }) => {
            match form {
                Form::Text => print(&text(&services, &egress)?)?,
                Form::Yaml => print(&documents(&services, &egress))?,
                Form::Json => print_json(&Got { services, egress })?,
            }
            Ok(Exit::Success)
        }
        Answer::Done(_) => Err(unexpected()),
        Answer::Refused => Ok(Exit::Failure),
    }
}

/// Whether a word is meant as a file: it is one, or is called like a policy file.
fn is_file(word: &str) -> bool {
    let path = Path::new(word);
    let is_called_so = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    word == "-" || is_called_so || path.exists()
}

fn print_files(options: &Options) -> anyhow::Result<Exit> {
    if options.daemon.is_given() {
        let text = "--socket says where a daemon is, and files are named instead\n";
        clap::Error::raw(ErrorKind::ArgumentConflict, text).exit();
    }
    let files: Vec<PathBuf> = options.words.iter().map(PathBuf::from).collect();
    let loaded = load_files(&files, &options.reading, &options.vips)?;
    let Some((loaded, _)) = loaded else { return Ok(Exit::Failure) };
    let Policy { services, outbound } = &loaded.policy;
    let egress = outbound.iter().map(outbound_to_yaml);
    let documents: Vec<String> = services.iter().map(to_yaml).chain(egress).collect();
    print(&documents.join("---\n"))?;
    Ok(Exit::Success)
}

fn documents(services: &[ServiceView], egress: &[EgressView]) -> String {
    let services = services.iter().filter_map(|service| service.document.as_deref());
    let egress = egress.iter().filter_map(|said| said.document.as_deref());
    services.chain(egress).collect::<Vec<_>>().join("---\n")
}

/// A table of each kind that there is.
fn text(services: &[ServiceView], egress: &[EgressView]) -> Result<String, std::fmt::Error> {
    let rows: Vec<_> = services.iter().flat_map(rows).collect();
    let mut text = String::new();
    if !rows.is_empty() || egress.is_empty() {
        write_table(&mut text, ["SERVICE", "FRONTENDS", "ROUTE", "ACTION"], &rows)?;
    }
    if !egress.is_empty() {
        let gap = if text.is_empty() { "" } else { "\n" };
        text.push_str(gap);
        let rows: Vec<_> = egress.iter().map(egress_row).collect();
        write_table(&mut text, ["EGRESS", "CLIENTS", "SAYS"], &rows)?;
    }
    Ok(text)
}

/// Columns are as wide as their widest cell, but for the last.
fn write_table<const N: usize>(
    text: &mut String,
    head: [&str; N],
    rows: &[[String; N]],
) -> std::fmt::Result {
    let head = head.map(str::to_owned);
    let rows = std::iter::once(&head).chain(rows);
    let mut widths = [0; N];
    for row in rows.clone() {
        for (width, cell) in widths.iter_mut().zip(row).take(N - 1) {
            *width = (*width).max(cell.len());
        }
    }
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        writeln!(text, "{}", cells.collect::<Vec<_>>().join("  "))?;
    }
    Ok(())
}

fn egress_row(said: &EgressView) -> [String; 3] {
    let clients = match said.clients[..] {
        [] => "every client".to_owned(),
        _ => said.clients.join(", "),
    };
    let says: Vec<String> =
        said.says.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    [said.name.clone(), clients, says.join(", ")]
}

/// One row per route; the first has the service's columns.
fn rows(service: &ServiceView) -> Vec<[String; 4]> {
    let row = |(index, route): (usize, &RouteView)| {
        let (name, frontends) = match index {
            0 => (service.name.clone(), service.frontends.join(" ")),
            _ => (String::new(), String::new()),
        };
        let action = match route.weights[..] {
            [] => route.action.clone(),
            _ => show_weights(&route.weights),
        };
        let clients = match route.matches {
            0 => String::new(),
            1 => " (1 match)".to_owned(),
            n => format!(" ({n} matches)"),
        };
        let health = service.health.filter(|_| index == 0).map(show_health).unwrap_or_default();
        [name, frontends, format!("{}{clients}", route.name), format!("{action}{health}")]
    };
    service.routes.iter().enumerate().map(row).collect()
}

/// How many of a service's checked backends are healthy.
fn show_health(counts: HealthCounts) -> String {
    format!("  ({} of {} checked backends healthy)", counts.healthy, counts.total())
}
