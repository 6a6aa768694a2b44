//! From hosts and gateways to services: addresses, names, and which addresses share a service.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use splitter_common::hash::mix;

use super::Lowered;
use super::assemble::{Parts, assemble, protocol};
use super::clients::Client;
use super::names::{clean_name, split_service_host};
use super::plan::{Mesh, Plan};
use super::registry::{Host, Registry};
use super::resource::{Gateway, ServicePort};
use super::vips::Vips;
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report};
use crate::policy::model::{Frontend, Protocol};
use crate::policy::{HostNames, document::Draft};

/// Longest name of a service.
const MAX_NAME: usize = 63;

/// Gives hosts that are split and have no address one of their own.
pub(super) fn give_addresses(
    registry: &mut Registry<'_>,
    vips: &Vips,
    is_routed: &dyn Fn(&str) -> bool,
    taken: impl Iterator<Item = IpAddr>,
    report: &mut Report,
) {
    let mut taken: BTreeSet<IpAddr> = taken.collect();
    for host in registry.hosts() {
        taken.extend(&host.addresses);
        taken.extend(host.servers.iter().map(|server| server.ip));
    }
    let needs = |host: &&Host<'_>| {
        host.lacks_address && !host.ports.is_empty() && (host.known || is_routed(&host.name))
    };
    let is_v4 = |host: &Host<'_>| {
        host.servers.is_empty() || host.servers.iter().any(|server| server.ip.is_ipv4())
    };
    let wanted: BTreeMap<String, bool> =
        registry.hosts().filter(needs).map(|host| (host.name.clone(), is_v4(host))).collect();
    let given = vips.allocate(&wanted, taken);
    for host in registry.hosts_mut() {
        if let Some(ip) = given.get(&host.name) {
            host.addresses.push(*ip);
            host.allocated = true;
        } else if let Some(v4) = wanted.get(&host.name) {
            let range = if *v4 { vips.ranges.v4 } else { vips.ranges.v6 };
            let message = format!("the range {range} has no address left for {}", host.name);
            report.push(
                Diagnostic::new(&code::NO_ROOM_FOR_VIPS, host.at, message)
                    .with_help("choose a larger range with --vip-range"),
            );
        }
    }
}

/// Makes the services of all hosts.
pub(super) fn make<'r>(mesh: &'r Mesh<'r>, report: &mut Report) -> Lowered {
    let mut lowered = Lowered::default();
    let mut short = HashMap::new();
    for host in mesh.registry.hosts() {
        if let Some((name, _)) = split_service_host(&host.name) {
            *short.entry(name).or_insert(0_usize) += 1;
        }
    }
    for host in mesh.registry.hosts().filter(|host| !host.name.starts_with('*')) {
        let is_routed =
            mesh.routes.has(&host.name) || !mesh.virtual_services.all_of(&host.name).is_empty();
        if !is_routed && !host.known {
            unknown_endpoints(host, report);
            continue;
        }
        let drafts = make_host(mesh, host, report);
        if !drafts.is_empty() {
            lowered.hosts.extend(host_names(host, &short));
        }
        lowered.drafts.extend(drafts);
    }
    lowered.hosts.sort();
    lowered
}

fn unknown_endpoints(host: &Host<'_>, report: &mut Report) {
    let is_relevant = !host.ports.is_empty() && !host.headless && !host.is_alias();
    if !is_relevant {
        return;
    }
    let message = format!("no endpoint of {} is known: its connections are left alone", host.name);
    report.push(
        Diagnostic::new(&code::NO_ENDPOINTS, host.at, message)
            .with_help("load its EndpointSlices or Pods too, if it is to be split"),
    );
}

/// One service per port, family, and group of addresses for which the same rules hold.
fn make_host<'r>(mesh: &'r Mesh<'r>, host: &'r Host<'r>, report: &mut Report) -> Vec<Draft> {
    let mut groups = Vec::new();
    for (index, port) in host.ports.iter().enumerate() {
        let Some(protocol) = protocol(port) else { continue };
        let frontends = frontends(mesh, host, index, port, report);
        for v4 in [true, false] {
            let family = frontends.iter().filter(|addr| addr.is_ipv4() == v4);
            let found = group(mesh, host, port, family.copied().collect(), report);
            groups.extend(found.into_iter().map(|(plans, addrs)| (port, protocol, plans, addrs)));
        }
    }
    let mut names = BTreeSet::new();
    let several = host.ports.len() > 1;
    let make = |(port, protocol, plans, addrs): (&ServicePort, Protocol, _, Vec<SocketAddr>)| {
        let frontend = |addr| Frontend { addr, protocol };
        let frontends = addrs.into_iter().map(frontend).collect();
        let name = service_name(host, several.then_some(port), &mut names);
        assemble(Parts { name, host: Some(host), at: host.at, frontends, plans }, report)
    };
    groups.into_iter().filter_map(make).collect()
}

/// Where clients dial a port of a host, each address once.
fn frontends(
    mesh: &Mesh<'_>,
    host: &Host<'_>,
    index: usize,
    port: &ServicePort,
    report: &mut Report,
) -> Vec<SocketAddr> {
    let at = |ip: IpAddr| SocketAddr::new(ip.to_canonical(), port.number);
    let mut all: BTreeSet<SocketAddr> = host.addresses.iter().copied().map(at).collect();
    if host.headless {
        let dialled = host.servers.iter().filter_map(|server| {
            Some(SocketAddr::new(server.ip.to_canonical(), (*server.ports.get(index)?)?))
        });
        all.extend(dialled);
    }
    for service in mesh.virtual_services.all_of(&host.name) {
        let rules = service.tcp.iter().chain(&service.tls);
        let matches = rules.flat_map(|rule| &rule.matches);
        let matches = matches.filter(|wanted| wanted.port.is_none_or(|p| p == port.number));
        for range in matches.flat_map(|wanted| &wanted.destination_subnets) {
            match range.value.single() {
                Some(ip) => drop(all.insert(at(ip))),
                None if host.addresses.iter().any(|ip| range.value.contains(*ip)) => {}
                None => wide_range(host, range.at, report),
            }
        }
    }
    all.into_iter().collect()
}

fn wide_range(host: &Host<'_>, at: crate::policy::diagnostic::Span, report: &mut Report) {
    let message = format!("no address of {} is in this range", host.name);
    report.push(Diagnostic::new(&code::NO_RANGES, at, message).with_help(
        "a range selects among the host's own addresses; write single addresses to add some",
    ));
}

/// The plans of all clients, and the addresses for which they hold.
type Group<'r> = (Vec<(&'r Client<'r>, Plan<'r>)>, Vec<SocketAddr>);

fn group<'r>(
    mesh: &'r Mesh<'r>,
    host: &'r Host<'r>,
    port: &'r ServicePort,
    addrs: Vec<SocketAddr>,
    report: &mut Report,
) -> Vec<Group<'r>> {
    let mut groups: Vec<Group<'r>> = Vec::new();
    for addr in addrs {
        let plan = |client: &'r Client<'r>| {
            Some((client, mesh.plan(client, host, port, addr.ip(), report)?))
        };
        let plans: Vec<Option<_>> = mesh.clients.iter().map(plan).collect();
        // An error of one client's plan refuses the load; all of them were looked at to find more.
        let Some(plans) = plans.into_iter().collect::<Option<Vec<_>>>() else { continue };
        let is_same =
            |(known, _): &&mut Group<'r>| known.iter().zip(&plans).all(|((_, a), (_, b))| a == b);
        match groups.iter_mut().find(is_same) {
            Some((_, addrs)) => addrs.push(addr),
            None => groups.push((plans, vec![addr])),
        }
    }
    groups
}

/// `NAMESPACE/NAME`, with the port where the host has several, and a number where one host, port
/// and family needs several services.
fn service_name(
    host: &Host<'_>,
    port: Option<&ServicePort>,
    taken: &mut BTreeSet<String>,
) -> String {
    let short = split_service_host(&host.name).map_or(host.name.as_str(), |(name, _)| name);
    let port = port.map_or(String::new(), |port| format!(".{}", port.number));
    let numbered = |n: usize| match n {
        1 => fit(&format!("{short}{port}")),
        n => fit(&format!("{short}{port}.{n}")),
    };
    let mut free = (1..).map(numbered).filter(|name| !taken.contains(name));
    let name = free.next().unwrap_or_else(|| fit(short));
    taken.insert(name.clone());
    format!("{}/{name}", host.namespace)
}

/// A name that fits; where it is cut, the hash of the whole is at its end.
fn fit(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return clean_name(name);
    }
    let hash = name.bytes().fold(0, |hash, byte| mix(hash, u64::from(byte)));
    let end = format!("-{hash:016x}");
    let cut: String = name.chars().take(MAX_NAME - end.len()).collect();
    clean_name(&format!("{cut}{end}"))
}

/// Lines of `/etc/hosts` for a host.
fn host_names(host: &Host<'_>, short: &HashMap<&str, usize>) -> Vec<HostNames> {
    let mut names = vec![host.name.clone()];
    if let Some((name, namespace)) = split_service_host(&host.name) {
        names.push(format!("{name}.{namespace}.svc"));
        names.push(format!("{name}.{namespace}"));
        if short.get(name) == Some(&1) {
            names.push(name.to_owned());
        }
    }
    let addresses = host.addresses.iter().enumerate();
    // Addresses that a resolver answered need no line; the one chosen here is the last.
    let last = host.addresses.len().saturating_sub(1);
    let lines = addresses.filter(|(index, _)| !host.allocated || *index == last);
    lines
        .map(|(_, address)| HostNames {
            address: *address,
            names: names.clone(),
            allocated: host.allocated,
        })
        .collect()
}

/// Makes the services of listeners that have addresses and a route.
pub(super) fn make_gateways<'r>(
    mesh: &'r Mesh<'r>,
    gateways: &'r [Gateway],
    lowered: &mut Lowered,
    report: &mut Report,
) {
    static ANYBODY: Client<'static> = Client::ANYBODY;
    for gateway in gateways.iter().filter(|gateway| !gateway.addresses.is_empty()) {
        for listener in &gateway.listeners {
            let Some(route) = mesh.routes.choose_at(gateway, listener, report) else { continue };
            let protocol = match listener.kind {
                super::resource::RouteKind::Udp => Protocol::Udp,
                _ => Protocol::Tcp,
            };
            let Some(plan) = mesh.route(&ANYBODY, route, None, report) else { continue };
            for v4 in [true, false] {
                let addresses = gateway.addresses.iter().filter(|ip| ip.is_ipv4() == v4);
                let frontend =
                    |ip: &IpAddr| Frontend { addr: SocketAddr::new(*ip, listener.port), protocol };
                let frontends: Vec<Frontend> = addresses.map(frontend).collect();
                if frontends.is_empty() {
                    continue;
                }
                let family = if v4 { "" } else { ".v6" };
                let name = fit(&format!("{}.{}{family}", gateway.meta.name, listener.name));
                let name = format!("{}/{name}", gateway.meta.namespace);
                let plans = vec![(&ANYBODY, plan.clone())];
                let at = gateway.meta.at;
                let parts = Parts { name, host: None, at, frontends, plans };
                lowered.drafts.extend(assemble(parts, report));
            }
        }
    }
}
