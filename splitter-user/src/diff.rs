//! What differs between two policies, in the words of the policy.
//!
//! Only the models are compared: spelling, order of documents and places in files do not count.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use crate::policy::model::{
    Action, Balance, CgroupName, ClientMatch, Datagrams, OnBackendDown, OnEmpty, Outbound,
    PeerName, Pick, Policy, Route, Service, Split, Subset,
};
use crate::policy::native::{
    connection_values, egress_values, eject_value, fault_values, health_value, match_values,
    old_connections_value,
};

/// What differs: services in the order of their names, and what clients may reach besides them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// None where the services mean the same.
    pub services: Vec<ServiceDifference>,
    /// Parts of what clients may reach besides the services; none where that is the same.
    #[serde(default)]
    pub outbound: Vec<Edit>,
}

impl Difference {
    /// Whether the policies mean the same.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.outbound.is_empty()
    }
}

/// How one service differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDifference {
    /// Name of the service.
    pub name: String,
    /// What happened to it.
    pub change: Change,
    /// Its parts that differ; all of them for a service that was added or removed.
    pub edits: Vec<Edit>,
}

/// What happened to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The old policy does not have it.
    Added,
    /// The new policy does not have it.
    Removed,
    /// Both have it.
    Changed,
}

/// One aspect of one part of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// The part: `service`, `subset v1`, `route everybody`, `egress of every client`.
    pub part: String,
    /// The aspect, by its key in the policy; owned only where it was read from JSON.
    pub key: Cow<'static, str>,
    /// Every value that differs.
    pub values: Vec<Value>,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// Which of several: a subset's name, an address. Empty where there is only one.
    pub name: String,
    /// `null` where it was not there.
    pub old: Option<String>,
    /// `null` where it is not there any more.
    pub new: Option<String>,
}

/// Compares two policies.
pub fn diff(old: &Policy, new: &Policy) -> Difference {
    let outbound = diff_outbound(&old.outbound, &new.outbound);
    Difference { outbound, ..diff_services(&old.services, &new.services) }
}

/// Compares what clients may reach besides services.
pub fn diff_outbound(old: &[Outbound], new: &[Outbound]) -> Vec<Edit> {
    edits(describe_outbound(old), describe_outbound(new))
}

/// Compares services with those of the same names.
pub fn diff_services<'a>(
    old: impl IntoIterator<Item = &'a Service>,
    new: impl IntoIterator<Item = &'a Service>,
) -> Difference {
    let mut pairs: BTreeMap<&str, [Option<&Service>; 2]> = BTreeMap::new();
    for service in old {
        pairs.entry(&service.name).or_default()[0] = Some(service);
    }
    for service in new {
        pairs.entry(&service.name).or_default()[1] = Some(service);
    }
    let services = pairs.into_iter().filter_map(|(name, [old, new])| {
        let edits =
            edits(old.map(describe).unwrap_or_default(), new.map(describe).unwrap_or_default());
        let change = match (old, new) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            _ => Change::Changed,
        };
        (!edits.is_empty()).then(|| ServiceDifference { name: name.to_owned(), change, edits })
    });
    Difference { services: services.collect(), outbound: Vec::new() }
}

/// A service as a list of aspects; those of two services are compared part by part, key by key.
type Aspects = Vec<Aspect>;

/// One aspect of one part, with its values in order.
struct Aspect {
    part: String,
    key: &'static str,
    values: Vec<(String, String)>,
    /// Whether the order of the values means something.
    ordered: bool,
    /// What goes without saying where the whole part is new or gone.
    default: Option<&'static str>,
}

impl Aspect {
    /// A single value.
    fn one(part: &str, key: &'static str, value: &str, default: Option<&'static str>) -> Self {
        let values = vec![(String::new(), value.to_owned())];
        Self { part: part.to_owned(), key, values, ordered: false, default }
    }

    /// Named values.
    fn many(part: &str, key: &'static str, values: Vec<(String, String)>) -> Self {
        Self { part: part.to_owned(), key, values, ordered: false, default: None }
    }

    /// Names whose order matters.
    fn order(part: &str, key: &'static str, names: impl Iterator<Item = String>) -> Self {
        let values = names.map(|name| (name, String::new())).collect();
        Self { ordered: true, ..Self::many(part, key, values) }
    }
}

fn describe(service: &Service) -> Aspects {
    let part = "service";
    let frontends = service.frontends.iter().map(|frontend| (frontend.to_string(), String::new()));
    let peer = match service.getpeername {
        PeerName::Backend => "backend",
        PeerName::Frontend => "frontend",
    };
    let datagrams = match service.datagrams {
        Datagrams::All => "all",
        Datagrams::Connected => "connected",
    };
    let old_connections = old_connections_value(&service.old_connections);
    let on_backend_down = match service.on_backend_down {
        OnBackendDown::Leave => "leave",
        OnBackendDown::Close => "close",
    };
    let subsets = service.subsets.iter().map(|subset| subset.name.clone());
    let routes = service.routes.iter().map(|route| route.name.clone());
    let mut aspects = vec![
        Aspect::many(part, "frontends", frontends.collect()),
        Aspect::one(part, "getpeername", peer, Some("backend")),
        Aspect::one(part, "datagrams", datagrams, Some("all")),
        Aspect::one(part, "oldConnections", &old_connections, Some("leave")),
        Aspect::one(part, "onBackendDown", on_backend_down, Some("leave")),
        Aspect::order(part, "subsets", subsets),
        Aspect::order(part, "routes", routes),
    ];
    aspects.extend(service.subsets.iter().flat_map(describe_subset));
    aspects.extend(service.routes.iter().flat_map(|route| describe_route(service, route)));
    aspects
}

fn describe_subset(subset: &Subset) -> Aspects {
    let part = format!("subset {}", subset.name);
    let backends = subset.backends.iter();
    let backends = backends.map(|b| (b.addr.to_string(), format!("weight {}", b.weight)));
    let balance = match subset.balance {
        Balance::RoundRobin => "roundRobin".to_owned(),
        Balance::LeastConnections => "leastConnections".to_owned(),
        Balance::Random => "random".to_owned(),
        Balance::ClientHash(key) => format!("clientHash {key}"),
    };
    let mut aspects = vec![
        Aspect { ordered: true, ..Aspect::many(&part, "backends", backends.collect()) },
        Aspect::one(&part, "balance", &balance, Some("roundRobin")),
    ];
    let asked = connection_values(&subset.connection);
    aspects.extend(asked.iter().map(|(key, value)| Aspect::one(&part, key, value, None)));
    let eject = subset.eject.as_ref().map(eject_value);
    aspects.extend(eject.map(|value| Aspect::one(&part, "eject", &value, None)));
    let health = subset.health.as_ref().map(health_value);
    aspects.extend(health.map(|value| Aspect::one(&part, "health", &value, None)));
    aspects
}

fn describe_route(service: &Service, route: &Route) -> Aspects {
    let part = format!("route {}", route.name);
    let matches = route.matches.iter().map(describe_match);
    let mut aspects = vec![Aspect::order(&part, "match", matches)];
    match &route.action {
        Action::Pass => aspects.push(Aspect::one(&part, "pass", "true", None)),
        Action::Reject(errno) => aspects.push(Aspect::one(&part, "reject", errno.name, None)),
        Action::Split(split) => aspects.extend(describe_split(service, &part, split)),
    }
    let faults = fault_values(&route.fault);
    if !faults.is_empty() {
        let faults = faults.into_iter().map(|(key, value)| (key.to_owned(), value));
        aspects.push(Aspect::many(&part, "fault", faults.collect()));
    }
    aspects
}

fn describe_split(service: &Service, part: &str, split: &Split) -> Aspects {
    let weight = |(i, weight): &(usize, u32)| {
        let subset = service.subsets.get(*i).map_or(String::new(), |subset| subset.name.clone());
        (subset, weight.to_string())
    };
    let pick = match split.pick {
        Pick::Exact => "exact".to_owned(),
        Pick::Random => "random".to_owned(),
        Pick::Affinity(key) => format!("affinity {key}"),
    };
    let on_empty = match split.on_empty {
        OnEmpty::Reject => "reject",
        OnEmpty::Spill => "spill",
    };
    vec![
        Aspect::many(part, "split", split.weights.iter().map(weight).collect()),
        Aspect::one(part, "pick", &pick, Some("exact")),
        Aspect::one(part, "onEmpty", on_empty, Some("reject")),
    ]
}

/// Rules are known by their clients: a policy has no names for them.
fn describe_outbound(outbound: &[Outbound]) -> Aspects {
    let clients = |rule: &Outbound| match rule.cgroups[..] {
        [] => "every client".to_owned(),
        _ => rule.cgroups.iter().map(CgroupName::value).collect::<Vec<_>>().join(" "),
    };
    let said = |rule: &Outbound| {
        let part = format!("egress of {}", clients(rule));
        let values = egress_values(rule).into_iter();
        values.map(move |(key, value)| Aspect::one(&part, key, &value, None)).collect::<Vec<_>>()
    };
    let order = Aspect::order("egress", "clients", outbound.iter().map(clients));
    std::iter::once(order).chain(outbound.iter().flat_map(said)).collect()
}

fn describe_match(client: &ClientMatch) -> String {
    let fields = match_values(client).into_iter().map(|(key, value)| format!("{key}: {value}"));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
}

fn edits(old: Aspects, new: Aspects) -> Vec<Edit> {
    let mut edits = Vec::new();
    let mut rest = new;
    for old in old {
        let same = |new: &Aspect| (&new.part, new.key) == (&old.part, old.key);
        let new = rest.iter().position(same).map(|i| rest.remove(i));
        edits.extend(edit(Some(old), new));
    }
    edits.extend(rest.into_iter().filter_map(|new| edit(None, Some(new))));
    edits
}

/// How one aspect differs, if it does.
fn edit(old: Option<Aspect>, new: Option<Aspect>) -> Option<Edit> {
    let Aspect { part, key, ordered, default, .. } = old.as_ref().or(new.as_ref())?;
    let (part, key, ordered, default) = (part.clone(), *key, *ordered, *default);
    let is_in_both = old.is_some() && new.is_some();
    let (old, new) = (old.map_or(vec![], |a| a.values), new.map_or(vec![], |a| a.values));
    let mut values = differing(&old, &new);
    if !is_in_both {
        values.retain(|value| value.old.as_deref().or(value.new.as_deref()) != default);
    }
    if values.is_empty() && is_in_both && ordered && old != new {
        values.push(Value {
            name: "order".to_owned(),
            old: Some(names(&old)),
            new: Some(names(&new)),
        });
    }
    (!values.is_empty()).then_some(Edit { part, key: key.into(), values })
}

fn names(values: &[(String, String)]) -> String {
    let names: Vec<&str> = values.iter().map(|(name, _)| name.as_str()).collect();
    names.join(" ")
}

/// Values by their names, those of the old ones first.
fn differing(old: &[(String, String)], new: &[(String, String)]) -> Vec<Value> {
    let get = |values: &[(String, String)], wanted: &str| {
        values.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
    };
    let added = new.iter().filter(|(name, _)| get(old, name).is_none());
    let names = old.iter().chain(added).map(|(name, _)| name);
    let value =
        |name: &String| Value { name: name.clone(), old: get(old, name), new: get(new, name) };
    names.map(value).filter(|value| value.old != value.new).collect()
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.services.iter().try_for_each(|service| write!(f, "{service}"))?;
        self.outbound.iter().try_for_each(|edit| writeln!(f, "~ {edit}"))
    }
}

impl Display for ServiceDifference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sign = match self.change {
            Change::Added => '+',
            Change::Removed => '-',
            Change::Changed => '~',
        };
        writeln!(f, "{sign} service {}", self.name)?;
        // A service that goes says enough by its name.
        let shown = if self.change == Change::Removed { &[][..] } else { &self.edits };
        shown.iter().try_for_each(|edit| writeln!(f, "    {edit}"))
    }
}

impl Display for Edit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: ", self.part, self.key)?;
        let values: Vec<String> = self.values.iter().map(Value::to_string).collect();
        f.write_str(&values.join(", "))
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let named = |sign: &str, value: &str| {
            let parts = [self.name.as_str(), value];
            let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            format!("{sign}{}", parts.join(" "))
        };
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => f.write_str(&named("", &format!("{old} -> {new}"))),
            (None, Some(new)) => f.write_str(&named("+", new)),
            (Some(old), None) => f.write_str(&named("-", old)),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::arbitrary::policy;
    use crate::policy::{Source, load};

    /// The order in which a split names its subsets means nothing.
    fn normal(mut policy: Policy) -> Policy {
        for route in policy.services.iter_mut().flat_map(|service| &mut service.routes) {
            if let Action::Split(split) = &mut route.action {
                split.weights.sort_unstable();
            }
        }
        policy
    }

    #[test]
    fn what_connections_are_asked_is_told_by_its_keys() {
        let policy = |subset: &str, fault: &str, mode: &str| {
            let text = format!(
                "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: web}}\nspec:\n  \
                 frontends: [\"127.10.0.1:80\"]\n  subsets: {{v1: {{backends: \
                 [\"127.0.0.1:80\"], {subset}}}}}\n  routes: [{{split: {{v1: 1}}, fault: \
                 {{{fault}}}}}]\n---\napiVersion: splitter.dev/v1\nkind: Egress\nmetadata: \
                 {{name: web}}\nspec: {{mode: {mode}}}\n"
            );
            load(&[Source::new("-", text).degraded()]).expect("valid").policy
        };
        let abort = "abort: {percent: 1, errno: EACCES}";
        let old = policy("idleTimeout: 60s, eject: {}", abort, "allowAny");
        let fault = "abort: {percent: 1.5, errno: EACCES}, delay: {percent: 100, time: 1500ms}";
        let new = policy("keepalive: {time: 1m}, eject: {maxPercent: 50}", fault, "registryOnly");
        let told = "~ service web\n    \
                    subset v1, idleTimeout: -1m\n    \
                    subset v1, eject: {} -> {maxPercent: 50}\n    \
                    route route-1, fault: abort {percent: 1, errno: EACCES} -> \
                    {percent: 1.5, errno: EACCES}, +delay {percent: 100, time: 1500ms}\n    \
                    subset v1, keepalive: +{time: 1m}\n\
                    ~ egress of every client, mode: allowAny -> registryOnly\n";
        assert_eq!(diff(&old, &new).to_string(), told);
    }

    proptest! {
        #[test]
        fn nothing_differs_where_everything_is_equal(policy in policy()) {
            prop_assert!(diff(&policy, &normal(policy.clone())).is_empty());
        }

        #[test]
        fn what_differs_is_told(old in policy(), new in policy()) {
            let equal = normal(old.clone()) == normal(new.clone());
            prop_assert_eq!(diff(&old, &new).is_empty(), equal);
        }

        #[test]
        fn the_way_back_is_as_long(old in policy(), new in policy()) {
            let there = diff(&old, &new).services;
            let back = diff(&new, &old).services;
            prop_assert_eq!(there.len(), back.len());
            for (there, back) in there.iter().zip(&back) {
                prop_assert_eq!(&there.name, &back.name);
                prop_assert_eq!(there.edits.len(), back.edits.len());
            }
        }

        #[test]
        fn one_weight_is_one_edit(policy in policy(), weight in 1_000_u32..2_000) {
            let mut new = policy.clone();
            let mut routes = new.services.iter_mut().flat_map(|service| &mut service.routes);
            let split = routes.find_map(|route| match &mut route.action {
                Action::Split(split) => Some(split),
                _ => None,
            });
            prop_assume!(split.is_some());
            split.unwrap().weights[0].1 = weight;
            let difference = diff(&policy, &new);
            prop_assert_eq!(difference.services.len(), 1);
            prop_assert_eq!(difference.services[0].edits.len(), 1);
            prop_assert_eq!(difference.services[0].edits[0].values.len(), 1);
        }
    }
}
