//! No split at all: clients dial the heaviest backend. What everything is compared with.

use std::rc::Rc;

use anyhow::{Context as _, Result};
use splitter_user::policy::model::Service;

use super::shares::shares;
use super::{Ground, Missing, Peer, Running, place_of_clients};

/// No split at all.
#[derive(Clone, Copy, Debug)]
pub struct Direct;

impl Peer for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn missing(&self) -> Option<Missing> {
        None
    }

    fn is_hook(&self) -> bool {
        true
    }

    fn start(&self, ground: &Rc<Ground>, services: &[Service]) -> Result<Running> {
        let dial = heaviest(services)?;
        Ok(Running::new(self.name(), ground, place_of_clients()?, dial, ()))
    }
}

/// The backend that most connections of the first service go to.
pub(super) fn heaviest(services: &[Service]) -> Result<std::net::SocketAddr> {
    let shares = shares(services.first().context("a comparison needs a service")?)?;
    let heaviest = shares.iter().max_by_key(|share| share.weight);
    Ok(heaviest.context("a service has backends")?.addr.into())
}
