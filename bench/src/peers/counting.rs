//! Who got how many connections: how exactly peers keep to weights.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use splitter_user::policy::model::Service;

use super::shares::{Share, shares, total};
use super::{Envoy, Haproxy, Iptables, Nftables, Nginx, Peer, Serve, Splitter, line_up};
use crate::load::{Command, Outcome, Work};
use crate::run::Run;

/// All that split, random ones included.
pub const SPLITTING: [&dyn Peer; 7] = [
    &Splitter::PLAIN,
    &Nftables::IN_TURN,
    &Nftables::AT_RANDOM,
    &Iptables,
    &Haproxy,
    &Nginx,
    &Envoy,
];

/// The connections of one peer since its start, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// Name of the peer.
    pub peer: String,
    /// What part of all connections each backend is to get; they sum to 1.
    pub parts: Vec<f64>,
    /// Who got each connection, as an ordinal into `parts`.
    pub order: Vec<u16>,
}

impl Counted {
    /// How many of the first connections each backend got.
    pub fn counts(&self, first: usize) -> Vec<u64> {
        let mut counts = vec![0; self.parts.len()];
        self.order.iter().take(first).for_each(|ordinal| counts[usize::from(*ordinal)] += 1);
        counts
    }

    /// How far, in connections, the count of some backend is from its part after the first
    /// connections.
    pub fn error_after(&self, first: usize) -> f64 {
        worst(&self.counts(first), &self.parts)
    }

    /// The same, the worst over all beginnings up to so many connections.
    pub fn prefix_error(&self, first: usize) -> f64 {
        let mut counts = vec![0; self.parts.len()];
        let errors = self.order.iter().take(first).map(|ordinal| {
            counts[usize::from(*ordinal)] += 1;
            worst(&counts, &self.parts)
        });
        errors.fold(0.0, f64::max)
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of connections are far below 2^52")]
fn worst(counts: &[u64], parts: &[f64]) -> f64 {
    let sum = counts.iter().sum::<u64>() as f64;
    let errors = counts.iter().zip(parts).map(|(count, part)| (*count as f64 - sum * part).abs());
    errors.fold(0.0, f64::max)
}

/// Has every peer that can run split so many connections, one after the other, from its start.
/// Peers that cannot run are noted.
pub fn count(run: &mut Run, service: &Service, connections: u64) -> Result<Vec<Counted>> {
    let shares = shares(service)?;
    let services = std::slice::from_ref(service);
    let mut counted = Vec::new();
    for peer in SPLITTING {
        // One at a time: nothing is compared in time here.
        for mut side in line_up(run, &[peer], services, Serve::Requests)? {
            let command = Command::new(Work::Request, side.peer.dial, connections).in_order();
            let outcome = side.client.run(&command)?;
            if outcome.failed() > 0 {
                run.note(format!("{}: failed connections: {:?}", peer.name(), outcome.failures))?;
            }
            counted.push(of_outcome(peer.name(), &outcome, &shares)?);
        }
    }
    Ok(counted)
}

/// Answers come by address; parts are in the order of the shares.
fn of_outcome(peer: &str, outcome: &Outcome, shares: &[Share]) -> Result<Counted> {
    let place = |name: &String| {
        let addr: SocketAddr = name.parse().with_context(|| format!("{peer}: {name} answered"))?;
        let place = shares.iter().position(|share| SocketAddr::from(share.addr) == addr);
        let place =
            place.with_context(|| format!("{peer}: {addr} answered, which is no backend"))?;
        Ok(u16::try_from(place)?)
    };
    let places: Result<Vec<u16>> = outcome.backends.keys().map(place).collect();
    let places = places?;
    ensure!(!outcome.order.is_empty(), "{peer}: nobody answered: {:?}", outcome.failures);
    Ok(Counted {
        peer: peer.to_owned(),
        parts: shares.iter().map(|share| part(share, shares)).collect(),
        order: outcome.order.iter().map(|ordinal| places[usize::from(*ordinal)]).collect(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a sum of weights is far below 2^52")]
fn part(share: &Share, shares: &[Share]) -> f64 {
    f64::from(share.weight) / total(shares) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tests::service;
    use super::*;

    #[test]
    fn errors_are_the_worst_of_all_backends() {
        let order = [&[0_u16; 9][..], &[1]].concat();
        let blocks = Counted { peer: "blocks".to_owned(), parts: vec![0.9, 0.1], order };
        assert_eq!(blocks.counts(10), [9, 1]);
        assert!(blocks.error_after(10) < 1e-9);
        assert!((blocks.error_after(9) - 0.9).abs() < 1e-9);
        assert!((blocks.prefix_error(10) - 0.9).abs() < 1e-9);
        assert!((blocks.prefix_error(1) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn answers_are_placed_by_the_order_of_the_shares() {
        let shares = shares(&service("127.10.0.1:80", "1: 9 / 1: 1")).unwrap();
        let backends =
            BTreeMap::from([("127.0.0.1:1".to_owned(), 1), ("127.0.0.1:9".to_owned(), 2)]);
        let outcome = Outcome { backends, order: vec![1, 0, 1], ..Outcome::default() };
        assert_eq!(of_outcome("it", &outcome, &shares).unwrap().order, [0, 1, 0]);
        let strange = BTreeMap::from([("127.0.0.1:2".to_owned(), 1)]);
        let outcome = Outcome { backends: strange, order: vec![0], ..Outcome::default() };
        assert!(of_outcome("it", &outcome, &shares).is_err());
    }
}
