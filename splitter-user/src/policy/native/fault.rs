//! `fault` of a route: failures made on purpose.

use super::rate;
use super::route::read_errno;
use super::values::{large_number, number_in, share_ppm};
use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::model::{Abort, Bandwidth, Blackhole, Delay, Fault, MAX_STALL, Stall};
use crate::policy::reader::{Entry, Fields, Reader};
use crate::policy::yaml::NodeId;

const KEYS: [&str; 6] = ["abort", "delay", "bandwidth", "blackhole", "stall", "seed"];
/// Those that a connection without a backend cannot have.
const OF_PACKETS: [&str; 3] = ["bandwidth", "blackhole", "stall"];
const HELP: &str = "write `abort: {percent: 10, errno: ECONNREFUSED}`, \
                    `delay: {percent: 5, time: 100ms}`, \
                    `bandwidth: {percent: 5, rate: 100kB/s}`, `blackhole: {percent: 1}` or \
                    `stall: {percent: 1, after: 1000}`";

/// Reads all faults. `None` where one is wrong.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId) -> Option<Fault> {
    let fields = reader.fields(node, "`fault`", &KEYS)?;
    let [faults @ .., _] = KEYS;
    if faults.iter().all(|key| fields.get(key).is_none()) && !fields.has_unknown() {
        let message = match fields.get("seed") {
            Some(_) => "`fault` has a `seed`, and no fault that it could be for",
            None => "`fault` is empty",
        };
        let diagnostic = Diagnostic::new(&code::EMPTY, fields.span(), message);
        reader.push(diagnostic.with_help(HELP));
        return None;
    }
    let mut parts = Parts { fields: &fields, are_good: true };
    let fault = Fault {
        abort: parts.read(reader, "abort", read_abort),
        delay: parts.read(reader, "delay", read_delay),
        bandwidth: parts.read(reader, "bandwidth", read_bandwidth),
        blackhole: parts.read(reader, "blackhole", read_blackhole),
        stall: parts.read(reader, "stall", read_stall),
        seed: parts.read(reader, "seed", |reader, node| large_number(reader, node, "seed")),
    };
    parts.are_good.then_some(fault)
}

/// The parts of a fault, and whether those that were read are good.
struct Parts<'a> {
    fields: &'a Fields<'a>,
    are_good: bool,
}

impl Parts<'_> {
    fn read<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &str,
        read: impl FnOnce(&mut Reader<'_>, NodeId) -> Option<T>,
    ) -> Option<T> {
        let part = read(reader, self.fields.value(key)?);
        self.are_good &= part.is_some();
        part
    }
}

/// Reports faults that a route which does something else than to split cannot make.
pub(super) fn check_split(reader: &mut Reader<'_>, fault: NodeId, action: Entry<'_>) {
    for key in OF_PACKETS {
        if let Some(node) = reader.peek(fault, key) {
            let at = reader.span(node);
            let message = format!("`{key}` makes no sense beside `{}`", action.name);
            let help = format!("delete `{key}`: it is done to packets that go to a backend");
            reader.push(
                Diagnostic::new(&code::ONLY_WITH_SPLIT, at, message)
                    .with_secondary(action.key, "this route does not split")
                    .with_help(help),
            );
        }
    }
}

/// `percent`, which all of them have.
fn read_share(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<u32> {
    let percent = reader.required(fields, "percent", "write `percent: 10`")?;
    share_ppm(reader, percent)
}

fn read_abort(reader: &mut Reader<'_>, node: NodeId) -> Option<Abort> {
    let fields = reader.fields(node, "`abort`", &["percent", "errno"])?;
    let ppm = read_share(reader, &fields);
    let errno = reader.required(&fields, "errno", "write `errno: ECONNREFUSED`");
    let errno = errno.and_then(|node| read_errno(reader, node, "errno"));
    Some(Abort { ppm: ppm?, errno: errno? })
}

fn read_delay(reader: &mut Reader<'_>, node: NodeId) -> Option<Delay> {
    let fields = reader.fields(node, "`delay`", &["percent", "time"])?;
    let ppm = read_share(reader, &fields);
    let time = reader.required(&fields, "time", "write `time: 100ms`");
    let ms = time.and_then(|node| reader.duration_ms(node, "`time`"));
    Some(Delay { ppm: ppm?, ms: ms? })
}

fn read_bandwidth(reader: &mut Reader<'_>, node: NodeId) -> Option<Bandwidth> {
    let fields = reader.fields(node, "`bandwidth`", &["percent", "rate"])?;
    let ppm = read_share(reader, &fields);
    let rate = reader.required(&fields, "rate", "write `rate: 100kB/s`");
    let rate = rate.and_then(|node| rate::read(reader, node, "rate"));
    Some(Bandwidth { ppm: ppm?, rate: rate? })
}

fn read_blackhole(reader: &mut Reader<'_>, node: NodeId) -> Option<Blackhole> {
    let fields = reader.fields(node, "`blackhole`", &["percent"])?;
    Some(Blackhole { ppm: read_share(reader, &fields)? })
}

fn read_stall(reader: &mut Reader<'_>, node: NodeId) -> Option<Stall> {
    let fields = reader.fields(node, "`stall`", &["percent", "after"])?;
    let ppm = read_share(reader, &fields);
    let after = reader.required(&fields, "after", "write `after: 0`, a number of bytes");
    let after = after.and_then(|node| number_in(reader, node, "after", 0..=MAX_STALL));
    Some(Stall { ppm: ppm?, after: after? })
}
