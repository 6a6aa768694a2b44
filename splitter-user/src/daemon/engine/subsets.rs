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

    /// Names of a service and of its subset; a service that is gone is named by its number, and there
    /// is none of a subset that is gone.
    pub(crate) fn name_subset(&self, service: ServiceId, subset: u32) -> (String, Option<String>) {
        let mut running = self.running();
        let Some(running) = running.find(|it| service_id(&it.service.name) == service) else {
            return (format!("{:#x}", service.0), None);
        };
        let service = &running.service;
        let at = subset_ids(service).iter().position(|id| *id == subset);
        (service.name.clone(), at.map(|at| service.subsets[at].name.clone()))
    }
}

fn subset_ids(service: &Service) -> impl std::ops::Deref<Target = [u32]> + use<> {
    name_ids(service.subsets.iter().map(|subset| subset.name.as_str()))
}
