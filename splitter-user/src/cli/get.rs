//! `splitter get`: the running policy.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};

use super::client::{Address, Answer, unexpected};
use super::weight::show_weights;
use super::{Exit, print, print_json};
use crate::daemon::control::{Request, Response, RouteView, ServiceView};

/// Options of `get`.
#[derive(Args)]
pub(crate) struct Options {
    /// One service; all of them where none is named.
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    daemon: Address,
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

/// Prints the running policy.
pub(crate) fn run(options: Options) -> anyhow::Result<Exit> {
    let details = options.output != Form::Text;
    match options.daemon.ask(&Request::Get { service: options.service, details })? {
        Answer::Done(Response::Services { services }) => {
            match options.output {
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
        [name, frontends, format!("{}{clients}", route.name), action]
    };
    service.routes.iter().enumerate().map(row).collect()
}
