//! What a scalar is: YAML 1.2's core schema, and whole numbers with reasons when they are not.

use super::code::{self, Code};
use super::words::quote;
use super::yaml::Scalar;

/// What an unquoted scalar means in YAML 1.2's core schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Null,
    Bool(bool),
    Number,
    Text,
}

impl Scalar<'_> {
    pub(super) fn meaning(&self) -> Meaning {
        if self.quoted { Meaning::Text } else { meaning(&self.text) }
    }

    /// Whether it is the key of YAML 1.1 that merges another mapping.
    pub(super) fn is_merge(&self) -> bool {
        !self.quoted && self.text == "<<"
    }
}

/// What a plain scalar means.
pub(super) fn meaning(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
        "true" | "True" | "TRUE" => Meaning::Bool(true),
        "false" | "False" | "FALSE" => Meaning::Bool(false),
        _ if is_number(text) => Meaning::Number,
        _ => Meaning::Text,
    }
}

/// What to write where a boolean is asked for. Words of YAML 1.1 are strings in YAML 1.2.
pub(super) fn boolean_help(text: &str) -> &'static str {
    match text.to_ascii_lowercase().as_str() {
        "no" | "n" | "off" | "false" => "write `false`",
        "yes" | "y" | "on" | "true" => "write `true`",
        _ => "write `true` or `false`",
    }
}

fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let radix = |prefix, radix| {
        text.strip_prefix(prefix)
            .is_some_and(|rest: &str| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix)))
    };
    // The core schema's floats are Rust's, but for names such as `nan` and `infinity`.
    let is_float = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().any(|byte| byte.is_ascii_digit())
        && unsigned.parse::<f64>().is_ok();
    is_float
        || radix("0o", 8)
        || radix("0x", 16)
        || matches!(unsigned, ".inf" | ".Inf" | ".INF")
        || matches!(text, ".nan" | ".NaN" | ".NAN")
}

/// Why a scalar is not a whole number that is written plainly.
#[derive(Debug)]
pub(super) struct NotWhole {
    pub(super) code: &'static Code,
    /// Continues a sentence that begins with what the number is for.
    pub(super) message: String,
    pub(super) help: String,
}

/// Reads a whole number from 0 to `u32::MAX`, or says what form it should have.
pub(super) fn whole(scalar: &Scalar<'_>) -> Result<u32, NotWhole> {
    let text = scalar.text.as_ref();
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if scalar.quoted && is_digits {
        let message = format!("is a number, and {} is quoted", quote(text));
        return refuse(&code::QUOTED_NUMBER, message, format!("remove the quotes: {text:.20}"));
    }
    if !is_digits || scalar.quoted {
        return Err(other_form(scalar));
    }
    if text.len() > 1 && text.starts_with('0') {
        let message = format!("is plain decimal, and {} has a leading zero", quote(text));
        let digits = text.trim_start_matches('0');
        let plain = if digits.is_empty() { "0" } else { digits };
        return refuse(&code::NUMBER_FORM, message, format!("write {plain:.20}"));
    }
    text.parse::<u32>().or_else(|_| {
        let message = format!("is at most {}, and {} is larger", u32::MAX, quote(text));
        refuse(&code::NUMBER_TOO_LARGE, message, "use a smaller number")
    })
}

fn refuse(code: &'static Code, message: String, help: impl Into<String>) -> Result<u32, NotWhole> {
    Err(NotWhole { code, message, help: help.into() })
}

/// Says what form a scalar has that is not made of digits alone.
fn other_form(scalar: &Scalar<'_>) -> NotWhole {
    let text = scalar.text.as_ref();
    let quoted = quote(text);
    let is_number = !scalar.quoted && is_number(text);
    let (code, message, help) = if text.ends_with('%') {
        let help = "write a plain number: weights are relative to each other, so 80 beside 20 is \
                    80 %";
        (&code::PERCENT, format!("is a number, not a percentage: {quoted}"), help)
    } else if is_number && text.starts_with('-') {
        (&code::NEGATIVE, format!("is not negative: {quoted}"), "write 0 or a larger number")
    } else if is_number && !text.contains(['x', 'o', '+']) {
        let help =
            "write a whole number; to keep a ratio such as 0.5 to 99.5, scale both: 1 to 199";
        (&code::FLOAT, format!("is a whole number, and {quoted} is not"), help)
    } else if is_number || text.contains('_') && text.starts_with(|c: char| c.is_ascii_digit()) {
        let help = "write digits only, such as 80";
        (&code::NUMBER_FORM, format!("is plain decimal, and {quoted} is not"), help)
    } else {
        let found = describe(scalar);
        (&code::WRONG_TYPE, format!("is a whole number, not {found}"), "write a number such as 80")
    };
    NotWhole { code, message, help: help.into() }
}

/// A scalar in the middle of a sentence.
pub(super) fn describe(scalar: &Scalar<'_>) -> String {
    let text = quote(&scalar.text);
    match scalar.meaning() {
        Meaning::Null => "nothing".to_owned(),
        Meaning::Bool(value) => format!("`{value}`"),
        Meaning::Number => format!("the number {text}"),
        Meaning::Text if scalar.text.is_empty() => "an empty string".to_owned(),
        Meaning::Text => format!("the string {text}"),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn plain(text: &str) -> Scalar<'_> {
        Scalar { text: Cow::Borrowed(text), quoted: false }
    }

    #[test]
    fn core_schema() {
        for number in ["0", "-1", "+1", "1.5", ".5", "1e3", "0x1F", "0o17", ".inf", "-.inf", ".nan"]
        {
            assert_eq!(meaning(number), Meaning::Number, "{number}");
        }
        for text in ["nan", "inf", "infinity", "1.2.3", "v1", "yes", "on", "0x", "1_000", "-", "."]
        {
            assert_eq!(meaning(text), Meaning::Text, "{text}");
        }
    }

    #[test]
    fn whole_numbers() {
        assert_eq!(whole(&plain("0")).ok(), Some(0));
        assert_eq!(whole(&plain("4294967295")).ok(), Some(u32::MAX));
        for (text, code) in [
            ("1.5", "SP0401"),
            ("1e3", "SP0401"),
            (".inf", "SP0401"),
            ("-1", "SP0402"),
            ("10%", "SP0403"),
            ("4294967296", "SP0405"),
            ("99999999999999999999999", "SP0405"),
            ("007", "SP0406"),
            ("0x10", "SP0406"),
            ("+5", "SP0406"),
            ("1_000", "SP0406"),
            ("many", "SP0203"),
            ("", "SP0203"),
        ] {
            assert_eq!(whole(&plain(text)).expect_err(text).code.id, code, "{text}");
        }
        let quoted = Scalar { text: Cow::Borrowed("80"), quoted: true };
        assert_eq!(whole(&quoted).expect_err("quoted").code.id, "SP0404");
    }
}
