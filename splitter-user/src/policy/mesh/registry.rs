//! Hosts: what they are called, where clients dial them, and who serves them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::names::{service_host, suffixes};
use super::resource::{
    Endpoint, EndpointAddress, EndpointSlice, Export, KubeService, Labels, Pod, Resolution,
    Resources, ServiceEntry, ServicePort, SliceEndpoint, Target, WorkloadEntry, selects,
};
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report, Span};
use crate::policy::{Surroundings, words::quote};

/// Most steps from an `ExternalName` to the host that it means.
const MAX_ALIASES: usize = 8;
/// Label of an `EndpointSlice` that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A host of a Service or ServiceEntry.
#[derive(Debug)]
pub(super) struct Host<'r> {
    /// Its full name, or a wildcard.
    pub(super) name: String,
    pub(super) namespace: &'r str,
    pub(super) at: Span,
    pub(super) export: &'r Export,
    /// Where clients dial it.
    pub(super) addresses: Vec<IpAddr>,
    /// What its own name resolves to: clients that look it up dial that.
    pub(super) answers: Vec<IpAddr>,
    /// The document that has its addresses, perhaps with other hosts.
    pub(super) document: Span,
    /// Whether it should have an address and no document gives it one.
    pub(super) lacks_address: bool,
    /// Whether `addresses` were chosen by us.
    pub(super) allocated: bool,
    /// Clients dial its servers themselves.
    pub(super) headless: bool,
    /// Connections to it are left alone: `resolution: NONE`.
    pub(super) passthrough: bool,
    pub(super) ports: &'r [ServicePort],
    pub(super) servers: Vec<Server<'r>>,
    /// Whether the documents say anything about who serves it.
    pub(super) known: bool,
    /// Whether some of its servers wait for a resolver.
    pub(super) unresolved: bool,
    /// The host that is meant instead.
    alias: Option<String>,
}

/// One that serves a host.
#[derive(Clone, Debug)]
pub(super) struct Server<'r> {
    pub(super) at: Span,
    pub(super) ip: IpAddr,
    pub(super) labels: Vec<&'r Labels>,
    /// At least 1.
    pub(super) weight: u32,
    /// In parallel to the ports of the host; `None` where it does not serve that one.
    pub(super) ports: Vec<Option<u16>>,
}

impl Host<'_> {
    /// The host that is meant instead.
    pub(super) fn alias(&self) -> Option<&str> {
        self.alias.as_deref()
    }

    /// Whether an address is its own, so that clients who dial it mean the host.
    pub(super) fn is_own(&self, ip: IpAddr) -> bool {
        let mut own = self.addresses.iter().chain(&self.answers);
        own.any(|own| *own == ip)
            || self.headless && self.servers.iter().any(|server| server.ip == ip)
    }
}

impl Server<'_> {
    /// Whether it has all of these labels.
    pub(super) fn has(&self, wanted: &Labels) -> bool {
        let value = |key: &String| self.labels.iter().find_map(|labels| labels.get(key));
        wanted.iter().all(|(key, wanted)| value(key) == Some(wanted))
    }
}

/// All hosts by name.
#[derive(Debug, Default)]
pub(super) struct Registry<'r> {
    hosts: BTreeMap<String, Host<'r>>,
    /// Names to be resolved.
    pub(super) lookups: BTreeSet<String>,
}

impl<'r> Registry<'r> {
    /// Every host, by name.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Host<'r>> {
        self.hosts.values()
    }

    /// Every host, to give it an address.
    pub(super) fn hosts_mut(&mut self) -> impl Iterator<Item = &mut Host<'r>> {
        self.hosts.values_mut()
    }

    /// The host of a name, by the most specific wildcard where none has the name itself.
    pub(super) fn find(&self, name: &str) -> Option<&Host<'r>> {
        let mut name = name;
        for _ in 0..MAX_ALIASES {
            let found = self.hosts.get(name).or_else(|| self.find_wildcard(name))?;
            match &found.alias {
                Some(alias) => name = alias,
                None => return Some(found),
            }
        }
        None
    }

    fn find_wildcard(&self, name: &str) -> Option<&Host<'r>> {
        suffixes(name).find_map(|suffix| self.hosts.get(&format!("*{suffix}")))
    }

    /// The host of the very name, which may stand for another.
    pub(super) fn get(&self, name: &str) -> Option<&Host<'r>> {
        self.hosts.get(name)
    }

    /// Names of all hosts, for suggestions.
    pub(super) fn names(&self) -> Vec<&str> {
        self.hosts.keys().map(String::as_str).collect()
    }

    fn add(&mut self, host: Host<'r>, report: &mut Report) {
        let Some(first) = self.hosts.get(&host.name) else {
            self.hosts.insert(host.name.clone(), host);
            return;
        };
        let message = format!("the host {} is defined twice", quote(&host.name));
        report.push(
            Diagnostic::new(&code::DUPLICATE_ENTRY, host.at, message)
                .with_label("again here")
                .with_secondary(first.at, "first here")
                .with_help("delete one of the two, or give it another name"),
        );
    }
}

/// Where servers are found.
struct Sources<'r> {
    slices: HashMap<(&'r str, &'r str), Vec<&'r EndpointSlice>>,
    pods: HashMap<(&'r str, &'r str), &'r Pod>,
    pods_of: HashMap<&'r str, Vec<&'r Pod>>,
    entries_of: HashMap<&'r str, Vec<&'r WorkloadEntry>>,
    surroundings: &'r Surroundings,
}

/// Makes the registry.
pub(super) fn build<'r>(
    resources: &'r Resources,
    surroundings: &'r Surroundings,
    report: &mut Report,
) -> Registry<'r> {
    let sources = Sources::new(resources, surroundings);
    let mut registry = Registry::default();
    for service in &resources.services {
        registry.add(sources.kube_host(service), report);
    }
    for entry in &resources.service_entries {
        check_ranges(entry, report);
        for host in &entry.hosts {
            let host = sources.entry_host(entry, &host.value, host.at, &mut registry.lookups);
            registry.add(host, report);
        }
    }
    other_networks(resources, report);
    registry
}

impl<'r> Sources<'r> {
    fn new(resources: &'r Resources, surroundings: &'r Surroundings) -> Self {
        let mut slices: HashMap<_, Vec<_>> = HashMap::new();
        for slice in &resources.endpoint_slices {
            if let Some(service) = slice.meta.labels.get(SERVICE_NAME) {
                let key = (slice.meta.namespace.as_str(), service.as_str());
                slices.entry(key).or_default().push(slice);
            }
        }
        let mut pods_of: HashMap<_, Vec<_>> = HashMap::new();
        for pod in &resources.pods {
            pods_of.entry(pod.meta.namespace.as_str()).or_default().push(pod);
        }
        let mut entries_of: HashMap<_, Vec<_>> = HashMap::new();
        for entry in &resources.workload_entries {
            entries_of.entry(entry.meta.namespace.as_str()).or_default().push(entry);
        }
        let pods = resources.pods.iter();
        let pods = pods.map(|pod| ((pod.meta.namespace.as_str(), pod.meta.name.as_str()), pod));
        Self { slices, pods: pods.collect(), pods_of, entries_of, surroundings }
    }

    fn kube_host(&self, service: &'r KubeService) -> Host<'r> {
        let meta = &service.meta;
        let slices = self.slices.get(&(meta.namespace.as_str(), meta.name.as_str()));
        let (mut servers, mut known) = match slices {
            Some(slices) => (self.slice_servers(service, slices), true),
            None => self.selected_pods(service),
        };
        for (endpoint, ports) in
            self.selected_entries(&meta.namespace, &service.selector, &service.ports)
        {
            known = true;
            if let Some(EndpointAddress::Ip(ip)) = endpoint.address.as_ref().map(|it| &it.value) {
                servers.push(server(endpoint, *ip, ports));
            }
        }
        let alias = service.external_name.as_ref().map(|name| name.value.clone());
        let addresses: Vec<IpAddr> = service.addresses.iter().map(|found| found.value).collect();
        Host {
            name: service_host(&meta.name, &meta.namespace),
            namespace: &meta.namespace,
            at: meta.at,
            export: &service.export,
            lacks_address: addresses.is_empty() && !service.headless && alias.is_none(),
            addresses,
            answers: Vec::new(),
            document: meta.at,
            allocated: false,
            headless: service.headless,
            passthrough: false,
            ports: &service.ports,
            known,
            servers,
            unresolved: false,
            alias,
        }
    }

    fn slice_servers(
        &self,
        service: &'r KubeService,
        slices: &[&'r EndpointSlice],
    ) -> Vec<Server<'r>> {
        let is_used = |endpoint: &&SliceEndpoint| {
            (endpoint.ready || service.publish_not_ready) && !endpoint.terminating
        };
        let mut servers = Vec::new();
        for slice in slices {
            let port = |port: &ServicePort| {
                slice.ports.get(port.name.as_deref().unwrap_or_default()).copied()
            };
            let ports: Vec<Option<u16>> = service.ports.iter().map(port).collect();
            for endpoint in slice.endpoints.iter().filter(is_used) {
                let pod = endpoint.pod.as_ref();
                let pod = pod.and_then(|(ns, name)| self.pods.get(&(ns.as_str(), name.as_str())));
                let mut labels = vec![&endpoint.labels];
                labels.extend(pod.map(|pod| &pod.labels));
                servers.extend(endpoint.addresses.iter().map(|ip| Server {
                    at: endpoint.at,
                    ip: *ip,
                    labels: labels.clone(),
                    weight: 1,
                    ports: ports.clone(),
                }));
            }
        }
        servers
    }

    /// Pods of a service without slices that serve, and whether there is any pod of it.
    fn selected_pods(&self, service: &'r KubeService) -> (Vec<Server<'r>>, bool) {
        if service.selector.is_empty() {
            return (Vec::new(), false);
        }
        let pods = self.pods_of.get(service.meta.namespace.as_str()).into_iter().flatten();
        let pods = pods.filter(|pod| selects(&service.selector, &pod.labels));
        let ready = pods.clone().filter(|pod| pod.ready || service.publish_not_ready);
        let servers = ready.flat_map(|pod| pod_servers(pod, &service.ports));
        (servers.collect(), pods.count() > 0)
    }

    /// Workload entries with their ports; none where nothing is asked for.
    fn selected_entries(
        &self,
        namespace: &str,
        selector: &Labels,
        ports: &'r [ServicePort],
    ) -> impl Iterator<Item = (&'r Endpoint, Vec<Option<u16>>)> {
        let entries = self.entries_of.get(namespace).into_iter().flatten();
        let entries = entries.filter(|_| !selector.is_empty());
        let near = entries.filter(|entry| entry.endpoint.network.is_none());
        let selected = near.filter(|entry| selects(selector, &entry.endpoint.labels));
        selected.map(|entry| (&entry.endpoint, endpoint_ports(&entry.endpoint, ports)))
    }

    fn entry_host(
        &self,
        entry: &'r ServiceEntry,
        name: &str,
        at: Span,
        lookups: &mut BTreeSet<String>,
    ) -> Host<'r> {
        let singles = entry.addresses.iter().filter_map(|range| range.value.single());
        let mut addresses: Vec<IpAddr> = singles.collect();
        if entry.addresses.is_empty() {
            let is_its = |host: &Option<String>| host.as_deref().is_none_or(|host| host == name);
            let given = entry.allocated.iter().filter(|(host, _)| is_its(host));
            addresses.extend(given.map(|(_, ip)| *ip));
        }
        let is_wildcard = name.starts_with('*');
        let passthrough = entry.resolution == Resolution::None;
        let mut host = Host {
            name: name.to_owned(),
            namespace: &entry.meta.namespace,
            at,
            export: &entry.export,
            lacks_address: entry.addresses.is_empty()
                && addresses.is_empty()
                && !is_wildcard
                && !passthrough,
            addresses,
            answers: Vec::new(),
            document: entry.meta.at,
            allocated: false,
            headless: false,
            passthrough,
            ports: &entry.ports,
            servers: Vec::new(),
            known: true,
            unresolved: false,
            alias: None,
        };
        if !passthrough {
            self.serve_entry(&mut host, entry, lookups);
        }
        host
    }

    fn serve_entry(
        &self,
        host: &mut Host<'r>,
        entry: &'r ServiceEntry,
        lookups: &mut BTreeSet<String>,
    ) {
        let is_dns = matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
        if let Some(selector) = &entry.workload_selector {
            let namespace = entry.meta.namespace.as_str();
            let pods = self.pods_of.get(namespace).into_iter().flatten();
            let pods = pods.filter(|pod| pod.ready && selects(selector, &pod.labels));
            host.servers.extend(pods.flat_map(|pod| pod_servers(pod, host.ports)));
            let selected: Vec<_> = self.selected_entries(namespace, selector, host.ports).collect();
            for (endpoint, ports) in selected {
                self.serve(host, entry.resolution, endpoint, ports, lookups);
            }
        }
        for endpoint in entry.endpoints.iter().filter(|endpoint| endpoint.network.is_none()) {
            let ports = endpoint_ports(endpoint, host.ports);
            self.serve(host, entry.resolution, endpoint, ports, lookups);
        }
        let is_alone = entry.endpoints.is_empty() && entry.workload_selector.is_none();
        if is_dns && is_alone && !host.name.starts_with('*') {
            let name = host.name.clone();
            let addresses = self.resolve(host, &name, entry.resolution, lookups);
            let ports: Vec<_> = host.ports.iter().map(|port| Some(target_number(port))).collect();
            host.servers.extend(addresses.iter().map(|ip| Server {
                at: host.at,
                ip: *ip,
                labels: Vec::new(),
                weight: 1,
                ports: ports.clone(),
            }));
            // Programs that resolve the name themselves dial what they are told.
            if host.lacks_address {
                host.answers = self.surroundings.answers.get(&name).cloned().unwrap_or_default();
            }
        }
    }

    fn serve(
        &self,
        host: &mut Host<'r>,
        resolution: Resolution,
        endpoint: &'r Endpoint,
        ports: Vec<Option<u16>>,
        lookups: &mut BTreeSet<String>,
    ) {
        let addresses = match endpoint.address.as_ref().map(|address| &address.value) {
            Some(EndpointAddress::Ip(ip)) => vec![*ip],
            Some(EndpointAddress::Name(name)) => self.resolve(host, name, resolution, lookups),
            None => Vec::new(),
        };
        host.servers.extend(addresses.into_iter().map(|ip| server(endpoint, ip, ports.clone())));
    }

    /// What a name resolves to, as far as is known.
    fn resolve(
        &self,
        host: &mut Host<'r>,
        name: &str,
        resolution: Resolution,
        lookups: &mut BTreeSet<String>,
    ) -> Vec<IpAddr> {
        lookups.insert(name.to_owned());
        let Some(answer) = self.surroundings.answers.get(name) else {
            host.unresolved = true;
            return Vec::new();
        };
        let most = if resolution == Resolution::DnsRoundRobin { 1 } else { answer.len() };
        answer.iter().take(most).copied().collect()
    }
}

fn server(endpoint: &Endpoint, ip: IpAddr, ports: Vec<Option<u16>>) -> Server<'_> {
    let Endpoint { at, labels, weight, .. } = endpoint;
    Server { at: *at, ip, labels: vec![labels], weight: *weight, ports }
}

fn pod_servers<'r>(pod: &'r Pod, ports: &'r [ServicePort]) -> impl Iterator<Item = Server<'r>> {
    let port = |port: &ServicePort| match &port.target {
        Some(Target::Name(name)) => pod.ports.get(name).copied(),
        Some(Target::Number(number)) => Some(*number),
        None => Some(port.number),
    };
    let ports: Vec<Option<u16>> = ports.iter().map(port).collect();
    let server = move |ip: &IpAddr| Server {
        at: pod.meta.at,
        ip: *ip,
        labels: vec![&pod.labels],
        weight: 1,
        ports: ports.clone(),
    };
    pod.addresses.iter().map(server)
}

/// Ports of an endpoint: by the name of the service's port, else the target port, which may be a
/// name too, else the same.
fn endpoint_ports(endpoint: &Endpoint, ports: &[ServicePort]) -> Vec<Option<u16>> {
    let named = |port: &ServicePort| {
        let target = match &port.target {
            Some(Target::Name(name)) => Some(name),
            _ => None,
        };
        let mut names = port.name.as_ref().into_iter().chain(target);
        names.find_map(|name| endpoint.ports.get(name)).copied()
    };
    ports.iter().map(|port| Some(named(port).unwrap_or_else(|| target_number(port)))).collect()
}

fn target_number(port: &ServicePort) -> u16 {
    match port.target {
        Some(Target::Number(number)) => number,
        _ => port.number,
    }
}

/// A range cannot be dialled at a frontend, which is one address.
fn check_ranges(entry: &ServiceEntry, report: &mut Report) {
    if entry.resolution == Resolution::None {
        return;
    }
    for range in entry.addresses.iter().filter(|range| range.value.single().is_none()) {
        let message = format!(
            "the range {}/{} of addresses cannot be split",
            range.value.ip, range.value.prefix
        );
        report.push(
            Diagnostic::new(&code::NO_RANGES, range.at, message)
                .with_help("list the addresses that clients dial, one by one"),
        );
    }
}

/// Says which endpoints were left out because they are somewhere else.
fn other_networks(resources: &Resources, report: &mut Report) {
    let inline = resources.service_entries.iter().flat_map(|entry| &entry.endpoints);
    let endpoints = inline.chain(resources.workload_entries.iter().map(|entry| &entry.endpoint));
    for network in endpoints.filter_map(|endpoint| endpoint.network.as_ref()) {
        let message = format!("the endpoint of network {} is left out", quote(&network.value));
        report
            .push(Diagnostic::new(&code::OTHER_NETWORK, network.at, message).with_help(
                "a node reaches its own network; delete `network` if this one is meant",
            ));
    }
}
