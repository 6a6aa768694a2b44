//! What a service asks of any way to split: addresses with whole-number weights.
//!
//! Other ways have no subsets and no clients to tell apart, so a service is flattened: a backend's
//! weight is its share of its subset's share. Services that other ways cannot express are refused,
//! so that nobody is measured doing something else.

use std::net::{SocketAddr, SocketAddrV4};

use anyhow::{Context as _, Result, bail, ensure};
use splitter_user::policy::model::{Action, Protocol, Service};

/// A backend and its weight among all backends of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Where it listens.
    pub addr: SocketAddrV4,
    /// At least 1.
    pub weight: u32,
}

/// Backends of a service in the order of its text, with the smallest weights that keep their
/// proportions. Backends of no weight are left out.
pub fn shares(service: &Service) -> Result<Vec<Share>> {
    let flat = flatten(service).with_context(|| format!("flatten the service {}", service.name))?;
    let common = flat.iter().fold(0, |common, (_, weight)| gcd(common, *weight));
    ensure!(common > 0, "no backend of the service {} has a weight", service.name);
    let reduced = flat.into_iter().map(|(addr, weight)| {
        let weight = u32::try_from(weight / common).context("weights have no common measure")?;
        Ok(Share { addr, weight })
    });
    reduced.collect()
}

/// Sum of the weights.
pub fn total(shares: &[Share]) -> u64 {
    shares.iter().map(|share| u64::from(share.weight)).sum()
}

/// What clients of a service dial.
pub fn frontend(service: &Service) -> Result<SocketAddrV4> {
    let frontend = service.frontends.first().context("a service has a frontend")?;
    ensure!(frontend.protocol == Protocol::Tcp, "{} is not TCP, as proxies need it", service.name);
    v4(frontend.addr)
}

/// The sum, over subsets, of weight times backend weight, each over its subset's sum.
fn flatten(service: &Service) -> Result<Vec<(SocketAddrV4, u64)>> {
    let [route] = service.routes.as_slice() else { bail!("it has several routes") };
    let Action::Split(split) = &route.action else { bail!("its route does not split") };
    ensure!(route.matches.is_empty(), "its route is for some clients only");
    let used = || split.weights.iter().filter(|(_, weight)| *weight > 0);
    let sum_of = |subset: usize| -> u64 {
        service.subsets[subset].backends.iter().map(|backend| u64::from(backend.weight)).sum()
    };
    ensure!(used().all(|(subset, _)| sum_of(*subset) > 0), "a subset in use has no backends");
    let measure = used().fold(1, |measure, (subset, _)| lcm(measure, sum_of(*subset)));
    let mut flat: Vec<(SocketAddrV4, u64)> = Vec::new();
    for (subset, weight) in used() {
        let unit = measure / sum_of(*subset) * u64::from(*weight);
        for backend in service.subsets[*subset].backends.iter().filter(|b| b.weight > 0) {
            let (addr, weight) = (v4(backend.addr)?, unit * u64::from(backend.weight));
            match flat.iter_mut().find(|(known, _)| *known == addr) {
                Some((_, sum)) => *sum += weight,
                None => flat.push((addr, weight)),
            }
        }
    }
    Ok(flat)
}

fn v4(addr: SocketAddr) -> Result<SocketAddrV4> {
    match addr {
        SocketAddr::V4(addr) => Ok(addr),
        SocketAddr::V6(addr) => bail!("{addr}: peers are measured over IPv4"),
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn lcm(a: u64, b: u64) -> u64 {
    a / gcd(a, b) * b
}

#[cfg(test)]
mod tests {
    use super::super::tests::service;
    use super::*;

    fn weights(text: &str) -> Vec<(u16, u32)> {
        let service = service("127.10.0.1:80", text);
        let shares = shares(&service).unwrap();
        shares.iter().map(|share| (share.addr.port(), share.weight)).collect()
    }

    #[test]
    fn weights_of_subsets_are_divided_among_their_backends() {
        assert_eq!(weights("90: 1 / 10: 2"), [(1, 9), (2, 1)]);
        assert_eq!(weights("80: 1 2 / 20: 3 4"), [(1, 4), (2, 4), (3, 1), (4, 1)]);
        assert_eq!(weights("50: 1 2 3 / 50: 4"), [(1, 1), (2, 1), (3, 1), (4, 3)]);
    }

    #[test]
    fn backends_of_several_subsets_get_both_shares() {
        assert_eq!(weights("75: 1 / 25: 1 2"), [(1, 7), (2, 1)]);
    }

    #[test]
    fn what_gets_nothing_is_left_out() {
        assert_eq!(weights("0: 1 / 7: 2"), [(2, 1)]);
    }
}
