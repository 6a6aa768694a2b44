//! Foreign documents, put together to services.
//!
//! What the readers of `istio`, `kubernetes` and `gateway_api` leave are [`resource`]s: parts that
//! mean something only together. Here they become a registry of hosts, and the rules that reach a
//! host become its routes. Every selector of these forms is about the client alone and does not
//! change while a client lives, so for each client and each address exactly one rule is in force:
//! it is found here, once, and not at each connection.

pub(super) mod layers;
pub(super) mod meta;
pub(super) mod port;
pub(super) mod read;
pub(super) mod resource;
pub(super) mod vips;
pub(super) mod workload;

use super::diagnostic::Report;
use super::document::Draft;
use super::model::Outbound;
use super::{HostNames, Surroundings};
use resource::Resources;

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

/// Makes services of resources.
pub(super) fn lower(
    _resources: &Resources,
    _surroundings: &Surroundings,
    _report: &mut Report,
) -> Lowered {
    Lowered::default()
}
