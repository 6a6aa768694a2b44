//! Figures of a bench as tables.

use std::fmt::Write as _;

use super::text::number;
use crate::benches::Bench;
use crate::record::Record;
use crate::stats::{Estimate, Value, estimate, plain, quantile, ratios};

/// Fewer figures than these have no 99th percentile.
const ENOUGH: usize = 100;

/// A table for each metric.
pub(super) fn of(bench: &Bench, record: &Record) -> String {
    let tables = metrics(record).into_iter().map(|(metric, unit)| match bench.base {
        Some(base) => compared(record, &metric, &unit, base),
        None => alone(record, &metric, &unit),
    });
    tables.collect::<Vec<_>>().join("\n")
}

/// Names and units of all metrics in their order.
pub(super) fn metrics(record: &Record) -> Vec<(String, String)> {
    distinct(record.samples.iter().map(|sample| (sample.metric.clone(), sample.unit.clone())))
}

/// Cases and arms of a metric, grouped by case, in their order. Rounds go forth and back, so the
/// order is that of the first.
pub(super) fn rows(record: &Record, metric: &str) -> Vec<(String, String)> {
    let of_metric = || record.samples.iter().filter(|sample| sample.metric == metric);
    let cases = distinct(of_metric().map(|sample| sample.case.clone()));
    let arms = |case: &String| {
        let arms = of_metric().filter(|sample| sample.case == *case).map(|s| s.arm.clone());
        distinct(arms).into_iter().map(|arm| (case.clone(), arm)).collect::<Vec<_>>()
    };
    cases.iter().flat_map(arms).collect()
}

fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    all.fold(Vec::new(), |mut known, one| {
        if !known.contains(&one) {
            known.push(one);
        }
        known
    })
}

/// Ratios of an arm to the base in the rounds that have both.
pub(super) fn ratios_to(
    record: &Record,
    (case, metric): (&str, &str),
    arm: &str,
    base: &str,
) -> Vec<Value> {
    let values = |arm| record.values(case, arm, metric);
    ratios(&values(arm), &values(base))
}

/// Their median; none where no round has both.
pub(super) fn ratio(
    record: &Record,
    what: (&str, &str),
    arm: &str,
    base: &str,
) -> Option<Estimate> {
    let ratios = ratios_to(record, what, arm, base);
    (!ratios.is_empty()).then(|| estimate(&ratios))
}

fn compared(record: &Record, metric: &str, unit: &str, base: &str) -> String {
    let rows = rows(record, metric);
    let cases = Cases::of(&rows);
    let mut text = cases.head(&[title(metric, unit), format!("ratio to {base} (95 % interval)")]);
    for (case, arm) in &rows {
        let middle = estimate(&record.values(case, arm, metric)).middle;
        let ratio = ratio(record, (case, metric), arm, base);
        let ratio = match ratio {
            _ if arm == base => "1".to_owned(),
            Some(e) => format!("{:.3} ({:.3} to {:.3})", e.middle, e.low, e.high),
            None => String::new(),
        };
        cases.row(&mut text, case, arm, &[number(middle), ratio]);
    }
    text
}

fn alone(record: &Record, metric: &str, unit: &str) -> String {
    let rows = rows(record, metric);
    let cases = Cases::of(&rows);
    let is_long = |(case, arm): &(String, String)| record.values(case, arm, metric).len() >= ENOUGH;
    let with_p99 = rows.iter().any(is_long);
    let mut heads = vec![title(metric, unit), "95 % interval".to_owned()];
    heads.extend(with_p99.then(|| "99 % are below".to_owned()));
    let mut text = cases.head(&heads);
    for (case, arm) in &rows {
        let values = record.values(case, arm, metric);
        let e = estimate(&values);
        let mut cells = vec![number(e.middle)];
        cells.push(match values.len() {
            1 => String::new(),
            _ => format!("{} to {}", number(e.low), number(e.high)),
        });
        let p99 = || (values.len() >= ENOUGH).then(|| number(quantile(&plain(&values), 0.99)));
        cells.extend(with_p99.then(|| p99().unwrap_or_default()));
        cases.row(&mut text, case, arm, &cells);
    }
    text
}

fn title(metric: &str, unit: &str) -> String {
    if unit.is_empty() { metric.to_owned() } else { format!("{metric} [{unit}]") }
}

/// Whether rows have a column for their case.
struct Cases {
    are_named: bool,
}

impl Cases {
    fn of(rows: &[(String, String)]) -> Self {
        Self { are_named: rows.iter().any(|(case, _)| !case.is_empty()) }
    }

    fn head(&self, columns: &[String]) -> String {
        let case = if self.are_named { "| case " } else { "" };
        let rule = if self.are_named { "|---" } else { "" };
        let rules = "|---".repeat(columns.len() + 1);
        format!("{case}| arm | {} |\n{rule}{rules}|\n", columns.join(" | "))
    }

    fn row(&self, text: &mut String, case: &str, arm: &str, cells: &[String]) {
        let case = if self.are_named { format!("| {case} ") } else { String::new() };
        let _ = writeln!(text, "{case}| {arm} | {} |", cells.join(" | "));
    }
}
