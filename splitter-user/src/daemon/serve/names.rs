//! The part of the event loop that is about names: which are asked for, and what their answers do.

use std::time::Instant;

use tracing::error;

use super::Daemon;
use crate::daemon::requests::{chain, log_applied};

impl Daemon {
    /// Asks the resolver for what the policy needs now, which may be other names than before the
    /// change. Where answers did not fit the policy of that generation, they may fit this one.
    pub(super) fn follow_hosts(&mut self, before: u64) {
        self.resolver.follow(&self.engine.documents().lookups);
        let is_other = self.engine.publisher().generation() != before;
        if is_other && self.circumstances.dns_problem.is_some() {
            self.take_answers();
        }
    }

    pub(super) fn take_answers(&mut self) {
        let result = self.engine.set_answers(self.resolver.known());
        match &result {
            Ok(applied) => log_applied("resolved", applied),
            Err(error) => {
                error!("other addresses of hosts are not in force for services: {}", chain(error));
            }
        }
        self.circumstances.dns_problem = result.err().map(|error| {
            let why = chain(&error);
            format!(
                "other addresses of hosts are not in force for services, those of before are: {why}"
            )
        });
        self.resolver.follow(&self.engine.documents().lookups);
        self.free_retired();
    }

    /// Has clients no longer reach addresses that left the answers of their names long ago.
    pub(super) fn forget_left_hosts(&mut self) {
        if let Err(error) = self.engine.forget_left_hosts(Instant::now()) {
            error!("addresses that left the answers of their names still count: {}", chain(&error));
        }
        self.free_retired();
    }
}
