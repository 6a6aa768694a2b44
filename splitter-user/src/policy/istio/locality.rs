//! `trafficPolicy.loadBalancer.localityLbSetting`: which servers are near. Servers are chosen
//! wherever they are, so that what is right by Istio's rules is said to have no meaning here.

use crate::policy::fields::{Field, read as field};
use crate::policy::reader::{Entry, Fields, Reader};
use crate::policy::yaml::NodeId;

const ELSEWHERE: &str = "servers are chosen wherever they are: give those nearby more `weight`, or \
                         make subsets of them";
const HUNDRED: u32 = 100;

/// `LocalityLoadBalancerSetting`.
const TABLE: &[Field] =
    &[field("distribute"), field("failover"), field("failoverPriority"), field("enabled")];

/// `LocalityLoadBalancerSetting.Distribute`.
const DISTRIBUTE: &[Field] = &[field("from"), field("to")];

/// `LocalityLoadBalancerSetting.Failover`.
const FAILOVER: &[Field] = &[field("from"), field("to")];

/// Checks the setting. One that is turned off asks for nothing.
pub(super) fn check(reader: &mut Reader<'_>, entry: Entry<'_>) {
    let (is_on, is_good) = reader.watch(|reader| {
        let fields = reader.object(entry.value, "the locality setting", TABLE)?;
        check_distribute(reader, &fields);
        check_failover(reader, &fields);
        let enabled = fields.value("enabled").map(|node| reader.boolean(node, "`enabled`"));
        Some(enabled.flatten() != Some(false))
    });
    if is_good && is_on == Some(true) {
        reader.meaningless(entry, ELSEWHERE);
    }
}

/// Checks the setting of zones, of which nothing is checked.
pub(super) fn check_zone_aware(reader: &mut Reader<'_>, entry: Entry<'_>) {
    if reader.entries(entry.value, "the zone setting").is_some() {
        reader.meaningless(entry, ELSEWHERE);
    }
}

fn check_distribute(reader: &mut Reader<'_>, fields: &Fields<'_>) {
    let help = "delete one of the two";
    reader.exclude(fields, ["distribute", "failover"], help);
    reader.exclude(fields, ["distribute", "failoverPriority"], help);
    let nodes = fields.value("distribute").map_or(&[][..], |n| reader.items(n, "`distribute`"));
    for node in nodes {
        let Some(share) = reader.object(*node, "an entry of `distribute`", DISTRIBUTE) else {
            continue;
        };
        if let Some(node) = share.value("from") {
            reader.string(node, "`from`");
        }
        if let Some(node) = share.value("to") {
            check_shares(reader, node);
        }
    }
}

fn check_shares(reader: &mut Reader<'_>, node: NodeId) {
    let entries = reader.entries(node, "`to`").unwrap_or_default();
    let (shares, is_good) = reader.watch(|reader| {
        let read = |entry: &Entry<'_>| reader.number(entry.value, "a share");
        entries.iter().filter_map(read).collect::<Vec<_>>()
    });
    let sum: u64 = shares.iter().map(|share| u64::from(*share)).sum();
    let are_shares = shares.iter().all(|share| (1..=HUNDRED).contains(share));
    if is_good && !(are_shares && sum == u64::from(HUNDRED)) {
        let message = "the shares of `to` are not from 1 to 100 with a sum of 100";
        reader.out_of_range(reader.span(node), message, "write shares such as 80 and 20");
    }
}

fn check_failover(reader: &mut Reader<'_>, fields: &Fields<'_>) {
    let nodes = fields.value("failover").map_or(&[][..], |node| reader.items(node, "`failover`"));
    for node in nodes {
        let Some(pair) = reader.object(*node, "an entry of `failover`", FAILOVER) else { continue };
        for name in ["from", "to"] {
            if let Some(node) = pair.value(name) {
                reader.string(node, "a region");
            }
        }
    }
    if let Some(node) = fields.value("failoverPriority") {
        reader.strings(node, "`failoverPriority`");
    }
}
