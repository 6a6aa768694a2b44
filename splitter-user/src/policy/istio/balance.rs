//! `trafficPolicy.loadBalancer`: how a server of a subset is chosen.

use super::locality;
use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::fields::{Field, meaningless, read as field, unseen};
use crate::policy::mesh::resource::{At, LoadBalancer};
use crate::policy::reader::{Entry, Fields, Reader};

const KEY: &str = "a connection is made before its first request: write `useSourceIp: true`, which \
                   keeps a client at one server";
const WARMUP: &str = "new servers get their full share at once: raise the weight of a new subset \
                      in steps";
/// Envoy's limit of a Maglev table.
const MAX_TABLE: u32 = 5_000_011;

/// `LoadBalancerSettings`.
const TABLE: &[Field] = &[
    field("simple"),
    field("consistentHash"),
    field("localityLbSetting"),
    field("zoneAwareLbSetting"),
    meaningless("warmupDurationSecs", WARMUP),
    meaningless("warmup", WARMUP),
];

/// `LoadBalancerSettings.ConsistentHashLB`.
const HASH: &[Field] = &[
    unseen("httpHeaderName", KEY),
    unseen("httpCookie", KEY),
    field("useSourceIp"),
    unseen("httpQueryParameterName", KEY),
    field("ringHash"),
    field("maglev"),
    field("minimumRingSize"),
];

/// `ConsistentHashLB.RingHash`.
const RING: &[Field] = &[field("minimumRingSize")];

/// `ConsistentHashLB.MagLev`.
const MAGLEV: &[Field] = &[field("tableSize")];

/// `LoadBalancerSettings.SimpleLB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Simple {
    Unspecified,
    Random,
    Passthrough,
    RoundRobin,
    LeastRequest,
    LeastConn,
}

const SIMPLE: [(&str, Simple); 6] = [
    ("UNSPECIFIED", Simple::Unspecified),
    ("RANDOM", Simple::Random),
    ("PASSTHROUGH", Simple::Passthrough),
    ("ROUND_ROBIN", Simple::RoundRobin),
    ("LEAST_REQUEST", Simple::LeastRequest),
    ("LEAST_CONN", Simple::LeastConn),
];

/// Reads the block. One that does not choose leaves the choice open, and is in turn.
pub(super) fn read(reader: &mut Reader<'_>, entry: Entry<'_>) -> Option<At<LoadBalancer>> {
    let fields = reader.object(entry.value, "the load balancer", TABLE)?;
    reader.exclude(&fields, ["simple", "consistentHash"], "delete one of the two");
    reader.exclude(&fields, ["localityLbSetting", "zoneAwareLbSetting"], "delete one of the two");
    if let Some(setting) = fields.get("localityLbSetting") {
        locality::check(reader, setting);
    }
    if let Some(setting) = fields.get("zoneAwareLbSetting") {
        locality::check_zone_aware(reader, setting);
    }
    let value = match (fields.get("simple"), fields.get("consistentHash")) {
        (Some(simple), _) => read_simple(reader, simple)?,
        (None, Some(hash)) => read_hash(reader, hash)?,
        (None, None) => LoadBalancer::RoundRobin,
    };
    Some(At { value, at: reader.span(entry.value) })
}

fn read_simple(reader: &mut Reader<'_>, entry: Entry<'_>) -> Option<LoadBalancer> {
    let simple = reader.word(entry.value, "a load balancer", &SIMPLE)?;
    if simple == Simple::LeastConn {
        let message = "`LEAST_CONN` is deprecated";
        let at = reader.span(entry.value);
        let diagnostic = Diagnostic::new(&code::DEPRECATED, at, message);
        reader.push(diagnostic.with_help("write `LEAST_REQUEST`, which means the same"));
    }
    Some(match simple {
        Simple::Unspecified | Simple::RoundRobin => LoadBalancer::RoundRobin,
        Simple::Random => LoadBalancer::Random,
        Simple::Passthrough => LoadBalancer::Passthrough,
        Simple::LeastRequest | Simple::LeastConn => LoadBalancer::LeastRequest,
    })
}

fn read_hash(reader: &mut Reader<'_>, entry: Entry<'_>) -> Option<LoadBalancer> {
    let (fields, is_seen) = reader.watch(|r| r.object(entry.value, "the consistent hash", HASH));
    let fields = fields?;
    reader.exclude(&fields, ["ringHash", "maglev"], "delete one of the two");
    check_sizes(reader, &fields);
    let source = fields.value("useSourceIp").map(|node| reader.boolean(node, "`useSourceIp`"));
    let is_source = match source {
        Some(answer) => answer?,
        None => false,
    };
    if !is_source && is_seen {
        let help = "write `useSourceIp: true`";
        reader.missing(reader.span(entry.value), "the consistent hash", "useSourceIp", help);
    }
    is_source.then_some(LoadBalancer::Client)
}

/// Sizes change how many clients move when servers come and go. The table here has its own size.
fn check_sizes(reader: &mut Reader<'_>, fields: &Fields<'_>) {
    if let Some(entry) = fields.get("minimumRingSize") {
        reader.deprecated(entry, "write `ringHash: {minimumRingSize: 1024}`");
        reader.number(entry.value, "`minimumRingSize`");
    }
    if let Some(node) = fields.value("ringHash")
        && let Some(ring) = reader.object(node, "the ring hash", RING)
        && let Some(node) = ring.value("minimumRingSize")
    {
        reader.number(node, "`minimumRingSize`");
    }
    if let Some(node) = fields.value("maglev")
        && let Some(maglev) = reader.object(node, "the maglev hash", MAGLEV)
        && let Some(node) = maglev.value("tableSize")
        && let Some(size) = reader.number(node, "`tableSize`")
        && size != 0
        && !(size <= MAX_TABLE && is_prime(size))
    {
        let message = format!("{size} is not a size of a maglev table");
        let help = "write a prime number of at most 5000011, such as 65537";
        reader.out_of_range(reader.span(node), message, help);
    }
}

fn is_prime(number: u32) -> bool {
    let mut factors = (2..=number).take_while(|factor| factor * factor <= number);
    number >= 2 && factors.all(|factor| !number.is_multiple_of(factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes() {
        for prime in [2, 3, 5, 251, 65_537, 5_000_011] {
            assert!(is_prime(prime), "{prime}");
        }
        for number in [0, 1, 4, 9, 65_536, 5_000_009] {
            assert!(!is_prime(number), "{number}");
        }
    }
}
