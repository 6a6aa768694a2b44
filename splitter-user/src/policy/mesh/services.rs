//! From hosts and gateways to services: addresses, names, and which addresses share a service.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use splitter_common::hash::mix;

use super::Lowered;
use super::assemble::{Parts, assemble, protocol};
use super::clients::{Client, Clients};
use super::names::{clean_name, split_service_host};
use super::order::Plans;
use super::plan::{Mesh, Planned};
use super::registry::{Host, Reach, Registry};
use super::resource::{Gateway, RouteKind, ServicePort, Transport};
use super::shared::Shared;
use super::vips::Vips;
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report};
use crate::policy::model::{Frontend, Protocol};
use crate::policy::{HostNames, document::Draft};

/// Longest name of a service.
const MAX_NAME: usize = 63;
/// What names of services for IPv6 end with.
const V6: &str = ".v6";

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
        taken.extend(host.addresses.iter().chain(&host.answers));
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
    let mut shared = Shared::default();
    let mut reached = HashSet::new();
    let mut idle = Vec::new();
    // Addresses of documents come before what a resolver answers.
    let mut hosts: Vec<&Host<'_>> = mesh.registry.hosts().collect();
    hosts.sort_by_key(|host| !host.answers.is_empty());
    for host in hosts {
        if !host.known && !mesh.has_rules(&host.name) {
            idle.push(host);
            if !mesh.keeps_all {
                continue;
            }
        }
        let made = make_host(mesh, host, &mut reached, report);
        if !made.is_empty() {
            lowered.hosts.extend(host_names(host, &short));
        }
        for draft in made {
            shared.add(host, draft, &mut lowered.drafts, report);
        }
    }
    // Where rules lead to a host without endpoints, that is said of their shares.
    for host in idle.into_iter().filter(|host| !reached.contains(host.name.as_str())) {
        unknown_endpoints(host, report);
    }
    lowered.hosts.sort();
    lowered
}

fn unknown_endpoints(host: &Host<'_>, report: &mut Report) {
    let is_relevant =
        !host.ports.is_empty() && host.reach != Reach::Servers && host.alias().is_none();
    if !is_relevant {
        return;
    }
    let message = format!("no endpoint of {} is known: its connections are left alone", host.name);
    report.push(
        Diagnostic::new(&code::NO_ENDPOINTS, host.at, message)
            .with_help("load its EndpointSlices or Pods too, if it is to be split"),
    );
}

/// One service per port, family, and group of addresses for which the same rules hold. `reached`
/// are the hosts to which some plan leads.
fn make_host<'r>(
    mesh: &'r Mesh<'r>,
    host: &'r Host<'r>,
    reached: &mut HashSet<&'r str>,
    report: &mut Report,
) -> Vec<Draft> {
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
    for plan in groups.iter().flat_map(|(_, _, plans, _)| plans.distinct()) {
        let Planned::Split(shares) = &plan.action else { continue };
        reached.extend(shares.iter().filter_map(|(target, _)| Some(&*target.host()?.name)));
    }
    let mut names = BTreeSet::new();
    let several = host.ports.len() > 1;
    let make = |(port, protocol, plans, addrs): (&ServicePort, Protocol, _, Vec<SocketAddr>)| {
        let frontend = |addr| Frontend { addr, protocol };
        let v4 = addrs.first().is_some_and(SocketAddr::is_ipv4);
        let frontends = addrs.into_iter().map(frontend).collect();
        let name = service_name(host, several.then_some(port), v4, &mut names);
        let (clients, keep) = (mesh.clients, mesh.keeps_all);
        assemble(
            Parts { name, host: Some(host), at: host.at, frontends, plans, clients, keep },
            report,
        )
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
    // Who dials an answer is at a server already, and without rules for the host stays there.
    if mesh.has_rules(&host.name) || mesh.destination_rules.all_of(&host.name).next().is_some() {
        all.extend(host.answers.iter().copied().map(at));
    }
    if host.reach == Reach::Servers {
        let dialled = host.servers.iter().filter_map(|server| {
            Some(SocketAddr::new(server.ip.to_canonical(), (*server.ports.get(index)?)?))
        });
        all.extend(dialled);
    }
    let own: Vec<SocketAddr> = all.iter().copied().collect();
    for service in mesh.virtual_services.all_of(&host.name) {
        let rules = service.tcp.iter().chain(&service.tls);
        let matches = rules.flat_map(|rule| &rule.matches);
        let matches = matches.filter(|wanted| wanted.port.is_none_or(|p| p == port.number));
        for range in matches.flat_map(|wanted| &wanted.destination_subnets) {
            match range.value.single() {
                Some(ip) => drop(all.insert(at(ip))),
                None if own.iter().any(|own| range.value.contains(own.ip())) => {}
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
type Group<'r> = (Plans<'r>, Vec<SocketAddr>);

fn group<'r>(
    mesh: &'r Mesh<'r>,
    host: &'r Host<'r>,
    port: &'r ServicePort,
    addrs: Vec<SocketAddr>,
    report: &mut Report,
) -> Vec<Group<'r>> {
    let mut groups: Vec<Group<'r>> = Vec::new();
    for addr in addrs {
        let mut plans = Plans::default();
        let mut is_whole = true;
        for client in &mesh.clients.classes {
            match mesh.plan(client, host, port, addr.ip(), report) {
                Some(plan) => plans.push(plan),
                // It refuses the load; the others are looked at to find more.
                None => is_whole = false,
            }
        }
        match groups.iter_mut().find(|(known, _)| *known == plans) {
            _ if !is_whole => {}
            Some((_, addrs)) => addrs.push(addr),
            None => groups.push((plans, vec![addr])),
        }
    }
    groups
}

/// `NAMESPACE/NAME`, with the port where the host has several, the family where it is IPv6, and a
/// number where one host, port and family needs several services. What another port or family has
/// does not change it: counters go on under a name.
fn service_name(
    host: &Host<'_>,
    port: Option<&ServicePort>,
    v4: bool,
    taken: &mut BTreeSet<String>,
) -> String {
    let mut name = match (split_service_host(&host.name), host.name.strip_prefix('*')) {
        (Some((name, _)), _) => name.to_owned(),
        (None, Some(suffix)) => format!("any{suffix}"),
        (None, None) => host.name.clone(),
    };
    if let Some(port) = port {
        let protocol = if port.transport == Transport::Udp { ".udp" } else { "" };
        name = format!("{name}.{}{protocol}", port.number);
    }
    if !v4 {
        name.push_str(V6);
    }
    let numbered = |n: usize| if n == 1 { fit(&name) } else { fit(&format!("{name}.{n}")) };
    let mut free = (1..).map(numbered).filter(|name| !taken.contains(name));
    let name = free.next().unwrap_or_else(|| fit(&name));
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
    let is_name = !host.name.starts_with('*');
    let line = |address: &IpAddr| HostNames {
        address: *address,
        names: names.clone(),
        allocated: host.is_allocated(),
    };
    host.addresses.iter().filter(|_| is_name).map(line).collect()
}

/// Makes the services of listeners that have addresses and a route.
pub(super) fn make_gateways<'r>(
    mesh: &'r Mesh<'r>,
    gateways: &'r [Gateway],
    lowered: &mut Lowered,
    report: &mut Report,
) {
    let anybody = Clients::anybody();
    for gateway in gateways.iter().filter(|gateway| !gateway.addresses.is_empty()) {
        for listener in &gateway.listeners {
            let Some(route) = mesh.routes.choose_at(gateway, listener, report) else { continue };
            let protocol = match listener.kind {
                RouteKind::Udp => Protocol::Udp,
                _ => Protocol::Tcp,
            };
            let Some(plan) = mesh.route(&Client::ANYBODY, route, report) else { continue };
            for v4 in [true, false] {
                let addresses = gateway.addresses.iter().filter(|ip| ip.is_ipv4() == v4);
                let frontend =
                    |ip: &IpAddr| Frontend { addr: SocketAddr::new(*ip, listener.port), protocol };
                let frontends: Vec<Frontend> = addresses.map(frontend).collect();
                if frontends.is_empty() {
                    continue;
                }
                let family = if v4 { "" } else { V6 };
                let name = fit(&format!("{}.{}{family}", gateway.meta.name, listener.name));
                let name = format!("{}/{name}", gateway.meta.namespace);
                let mut plans = Plans::default();
                plans.push(plan.clone());
                let (at, clients, keep) = (gateway.meta.at, &anybody, false);
                let parts = Parts { name, host: None, at, frontends, plans, clients, keep };
                lowered.drafts.extend(assemble(parts, report));
            }
        }
    }
}
