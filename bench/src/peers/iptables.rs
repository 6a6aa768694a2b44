//! iptables: a rule per service, and a chain of rules that draw by probability.
//!
//! This is how kube-proxy's iptables mode works, weights added. Every connection passes the rules
//! of all services until one takes it.

use std::fmt::Write as _;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use splitter_user::policy::model::Service;

use super::shares::{frontend, shares, total};
use super::{Ground, Missing, Peer, Running, directory, place_of_clients, text_of};
use crate::arm::succeed;

const INSTALL: &str = "apt-get install iptables";

/// iptables with the `statistic` match.
#[derive(Clone, Copy, Debug)]
pub struct Iptables;

impl Peer for Iptables {
    fn name(&self) -> &'static str {
        "iptables"
    }

    fn missing(&self) -> Option<Missing> {
        Missing::program("iptables-restore", INSTALL)
    }

    fn start(&self, ground: &Rc<Ground>, services: &[Service]) -> Result<Running> {
        let dial = frontend(services.first().context("a comparison needs a service")?)?;
        let directory = directory()?;
        let path = directory.path().join("rules");
        std::fs::write(&path, rules(services)?).context("write rules for iptables")?;
        succeed(ground.network.command("iptables-restore").arg(text_of(&path)?))?;
        Ok(Running::new(self.name(), ground, place_of_clients()?, dial.into(), ()))
    }
}

/// Rules for all services, as `iptables-restore` reads them.
pub fn rules(services: &[Service]) -> Result<String> {
    let mut text = String::from("*nat\n");
    (0..services.len()).try_for_each(|number| writeln!(text, ":S{number} -"))?;
    for (number, service) in services.iter().enumerate() {
        let dial = frontend(service)?;
        let (ip, port) = (dial.ip(), dial.port());
        writeln!(text, "-A OUTPUT -d {ip}/32 -p tcp -m tcp --dport {port} -j S{number}")?;
        write!(text, "{}", draws(number, service)?)?;
    }
    text.push_str("COMMIT\n");
    Ok(text)
}

/// Each rule draws its backend's part of what the rules before it left; the last takes the rest.
fn draws(number: usize, service: &Service) -> Result<String> {
    let shares = shares(service)?;
    let mut left = total(&shares);
    let mut text = String::new();
    for share in &shares {
        let weight = u64::from(share.weight);
        write!(text, "-A S{number} -p tcp")?;
        if weight < left {
            let part = f64::from(share.weight) / precise(left);
            write!(text, " -m statistic --mode random --probability {part:.10}")?;
        }
        writeln!(text, " -j DNAT --to-destination {}", share.addr)?;
        left -= weight;
    }
    Ok(text)
}

#[expect(clippy::cast_precision_loss, reason = "a sum of weights is far below 2^52")]
fn precise(sum: u64) -> f64 {
    sum as f64
}

#[cfg(test)]
mod tests {
    use super::super::tests::service;
    use super::*;

    #[test]
    fn each_rule_draws_from_what_is_left() {
        let service = service("127.10.0.1:8080", "50: 1 / 25: 2 / 25: 3");
        assert_eq!(
            rules(&[service]).unwrap(),
            "*nat
:S0 -
-A OUTPUT -d 127.10.0.1/32 -p tcp -m tcp --dport 8080 -j S0
-A S0 -p tcp -m statistic --mode random --probability 0.5000000000 -j DNAT --to-destination 127.0.0.1:1
-A S0 -p tcp -m statistic --mode random --probability 0.5000000000 -j DNAT --to-destination 127.0.0.1:2
-A S0 -p tcp -j DNAT --to-destination 127.0.0.1:3
COMMIT
"
        );
    }
}
