//! Which figures of a bench are drawn, and how.

use super::tables::{metrics, ratio, rows};
use crate::benches::Bench;
use crate::plot::{Bar, Curves, Series, bars, curves};
use crate::record::{Record, Sample};
use crate::stats::median;

/// The plots of a bench: file name, title and content.
pub(super) fn of(bench: &Bench, record: &Record) -> Vec<(String, String, String)> {
    let drawn = match (bench.name, bench.base) {
        ("apply", _) => scaling(record),
        ("exactness", _) => errors(record),
        (_, Some(base)) => ratio_bars(bench, record, base),
        _ => None,
    };
    let file = format!("{}.svg", bench.name);
    drawn.map(|(title, svg)| (file, title, svg)).into_iter().collect()
}

/// Beginnings of arms that splitter has a part in.
const OURS: [&str; 4] = ["splitter", "matched", "missed", "one service"];

/// The ratios of the first metric.
fn ratio_bars(bench: &Bench, record: &Record, base: &str) -> Option<(String, String)> {
    let (metric, _) = metrics(record).into_iter().next()?;
    let mut last = "";
    let rows = rows(record, &metric);
    let mut all = Vec::new();
    for (case, arm) in &rows {
        let Some(estimate) = ratio(record, (case, &metric), arm, base) else { continue };
        let name = if case.is_empty() { arm.clone() } else { format!("{case}: {arm}") };
        let stands_out = OURS.iter().any(|ours| arm.starts_with(ours));
        all.push(Bar { name, estimate, stands_out, is_apart: !last.is_empty() && last != case });
        last = case;
    }
    let title = format!("{}: {metric}, ratio to {base}", bench.title);
    (!all.is_empty()).then(|| (title.clone(), bars(&title, &all)))
}

/// Times by the number of services.
fn scaling(record: &Record) -> Option<(String, String)> {
    let in_ms = |sample: &Sample| sample.value / if sample.unit == "us" { 1_000.0 } else { 1.0 };
    let name = |sample: &Sample| format!("{}: {}", sample.arm, sample.metric);
    let x = |sample: &Sample| {
        let is_ordinary = sample.case.ends_with(", 4 backends");
        is_ordinary.then(|| number_before(&sample.case, "service")).flatten()
    };
    let wanted = |sample: &&Sample| sample.metric != "compile" && sample.metric != "publish";
    let series = series(record.samples.iter().filter(wanted), name, x, in_ms);
    let title = "A policy and one change of it, by the number of services";
    draw(&Curves { title, x: "services", y: "ms", floor: 0.01, series })
}

/// Errors by the length of the run.
fn errors(record: &Record) -> Option<(String, String)> {
    let name = |sample: &Sample| sample.arm.clone();
    let x = |sample: &Sample| {
        let is_canary = sample.case.starts_with("90/10, ");
        is_canary.then(|| number_before(&sample.case, "connection")).flatten()
    };
    let wanted =
        |sample: &&Sample| sample.metric == "largest error" && !sample.arm.starts_with("splitter,");
    let series = series(record.samples.iter().filter(wanted), name, x, |sample| sample.value);
    let title = "Largest error of a 90/10 split, by the number of connections";
    draw(&Curves { title, x: "connections", y: "connections", floor: 0.1, series })
}

fn draw(plot: &Curves<'_>) -> Option<(String, String)> {
    let is_curve = plot.series.iter().any(|series| series.points.len() > 1);
    is_curve.then(|| (plot.title.to_owned(), curves(plot)))
}

/// Values of all rounds at each place.
type Points = Vec<(f64, Vec<f64>)>;

/// Medians over rounds as points of named series, in the order of their first samples.
fn series<'a>(
    samples: impl Iterator<Item = &'a Sample>,
    name: impl Fn(&Sample) -> String,
    x: impl Fn(&Sample) -> Option<f64>,
    y: impl Fn(&Sample) -> f64,
) -> Vec<Series> {
    let mut all: Vec<(String, Points)> = Vec::new();
    for sample in samples {
        let (Some(x), name) = (x(sample), name(sample)) else { continue };
        let at = position_or_push(&mut all, |(known, _)| *known == name, || (name.clone(), vec![]));
        let points = &mut all[at].1;
        let is_x = |(known, _): &(f64, Vec<f64>)| (*known - x).abs() < 0.5;
        let at = position_or_push(points, is_x, || (x, Vec::new()));
        points[at].1.push(y(sample));
    }
    let of = |(name, points): (String, Points)| Series {
        name,
        points: points.into_iter().map(|(x, values)| (x, median(&values))).collect(),
    };
    all.into_iter().map(of).collect()
}

fn position_or_push<T>(all: &mut Vec<T>, is: impl Fn(&T) -> bool, new: impl Fn() -> T) -> usize {
    all.iter().position(is).unwrap_or_else(|| {
        all.push(new());
        all.len() - 1
    })
}

/// The number that stands before a word.
fn number_before(text: &str, word: &str) -> Option<f64> {
    let mut previous = "";
    for part in text.split_whitespace() {
        if part.starts_with(word) {
            return previous.replace(',', "").parse().ok();
        }
        previous = part;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_cases() {
        let found = |text, word| number_before(text, word).map(|number| number.to_string());
        assert_eq!(found("10,000 services, 4 backends", "service").as_deref(), Some("10000"));
        assert_eq!(found("90/10, 20 connections", "connection").as_deref(), Some("20"));
        assert_eq!(found("services", "service"), None);
    }
}
