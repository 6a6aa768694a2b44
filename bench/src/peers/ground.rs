//! A network with backends in it.

use std::collections::BTreeSet;
use std::net::{SocketAddr, SocketAddrV4};

use anyhow::Result;
use splitter_user::policy::model::Service;

use super::daemon::Daemon;
use super::nginx;
use super::shares::shares;
use crate::arm::Network;
use crate::load::Server;

/// What backends do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serve {
    /// They answer requests of [`Work::Request`](crate::load::Work::Request) with their names.
    Requests,
    /// They accept now and then, and close.
    Connections,
    /// They are nginx, and answer HTTP.
    Http,
}

/// A network with backends in it; both are gone when this is dropped.
pub struct Ground {
    _backends: Backends,
    /// The network; dropped last.
    pub network: Network,
}

#[expect(dead_code, reason = "held until the end")]
enum Backends {
    Load(Server),
    Http(Daemon),
}

impl Ground {
    /// Makes a network in which all backends of the services run.
    pub fn new(services: &[Service], serve: Serve) -> Result<Self> {
        let network = Network::new()?;
        let addrs = backends_of(services)?;
        let sockets = || -> Vec<SocketAddr> { addrs.iter().copied().map(Into::into).collect() };
        let backends = match serve {
            Serve::Requests => Backends::Load(Server::start(&network, &sockets())?),
            Serve::Connections => Backends::Load(Server::start_drain(&network, &sockets())?),
            Serve::Http => Backends::Http(nginx::serve_http(&network, &addrs)?),
        };
        Ok(Self { _backends: backends, network })
    }
}

/// Each once, sorted.
fn backends_of(services: &[Service]) -> Result<Vec<SocketAddrV4>> {
    let mut all = BTreeSet::new();
    for service in services {
        all.extend(shares(service)?.iter().map(|share| share.addr));
    }
    Ok(all.into_iter().collect())
}
