//! `fault` of a route: failures made on purpose.

use super::route::read_errno;
use super::values::share_ppm;
use crate::policy::model::{Abort, Delay, Fault};
use crate::policy::reader::Reader;
use crate::policy::yaml::NodeId;

const HELP: &str = "write `abort: {percent: 10, errno: ECONNREFUSED}` or \
                    `delay: {percent: 5, time: 100ms}`";

/// Reads both faults. `None` where one is wrong.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId) -> Option<Fault> {
    let fields = reader.fields(node, "`fault`", &["abort", "delay"])?;
    if fields.is_empty() && !fields.has_unknown() {
        reader.empty(fields.span(), "`fault`", HELP);
        return None;
    }
    let (abort, delay) = (fields.get("abort"), fields.get("delay"));
    let read_abort = abort.map(|entry| read_abort(reader, entry.value));
    let read_delay = delay.map(|entry| read_delay(reader, entry.value));
    let is_complete = read_abort != Some(None) && read_delay != Some(None);
    let fault = Fault { abort: read_abort.flatten(), delay: read_delay.flatten() };
    is_complete.then_some(fault)
}

fn read_abort(reader: &mut Reader<'_>, node: NodeId) -> Option<Abort> {
    let fields = reader.fields(node, "`abort`", &["percent", "errno"])?;
    let percent = reader.required(&fields, "percent", "write `percent: 10`");
    let errno = reader.required(&fields, "errno", "write `errno: ECONNREFUSED`");
    let ppm = percent.and_then(|node| share_ppm(reader, node));
    let errno = errno.and_then(|node| read_errno(reader, node, "errno"));
    Some(Abort { ppm: ppm?, errno: errno? })
}

fn read_delay(reader: &mut Reader<'_>, node: NodeId) -> Option<Delay> {
    let fields = reader.fields(node, "`delay`", &["percent", "time"])?;
    let percent = reader.required(&fields, "percent", "write `percent: 10`");
    let time = reader.required(&fields, "time", "write `time: 100ms`");
    let ppm = percent.and_then(|node| share_ppm(reader, node));
    let ms = time.and_then(|node| reader.duration_ms(node, "`time`"));
    Some(Delay { ppm: ppm?, ms: ms? })
}
