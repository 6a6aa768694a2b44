//! Rates: bytes per second, in a notation that says whether bits or bytes are meant.

use std::fmt::{self, Display, Formatter};

use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::model::MAX_RATE;
use crate::policy::reader::Reader;
use crate::policy::words::quote;
use crate::policy::yaml::{NodeId, Value};

/// Units, and how many bits per second each is.
const UNITS: [(&str, u128); 8] = [
    ("B/s", 8),
    ("kB/s", 8_000),
    ("MB/s", 8_000_000),
    ("GB/s", 8_000_000_000),
    ("bit/s", 1),
    ("kbit/s", 1_000),
    ("Mbit/s", 1_000_000),
    ("Gbit/s", 1_000_000_000),
];
const BITS_PER_BYTE: u128 = 8;
/// Most digits on either side of the point; more would mean nothing.
const MOST_DIGITS: usize = 12;
const EXAMPLE: &str = "write a number and a unit, such as `10MB/s` or `800kbit/s`";

/// Why text is not a rate, and what would be right.
type Wrong = (String, String);

/// Reads a rate in bytes per second, 1 to [`MAX_RATE`].
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId, key: &str) -> Option<u32> {
    let Value::Scalar(scalar) = reader.value(node) else {
        return reader.wrong_type(node, &format!("`{key}`"), "a rate", EXAMPLE);
    };
    match parse(&scalar.text) {
        Ok(rate) => Some(rate),
        Err((message, help)) => {
            let at = reader.span(node);
            let message = format!("`{key}` {message}");
            reader.push(Diagnostic::new(&code::BAD_RATE, at, message).with_help(help));
            None
        }
    }
}

fn parse(text: &str) -> Result<u32, Wrong> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_digits = |part: &str| {
        (1..=MOST_DIGITS).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !is_digits(whole) || !is_digits(fraction) {
        return Err((format!("is no rate: {}", quote(text)), EXAMPLE.to_owned()));
    }
    let Some((_, bits)) = UNITS.into_iter().find(|(name, _)| *name == unit) else {
        return Err(wrong_unit(text, number, unit));
    };
    // At most 24 digits, which 128 bits have room for, a unit besides.
    let digits: u128 =
        format!("{whole}{fraction}").bytes().fold(0, |n, digit| n * 10 + u128::from(digit - b'0'));
    let parts = BITS_PER_BYTE * 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let total = digits * bits;
    if total > parts * u128::from(MAX_RATE) {
        let message = format!("is more than {MAX_RATE} bytes per second, which the kernel has not");
        return Err((message, "leave it out where there is to be no limit".to_owned()));
    }
    if total < parts || !total.is_multiple_of(parts) {
        let message = format!("is not a whole number of bytes per second, at least 1: {text}");
        return Err((message, "write whole bytes, such as `100B/s`".to_owned()));
    }
    Ok(u32::try_from(total / parts).unwrap_or(MAX_RATE))
}

fn wrong_unit(text: &str, number: &str, unit: &str) -> Wrong {
    if unit.is_empty() {
        let help = format!(
            "write `{number}B/s` where bytes are meant, and `{number}bit/s` where bits are"
        );
        return (format!("has no unit: {}", quote(text)), help);
    }
    let names: Vec<&str> = UNITS.iter().map(|(name, _)| *name).collect();
    let help = format!("the units, of which each is 1000 of the one before: {}", names.join(", "));
    (format!("has an unknown unit, {}", quote(unit)), help)
}

/// Bytes per second in the largest unit in which they are whole.
pub(super) struct Rate(pub(super) u32);

impl Display for Rate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const LARGER: [(u32, &str); 3] =
            [(1_000_000_000, "GB/s"), (1_000_000, "MB/s"), (1_000, "kB/s")];
        let whole = LARGER.into_iter().find(|(unit, _)| self.0.is_multiple_of(*unit));
        let (unit, name) = whole.unwrap_or((1, "B/s"));
        write!(f, "{}{name}", self.0 / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bytes_or_bits() {
        for (text, rate) in [
            ("1B/s", 1),
            ("8bit/s", 1),
            ("800kbit/s", 100_000),
            ("10MB/s", 10_000_000),
            ("1.5MB/s", 1_500_000),
            ("0.008kbit/s", 1),
            ("34Gbit/s", 4_250_000_000),
            ("4294967294B/s", MAX_RATE),
        ] {
            assert_eq!(parse(text), Ok(rate), "{text}");
        }
        for text in [
            "",
            "10",
            "MB/s",
            "10 MB/s",
            "10Mb/s",
            "10mb/s",
            "10MB",
            "10Mbps",
            "10MiB/s",
            "-1B/s",
            "+1B/s",
            "1.B/s",
            ".5MB/s",
            "1e3B/s",
            "1.2.3B/s",
            "0B/s",
            "4bit/s",
            "0.1B/s",
            "4294967295B/s",
            "999999999999GB/s",
            "9999999999999B/s",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_short() {
        let texts = [(1, "1B/s"), (1_500, "1500B/s"), (2_000, "2kB/s"), (1_500_000, "1500kB/s")];
        for (rate, text) in texts.into_iter().chain([(3_000_000_000, "3GB/s")]) {
            assert_eq!(Rate(rate).to_string(), text);
            assert_eq!(parse(text), Ok(rate));
        }
    }
}
