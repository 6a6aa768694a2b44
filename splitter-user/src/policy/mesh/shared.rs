//! Hosts that clients dial at one address.
//!
//! A document may give several hosts the same addresses: a proxy tells them apart by what clients
//! say. Nothing is said when a connection is made, so there is one service for all of them, as long
//! as the same becomes of the connections to each.

use std::collections::HashMap;

use super::registry::Host;
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report, Span};
use crate::policy::document::Draft;
use crate::policy::model::{Frontend, Service};

/// Services so far of hosts that have their addresses from one document.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Document of the address, place of the host and position of its service, by frontend.
    owners: HashMap<Frontend, (Span, Span, usize)>,
}

impl Shared {
    /// Adds a host's service to all, unless an earlier one is the same.
    pub(super) fn add(
        &mut self,
        host: &Host<'_>,
        mut draft: Draft,
        all: &mut Vec<Draft>,
        report: &mut Report,
    ) {
        if !host.answers.is_empty() && !self.yield_answers(host, &mut draft, all, report) {
            return;
        }
        let owner = draft.service.frontends.iter().find_map(|it| self.owners.get(it));
        if let Some((_, first, index)) = owner.filter(|owner| owner.0 == host.document) {
            let same = all.get(*index).is_some_and(|known| alike(&known.service, &draft.service));
            if !same {
                conflict(host, *first, report);
            }
            return;
        }
        for frontend in &draft.service.frontends {
            self.owners.entry(*frontend).or_insert((host.document, host.at, all.len()));
        }
        all.push(draft);
    }
}

impl Shared {
    /// Leaves answers of the resolver to other hosts that are dialled there: what somebody else's
    /// server of names says must not refuse a policy. Answers whether any frontend is left.
    fn yield_answers(
        &self,
        host: &Host<'_>,
        draft: &mut Draft,
        all: &[Draft],
        report: &mut Report,
    ) -> bool {
        let is_others = |frontend: &Frontend| {
            let (_, at, index) = self.owners.get(frontend)?;
            let is_answer = host.answers.contains(&frontend.addr.ip());
            let is_same = all.get(*index).is_some_and(|it| alike(&it.service, &draft.service));
            (is_answer && !is_same).then_some(*at)
        };
        let taken: Vec<(Frontend, Span)> =
            draft.service.frontends.iter().filter_map(|it| Some((*it, is_others(it)?))).collect();
        for (frontend, other) in &taken {
            already_dialled(host, *frontend, *other, report);
        }
        let is_kept = |frontend: &Frontend| !taken.iter().any(|(gone, _)| gone == frontend);
        draft.service.frontends.retain(is_kept);
        draft.places.frontends.retain(|(frontend, _)| is_kept(frontend));
        !draft.service.frontends.is_empty()
    }
}

fn already_dialled(host: &Host<'_>, frontend: Frontend, other: Span, report: &mut Report) {
    let message =
        format!("{} resolves to {}, where another host is dialled", host.name, frontend.addr);
    report.push(
        Diagnostic::new(&code::ANSWER_SHARED, host.at, message)
            .with_secondary(other, "the other host")
            .with_help(
                "connections there follow the rules of the other host; clients that dial the \
                 address of this one in `splitter hosts` follow its own",
            ),
    );
}

/// Whether two services differ in nothing but names.
fn alike(a: &Service, b: &Service) -> bool {
    let nameless = |service: &Service| {
        let mut service = service.clone();
        service.name.clear();
        service.subsets.iter_mut().for_each(|subset| subset.name.clear());
        service
    };
    nameless(a) == nameless(b)
}

fn conflict(host: &Host<'_>, first: Span, report: &mut Report) {
    let message = format!("{} has the address of another host, and other rules", host.name);
    report.push(
        Diagnostic::new(&code::HOSTS_ALIKE, host.at, message)
            .with_secondary(first, "the other host")
            .with_help(
                "nothing tells the two apart when a connection is made: give each an address of \
                 its own, in a ServiceEntry of its own, or the same rules to both",
            ),
    );
}
