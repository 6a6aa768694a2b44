//! `fault` of an http rule: failures made on purpose. They are made for connections here, where
//! Istio makes them for requests.

use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::fields::{Field, read as field, refused};
use crate::policy::mesh::resource::At;
use crate::policy::model::{Abort, Delay, Errno, Fault};
use crate::policy::reader::{Entry, Fields, Reader};
use crate::policy::yaml::NodeId;

/// Parts per million of one percent.
const PERCENT_PPM: u32 = 10_000;
/// HTTP statuses that Istio accepts.
const STATUSES: std::ops::RangeInclusive<u32> = 200..=600;
const STATUS: &str = "Istio refuses it too: write `httpStatus: 503`";
const FIXED: &str = "Istio refuses it too: write `fixedDelay: 5s`";

/// `HTTPFaultInjection`.
const TABLE: &[Field] = &[field("delay"), field("abort")];

/// `HTTPFaultInjection.Abort`.
const ABORT: &[Field] = &[
    field("httpStatus"),
    field("grpcStatus"),
    refused("http2Error", &code::IGNORED_BY_ISTIO, STATUS),
    field("percentage"),
];

/// `HTTPFaultInjection.Delay`.
const DELAY: &[Field] = &[
    field("percent"),
    field("fixedDelay"),
    refused("exponentialDelay", &code::IGNORED_BY_ISTIO, FIXED),
    field("percentage"),
];

/// `Percent`.
const PERCENTAGE: &[Field] = &[field("value")];

/// Codes that `grpcStatus` may be.
const GRPC: [(&str, ()); 17] = [
    ("OK", ()),
    ("CANCELLED", ()),
    ("UNKNOWN", ()),
    ("INVALID_ARGUMENT", ()),
    ("DEADLINE_EXCEEDED", ()),
    ("NOT_FOUND", ()),
    ("ALREADY_EXISTS", ()),
    ("PERMISSION_DENIED", ()),
    ("RESOURCE_EXHAUSTED", ()),
    ("FAILED_PRECONDITION", ()),
    ("ABORTED", ()),
    ("OUT_OF_RANGE", ()),
    ("UNIMPLEMENTED", ()),
    ("INTERNAL", ()),
    ("UNAVAILABLE", ()),
    ("DATA_LOSS", ()),
    ("UNAUTHENTICATED", ()),
];

/// Reads a fault. `None` where it makes no failure.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId) -> Option<Fault> {
    let fields = reader.object(node, "the fault", TABLE)?;
    if fields.is_empty() && !fields.has_unknown() {
        let help = "write an `abort` or a `delay`, or delete it";
        reader.empty(reader.span(node), "the fault", help);
    }
    let fault = Fault {
        abort: fields.get("abort").and_then(|entry| read_abort(reader, entry)),
        delay: fields.get("delay").and_then(|entry| read_delay(reader, entry)),
        ..Fault::default()
    };
    (fault != Fault::default()).then_some(fault)
}

fn read_abort(reader: &mut Reader<'_>, entry: Entry<'_>) -> Option<Abort> {
    let (answer, is_good) = reader.watch(|reader| {
        let fields = reader.object(entry.value, "the abort", ABORT)?;
        let has_status = check_status(reader, &fields);
        Some((has_status, read_share(reader, &fields)))
    });
    let (has_status, share) = answer.filter(|_| is_good)?;
    if !has_status {
        ineffective(reader, entry, "it has no status", "write `httpStatus: 503`");
        return None;
    }
    let ppm = effective(reader, entry, share)?;
    let message = "`abort` fails connections with ECONNREFUSED, where Istio answers requests";
    let help = "let the server answer with the status, where clients shall see one";
    reader.push(Diagnostic::new(&code::L7_POLICY, entry.key, message).with_help(help));
    let [errno, ..] = Errno::ALL;
    Some(Abort { ppm, errno })
}

/// Checks the statuses, and answers whether there is one.
fn check_status(reader: &mut Reader<'_>, fields: &Fields<'_>) -> bool {
    reader.exclude(fields, ["httpStatus", "grpcStatus"], "delete one of the two");
    if let Some(node) = fields.value("httpStatus")
        && let Some(status) = reader.number(node, "`httpStatus`")
        && !STATUSES.contains(&status)
    {
        let message = format!("{status} is not a status from 200 to 600");
        reader.out_of_range(reader.span(node), message, "write a status such as 503");
    }
    if let Some(node) = fields.value("grpcStatus") {
        reader.word(node, "a gRPC status", &GRPC);
    }
    fields.get("httpStatus").or(fields.get("grpcStatus")).is_some()
}

fn read_delay(reader: &mut Reader<'_>, entry: Entry<'_>) -> Option<Delay> {
    let (answer, is_good) = reader.watch(|reader| {
        let fields = reader.object(entry.value, "the delay", DELAY)?;
        let exponential = reader.peek(entry.value, "exponentialDelay");
        let ms = match fields.value("fixedDelay") {
            None if exponential.is_some() => None,
            None => {
                reader.required(&fields, "fixedDelay", "write `fixedDelay: 5s`");
                None
            }
            Some(node) => reader.duration_ms(node, "`fixedDelay`"),
        };
        let percent = fields.get("percent").and_then(|entry| read_percent(reader, entry));
        Some((ms, read_share(reader, &fields).or(percent)))
    });
    let (ms, share) = answer.filter(|_| is_good)?;
    let ppm = effective(reader, entry, share)?;
    Some(Delay { ppm, ms: ms? })
}

/// `percent`, in parts per million.
fn read_percent(reader: &mut Reader<'_>, entry: Entry<'_>) -> Option<At<u32>> {
    reader.deprecated(entry, "write `percentage: {value: 10}`");
    let value = reader.int32(entry.value, "`percent`")?;
    let at = reader.span(entry.value);
    if value > 100 {
        let message = format!("{value} is not a percentage for `percent`");
        let diagnostic = Diagnostic::new(&code::BAD_PERCENTAGE, at, message);
        reader.push(diagnostic.with_help("write a number from 0 to 100"));
        return None;
    }
    Some(At { value: value * PERCENT_PPM, at })
}

/// `percentage`, in parts per million; protobuf leaves its value out where it is 0.
fn read_share(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<At<u32>> {
    let node = fields.value("percentage")?;
    let fields = reader.object(node, "the percentage", PERCENTAGE)?;
    let value = match fields.value("value") {
        Some(node) => reader.percentage_ppm(node, "`percentage`")?,
        None => 0,
    };
    Some(At { value, at: reader.span(node) })
}

/// A share of more than nothing. One that is absent is 0 %, which is rarely meant.
fn effective(reader: &mut Reader<'_>, entry: Entry<'_>, share: Option<At<u32>>) -> Option<u32> {
    if share.is_none() {
        let why = "it has no `percentage`, which means 0 %";
        ineffective(reader, entry, why, "write `percentage: {value: 10}`");
    }
    share.map(|share| share.value).filter(|ppm| *ppm > 0)
}

fn ineffective(reader: &mut Reader<'_>, entry: Entry<'_>, why: &str, help: &str) {
    let message = format!("`{}` takes no connection: {why}", entry.name);
    reader.push(Diagnostic::new(&code::RULE_INEFFECTIVE, entry.key, message).with_help(help));
}
