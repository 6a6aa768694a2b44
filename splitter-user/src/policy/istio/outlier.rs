//! `trafficPolicy.outlierDetection`: when a server that fails is left alone for a while.
//!
//! A connection fails when it is refused or times out. Istio counts that, for servers that do not
//! speak HTTP, with the HTTP errors; it is all that is counted here.

use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::fields::{Field, meaningless, read as field};
use crate::policy::mesh::resource::At;
use crate::policy::model::Ejection;
use crate::policy::reader::{Entry, Fields, Reader};

/// `OutlierDetection`.
const TABLE: &[Field] = &[
    field("consecutiveErrors"),
    field("splitExternalLocalOriginErrors"),
    field("consecutiveLocalOriginFailures"),
    field("consecutiveGatewayErrors"),
    field("consecutive5xxErrors"),
    field("interval"),
    field("baseEjectionTime"),
    field("maxEjectionPercent"),
    field("minHealthPercent"),
    meaningless("outlierDetectionHttpErrorCodes", "HTTP statuses are not seen: delete it"),
];

/// Reads the block. One that counts nothing ejects none.
pub(super) fn read(reader: &mut Reader<'_>, entry: Entry<'_>) -> Option<At<Ejection>> {
    let fields = reader.object(entry.value, "the outlier detection", TABLE)?;
    let (ejection, is_good) = reader.watch(|reader| {
        let consecutive = read_consecutive(reader, &fields);
        read_ejection(reader, &fields, consecutive)
    });
    if !is_good {
        return None;
    }
    Some(At { value: ejection, at: reader.span(entry.value) })
}

/// `consecutive` is the number of failures that eject; `None` where they are not counted.
fn read_ejection(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    consecutive: Option<u32>,
) -> Ejection {
    let defaults = Ejection::default();
    let max_percent = read_percent(reader, fields, "maxEjectionPercent");
    Ejection {
        consecutive_failures: consecutive.unwrap_or(defaults.consecutive_failures),
        interval_ms: read_time(reader, fields, "interval").unwrap_or(defaults.interval_ms),
        base_time_ms: read_time(reader, fields, "baseEjectionTime")
            .unwrap_or(defaults.base_time_ms),
        max_percent: match consecutive {
            Some(_) => max_percent.unwrap_or(defaults.max_percent),
            None => 0,
        },
        min_health_percent: read_percent(reader, fields, "minHealthPercent")
            .unwrap_or(defaults.min_health_percent),
    }
}

/// The least number of failures in a row that ejects. 0 turns a counter off.
fn read_consecutive(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<u32> {
    let [server, gateway, local] =
        ["consecutive5xxErrors", "consecutiveGatewayErrors", "consecutiveLocalOriginFailures"]
            .map(|name| read_count(reader, fields, name));
    let server = server.or_else(|| read_deprecated(reader, fields));
    let default = Ejection::default().consecutive_failures;
    let counters = if is_split(reader, fields) {
        [Some(local.unwrap_or(default)), None]
    } else {
        [Some(server.unwrap_or(default)), gateway]
    };
    counters.into_iter().flatten().filter(|count| *count > 0).min()
}

/// Whether failures to connect have a counter of their own.
fn is_split(reader: &mut Reader<'_>, fields: &Fields<'_>) -> bool {
    let split = fields.value("splitExternalLocalOriginErrors");
    let split = split.map(|node| reader.boolean(node, "`splitExternalLocalOriginErrors`"));
    let is_split = split.flatten().unwrap_or(false);
    if let Some(entry) = fields.get("consecutiveLocalOriginFailures").filter(|_| !is_split) {
        let message = format!("`{}` is not counted by itself", entry.name);
        let help = "write `splitExternalLocalOriginErrors: true` beside it, or \
                    `consecutive5xxErrors` instead";
        reader.push(Diagnostic::new(&code::MISSING_KEY, entry.key, message).with_help(help));
    }
    is_split
}

fn read_deprecated(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<u32> {
    let entry = fields.get("consecutiveErrors")?;
    reader.deprecated(entry, "write `consecutive5xxErrors`");
    reader.int32(entry.value, "`consecutiveErrors`")
}

fn read_count(reader: &mut Reader<'_>, fields: &Fields<'_>, name: &str) -> Option<u32> {
    reader.number(fields.value(name)?, &format!("`{name}`"))
}

fn read_time(reader: &mut Reader<'_>, fields: &Fields<'_>, name: &str) -> Option<u32> {
    reader.duration_ms(fields.value(name)?, &format!("`{name}`"))
}

fn read_percent(reader: &mut Reader<'_>, fields: &Fields<'_>, name: &str) -> Option<u8> {
    let node = fields.value(name)?;
    let number = reader.number(node, &format!("`{name}`"))?;
    if number > 100 {
        let message = format!("{number} is not a percentage for `{name}`");
        let at = reader.span(node);
        let diagnostic = Diagnostic::new(&code::BAD_PERCENTAGE, at, message);
        reader.push(diagnostic.with_help("write a number from 0 to 100"));
        return None;
    }
    u8::try_from(number).ok()
}
