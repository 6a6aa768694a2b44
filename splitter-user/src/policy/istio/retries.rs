//! `timeout` and `retries` of an http rule: what would be done to requests. Only turning them off
//! means the same for a connection.

use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::fields::{Field, read as field};
use crate::policy::reader::{Entry, Fields, Reader};

const TIMEOUT: &str = "limit the time of requests in the client or server";
const RETRIES: &str = "a connection is made once: retry in the client";

/// `HTTPRetry`.
const TABLE: &[Field] = &[
    field("attempts"),
    field("perTryTimeout"),
    field("retryOn"),
    field("retryRemoteLocalities"),
    field("retryIgnorePreviousHosts"),
    field("backoff"),
];

/// Checks `timeout`. None at all, `0s`, is what a connection has.
pub(super) fn check_timeout(reader: &mut Reader<'_>, entry: Entry<'_>) {
    if reader.text(entry.value) == Some("0s") {
        return;
    }
    if reader.duration_ms(entry.value, "`timeout`").is_some() {
        reader.meaningless(entry, TIMEOUT);
    }
}

/// Checks `retries`. No attempts, `attempts: 0`, is what a connection has.
pub(super) fn check(reader: &mut Reader<'_>, entry: Entry<'_>) {
    let Some(fields) = reader.object(entry.value, "the retries", TABLE) else { return };
    let attempts = match fields.value("attempts") {
        Some(node) => reader.int32(node, "`attempts`"),
        None => Some(0),
    };
    check_values(reader, &fields);
    match attempts {
        Some(0) => check_disabled(reader, &fields),
        Some(_) => reader.meaningless(entry, RETRIES),
        None => {}
    }
}

fn check_values(reader: &mut Reader<'_>, fields: &Fields<'_>) {
    for name in ["perTryTimeout", "backoff"] {
        if let Some(node) = fields.value(name) {
            reader.duration_ms(node, &format!("`{name}`"));
        }
    }
    for name in ["retryRemoteLocalities", "retryIgnorePreviousHosts"] {
        if let Some(node) = fields.value(name) {
            reader.boolean(node, &format!("`{name}`"));
        }
    }
    if let Some(node) = fields.value("retryOn") {
        reader.string(node, "`retryOn`");
    }
}

fn check_disabled(reader: &mut Reader<'_>, fields: &Fields<'_>) {
    let mut others = TABLE.iter().filter(|field| field.name != "attempts");
    if let Some(entry) = others.find_map(|field| fields.get(field.name)) {
        let message =
            format!("`{}` stands beside `attempts: 0`, which turns retries off", entry.name);
        reader.push(
            Diagnostic::new(&code::EXCLUSIVE_KEYS, entry.key, message)
                .with_help("keep `attempts: 0` alone"),
        );
    }
}
