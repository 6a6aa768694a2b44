//! What a page says besides its figures, and how it writes numbers.

use std::fmt::Write as _;

use crate::record::{Record, Sitting};
use crate::run::Pace;

/// The beginning of the page.
pub(super) const INTRODUCTION: &str = "# Measured side by side

What splitter costs, beside direct connections and beside other ways to split.
`cargo xtask bench --write` measures all of it, as root, and writes this page; no word or figure in it is written by hand.

Arms of a comparison are interleaved: each round measures all of them, forth in one round and back in the next.
A figure is divided by that of the base arm in the same round.
What depends on where things happen to lie is measured in several sittings: processes, maps, programs and namespaces are made anew for each, and the sittings of all benches take turns, so that those of one are spread over the whole run.
A ratio is the mean over sittings of the median over rounds, and its 95 % interval is that in which the same mean of another run lies (Student's prediction interval, with a sitting as one figure).
Where there is one sitting, the interval is by resampling of its rounds.
A machine's moods hit all arms of a round alike, so ratios hold where absolute figures do not.
Hook arms differ by nothing but the cgroup of their clients; clients are bound to the first CPU and servers to the second; connections are closed by reset, so that none stays behind; everything happens on loopback inside network namespaces whose default route is a blackhole.
";

/// What the figures were taken on.
pub(super) fn machine(record: &Record) -> String {
    let machine = &record.header.machine;
    let pace = match record.header.pace {
        Pace::Full => "",
        Pace::Quick => "\n**A quick run: its intervals are wide.**\n",
        Pace::Smoke => "\n**A smoke run: its figures mean nothing.**\n",
    };
    let kind = if machine.is_virtual { "virtual machine" } else { "machine" };
    let mitigations = match machine.mitigations.as_slice() {
        [] => "none needed".to_owned(),
        some => some.join("; "),
    };
    let stats = if machine.bpf_stats { "on, which slows every program" } else { "off" };
    format!(
        "## Machine
{pace}
| | |
|---|---|
| processor | {}, {} CPUs, {kind} |
| kernel | {} |
| splitter | {} |
| accounting of BPF run time | {stats} |
| mitigations | {mitigations} |
",
        machine.processor, machine.cpus, machine.kernel, machine.version
    )
}

/// What has to be known of a bench's figures.
pub(super) fn notes(record: &Record) -> String {
    let mut seen = Vec::new();
    for note in &record.notes {
        if !seen.contains(&note) {
            seen.push(note);
        }
    }
    seen.iter().fold(String::new(), |mut text, note| {
        let _ = writeln!(text, "- {note}");
        text
    })
}

/// What disturbed each bench.
pub(super) fn disturbances(records: &[Record]) -> String {
    let mut text = "## Disturbances

Load averages over a minute, in which a bench's own load counts; time that a hypervisor gave to others.

| bench | run | sittings | most load before | most load after | most time stolen | took |
|---|---|---|---|---|---|---|
"
    .to_owned();
    for record in records {
        let most = |of: fn(&Sitting) -> f64| record.sittings.iter().map(of).fold(0.0, f64::max);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.2} | {:.2} | {:.2} % | {:.0} s |",
            record.header.bench,
            record.header.pace.pick("smoke", "quick", "full"),
            record.sittings.len(),
            most(|sitting| sitting.load_before),
            most(|sitting| sitting.load_after),
            most(|sitting| sitting.stolen_percent),
            record.sittings.iter().map(|sitting| sitting.seconds).sum::<f64>()
        );
    }
    text
}

/// A number as readers like it: as many digits as tell something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => grouped(&format!("{value:.0}")),
        _ if value.fract().abs() < 1e-9 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn grouped(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("-", rest));
    let mut text = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_tell_something() {
        let texts = [1_234_567.8, -1_000.0, 99.96, 12.345, 41.0, 1.234, 0.0].map(number);
        assert_eq!(texts, ["1,234,568", "-1,000", "100", "12.3", "41", "1.23", "0"]);
    }
}
