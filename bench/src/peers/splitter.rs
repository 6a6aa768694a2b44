//! Splitter's own programs, attached to the cgroup of the clients.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use splitter_tests::node::{Node, compile};
use splitter_user::policy::model::{Policy, Service};
use splitter_user::publish::Change;
use splitter_user::tables::Sizes;

use super::shares::frontend;
use super::{Ground, Missing, Peer, Running, step_out};

/// Splitter, with the hooks that the daemon would attach for the services.
#[derive(Clone, Copy, Debug)]
pub struct Splitter {
    follows: bool,
}

impl Splitter {
    /// As the services ask for it.
    pub const PLAIN: Self = Self { follows: false };
    /// Every connection is followed to its end and its outcome counted.
    pub const FOLLOWING: Self = Self { follows: true };
    /// What [`Splitter::FOLLOWING`] is called.
    pub const FOLLOWED: &str = "splitter, followed";
}

impl Peer for Splitter {
    fn name(&self) -> &'static str {
        if self.follows { Self::FOLLOWED } else { "splitter" }
    }

    fn missing(&self) -> Option<Missing> {
        None
    }

    fn is_hook(&self) -> bool {
        true
    }

    fn start(&self, ground: &Rc<Ground>, services: &[Service]) -> Result<Running> {
        let dial = frontend(services.first().context("a comparison needs a service")?)?;
        let count = u32::try_from(services.len()).context("number of services")?;
        let mut node = Node::with_sizes(Sizes::for_services(count.max(64)))?;
        step_out(&node.place)?;
        let mut services = services.to_vec();
        for service in &mut services {
            service.outcomes |= self.follows;
        }
        let images = compile(&Policy { services, ..Policy::default() })?;
        let changes = images.into_iter().map(|image| Change::Put(Arc::new(image))).collect();
        node.publisher.publish(changes).context("publish the services")?;
        node.detach_unneeded()?;
        let Node { publisher, attachment, loaded, pins, place, .. } = node;
        let parts = (publisher, attachment, loaded, pins);
        Ok(Running::new(self.name(), ground, place, dial.into(), parts))
    }
}
