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

/// Splitter, all of its hooks attached.
#[derive(Clone, Copy, Debug)]
pub struct Splitter;

impl Peer for Splitter {
    fn name(&self) -> &'static str {
        "splitter"
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
        let policy = Policy { services: services.to_vec(), ..Policy::default() };
        let images = compile(&policy)?;
        let changes = images.into_iter().map(|image| Change::Put(Arc::new(image))).collect();
        node.publisher.publish(changes).context("publish the services")?;
        let Node { publisher, attachment, loaded, pins, place } = node;
        let parts = (publisher, attachment, loaded, pins);
        Ok(Running::new(self.name(), ground, place, dial.into(), parts))
    }
}
