//! `splitter weight`: shift weights of a running service.

use clap::Args;

use super::client::{Address, Answer, unexpected};
use super::{Exit, Output, print, print_json};
use crate::daemon::control::{Request, Response, Weighted};

/// Options of `weight`.
#[derive(Args)]
pub(crate) struct Options {
    /// The service, with the route behind a `/` where it is not the only one that splits or the
    /// last of those that take every client.
    #[arg(value_name = "SERVICE[/ROUTE]")]
    target: String,
    /// Subset and its new weight; subsets that are not named keep theirs.
    #[arg(value_name = "SUBSET=WEIGHT", required = true, value_parser = parse_weight)]
    weights: Vec<(String, u32)>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    daemon: Address,
}

fn parse_weight(word: &str) -> Result<(String, u32), String> {
    let (subset, weight) = word.split_once('=').ok_or("write SUBSET=WEIGHT, such as v1=80")?;
    if subset.is_empty() {
        return Err(format!("`{word}` names no subset: write SUBSET=WEIGHT, such as v1=80"));
    }
    let weight = weight.parse().map_err(|_| {
        format!("`{weight}` is not a weight: a whole number from 0 to {}", u32::MAX)
    })?;
    Ok((subset.to_owned(), weight))
}

/// Of two weights for one subset, nobody can tell which is meant.
fn refuse_repeated(weights: &[(String, u32)]) {
    let is_repeated = |at: usize| weights[..at].iter().any(|(subset, _)| *subset == weights[at].0);
    if let Some(at) = (0..weights.len()).find(|at| is_repeated(*at)) {
        let text = format!("the subset `{}` has more than one weight\n", weights[at].0);
        clap::Error::raw(clap::error::ErrorKind::ValueValidation, text).exit();
    }
}

/// Sets the weights and tells what they were. Returns when they are in force.
pub(crate) fn run(options: Options) -> anyhow::Result<Exit> {
    let Options { target, weights, output, daemon } = options;
    refuse_repeated(&weights);
    match daemon.ask(&Request::Weight { target, weights })? {
        Answer::Done(Response::Weighted(weighted)) => {
            report(&weighted, output)?;
            Ok(Exit::Success)
        }
        Answer::Done(_) => Err(unexpected()),
        Answer::Refused => Ok(Exit::Failure),
    }
}

fn report(weighted: &Weighted, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return print_json(weighted);
    }
    let Weighted { service, route, before, after, generation, .. } = weighted;
    let (before, after) = (show_weights(before), show_weights(after));
    print(&format!("{service} {route}: {before} -> {after}\ngeneration {generation}\n"))
}

/// `v1=80 v2=20`.
pub(super) fn show_weights(weights: &[(String, u32)]) -> String {
    let words: Vec<String> =
        weights.iter().map(|(subset, weight)| format!("{subset}={weight}")).collect();
    words.join(" ")
}
