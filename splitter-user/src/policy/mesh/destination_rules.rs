//! Which DestinationRule is in force for a client and a host.

use std::collections::HashMap;

use super::clients::Client;
use super::names::{covers, full_host, specificity};
use super::registry::Host;
use super::resource::{
    DestinationRule, LoadBalancer, Resources, RuleSubset, TcpSettings, TrafficPolicy,
};
use crate::policy::diagnostic::Span;
use crate::policy::model::Ejection;

/// The namespace whose rules hold where neither the client's nor the host's has one.
pub(super) const ROOT_NAMESPACE: &str = "istio-system";

/// All rules by namespace.
#[derive(Debug)]
pub(super) struct DestinationRules<'r> {
    by_namespace: HashMap<&'r str, Vec<(String, &'r DestinationRule)>>,
}

/// The rules of one host and namespace, which count as one. Empty where there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct InForce<'r> {
    rules: Vec<&'r DestinationRule>,
}

impl<'r> DestinationRules<'r> {
    pub(super) fn new(resources: &'r Resources) -> Self {
        let mut by_namespace: HashMap<&str, Vec<_>> = HashMap::new();
        for rule in &resources.destination_rules {
            let namespace = rule.meta.namespace.as_str();
            let host = full_host(&rule.host.value, namespace);
            by_namespace.entry(namespace).or_default().push((host, rule));
        }
        Self { by_namespace }
    }

    /// All rules of a namespace with the full names of their hosts.
    pub(super) fn all(&self) -> impl Iterator<Item = &(String, &'r DestinationRule)> {
        self.by_namespace.values().flatten()
    }

    /// The first of the client's namespace, the host's and the root namespace that has a rule for
    /// the host decides alone; in it, the exact name comes before the longest wildcard.
    pub(super) fn find(&self, client: &Client<'_>, host: &Host<'_>) -> InForce<'r> {
        let namespaces = [client.namespace(), Some(host.namespace), Some(ROOT_NAMESPACE)];
        let found = namespaces.into_iter().flatten().map(|name| self.of(name, client, host));
        found.into_iter().find(|found| !found.rules.is_empty()).unwrap_or_default()
    }

    fn of(&self, namespace: &str, client: &Client<'_>, host: &Host<'_>) -> InForce<'r> {
        let all = self.by_namespace.get(namespace).map_or(&[][..], Vec::as_slice);
        let is_own = client.namespace() == Some(namespace);
        let fits = |(pattern, rule): &&(String, &'r DestinationRule)| {
            let is_seen = is_own || client.sees(&rule.export);
            let selected = rule.workload_selector.as_ref();
            let is_selected = selected.is_none_or(|labels| is_own && client.has(labels));
            is_seen && is_selected && covers(pattern, &host.name)
        };
        // A rule for chosen clients is for them more than one for all.
        let rank = |(pattern, rule): &&(String, &'r DestinationRule)| {
            (rule.workload_selector.is_none(), specificity(pattern))
        };
        let Some(best) = all.iter().filter(fits).map(|found| rank(&found)).min() else {
            return InForce::default();
        };
        let equal = all.iter().filter(fits).filter(|found| rank(found) == best);
        InForce { rules: equal.map(|(_, rule)| *rule).collect() }
    }
}

/// What a subset's connections shall have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effective {
    pub(super) load_balancer: Option<LoadBalancer>,
    pub(super) tcp: TcpSettings,
    pub(super) ejection: Option<Ejection>,
}

impl<'r> InForce<'r> {
    /// Who the rules are: equal for equal rules.
    pub(super) fn identity(&self) -> Vec<Span> {
        self.rules.iter().map(|rule| rule.meta.at).collect()
    }

    /// A subset by name; of several, the first.
    pub(super) fn subset(&self, name: &str) -> Option<&'r RuleSubset> {
        self.subsets().find(|subset| subset.name.value == name)
    }

    /// All subsets in the order of the text.
    pub(super) fn subsets(&self) -> impl Iterator<Item = &'r RuleSubset> {
        self.rules.iter().flat_map(|rule| &rule.subsets)
    }

    /// Names of all subsets.
    pub(super) fn subset_names(&self) -> Vec<&'r str> {
        self.subsets().map(|subset| subset.name.value.as_str()).collect()
    }

    /// The policy for a port, of a subset or of the host: blocks of the subset override those of
    /// the host, and settings for a port replace all blocks (`MergeTrafficPolicy` of Istio).
    pub(super) fn effective(&self, subset: Option<&RuleSubset>, port: u16) -> Effective {
        let host = self.rules.iter().map(|rule| &rule.policy).find(|policy| !policy.is_empty());
        let mut effective = host.map(|policy| policy.at_port(port).blocks()).unwrap_or_default();
        let Some(policy) = subset.map(|subset| &subset.policy) else { return effective };
        let own = policy.at_port(port);
        if !std::ptr::eq(own, policy) {
            return own.blocks();
        }
        let Effective { load_balancer, tcp, ejection } = own.blocks();
        effective.load_balancer = load_balancer.or(effective.load_balancer);
        effective.ejection = ejection.or(effective.ejection);
        if own.tcp.is_some() {
            effective.tcp = tcp;
        }
        effective
    }
}

impl TrafficPolicy {
    fn is_empty(&self) -> bool {
        self.load_balancer.is_none()
            && self.tcp.is_none()
            && self.ejection.is_none()
            && self.ports.is_empty()
    }

    /// The settings of a port where there are any, else these.
    fn at_port(&self, port: u16) -> &Self {
        self.ports.iter().find(|(own, _)| *own == port).map_or(self, |(_, policy)| policy)
    }

    fn blocks(&self) -> Effective {
        Effective {
            load_balancer: self.load_balancer.as_ref().map(|found| found.value),
            tcp: self.tcp.as_ref().map(|found| found.value).unwrap_or_default(),
            ejection: self.ejection.as_ref().map(|found| found.value),
        }
    }
}
