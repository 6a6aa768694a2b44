//! Keys of a subset that are options of its sockets.

use super::rate;
use super::values::number_in;
use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::model::{CongestionControl, Connection};
use crate::policy::reader::{Fields, Reader};
use crate::policy::words::quote;
use crate::policy::yaml::{NodeId, Scalar, Value};

/// The keys.
pub(super) const KEYS: [&str; 4] = ["congestionControl", "pacingRate", "mark", "source"];

/// Reads the options into what is asked of connections; wrong values are left out.
pub(super) fn read(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    connection: Connection,
) -> Connection {
    let [congestion_control, pacing_rate, mark, source] = KEYS.map(|key| fields.value(key));
    Connection {
        congestion_control: congestion_control.and_then(|node| read_congestion(reader, node)),
        pacing_rate: pacing_rate.and_then(|node| rate::read(reader, node, "pacingRate")),
        mark: mark.and_then(|node| read_mark(reader, node)),
        source: source.and_then(|node| reader.ip(node)),
        ..connection
    }
}

fn read_congestion(reader: &mut Reader<'_>, node: NodeId) -> Option<CongestionControl> {
    let name = reader.string(node, "`congestionControl`")?;
    let found = CongestionControl::new(name);
    if found.is_none() {
        let (message, help) = if name == CongestionControl::REFUSED {
            let message = format!("the kernel lets no hook choose {}", quote(name));
            (message, "write another, such as `cubic`")
        } else {
            let message = format!("{} is not the name of a congestion control", quote(name));
            (message, "write 1 to 15 characters of a-z, 0-9, _ and -, such as `bbr`")
        };
        let at = reader.span(node);
        reader.push(Diagnostic::new(&code::BAD_CONGESTION, at, message).with_help(help));
    }
    found
}

/// A number, which by custom is hexadecimal.
fn read_mark(reader: &mut Reader<'_>, node: NodeId) -> Option<u32> {
    let digits = match reader.value(node) {
        Value::Scalar(Scalar { text, quoted: false }) => text.strip_prefix("0x"),
        _ => None,
    };
    let is_hexadecimal =
        |digits: &&str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let Some(digits) = digits.filter(is_hexadecimal) else {
        return number_in(reader, node, "mark", 1..=u32::MAX);
    };
    let mark = u32::from_str_radix(digits, 16).ok().filter(|mark| *mark > 0);
    if mark.is_none() {
        let at = reader.span(node);
        let message = format!("`mark` is not between 1 and {:#x}: 0x{digits:.20}", u32::MAX);
        let help = "write a mark such as `0x2a`, or leave it out for none";
        reader.push(Diagnostic::new(&code::OUT_OF_RANGE, at, message).with_help(help));
    }
    mark
}
