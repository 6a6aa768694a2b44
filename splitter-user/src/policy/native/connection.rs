//! Keys of a subset that are about its connections and about backends that fail.

use super::options;
use super::route::read_errno;
use super::subset::CLIENT_KEYS;
use super::values::number_in;
use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::model::{Connection, Ejection, Keepalive, OverLimit};
use crate::policy::reader::{Fields, Reader};
use crate::policy::yaml::{NodeId, Value};

/// Most probes: the kernel's `MAX_TCP_KEEPCNT`.
const MAX_PROBES: u32 = 127;
/// Longest times in seconds: the kernel's `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL`.
const MAX_KEEPALIVE_S: u32 = 32_767;

/// Reads what is asked of the connections of a subset; wrong values are left out.
pub(super) fn read(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Connection {
    let keepalive = fields.value("keepalive");
    let avoids = fields.value("avoidPrevious");
    let listener = fields.value("requireListener");
    let connection = Connection {
        max_connections: read_limit(reader, fields, "maxConnections"),
        max_pending: read_limit(reader, fields, "maxPending"),
        over_limit: read_over_limit(reader, fields).unwrap_or_default(),
        avoid_previous: avoids.and_then(|node| {
            reader.word(node, "what a client is told from others by", &CLIENT_KEYS)
        }),
        require_listener: listener
            .and_then(|node| reader.boolean(node, "`requireListener`"))
            .unwrap_or_default(),
        connect_timeout_ms: read_time(reader, fields, "connectTimeout"),
        keepalive: keepalive.and_then(|node| read_keepalive(reader, node)),
        idle_timeout_ms: read_time(reader, fields, "idleTimeout"),
        max_lifetime_ms: read_time(reader, fields, "maxLifetime"),
        ..Connection::default()
    };
    options::read(reader, fields, connection)
}

fn read_limit(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &str) -> Option<u32> {
    number_in(reader, fields.value(key)?, key, 1..=u32::MAX)
}

/// `overLimit`: an errno or `spill`, of a subset that has a limit.
fn read_over_limit(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<OverLimit> {
    let entry = fields.get("overLimit")?;
    if fields.get("maxConnections").is_none() && fields.get("maxPending").is_none() {
        let message = "`overLimit` has no limit that it is about";
        let help = "write `maxConnections` or `maxPending` beside it, or leave it out";
        reader.push(Diagnostic::new(&code::ONLY_WITH_LIMIT, entry.key, message).with_help(help));
    }
    match reader.value(entry.value) {
        Value::Scalar(scalar) if scalar.text == "spill" => Some(OverLimit::Spill),
        _ => read_errno(reader, entry.value, "overLimit").map(OverLimit::Reject),
    }
}

fn read_time(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &str) -> Option<u32> {
    reader.duration_ms(fields.value(key)?, &format!("`{key}`"))
}

fn read_keepalive(reader: &mut Reader<'_>, node: NodeId) -> Option<Keepalive> {
    let fields = reader.fields(node, "`keepalive`", &["probes", "time", "interval"])?;
    let probes = fields.value("probes");
    let probes = probes.and_then(|node| number_in(reader, node, "probes", 1..=MAX_PROBES));
    Some(Keepalive {
        probes: probes.and_then(|probes| u8::try_from(probes).ok()),
        time_s: read_seconds(reader, &fields, "time"),
        interval_s: read_seconds(reader, &fields, "interval"),
    })
}

fn read_seconds(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &str) -> Option<u16> {
    let node = fields.value(key)?;
    let ms = reader.duration_ms(node, &format!("`{key}`"))?;
    let seconds = u16::try_from(ms / 1_000).ok().filter(|s| u32::from(*s) <= MAX_KEEPALIVE_S);
    if seconds.is_some() && ms.is_multiple_of(1_000) {
        return seconds;
    }
    let at = reader.span(node);
    let message = format!("`{key}` of `keepalive` is not a number of seconds that the kernel has");
    let help = format!("write whole seconds, from `1s` to `{MAX_KEEPALIVE_S}s`");
    reader.push(Diagnostic::new(&code::BAD_DURATION, at, message).with_help(help));
    None
}

/// Reads `eject`; `{}` takes every default.
pub(super) fn read_ejection(reader: &mut Reader<'_>, node: NodeId) -> Option<Ejection> {
    if !matches!(reader.value(node), Value::Mapping(_)) {
        let help = "write `eject: {}` for every default, or `eject: {consecutiveFailures: 3}`";
        return reader.wrong_type(node, "`eject`", "a mapping", help);
    }
    let keys = ["consecutiveFailures", "interval", "baseTime", "maxPercent", "minHealthPercent"];
    let fields = reader.fields(node, "`eject`", &keys)?;
    let failures = fields.value("consecutiveFailures");
    let failures =
        failures.and_then(|node| number_in(reader, node, "consecutiveFailures", 1..=u32::MAX));
    let default = Ejection::default();
    let max_percent = read_percent(reader, &fields, "maxPercent");
    let min_health_percent = read_percent(reader, &fields, "minHealthPercent");
    Some(Ejection {
        consecutive_failures: failures.unwrap_or(default.consecutive_failures),
        interval_ms: read_time(reader, &fields, "interval").unwrap_or(default.interval_ms),
        base_time_ms: read_time(reader, &fields, "baseTime").unwrap_or(default.base_time_ms),
        max_percent: max_percent.unwrap_or(default.max_percent),
        min_health_percent: min_health_percent.unwrap_or(default.min_health_percent),
    })
}

fn read_percent(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &str) -> Option<u8> {
    let number = number_in(reader, fields.value(key)?, key, 0..=100)?;
    u8::try_from(number).ok()
}
