//! `splitter get`: the running policy.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, ValueEnum};

use super::client::{Answer, LiveAddress, unexpected};
use super::reading::{ReadingOptions, VipOptions, load_files};
use super::weight::show_weights;
use super::{Exit, print, print_json};
use crate::daemon::control::{Request, Response, RouteView, ServiceView};
use crate::daemon::health::HealthCounts;
use crate::policy::native::to_yaml;

/// Options of `get`.
#[derive(Args)]
#[command(after_help = "\
With --as native, words that name files or directories, and - for standard input, are loaded instead \
of asking the daemon, and what they mean is printed: documents of Istio, Kubernetes and the Gateway \
API as the services that they come to.")]
pub(crate) struct Options {
    /// Services; all of them where none is named.
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
        Answer::Done(Response::Services { services }) => {
            match form {
                Form::Text => print(&table(&services)?)?,
                Form::Yaml => print(&documents(&services))?,
                Form::Json => print_json(&services)?,
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
    let documents: Vec<String> = loaded.policy.services.iter().map(to_yaml).collect();
    print(&documents.join("---\n"))?;
    Ok(Exit::Success)
}

fn documents(services: &[ServiceView]) -> String {
    let documents: Vec<&str> =
        services.iter().filter_map(|service| service.document.as_deref()).collect();
    documents.join("---\n")
}

fn table(services: &[ServiceView]) -> Result<String, std::fmt::Error> {
    let rows: Vec<[String; 4]> = services.iter().flat_map(rows).collect();
    let head = ["SERVICE", "FRONTENDS", "ROUTE", "ACTION"].map(str::to_owned);
    let mut widths = head.clone().map(|title| title.len());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let mut text = String::new();
    for [service, frontends, route, action] in std::iter::once(&head).chain(&rows) {
        let [a, b, c, _] = widths;
        writeln!(text, "{service:<a$}  {frontends:<b$}  {route:<c$}  {action}")?;
    }
    Ok(text)
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
