//! Values that several keys of the native form have in common.

use std::fmt::{self, Display, Formatter};
use std::ops::RangeInclusive;

use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::reader::Reader;
use crate::policy::yaml::{NodeId, Scalar, Value};

/// A whole number in a range.
pub(super) fn number_in(
    reader: &mut Reader<'_>,
    node: NodeId,
    key: &str,
    range: RangeInclusive<u32>,
) -> Option<u32> {
    let number = reader.number(node, &format!("`{key}`"))?;
    if range.contains(&number) {
        return Some(number);
    }
    let (least, most) = range.into_inner();
    let (bound, help) = if number < least {
        (format!("less than {least}"), format!("write at least {least}"))
    } else {
        (format!("more than {most}"), format!("write at most {most}"))
    };
    let at = reader.span(node);
    let message = format!("`{key}` is {number}, {bound}");
    reader.push(Diagnostic::new(&code::OUT_OF_RANGE, at, message).with_help(help));
    None
}

/// A whole number that may need 64 bits.
pub(super) fn large_number(reader: &mut Reader<'_>, node: NodeId, key: &str) -> Option<u64> {
    let text = match reader.value(node) {
        Value::Scalar(Scalar { text, quoted: false }) => text.as_ref(),
        _ => "",
    };
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits || text.starts_with('0') {
        return reader.number(node, &format!("`{key}`")).map(u64::from);
    }
    let number = text.parse::<u64>().ok();
    if number.is_none() {
        let at = reader.span(node);
        let message = format!("`{key}` is more than {}", u64::MAX);
        let help = format!("write at most {}", u64::MAX);
        reader.push(Diagnostic::new(&code::OUT_OF_RANGE, at, message).with_help(help));
    }
    number
}

/// A share of connections in percent, more than none, as parts per million.
pub(super) fn share_ppm(reader: &mut Reader<'_>, node: NodeId) -> Option<u32> {
    let ppm = reader.percentage_ppm(node, "the share of a fault")?;
    if ppm == 0 {
        let at = reader.span(node);
        let message = "`percent` is 0: the fault never happens";
        let help = "write more than 0, or leave the fault out";
        reader.push(Diagnostic::new(&code::OUT_OF_RANGE, at, message).with_help(help));
    }
    (ppm > 0).then_some(ppm)
}

/// A duration in milliseconds, in the largest unit in which it is whole.
pub(super) struct Duration(pub(super) u32);

impl Display for Duration {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 3] = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        let whole = UNITS.into_iter().find(|(unit, _)| self.0.is_multiple_of(*unit));
        let (unit, name) = whole.unwrap_or((1, "ms"));
        write!(f, "{}{name}", self.0 / unit)
    }
}

/// Parts per million in percent.
pub(super) struct Percent(pub(super) u32);

impl Display for Percent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:04}", self.0 / 10_000, self.0 % 10_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let texts = [(1, "1ms"), (1_500, "1500ms"), (90_000, "90s"), (600_000, "10m")];
        for (ms, text) in texts.into_iter().chain([(3_600_000, "1h"), (5_400_000, "90m")]) {
            assert_eq!(Duration(ms).to_string(), text);
        }
    }

    #[test]
    fn percentages_are_short() {
        let texts = [(1, "0.0001"), (10_000, "1"), (125_000, "12.5"), (1_000_000, "100")];
        for (ppm, text) in texts {
            assert_eq!(Percent(ppm).to_string(), text);
        }
    }
}
