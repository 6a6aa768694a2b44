//! Backends and subsets that are to have no connections any more, by command.
//!
//! A subset that is drained has weight 0, as by any other command about weights; a backend is
//! stepped over, as one that health checks say is down. What becomes of connections that they have
//! is asked for in [`super::seats`].

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use splitter_common::abi::standing;
use tracing::{info, warn};

use super::leaving::Member;
use super::weights::{Named, changed_weights, find_subset, give_weight, take_weight};
use super::{ChangeError, Engine, OptionalHooks};
use crate::compile::service_id;
use crate::daemon::drains::{Deadline, Drain, Drains, Now};
use crate::daemon::outcomes::monotonic_ns;
use crate::daemon::overrides::Changes;
use crate::policy::model::{self, Service, Subset};
use crate::policy::suggest;
use crate::publish::PublishError;
use crate::tables::Maps;

/// What a command is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// Name of the service, with that of the subset behind a `/` where one is meant.
    pub(crate) name: String,
    /// One backend, in every subset that has it where none is named.
    pub(crate) backend: Option<SocketAddr>,
}

/// What a drain, or its end, did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Drained {
    /// Name of the service.
    pub(crate) service: String,
    /// Backends with the connections that they had.
    pub(crate) backends: Vec<DrainedBackend>,
    /// Whether the connections were known: those of services that are not followed are not.
    pub(crate) followed: bool,
    /// Whether it has TCP connections.
    pub(crate) has_connections: bool,
    /// Whether it has UDP sockets, and of which kind, if so.
    pub(crate) datagrams: Option<Datagrams>,
    /// How long they may go on, in milliseconds; for ever where there is none.
    pub(crate) deadline_ms: Option<u64>,
    /// Routes whose weights changed.
    pub(crate) routes: Vec<DrainedRoute>,
    /// The generation that is in force.
    pub(crate) generation: u64,
}

/// Which UDP sockets a service splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Datagrams {
    /// Also those that never connect.
    All,
    /// Connected ones.
    Connected,
}

impl Datagrams {
    fn of(service: &Service) -> Option<Self> {
        service.has_datagrams().then_some(match service.datagrams {
            model::Datagrams::All => Self::All,
            model::Datagrams::Connected => Self::Connected,
        })
    }
}

/// One backend of a drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainedBackend {
    /// Name of the subset.
    pub(crate) subset: String,
    /// Its address.
    pub(crate) address: String,
    /// Connections that it had.
    pub(crate) connections: u64,
}

/// One route whose weights changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainedRoute {
    /// Its name.
    pub(crate) route: String,
    /// Subsets with their weights before.
    pub(crate) before: Named,
    /// Subsets with their weights now.
    pub(crate) after: Named,
}

/// What the state directory has. Damage is reported: what is drained no more can be drained again.
pub(super) fn read(text: &str) -> Drains {
    Drains::from_text(text, Now::read()).unwrap_or_else(|error| {
        warn!("what was drained by command is not known any more: {error}");
        Drains::default()
    })
}

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// Has a subset or a backend get no new connections, and closes those that it has at a deadline.
    pub(crate) fn drain(
        &mut self,
        target: &Target,
        deadline_ms: Option<u64>,
    ) -> Result<Drained, ChangeError> {
        self.check_known()?;
        let (service, subset) = self.find_drained(target)?;
        let deadline = Deadline::after(monotonic_ns(), deadline_ms);
        let name = service.name.clone();
        let (drains, next) = match (target.backend, subset) {
            (Some(addr), subset) => {
                let members = self.find_members(&service, subset.as_deref(), addr)?;
                let drain = |Member { subset, addr }: Member| {
                    let (service, backend, weights) = (name.clone(), Some(addr), Vec::new());
                    Drain { service, subset, backend, deadline, weights }
                };
                (members.into_iter().map(drain).collect(), None)
            }
            (None, Some(subset)) => {
                self.check_closable(&name, deadline)?;
                let taken = take_weight(&service, &subset).map_err(ChangeError::Impossible)?;
                let (next, weights) = taken;
                let drain = Drain { service: name, subset, backend: None, deadline, weights };
                (vec![drain], Some(next))
            }
            (None, None) => return Err(nothing_said(&service)),
        };
        let told = self.tell(&service, &drains, next.as_ref());
        self.commit_drains(&service, next, self.drains.with(&drains))?;
        self.step_over(&drains, true)?;
        info!(service = %service.name, connections = told.connections(), deadline_ms, "drain");
        Ok(Drained { deadline_ms, generation: self.publisher.generation(), ..told })
    }

    /// Ends drains: connections come again, and those that are left go on.
    pub(crate) fn undo_drain(&mut self, target: &Target) -> Result<Drained, ChangeError> {
        self.check_known()?;
        let (service, subset) = self.find_drained(target)?;
        if target.backend.is_none() && subset.is_none() {
            return Err(nothing_said(&service));
        }
        let is_meant = |drain: &Drain| {
            drain.service == service.name
                && drain.backend == target.backend
                && subset.as_ref().is_none_or(|subset| drain.subset == *subset)
        };
        let ended: Vec<Drain> = self.drains.iter().filter(|it| is_meant(it)).cloned().collect();
        if ended.is_empty() {
            return Err(self.not_drained(&service));
        }
        let mut next = Service::clone(&service);
        for drain in &ended {
            let given = give_weight(&next, &drain.subset, &drain.weights);
            next = given.map_err(ChangeError::Impossible)?;
        }
        let told = self.tell(&service, &ended, Some(&next));
        let kept = self.drains.filtered(|drain| !is_meant(drain));
        self.commit_drains(&service, Some(next), kept)?;
        self.step_over(&ended, false)?;
        info!(service = %service.name, connections = told.connections(), "drain undone");
        Ok(Drained { generation: self.publisher.generation(), ..told })
    }

    /// The service, and the subset where one is named.
    fn find_drained(&self, target: &Target) -> Result<(Arc<Service>, Option<String>), ChangeError> {
        let (name, subset) = self.find_target(&target.name);
        let subset = subset.filter(|subset| !subset.is_empty());
        let service = match (self.find(name), target.name.rsplit_once('/')) {
            (Err(_), Some((service, subset))) if !self.is_named(service) => {
                return Err(self.unknown_part(service, subset));
            }
            (found, _) => Arc::clone(&found?.service),
        };
        if let Some(subset) = subset {
            find_subset(&service, subset).map_err(ChangeError::Impossible)?;
        }
        Ok((service, subset.map(str::to_owned)))
    }

    /// Where a backend is, in all subsets or in the one that is named. Fails where somebody's share
    /// would be refused without it.
    fn find_members(
        &self,
        service: &Service,
        subset: Option<&str>,
        addr: SocketAddr,
    ) -> Result<Vec<Member>, ChangeError> {
        let name = &service.name;
        if self.publisher.states(service_id(name)).is_none() {
            return Err(ChangeError::Impossible(format!(
                "connections of `{name}` are not followed, so none of its backends can be drained: \
                 write `outcomes: true` into its policy first, or drain a whole subset with \
                 `splitter drain {name}/SUBSET --deadline never`"
            )));
        }
        let is_named = |it: &&Subset| subset.is_none_or(|subset| it.name == subset);
        let meant = || service.subsets.iter().filter(is_named);
        let holding: Vec<&Subset> =
            meant().filter(|it| it.backends.iter().any(|it| it.addr == addr)).collect();
        if holding.is_empty() {
            let known = meant().flat_map(|it| &it.backends).map(|it| it.addr.to_string());
            let known: Vec<String> = known.collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let help = suggest(&addr.to_string(), &known, "its backends");
            return Err(ChangeError::Impossible(format!("`{name}` has no backend {addr}: {help}")));
        }
        holding.iter().try_for_each(|subset| self.check_others(service, subset, addr))?;
        Ok(holding.into_iter().map(|it| Member { subset: it.name.clone(), addr }).collect())
    }

    /// Fails where connections go to a subset, and to no other backend of it.
    fn check_others(
        &self,
        service: &Service,
        subset: &Subset,
        addr: SocketAddr,
    ) -> Result<(), ChangeError> {
        let name = &service.name;
        let is_drained = |addr| {
            self.drains.of(name).any(|it| it.subset == subset.name && it.backend == Some(addr))
        };
        let mut others = subset.backends.iter().filter(|it| it.addr != addr && it.weight > 0);
        let is_offered = self.seats(name).iter().any(|seat| {
            seat.member == Member { subset: subset.name.clone(), addr } && seat.is_offered
        });
        if !is_offered || others.any(|it| !is_drained(it.addr)) {
            return Ok(());
        }
        Err(ChangeError::Impossible(format!(
            "no other backend of the subset `{subset}` of `{name}` than {addr} takes connections, \
             so its share would be refused: drain the whole subset, with `splitter drain \
             {name}/{subset}`, or give it another backend first",
            subset = subset.name
        )))
    }

    /// Fails where connections are to be closed that nobody knows.
    fn check_closable(&self, name: &str, deadline: Deadline) -> Result<(), ChangeError> {
        if deadline == Deadline::Never || self.publisher.states(service_id(name)).is_some() {
            return Ok(());
        }
        Err(ChangeError::Impossible(format!(
            "connections of `{name}` are not followed, so those that there are cannot be closed: \
             leave them alone with `--deadline never`, or write `outcomes: true` into its policy, \
             by which those can be that come from then on"
        )))
    }

    fn not_drained(&self, service: &Service) -> ChangeError {
        let name = &service.name;
        let show = |drain: &Drain| match drain.backend {
            Some(addr) => format!("`{name}/{} --backend {addr}`", drain.subset),
            None => format!("`{name}/{}`", drain.subset),
        };
        let drained: Vec<String> = self.drains.of(name).map(show).collect();
        let help = match drained[..] {
            [] => format!("nothing of `{name}` is"),
            _ => format!("what is: {}", drained.join(", ")),
        };
        ChangeError::Impossible(format!("this is not drained by command: {help}"))
    }

    /// What a drain is about, before it is made or ended.
    fn tell(&self, service: &Service, drains: &[Drain], next: Option<&Service>) -> Drained {
        let seats = self.seats(&service.name).into_iter();
        let is_meant =
            |member: &Member| drains.iter().any(|it| it.covers(&member.subset, member.addr));
        let backends = seats.filter(|seat| is_meant(&seat.member)).map(|seat| DrainedBackend {
            subset: seat.member.subset,
            address: seat.member.addr.to_string(),
            connections: seat.live,
        });
        let routes = next.map(|next| changed_weights(service, next)).unwrap_or_default();
        let routes = routes.into_iter();
        Drained {
            service: service.name.clone(),
            backends: backends.collect(),
            followed: self.publisher.states(service_id(&service.name)).is_some(),
            has_connections: service.has_connections(),
            datagrams: Datagrams::of(service),
            deadline_ms: None,
            routes: routes
                .map(|(route, before, after)| DrainedRoute { route, before, after })
                .collect(),
            generation: 0,
        }
    }

    /// Makes these the drains, with the service as it is then.
    fn commit_drains(
        &mut self,
        service: &Service,
        next: Option<Service>,
        drains: Drains,
    ) -> Result<(), ChangeError> {
        let next = next.filter(|next| next != service);
        let targets: Vec<_> =
            next.into_iter().map(|next| self.applied_target(Arc::new(next))).collect();
        let services = targets.iter().map(|it| self.override_for(it)).collect();
        let text = Some(drains.to_text(Now::read()));
        let changes = Changes { services, documents: None, drains: text };
        self.commit_with_overrides(targets, &[], changes)?;
        self.drains = drains;
        self.refresh_leavers(&service.name);
        Ok(())
    }

    /// Has connections step over drained backends, or no longer.
    fn step_over(&mut self, drains: &[Drain], is_set: bool) -> Result<(), ChangeError> {
        for drain in drains {
            let Some(addr) = drain.backend else { continue };
            self.set_standing(&drain.service, &drain.subset, addr, (standing::DRAINING, is_set))
                .map_err(|error| ChangeError::Kernel(PublishError::Kernel(error)))?;
        }
        Ok(())
    }
}

impl Drained {
    /// Connections of all backends.
    pub(crate) fn connections(&self) -> u64 {
        self.backends.iter().map(|backend| backend.connections).sum()
    }
}

fn nothing_said(service: &Service) -> ChangeError {
    let name = &service.name;
    let subsets: Vec<String> =
        service.subsets.iter().map(|subset| format!("`{name}/{}`", subset.name)).collect();
    ChangeError::Impossible(format!(
        "which part of `{name}`? name a subset, {}, or a backend with `--backend ADDRESS:PORT`",
        subsets.join(" or ")
    ))
}
