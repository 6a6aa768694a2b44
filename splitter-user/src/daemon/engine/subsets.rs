//! Subsets by name and by identity.

use splitter_common::abi::MAX_ASSIGNABLE;

use super::weights::find_subset;
use super::{ChangeError, Engine, OptionalHooks};
use crate::compile::image::ServiceId;
use crate::compile::{name_ids, service_id};
use crate::policy::model::Service;
use crate::tables::Maps;

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// Identities of a service in force and of one of its subsets.
    pub(crate) fn find_assignable(
        &self,
        service: &str,
        subset: &str,
    ) -> Result<(ServiceId, u32), ChangeError> {
        let service = &self.find(service)?.service;
        let at = find_subset(service, subset).map_err(ChangeError::Impossible)?;
        if at >= MAX_ASSIGNABLE as usize {
            return Err(ChangeError::Impossible(format!(
                "`{subset}` is the {}th subset of `{}`, and only the first {MAX_ASSIGNABLE} can be \
                 chosen",
                at + 1,
                service.name
            )));
        }
        Ok((service_id(&service.name), subset_ids(service)[at]))
    }

    /// Name of a service in force.
    pub(crate) fn name_service(&self, service: ServiceId) -> Option<&str> {
        self.by_id(service).map(|service| service.name.as_str())
    }

    /// Name of a subset of a service, where both are in force.
    pub(crate) fn name_subset(&self, service: ServiceId, subset: u32) -> Option<String> {
        let service = self.by_id(service)?;
        let at = subset_ids(service).iter().position(|id| *id == subset)?;
        Some(service.subsets[at].name.clone())
    }

    fn by_id(&self, id: ServiceId) -> Option<&Service> {
        let mut services = self.running().map(|running| running.service.as_ref());
        services.find(|service| service_id(&service.name) == id)
    }
}

fn subset_ids(service: &Service) -> impl std::ops::Deref<Target = [u32]> + use<> {
    name_ids(service.subsets.iter().map(|subset| subset.name.as_str()))
}
