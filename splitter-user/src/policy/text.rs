//! Bytes to text: encodings and characters that no policy may hold.
//!
//! UTF-8 with or without a byte-order mark is accepted, with any line ends. What follows in
//! `yaml` may rely on text that holds no control characters but tabs and line ends.

use super::code;
use super::diagnostic::{Diagnostic, Span};

/// Largest source in bytes; a policy of 100,000 services is about 30 MB.
pub(super) const MAX_SOURCE_BYTES: usize = 64 << 20;

const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The text of a source and the number of bytes of the byte-order mark before it.
pub(super) fn decode(bytes: &[u8], source: u32) -> Result<(&str, u32), Box<Diagnostic>> {
    check_size(bytes, source)?;
    check_utf16(bytes, source)?;
    let text = str::from_utf8(bytes).map_err(|error| not_utf8(bytes, error, source))?;
    check_characters(text, source)?;
    match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) => Ok((rest, 3)),
        None => Ok((text, 0)),
    }
}

fn check_size(bytes: &[u8], source: u32) -> Result<(), Box<Diagnostic>> {
    if bytes.len() <= MAX_SOURCE_BYTES {
        return Ok(());
    }
    let message =
        format!("the file has {} bytes; at most {MAX_SOURCE_BYTES} are read", bytes.len());
    let start = Span { source, line: 1, column: 1, ..Span::default() };
    Err(Box::new(
        Diagnostic::new(&code::SOURCE_TOO_LARGE, start, message)
            .with_help("spread the services over several files and pass them all"),
    ))
}

/// Recognizes UTF-16 by its byte-order mark, or by a NUL beside the first character.
fn check_utf16(bytes: &[u8], source: u32) -> Result<(), Box<Diagnostic>> {
    let (name, offset) = match bytes {
        [0xff, 0xfe, ..] => ("UTF-16LE", 0),
        [0xfe, 0xff, ..] => ("UTF-16BE", 0),
        [first, 0, second, 0, ..] if *first != 0 && *second != 0 => ("UTF-16LE", 1),
        [0, first, 0, second, ..] if *first != 0 && *second != 0 => ("UTF-16BE", 0),
        _ => return Ok(()),
    };
    let at = Span { source, start: offset, end: offset + 1, line: 1, column: offset + 1 };
    let message = format!("the file is {name}, as byte {offset} shows; policies are UTF-8");
    Err(Box::new(
        Diagnostic::new(&code::UTF16, at, message)
            .with_help(format!("convert it: `iconv -f {name} -t UTF-8 FILE`")),
    ))
}

fn not_utf8(bytes: &[u8], error: std::str::Utf8Error, source: u32) -> Box<Diagnostic> {
    let offset = error.valid_up_to();
    let valid = bytes.get(..offset).unwrap_or_default();
    // `valid_up_to` is the length of the prefix that is UTF-8.
    let prefix = str::from_utf8(valid).unwrap_or_default();
    let len = error.error_len().unwrap_or(bytes.len() - offset);
    let byte = bytes.get(offset).copied().unwrap_or_default();
    let message = format!("the file is not UTF-8: byte {offset} (counted from 0) is 0x{byte:02x}");
    Box::new(
        Diagnostic::new(&code::NOT_UTF8, span_after(prefix, len, source), message)
            .with_help("save the file as UTF-8, or convert it: `iconv -f LATIN1 -t UTF-8 FILE`"),
    )
}

fn check_characters(text: &str, source: u32) -> Result<(), Box<Diagnostic>> {
    let Some(offset) = text.bytes().position(is_forbidden) else { return Ok(()) };
    let (prefix, rest) = text.split_at(offset);
    let byte = rest.bytes().next().unwrap_or_default();
    let message = format!("control character 0x{byte:02x} at byte {offset} (counted from 0)");
    Err(Box::new(
        Diagnostic::new(&code::CONTROL_CHARACTER, span_after(prefix, 1, source), message)
            .with_help("delete it: policies are plain text"),
    ))
}

fn is_forbidden(byte: u8) -> bool {
    (byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r')) || byte == 0x7f
}

/// The place of the `len` bytes that follow `prefix`.
fn span_after(prefix: &str, len: usize, source: u32) -> Span {
    let line_start = prefix.rfind(['\n', '\r']).map_or(0, |position| position + 1);
    let breaks = prefix.matches(['\n', '\r']).count() - prefix.matches("\r\n").count();
    let column = prefix[line_start..].chars().filter(|c| *c != '\u{feff}').count();
    Span {
        source,
        start: clamp(prefix.len()),
        end: clamp(prefix.len() + len),
        line: clamp(breaks + 1),
        column: clamp(column + 1),
    }
}

/// Offsets fit because sources are smaller than [`MAX_SOURCE_BYTES`].
pub(super) fn clamp(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}
