//! A program at the hook that does nothing: what any program there costs.

use std::rc::Rc;

use anyhow::{Context as _, Result};
use splitter_tests::empty::EmptyProgram;
use splitter_user::policy::model::Service;

use super::direct::heaviest;
use super::{Ground, Missing, Peer, Running, place_of_clients};

/// A program at the hook that does nothing; clients dial the heaviest backend.
#[derive(Clone, Copy, Debug)]
pub struct Empty;

impl Peer for Empty {
    fn name(&self) -> &'static str {
        "empty program"
    }

    fn missing(&self) -> Option<Missing> {
        None
    }

    fn is_hook(&self) -> bool {
        true
    }

    fn start(&self, ground: &Rc<Ground>, services: &[Service]) -> Result<Running> {
        let place = place_of_clients()?;
        let program = EmptyProgram::attach(place.cgroup()).context("attach an empty program")?;
        Ok(Running::new(self.name(), ground, place, heaviest(services)?, program))
    }
}
