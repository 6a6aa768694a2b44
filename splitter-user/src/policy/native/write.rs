//! A policy as canonical native YAML.
//!
//! Canonical means: one spelling for one meaning, keys in the order of `docs/policy.md`, defaults
//! left out, addresses and free strings in quotes.

use std::fmt::{self, Display, Formatter};
use std::ops::RangeInclusive;

use super::health::{DEFAULT_STATUSES, start_word};
use super::old_connections::value as old_connections_value;
use super::rate::Rate;
use super::subset::CLIENT_KEYS;
use super::values::{Duration, Percent};
use super::write_egress::outbound_to_yaml;
use crate::policy::document::{API_VERSION, KIND};
use crate::policy::model::{
    Action, Balance, CgroupName, ClientKey, ClientMatch, Connection, Datagrams, Ejection, Errno,
    Fault, Frontend, HealthCheck, Keepalive, OldConnections, OnBackendDown, OnEmpty, OverLimit,
    PeerName, Pick, Policy, Probe, Protocol, Route, Service, Split, Subset,
};
use crate::policy::scalar::{Meaning, meaning};

/// Writes a policy as a stream of documents that loads to the same policy.
pub fn policy_to_yaml(policy: &Policy) -> String {
    let services = policy.services.iter().map(to_yaml);
    let outbound = policy.outbound.iter().map(outbound_to_yaml);
    services.chain(outbound).collect::<Vec<_>>().join("---\n")
}

/// Writes a service as a document that loads to the same service.
pub fn to_yaml(service: &Service) -> String {
    Yaml(service).to_string()
}

impl Display for Frontend {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.protocol)
    }
}

impl Display for Protocol {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl Display for ClientKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let word = CLIENT_KEYS.iter().find(|(_, key)| key == self);
        f.write_str(word.map_or("", |(word, _)| word))
    }
}

struct Yaml<'a>(&'a Service);

impl Display for Yaml<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let service = self.0;
        writeln!(f, "apiVersion: {API_VERSION}\nkind: {KIND}\nmetadata:")?;
        match service.name.split_once('/') {
            Some((namespace, name)) => {
                writeln!(f, "  name: {}\n  namespace: {}", Name(name), Name(namespace))?;
            }
            None => writeln!(f, "  name: {}", Name(&service.name))?,
        }
        writeln!(f, "spec:\n  frontends:")?;
        for frontend in &service.frontends {
            writeln!(f, "    - \"{frontend}\"")?;
        }
        if service.outcomes {
            writeln!(f, "  outcomes: true")?;
        }
        if service.old_connections != OldConnections::Leave {
            writeln!(f, "  oldConnections: {}", old_connections_value(&service.old_connections))?;
        }
        if service.on_backend_down == OnBackendDown::Close {
            writeln!(f, "  onBackendDown: close")?;
        }
        if service.getpeername == PeerName::Frontend {
            writeln!(f, "  getpeername: frontend")?;
        }
        if service.datagrams == Datagrams::Connected {
            writeln!(f, "  datagrams: connected")?;
        }
        if !service.subsets.is_empty() {
            writeln!(f, "  subsets:")?;
        }
        for subset in &service.subsets {
            write_subset(f, subset)?;
        }
        writeln!(f, "  routes:")?;
        for route in &service.routes {
            write_route(f, service, route)?;
        }
        Ok(())
    }
}

fn write_subset(f: &mut Formatter<'_>, subset: &Subset) -> fmt::Result {
    writeln!(f, "    {}:", Name(&subset.name))?;
    if subset.backends.is_empty() {
        writeln!(f, "      backends: []")?;
    } else {
        writeln!(f, "      backends:")?;
    }
    for backend in &subset.backends {
        match backend.weight {
            1 => writeln!(f, "        - \"{}\"", backend.addr)?,
            weight => {
                writeln!(f, "        - {{address: \"{}\", weight: {weight}}}", backend.addr)?;
            }
        }
    }
    match subset.balance {
        Balance::RoundRobin => {}
        Balance::LeastConnections => writeln!(f, "      balance: leastConnections")?,
        Balance::Random => writeln!(f, "      balance: random")?,
        Balance::ClientHash(key) => writeln!(f, "      balance: {{clientHash: {key}}}")?,
    }
    for (key, value) in connection_values(&subset.connection) {
        writeln!(f, "      {key}: {value}")?;
    }
    if let Some(eject) = &subset.eject {
        writeln!(f, "      eject: {}", eject_value(eject))?;
    }
    match &subset.health {
        Some(check) => writeln!(f, "      health: {}", health_value(check)),
        None => Ok(()),
    }
}

/// Keys and their values.
pub(super) type Values = Vec<(&'static str, String)>;

/// A mapping in braces.
pub(super) struct Mapping(pub(super) Values);

impl Display for Mapping {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> =
            self.0.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        write!(f, "{{{}}}", pairs.join(", "))
    }
}

/// The keys of a subset about its connections that say something, in the words of the policy.
pub(crate) fn connection_values(asked: &Connection) -> Values {
    let time = |ms: u32| Duration(ms).to_string();
    let values = [
        ("maxConnections", asked.max_connections.map(|n| n.to_string())),
        ("maxPending", asked.max_pending.map(|n| n.to_string())),
        ("overLimit", over_limit(asked.over_limit)),
        ("avoidPrevious", asked.avoid_previous.map(|key| key.to_string())),
        ("requireListener", asked.require_listener.then(|| "true".to_owned())),
        ("connectTimeout", asked.connect_timeout_ms.map(time)),
        ("keepalive", asked.keepalive.map(|it| Mapping(keepalive_values(it)).to_string())),
        ("idleTimeout", asked.idle_timeout_ms.map(time)),
        ("maxLifetime", asked.max_lifetime_ms.map(time)),
        ("congestionControl", asked.congestion_control.map(|it| Name(&it.to_string()).to_string())),
        ("pacingRate", asked.pacing_rate.map(|rate| Rate(rate).to_string())),
        ("mark", asked.mark.map(|mark| format!("{mark:#x}"))),
        ("source", asked.source.map(|source| Quoted(&source.to_string()).to_string())),
    ];
    values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

fn over_limit(over_limit: OverLimit) -> Option<String> {
    match over_limit {
        OverLimit::Spill => Some("spill".to_owned()),
        OverLimit::Reject(errno) if errno == Errno::REFUSED => None,
        OverLimit::Reject(errno) => Some(errno.name.to_owned()),
    }
}

fn keepalive_values(keepalive: Keepalive) -> Values {
    let time = |seconds: u16| Duration(u32::from(seconds) * 1_000).to_string();
    let values = [
        ("probes", keepalive.probes.map(|n| n.to_string())),
        ("time", keepalive.time_s.map(time)),
        ("interval", keepalive.interval_s.map(time)),
    ];
    values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// The value of `eject`, without its defaults.
pub(crate) fn eject_value(eject: &Ejection) -> String {
    let all = |it: &Ejection| {
        [
            ("consecutiveFailures", it.consecutive_failures.to_string()),
            ("interval", Duration(it.interval_ms).to_string()),
            ("baseTime", Duration(it.base_time_ms).to_string()),
            ("maxPercent", it.max_percent.to_string()),
            ("minHealthPercent", it.min_health_percent.to_string()),
        ]
    };
    let pairs = all(eject).into_iter().zip(all(&Ejection::default()));
    let asked = pairs.filter(|(value, default)| value != default).map(|(value, _)| value);
    Mapping(asked.collect()).to_string()
}

/// The value of `health`, without its defaults.
pub(crate) fn health_value(check: &HealthCheck) -> String {
    let all = |it: &HealthCheck| {
        [
            ("port", it.port.map_or_else(String::new, |port| port.to_string())),
            ("interval", Duration(it.interval_ms).to_string()),
            ("timeout", Duration(it.timeout_ms).to_string()),
            ("healthyThreshold", it.healthy_threshold.to_string()),
            ("unhealthyThreshold", it.unhealthy_threshold.to_string()),
            ("jitter", format!("{}%", it.jitter_percent)),
            ("start", start_word(it.starts_unhealthy).to_owned()),
        ]
    };
    let pairs = all(check).into_iter().zip(all(&HealthCheck::new(Probe::Tcp)));
    let asked = pairs.filter(|(value, default)| value != default).map(|(value, _)| value);
    Mapping(std::iter::once(probe_value(&check.probe)).chain(asked).collect()).to_string()
}

fn probe_value(probe: &Probe) -> (&'static str, String) {
    match probe {
        Probe::Tcp => ("tcp", Mapping(Vec::new()).to_string()),
        Probe::Http { path, host, statuses } => {
            let default = [DEFAULT_STATUSES];
            let statuses = (*statuses != default).then(|| show_statuses(statuses));
            let values = [
                ("path", Some(Quoted(path).to_string())),
                ("host", host.as_ref().map(|host| Quoted(host).to_string())),
                ("status", statuses),
            ];
            let given = values.into_iter().filter_map(|(key, value)| Some((key, value?)));
            ("http", Mapping(given.collect()).to_string())
        }
        Probe::Command { program, arguments } => {
            let words = std::iter::once(program).chain(arguments);
            let words: Vec<String> = words.map(|word| Quoted(word).to_string()).collect();
            ("command", Mapping(vec![("exec", format!("[{}]", words.join(", ")))]).to_string())
        }
    }
}

fn show_statuses(statuses: &[RangeInclusive<u16>]) -> String {
    let show = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    format!("[{}]", statuses.iter().map(show).collect::<Vec<_>>().join(", "))
}

fn write_route(f: &mut Formatter<'_>, service: &Service, route: &Route) -> fmt::Result {
    // Always named, so that a route keeps its name when others are put before it.
    writeln!(f, "    - name: {}", Name(&route.name))?;
    if !route.matches.is_empty() {
        writeln!(f, "      match:")?;
    }
    for client in &route.matches {
        write_match(f, client)?;
    }
    match &route.action {
        Action::Split(split) => write_split(f, service, split)?,
        Action::Reject(errno) => writeln!(f, "      reject: {}", errno.name)?,
        Action::Pass => writeln!(f, "      pass: true")?,
    }
    let faults = fault_values(&route.fault);
    if !faults.is_empty() {
        writeln!(f, "      fault:")?;
    }
    faults.iter().try_for_each(|(key, value)| writeln!(f, "        {key}: {value}"))
}

/// The faults of a route, in the words of the policy.
pub(crate) fn fault_values(fault: &Fault) -> Values {
    let Fault { abort, delay, bandwidth, blackhole, stall, seed } = fault;
    let with = |ppm: u32, rest: Option<(&'static str, String)>| {
        let percent = ("percent", Percent(ppm).to_string());
        Mapping(std::iter::once(percent).chain(rest).collect()).to_string()
    };
    let values = [
        ("abort", abort.map(|it| with(it.ppm, Some(("errno", it.errno.name.to_owned()))))),
        ("delay", delay.map(|it| with(it.ppm, Some(("time", Duration(it.ms).to_string()))))),
        ("bandwidth", bandwidth.map(|it| with(it.ppm, Some(("rate", Rate(it.rate).to_string()))))),
        ("blackhole", blackhole.map(|it| with(it.ppm, None))),
        ("stall", stall.map(|it| with(it.ppm, Some(("after", it.after.to_string()))))),
        ("seed", seed.map(|seed| seed.to_string())),
    ];
    values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

fn write_match(f: &mut Formatter<'_>, client: &ClientMatch) -> fmt::Result {
    writeln!(f, "        - {}", Mapping(match_values(client)))
}

/// The fields of a match that are given, in the words of the policy.
pub(crate) fn match_values(client: &ClientMatch) -> Values {
    let ClientMatch { uid, gid, command, cgroup, netns, mark, tos } = client;
    let values = [
        ("uid", uid.map(|uid| uid.to_string())),
        ("gid", gid.map(|gid| gid.to_string())),
        ("command", command.as_ref().map(|command| Quoted(command).to_string())),
        cgroup_value(cgroup.as_ref()),
        ("netns", netns.as_ref().map(|netns| Quoted(&netns.to_string()).to_string())),
        ("mark", mark.map(|mark| mark.to_string())),
        ("tos", tos.map(|tos| format!("{tos:#x}"))),
    ];
    values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

fn cgroup_value(name: Option<&CgroupName>) -> (&'static str, Option<String>) {
    let value = name.map(|name| Quoted(name.value()).to_string());
    (name.map_or("", CgroupName::key), value)
}

fn write_split(f: &mut Formatter<'_>, service: &Service, split: &Split) -> fmt::Result {
    writeln!(f, "      split:")?;
    for (ordinal, weight) in &split.weights {
        if let Some(subset) = service.subsets.get(*ordinal) {
            writeln!(f, "        {}: {weight}", Name(&subset.name))?;
        }
    }
    match split.pick {
        Pick::Exact => {}
        Pick::Random => writeln!(f, "      pick: random")?,
        Pick::Affinity(key) => writeln!(f, "      affinity: {key}")?,
    }
    match split.on_empty {
        OnEmpty::Reject => Ok(()),
        OnEmpty::Spill => writeln!(f, "      onEmpty: spill"),
    }
}

/// A name, in quotes where YAML of any version would read something else than a string.
struct Name<'a>(&'a str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let is_old_bool = matches!(self.0, "y" | "n" | "yes" | "no" | "on" | "off");
        let begins_plain = self.0.starts_with(|c: char| c.is_ascii_lowercase());
        if begins_plain && !is_old_bool && meaning(self.0) == Meaning::Text {
            f.write_str(self.0)
        } else {
            Display::fmt(&Quoted(self.0), f)
        }
    }
}

/// A string in double quotes. The model's strings hold no control characters.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}
