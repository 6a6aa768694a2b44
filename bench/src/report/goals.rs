//! Which goals the figures meet.

use std::fmt::{self, Display, Formatter, Write as _};

use super::tables::ratios_to;
use super::text::number;
use crate::benches::goals::{Bound, Check, Goal, Measure, all};
use crate::record::Record;
use crate::stats::{Estimate, Value, estimate, plain, quantile, ratios};

/// Fewer figures than these have no interval to judge by.
const FEWEST: usize = 5;

/// What became of a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Met,
    Missed,
    CannotTell,
    NotMeasured,
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::Missed => "**missed**",
            Self::CannotTell => "cannot tell",
            Self::NotMeasured => "not measured",
        })
    }
}

/// The section about goals.
pub(super) fn section(records: &[Record]) -> String {
    let mut text = "## Goals

A goal is met where the whole interval lies on its right side, and missed where the whole interval lies on the other.
Counts and sizes have no interval; times of fewer than five rounds are not judged.

| goal | asked for | measured | |
|---|---|---|---|
"
    .to_owned();
    for Goal { name, checks } in all() {
        for check in checks {
            let found = measure(records, &check.measure);
            let shown = found.map_or_else(String::new, |found| show(&found));
            let verdict = judge(check.bound, found);
            let Check { what, bound, .. } = check;
            let _ = writeln!(text, "| {name}: {what} | {bound} | {shown} | {verdict} |");
        }
    }
    text
}

fn show(found: &Estimate) -> String {
    let Estimate { low, middle, high } = found;
    if high - low < f64::EPSILON {
        return exact(*middle);
    }
    format!("{} ({} to {})", exact(*middle), exact(*low), exact(*high))
}

/// Ratios near 1 are told apart in their third place.
fn exact(value: f64) -> String {
    if (0.01..9.995).contains(&value.abs()) { format!("{value:.3}") } else { number(value) }
}

fn judge(bound: Bound, found: Option<Estimate>) -> Verdict {
    let Some(Estimate { low, high, .. }) = found else { return Verdict::NotMeasured };
    let (is_met, is_missed) = match bound {
        Bound::AtMost(most, _) => (high <= most, low > most),
        Bound::AtLeast(least, _) => (low >= least, high < least),
    };
    match (is_met, is_missed) {
        (true, _) => Verdict::Met,
        (_, true) => Verdict::Missed,
        _ => Verdict::CannotTell,
    }
}

fn measure(records: &[Record], measure: &Measure) -> Option<Estimate> {
    let find = |bench: &str| records.iter().find(|record| record.header.bench == bench);
    match measure {
        Measure::Ratio { bench, case, arm, base, metric } => {
            enough(&ratios_to(find(bench)?, (case, metric), arm, base))
        }
        Measure::Growth { bench, cases: [from, to], arm, metric } => {
            let values = |case: &str| find(bench).map(|r| r.values(case, arm, metric));
            let ratios = ratios(&values(to)?, &values(from)?);
            enough(&ratios)
        }
        Measure::Median { bench, case, arm, metric } => {
            enough(&find(bench)?.values(case, arm, metric))
        }
        Measure::Only { bench, case, arm, metric } => {
            let values = plain(&find(bench)?.values(case, arm, metric));
            values.first().copied().map(certain)
        }
        Measure::Worst { bench, arms, metric, needs } => {
            let record = find(bench)?;
            let samples = || record.samples.iter().filter(|sample| sample.metric == *metric);
            let is_there = samples().any(|sample| sample.case.ends_with(needs));
            let of_arms = samples().filter(|sample| arms.contains(&sample.arm.as_str()));
            let values: Vec<f64> = of_arms.map(|sample| sample.value).collect();
            let worst = quantile(&values, 1.0);
            (is_there && !values.is_empty()).then(|| certain(worst))
        }
    }
}

/// An interval, or none where there are too few figures for one to mean anything.
fn enough(values: &[Value]) -> Option<Estimate> {
    (values.len() >= FEWEST).then(|| estimate(values))
}

fn certain(value: f64) -> Estimate {
    Estimate { low: value, middle: value, high: value }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::record::{Header, Sample, Sitting};
    use crate::run::Pace;

    pub(crate) fn record(bench: &str, samples: Vec<Sample>) -> Record {
        let machine = Machine {
            processor: "a processor".to_owned(),
            cpus: 2,
            kernel: "6.18".to_owned(),
            is_virtual: true,
            mitigations: Vec::new(),
            bpf_stats: false,
            version: "0.1.0".to_owned(),
        };
        let header = Header { bench: bench.to_owned(), pace: Pace::Full, machine };
        let sitting =
            Sitting { load_before: 0.1, load_after: 0.2, stolen_percent: 0.0, seconds: 1.0 };
        Record { header, samples, notes: Vec::new(), sittings: vec![sitting] }
    }

    #[test]
    fn a_verdict_needs_the_whole_interval() {
        let found = |low, high| Some(Estimate { low, middle: low, high });
        let most = Bound::AtMost(1.1, "");
        assert_eq!(judge(most, found(1.0, 1.1)), Verdict::Met);
        assert_eq!(judge(most, found(1.05, 1.15)), Verdict::CannotTell);
        assert_eq!(judge(most, found(1.11, 1.15)), Verdict::Missed);
        assert_eq!(judge(Bound::AtLeast(1.1, ""), found(1.2, 1.3)), Verdict::Met);
        assert_eq!(judge(most, None), Verdict::NotMeasured);
    }

    #[test]
    fn what_was_not_measured_is_said() {
        let text = section(&[]);
        assert!(text.contains("| G1: ") && text.contains("| G9: "), "{text}");
        assert!(!text.contains("| met |") && !text.contains("missed** |"), "{text}");
    }
}
