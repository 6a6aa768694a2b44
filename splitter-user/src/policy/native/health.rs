//! `health` of a subset: how it is found out whether its backends serve.

use std::ops::RangeInclusive;

use super::route::exclusive;
use super::values::number_in;
use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::model::{HealthCheck, Probe};
use crate::policy::reader::{Entry, Fields, Reader};
use crate::policy::words::quote;
use crate::policy::yaml::{NodeId, Value};

/// Statuses that are good where the text names none.
pub(super) const DEFAULT_STATUSES: RangeInclusive<u16> = 200..=299;

/// Statuses that end an exchange, as servers have them. Those below 200 are interim.
const STATUSES: RangeInclusive<u16> = 200..=599;
const PROBES: [&str; 3] = ["tcp", "http", "command"];
const KEYS: [&str; 10] = [
    "tcp",
    "http",
    "command",
    "port",
    "interval",
    "timeout",
    "healthyThreshold",
    "unhealthyThreshold",
    "jitter",
    "start",
];
/// What a backend is before its first verdict, and whether that is unhealthy.
const STARTS: [(&str, bool); 2] = [("healthy", false), ("unhealthy", true)];

/// The word of `start`.
pub(super) fn start_word(starts_unhealthy: bool) -> &'static str {
    STARTS.iter().find(|(_, known)| *known == starts_unhealthy).map_or("", |(word, _)| word)
}

/// Reads `health`. `None` where what is probed cannot be read; other wrong values are left out.
pub(super) fn read(reader: &mut Reader<'_>, health: Entry<'_>) -> Option<HealthCheck> {
    let fields = &reader.fields(health.value, "`health`", &KEYS)?;
    let probe = read_probe(reader, fields);
    let port = fields.value("port").and_then(|node| reader.port(node));
    let interval = read_time(reader, fields, "interval");
    let timeout = read_time(reader, fields, "timeout");
    let healthy = read_threshold(reader, fields, "healthyThreshold");
    let unhealthy = read_threshold(reader, fields, "unhealthyThreshold");
    let jitter = fields.value("jitter").and_then(|node| read_jitter(reader, node));
    let start = fields.value("start");
    let start = start.and_then(|node| reader.word(node, "a value of `start`", &STARTS));
    let default = HealthCheck::new(probe?);
    Some(HealthCheck {
        port,
        interval_ms: interval.unwrap_or(default.interval_ms),
        timeout_ms: timeout.unwrap_or(default.timeout_ms),
        healthy_threshold: healthy.unwrap_or(default.healthy_threshold),
        unhealthy_threshold: unhealthy.unwrap_or(default.unhealthy_threshold),
        jitter_percent: jitter.unwrap_or(default.jitter_percent),
        starts_unhealthy: start.unwrap_or(default.starts_unhealthy),
        ..default
    })
}

fn read_time(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &str) -> Option<u32> {
    reader.duration_ms(fields.value(key)?, &format!("`{key}`"))
}

fn read_threshold(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &str) -> Option<u32> {
    number_in(reader, fields.value(key)?, key, 1..=u32::MAX)
}

/// A whole number of percent, with its sign: a plain number would be read as milliseconds by some.
fn read_jitter(reader: &mut Reader<'_>, node: NodeId) -> Option<u8> {
    let text = match reader.value(node) {
        Value::Scalar(scalar) => scalar.text.as_ref(),
        _ => return reader.wrong_type(node, "`jitter`", "a percentage", "write `10%`"),
    };
    let digits = text.strip_suffix('%').filter(|digits| is_digits(digits));
    let percent = digits.and_then(|digits| digits.parse().ok()).filter(|percent| *percent <= 100);
    if percent.is_none() {
        let at = reader.span(node);
        let message = format!("{} is not a percentage for `jitter`", quote(text));
        let help = "write a whole number from 0 to 100 and its sign: `10%`";
        reader.push(Diagnostic::new(&code::BAD_PERCENTAGE, at, message).with_help(help));
    }
    percent
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Exactly one of the kinds.
fn read_probe(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Probe> {
    let mut given = PROBES.iter().filter_map(|name| fields.get(name));
    let Some(probe) = given.next() else {
        if !fields.may_mean(&PROBES) {
            let message = "`health` does not say what is probed";
            let help = "add one of `tcp: {}`, `http: {path: /healthz}`, \
                        `command: {exec: [/usr/bin/check]}`";
            reader.push(Diagnostic::new(&code::NO_PROBE, fields.span(), message).with_help(help));
        }
        return None;
    };
    if let Some(second) = given.next() {
        exclusive(reader, second, probe, "keep one; a command can try several things");
        return None;
    }
    match probe.name {
        "tcp" if !matches!(reader.value(probe.value), Value::Mapping(_)) => {
            reader.wrong_type(probe.value, "`tcp`", "a mapping", "write `tcp: {}`")
        }
        "tcp" => reader.fields(probe.value, "`tcp`", &[]).map(|_| Probe::Tcp),
        "http" => read_http(reader, probe.value),
        _ => read_command(reader, probe.value),
    }
}

fn read_http(reader: &mut Reader<'_>, node: NodeId) -> Option<Probe> {
    let fields = &reader.fields(node, "`http`", &["path", "host", "status"])?;
    let path = reader.required(fields, "path", "write `path: /healthz`");
    let path = path.and_then(|node| read_path(reader, node));
    let host = fields.value("host").map(|node| read_host(reader, node));
    let statuses = match fields.value("status") {
        Some(node) => read_statuses(reader, node),
        None => Some(vec![DEFAULT_STATUSES]),
    };
    Some(Probe::Http {
        path: path?,
        host: host.map_or(Some(None), |it| it.map(Some))?,
        statuses: statuses?,
    })
}

/// Whether a text can stand in a line of a request.
fn is_one_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn read_path(reader: &mut Reader<'_>, node: NodeId) -> Option<String> {
    let path = reader.string(node, "the path of a request")?;
    if path.starts_with('/') && is_one_word(path) && !path.contains('#') {
        return Some(path.to_owned());
    }
    let at = reader.span(node);
    let message = format!("{} is not a path of a request", quote(path));
    let help = "begin it with `/`, and write spaces, `#` and what is not ASCII as `%20`, `%23` \
                and the like";
    reader.push(Diagnostic::new(&code::BAD_PATH, at, message).with_help(help));
    None
}

fn read_host(reader: &mut Reader<'_>, node: NodeId) -> Option<String> {
    let host = reader.string(node, "the host of a request")?;
    if is_one_word(host) && !host.contains(['/', '@', '?', '#']) {
        return Some(host.to_owned());
    }
    let at = reader.span(node);
    let message = format!("{} is not a host of a request", quote(host));
    let help = "write a name or an address, with a port where one is needed: `shop.example:8080`";
    reader.push(Diagnostic::new(&code::BAD_HOST, at, message).with_help(help));
    None
}

/// One status or range, or a list of them.
fn read_statuses(reader: &mut Reader<'_>, node: NodeId) -> Option<Vec<RangeInclusive<u16>>> {
    let one = [node];
    let nodes = match reader.value(node) {
        Value::Scalar(_) if !reader.is_null(node) => &one,
        _ => reader.list(node, "`status`", "write `[200, 204-299]`")?,
    };
    if nodes.is_empty() {
        reader.empty(reader.span(node), "`status`", "list at least one status, such as `200`");
        return None;
    }
    let ranges: Vec<_> = nodes.iter().map(|node| read_status(reader, *node)).collect();
    ranges.into_iter().collect()
}

fn read_status(reader: &mut Reader<'_>, node: NodeId) -> Option<RangeInclusive<u16>> {
    let text = match reader.value(node) {
        Value::Scalar(scalar) => scalar.text.as_ref(),
        _ => return reader.wrong_type(node, "a status", "a number or a range", "write `200`"),
    };
    let number = |text: &str| {
        let number = text.parse().ok().filter(|_| is_digits(text));
        number.filter(|number| STATUSES.contains(number))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    if let (Some(first), Some(last)) = (number(first), number(last))
        && first <= last
    {
        return Some(first..=last);
    }
    let at = reader.span(node);
    let message = format!("{} is not a status, nor a range of them", quote(text));
    let help = "write a number from 200 to 599, or two of them, the smaller one first: `204-299`";
    reader.push(Diagnostic::new(&code::BAD_STATUS, at, message).with_help(help));
    None
}

fn read_command(reader: &mut Reader<'_>, node: NodeId) -> Option<Probe> {
    const HELP: &str = "write `exec: [\"/usr/bin/check\", \"--quick\"]`";
    let fields = &reader.fields(node, "`command`", &["exec"])?;
    let node = reader.required(fields, "exec", HELP)?;
    let nodes = reader.list(node, "`exec`", HELP)?;
    if nodes.is_empty() {
        reader.empty(reader.span(node), "`exec`", HELP);
    }
    let words: Vec<_> = nodes.iter().map(|node| read_argument(reader, *node)).collect();
    let mut words = words.into_iter().collect::<Option<Vec<_>>>()?.into_iter();
    let program = words.next()?.to_owned();
    if !program.starts_with('/') {
        let at = nodes.first().map_or(reader.span(node), |node| reader.span(*node));
        let message = format!("{} is not the absolute path of a program", quote(&program));
        let help = "write the whole path, such as `/usr/bin/check`: neither a shell nor `PATH` is \
                    asked";
        reader.push(Diagnostic::new(&code::BAD_PROGRAM, at, message).with_help(help));
        return None;
    }
    Some(Probe::Command { program, arguments: words.map(str::to_owned).collect() })
}

fn read_argument<'a>(reader: &mut Reader<'a>, node: NodeId) -> Option<&'a str> {
    let word = reader.string(node, "a word of `exec`")?;
    if !word.contains(char::is_control) {
        return Some(word);
    }
    let at = reader.span(node);
    let message = format!("{} has a control character", quote(word));
    let help = "put what needs it into a script, and name that";
    reader.push(Diagnostic::new(&code::BAD_ARGUMENT, at, message).with_help(help));
    None
}
