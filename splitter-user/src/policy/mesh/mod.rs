//! Foreign documents, put together to services.
//!
//! What the readers of `istio`, `kubernetes` and `gateway_api` leave are [`resource`]s: parts that
//! mean something only together. Here they become a registry of hosts, and the rules that reach a
//! host become its routes. Every selector of these forms is about the client alone and does not
//! change while a client lives, so for each client and each address exactly one rule is in force:
//! it is found here, once, and not at each connection.

mod assemble;
mod checks;
mod clients;
mod destination_rules;
mod gateway_routes;
mod labels;
pub(super) mod layers;
pub(super) mod meta;
mod names;
mod order;
pub(super) mod outbound;
mod plan;
pub(super) mod port;
pub(super) mod read;
mod references;
mod registry;
pub(super) mod resource;
mod services;
mod shared;
mod sidecars;
pub(super) mod vips;
mod virtual_services;
pub(super) mod workload;

use std::net::IpAddr;

use super::diagnostic::Report;
use super::document::Draft;
use super::model::Outbound;
use super::{HostNames, Surroundings};
use destination_rules::DestinationRules;
use gateway_routes::GatewayRoutes;
use plan::Mesh;
use resource::Resources;
use sidecars::Sidecars;
use virtual_services::VirtualServices;

/// What foreign documents come to.
#[derive(Debug, Default)]
pub(super) struct Lowered {
    pub(super) drafts: Vec<Draft>,
    pub(super) outbound: Vec<Outbound>,
    /// See [`super::Loaded::hosts`].
    pub(super) hosts: Vec<HostNames>,
    /// See [`super::Loaded::lookups`].
    pub(super) lookups: Vec<String>,
}

/// Makes services of resources. Hosts that need an address get none of `taken`.
pub(super) fn lower(
    resources: &Resources,
    surroundings: &Surroundings,
    taken: impl Iterator<Item = IpAddr>,
    report: &mut Report,
) -> Lowered {
    let clients = clients::find(resources, report);
    let mut registry = registry::build(resources, surroundings, report);
    let own = resources.splits.iter().flat_map(|split| &split.draft.service.frontends);
    let taken = taken.chain(own.map(|frontend| frontend.addr.ip()));
    let virtual_services = VirtualServices::new(resources);
    let routes = GatewayRoutes::new(resources);
    let is_routed = |host: &str| routes.has(host) || virtual_services.has(host);
    services::give_addresses(&mut registry, &surroundings.vips, &is_routed, taken, report);
    let mesh = Mesh {
        registry: &registry,
        clients: &clients,
        sidecars: Sidecars::new(resources),
        destination_rules: DestinationRules::new(resources),
        virtual_services,
        routes,
        keeps_all: outbound::are_some_refused(resources),
    };
    checks::check(resources, &mesh, report);
    let mut lowered = services::make(&mesh, report);
    services::make_gateways(&mesh, &resources.gateways, &mut lowered, report);
    let splits = resources.splits.iter();
    lowered.drafts.extend(splits.filter_map(|split| labels::expand(split, &clients, report)));
    lowered.outbound = outbound::find(resources, &mesh.sidecars, &clients, report);
    let mut lookups = registry.lookups.clone();
    lookups.extend(lowered.outbound.iter().flat_map(Outbound::hosts).map(str::to_owned));
    lowered.lookups = lookups.into_iter().collect();
    lowered
}
