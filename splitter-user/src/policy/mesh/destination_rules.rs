//! Which DestinationRule is in force for a client and a host.

use std::collections::HashMap;

use super::clients::Client;
use super::names::{ByHost, full_host};
use super::registry::Host;
use super::resource::{
    DestinationRule, LoadBalancer, Resources, RuleSubset, TcpSettings, TrafficPolicy,
};
use crate::policy::diagnostic::Span;
use crate::policy::model::Ejection;

/// The namespace whose rules hold where neither the client's nor the host's has one.
pub(super) const ROOT_NAMESPACE: &str = "istio-system";

/// All rules.
#[derive(Debug)]
pub(super) struct DestinationRules<'r> {
    by_namespace: HashMap<&'r str, ByHost<&'r DestinationRule>>,
    everywhere: ByHost<&'r DestinationRule>,
}

/// The rules of one host and namespace, which count as one. Empty where there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct InForce<'r> {
    rules: Vec<&'r DestinationRule>,
}

impl<'r> DestinationRules<'r> {
    pub(super) fn new(resources: &'r Resources) -> Self {
        let mut by_namespace: HashMap<&str, ByHost<_>> = HashMap::new();
        let mut everywhere = ByHost::default();
        for rule in &resources.destination_rules {
            let namespace = rule.meta.namespace.as_str();
            let host = full_host(&rule.host.value, namespace);
            by_namespace.entry(namespace).or_default().add(&host, rule);
            everywhere.add(&host, rule);
        }
        Self { by_namespace, everywhere }
    }

    /// Every rule with the full name of its host, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = (String, &'r DestinationRule)> {
        let all = self.everywhere.all();
        all.flat_map(|(host, rules)| rules.iter().map(move |rule| (host.clone(), *rule)))
    }

    /// Every rule that could be for a host, whoever the client is.
    pub(super) fn all_of<'a>(
        &'a self,
        host: &'a str,
    ) -> impl Iterator<Item = &'r DestinationRule> + 'a {
        self.everywhere.of(host).flatten().copied()
    }

    /// A rule that defines a subset of a host for some client.
    pub(super) fn defining(&self, host: &str, subset: &str) -> Option<&'r DestinationRule> {
        let defines =
            |rule: &&DestinationRule| rule.subsets.iter().any(|known| known.name.value == subset);
        self.all_of(host).find(defines)
    }

    /// The first of the client's namespace, the host's and the root namespace that has a rule for
    /// the host decides alone; in it, the exact name comes before the longest wildcard.
    pub(super) fn find(&self, client: &Client<'_>, host: &Host<'_>) -> InForce<'r> {
        let namespaces = [client.namespace(), Some(host.namespace), Some(ROOT_NAMESPACE)];
        let mut found = namespaces.into_iter().flatten().map(|name| self.of(name, client, host));
        found.find_map(|found| found).unwrap_or_default()
    }

    /// The rules of a namespace for a host: `None` where there are none that the client may see,
    /// empty where those there are select other clients.
    fn of(&self, namespace: &str, client: &Client<'_>, host: &Host<'_>) -> Option<InForce<'r>> {
        let is_own = client.namespace() == Some(namespace);
        let sees = |rule: &&&DestinationRule| match rule.workload_selector {
            // A selector is about clients of its own namespace, whatever `exportTo` says.
            Some(_) => is_own,
            None => client.sees(&rule.export),
        };
        let found = self.by_namespace.get(namespace)?.of(&host.name);
        let best = found.map(|rules| rules.iter().filter(sees).copied().collect::<Vec<_>>());
        let mut rules = best.into_iter().find(|rules| !rules.is_empty())?;
        let mut selectors = rules.iter().filter_map(|rule| rule.workload_selector.as_ref());
        let selector = selectors.find(|labels| client.has(labels));
        // A rule for chosen clients is for them more than one for all.
        rules.retain(|rule| rule.workload_selector.as_ref() == selector);
        Some(InForce { rules })
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
    pub(super) fn identity(&self) -> impl Iterator<Item = Span> {
        self.rules.iter().map(|rule| rule.meta.at)
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
