//! `oldConnections` of a service: what becomes of connections that the policy would not make any
//! more.

use super::route::exclusive;
use super::values::{Duration, number_in};
use super::write::Mapping;
use crate::policy::model::OldConnections;
use crate::policy::parse_duration_ms;
use crate::policy::reader::{Entry, Reader};
use crate::policy::yaml::{NodeId, Value};

const WORDS: [(&str, OldConnections); 3] = [
    ("leave", OldConnections::Leave),
    ("drain", OldConnections::DRAIN),
    ("rebalance", OldConnections::REBALANCE),
];
const HELP: &str = "write `oldConnections: {drain: {deadline: 30s}}`, \
                    `{rebalance: {perSecond: 10, idle: 10s}}`, or `leave`";

/// Reads a word, or a mapping with one of `drain` and `rebalance`.
pub(super) fn read(reader: &mut Reader<'_>, entry: Entry<'_>) -> Option<OldConnections> {
    let Value::Mapping(_) = reader.value(entry.value) else {
        return reader.word(entry.value, "a value of `oldConnections`", &WORDS);
    };
    let keys = ["drain", "rebalance"];
    let fields = reader.fields(entry.value, "`oldConnections`", &keys)?;
    match (fields.get("drain"), fields.get("rebalance")) {
        (Some(drain), Some(rebalance)) => {
            let help = "keep one: `rebalance` closes connections of a subset without weight too, \
                        as they become idle";
            exclusive(reader, drain, rebalance, help);
            None
        }
        (Some(drain), None) => read_drain(reader, drain.value),
        (None, Some(rebalance)) => read_rebalance(reader, rebalance.value),
        (None, None) => {
            if !fields.may_mean(&keys) {
                reader.empty(reader.span(entry.value), "`oldConnections`", HELP);
            }
            None
        }
    }
}

fn read_drain(reader: &mut Reader<'_>, node: NodeId) -> Option<OldConnections> {
    if !matches!(reader.value(node), Value::Mapping(_)) {
        // A time is mostly meant.
        let time = reader.text(node).filter(|text| parse_duration_ms(text).is_some());
        let help = format!("write `drain: {{deadline: {}}}`", time.unwrap_or("30s"));
        return reader.wrong_type(node, "`drain`", "a mapping", &help);
    }
    let fields = reader.fields(node, "`drain`", &["deadline"])?;
    let Some(node) = fields.value("deadline") else { return Some(OldConnections::DRAIN) };
    let deadline_ms = reader.duration_ms(node, "`deadline`")?;
    Some(OldConnections::Drain { deadline_ms })
}

fn read_rebalance(reader: &mut Reader<'_>, node: NodeId) -> Option<OldConnections> {
    if !matches!(reader.value(node), Value::Mapping(_)) {
        let help = "write `rebalance: {perSecond: 10, idle: 10s}`, or `oldConnections: rebalance`";
        return reader.wrong_type(node, "`rebalance`", "a mapping", help);
    }
    let fields = reader.fields(node, "`rebalance`", &["perSecond", "idle"])?;
    let OldConnections::Rebalance { per_second, idle_ms } = OldConnections::REBALANCE else {
        return None;
    };
    let rate = fields.value("perSecond");
    let rate = rate.map(|node| number_in(reader, node, "perSecond", 1..=u32::MAX));
    let idle = fields.value("idle").map(|node| reader.duration_ms(node, "`idle`"));
    Some(OldConnections::Rebalance {
        per_second: rate.unwrap_or(Some(per_second))?,
        idle_ms: idle.unwrap_or(Some(idle_ms))?,
    })
}

/// The value in the words of the policy; of one with every default, the word alone.
pub(crate) fn value(old: &OldConnections) -> String {
    if let Some((word, _)) = WORDS.iter().find(|(_, known)| known == old) {
        return (*word).to_owned();
    }
    let (key, values) = match *old {
        OldConnections::Leave => ("leave", Vec::new()),
        OldConnections::Drain { deadline_ms } => {
            ("drain", vec![("deadline", Duration(deadline_ms).to_string())])
        }
        OldConnections::Rebalance { per_second, idle_ms } => {
            let idle = Duration(idle_ms).to_string();
            ("rebalance", vec![("perSecond", per_second.to_string()), ("idle", idle)])
        }
    };
    Mapping(vec![(key, Mapping(values).to_string())]).to_string()
}
