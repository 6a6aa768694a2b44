//! Connections to a policy in memory, counted.
//!
//! Every connection is decided by the very function that the kernel runs. Nothing is estimated,
//! and the same input gives the same counts.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;
use splitter_common::abi::{Backend, Reason};
use splitter_common::decide::{Decision, Verdict, decide};
use splitter_common::hash::mix;

use crate::compile::{backend_image, effective_weights, frontend_key, name_ids, service_id};
use crate::explain::errno_name;
use crate::policy::model::{Action, Balance, Frontend, Pick, Policy, Route, Service, Subset};
use crate::publish::{CounterOwner, Counters};
use crate::rehearsal::{Rehearsal, RehearsalError, Role, imagine_ids};
use crate::tables::world::{Client, HostWorld, Tickets};

/// Connections to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// What is dialled.
    pub to: Frontend,
    /// How often.
    pub connections: u64,
    /// By how many clients, in turn; at least 1.
    pub clients: u32,
    /// What all clients have in common.
    pub role: Role,
    /// Of the random numbers.
    pub seed: u64,
}

/// What became of the connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Simulation {
    /// What was dialled.
    pub to: String,
    /// How often.
    pub connections: u64,
    /// By how many clients.
    pub clients: u32,
    /// The service that has the frontend; every connection is left alone where there is none.
    pub service: Option<String>,
    /// Routes that took a connection, with the shares of their subsets.
    pub routes: Vec<Shares>,
    /// Subsets that got a connection, with the shares of their backends.
    pub subsets: Vec<Shares>,
    /// Connections that were not rewritten.
    pub others: Vec<Other>,
}

/// A route or subset, and how its connections were shared out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shares {
    /// Of the route or subset.
    pub name: String,
    /// How a share is chosen: `exact`, `random`, `by uid` ...; `reject` or `pass` for routes that
    /// do not split.
    pub pick: String,
    /// Connections in all.
    pub connections: u64,
    /// Of the route's subsets or of the subset's backends.
    pub shares: Vec<Share>,
}

/// One subset or backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Name of the subset or address of the backend.
    pub name: String,
    /// What was asked for, relative to `weights`.
    pub weight: u32,
    /// All weights together.
    pub weights: u64,
    /// What it got.
    pub connections: u64,
    /// Furthest that any prefix of the run was from what was asked for, in thousandths of a
    /// connection, rounded up.
    pub largest_error_thousandths: u64,
}

/// Connections that were not rewritten, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Other {
    /// `rejected` or `passed`.
    pub verdict: &'static str,
    /// Why; the word is that of the metrics.
    pub reason: &'static str,
    /// What `connect()` fails with.
    pub errno: Option<String>,
    /// How many.
    pub connections: u64,
}

/// Makes the connections. Fails where the policy cannot be published even into memory.
pub fn simulate(policy: &Policy, load: &Load) -> Result<Simulation, RehearsalError> {
    let ids = imagine_ids(policy, std::slice::from_ref(&load.role));
    let rehearsal = Rehearsal::new(policy, ids.clone())?;
    let service = policy.services.iter().find(|service| service.frontends.contains(&load.to));
    let mut count = service.map(|service| Count::new(service, &rehearsal));
    let clients: Vec<Client> = (0..load.clients).map(|n| load.role.client(n, &ids)).collect();
    let key = frontend_key(&load.to);
    for (n, client) in (0..load.connections).zip(clients.iter().cycle()) {
        // Neighbouring seeds would give neighbouring connections each other's random numbers.
        let seed = mix(load.seed, n);
        let world = HostWorld::new(rehearsal.maps(), client.clone(), Tickets::Take, seed);
        let decision = decide(&world, &key);
        if let Some(count) = &mut count {
            count.add(&decision);
        }
    }
    let (routes, subsets, others) = count.map(Count::finish).unwrap_or_default();
    Ok(Simulation {
        to: load.to.to_string(),
        connections: load.connections,
        clients: load.clients,
        service: service.map(|service| service.name.clone()),
        routes,
        subsets,
        others,
    })
}

/// Connections to one service, by what the decision says to count.
struct Count {
    routes: Vec<Tracker>,
    subsets: Vec<Tracker>,
    /// Ordinals of routes and subsets, and of backends within their subset, by counter.
    ordinals: HashMap<u32, usize>,
    others: Vec<(Verdict, u16, u32, u64)>,
}

impl Count {
    fn new(service: &Service, rehearsal: &Rehearsal) -> Self {
        let counters = rehearsal.publisher().counters(service_id(&service.name));
        let counters: HashMap<_, _> = counters.iter().flat_map(Counters::iter).collect();
        let counter = |owner| counters.get(&owner).copied();
        let mut ordinals = HashMap::new();
        let routes = name_ids(service.routes.iter().map(|route| route.name.as_str()));
        let owners = routes.into_iter().map(CounterOwner::Route).enumerate();
        ordinals.extend(owners.filter_map(|(i, owner)| Some((counter(owner)?, i))));
        let subsets = name_ids(service.subsets.iter().map(|subset| subset.name.as_str()));
        for (i, (id, subset)) in subsets.into_iter().zip(&service.subsets).enumerate() {
            ordinals.extend(counter(CounterOwner::Subset(id)).map(|counter| (counter, i)));
            let images = subset.backends.iter().map(|backend| backend_image(backend.addr));
            let owners = images.map(|image| CounterOwner::Backend(id, image)).enumerate();
            ordinals.extend(owners.filter_map(|(i, owner)| Some((counter(owner)?, i))));
        }
        Self {
            routes: service.routes.iter().map(|route| Tracker::of_route(service, route)).collect(),
            subsets: service.subsets.iter().map(Tracker::of_subset).collect(),
            ordinals,
            others: Vec::new(),
        }
    }

    fn add(&mut self, decision: &Decision<Backend>) {
        let ordinal = |counter: u32| self.ordinals.get(&counter).copied();
        let tally = &decision.tally;
        let (route, subset) = (ordinal(tally.route), ordinal(tally.subset));
        let backend = ordinal(tally.backend);
        if let Some(route) = route.and_then(|i| self.routes.get_mut(i)) {
            route.pick(subset);
        }
        if let Some(subset) = subset.and_then(|i| self.subsets.get_mut(i)) {
            subset.pick(backend);
        }
        if tally.reason != 0 {
            self.add_other(decision);
        }
    }

    fn add_other(&mut self, decision: &Decision<Backend>) {
        let (verdict, errno, reason) = (decision.verdict, decision.errno, decision.tally.reason);
        let same =
            |(v, e, r, _): &&mut (Verdict, u16, u32, u64)| (*v, *e, *r) == (verdict, errno, reason);
        match self.others.iter_mut().find(same) {
            Some((.., connections)) => *connections += 1,
            None => self.others.push((verdict, errno, reason, 1)),
        }
    }

    fn finish(mut self) -> (Vec<Shares>, Vec<Shares>, Vec<Other>) {
        let used = |trackers: Vec<Tracker>| {
            let used = trackers.into_iter().filter(|tracker| tracker.n > 0);
            used.map(Tracker::finish).collect()
        };
        self.others.sort_by_key(|(_, errno, reason, _)| (*reason, *errno));
        (used(self.routes), used(self.subsets), self.others.into_iter().map(other).collect())
    }
}

fn other((verdict, errno, reason, connections): (Verdict, u16, u32, u64)) -> Other {
    let known = Reason::ALL.into_iter().find(|known| *known as u32 == reason);
    Other {
        verdict: if verdict == Verdict::Reject { "rejected" } else { "passed" },
        reason: known.map_or("unknown", Reason::name),
        errno: (errno != 0).then(|| errno_name(errno)),
        connections,
    }
}

/// Counts picks of ordinals, and how far their counts ever were from their weights.
struct Tracker {
    name: String,
    pick: String,
    shares: Vec<String>,
    weights: Vec<u32>,
    sum: u64,
    n: u64,
    counts: Vec<u64>,
    /// Largest `|count * sum - n * weight|` of each ordinal.
    worst: Vec<u64>,
}

impl Tracker {
    fn new(name: &str, pick: String, shares: Vec<String>, weights: Vec<u32>) -> Self {
        let n = weights.len();
        let sum = weights.iter().copied().map(u64::from).sum();
        let (counts, worst) = (vec![0; n], vec![0; n]);
        Self { name: name.to_owned(), pick, shares, weights, sum, n: 0, counts, worst }
    }

    fn of_route(service: &Service, route: &Route) -> Self {
        let split = match &route.action {
            Action::Pass => return Self::new(&route.name, "pass".to_owned(), vec![], vec![]),
            Action::Reject(_) => {
                return Self::new(&route.name, "reject".to_owned(), vec![], vec![]);
            }
            Action::Split(split) => split,
        };
        let pick = match split.pick {
            Pick::Exact => "exact".to_owned(),
            Pick::Random => "random".to_owned(),
            Pick::Affinity(key) => format!("by {key}"),
        };
        let names = service.subsets.iter().map(|subset| subset.name.clone()).collect();
        Self::new(&route.name, pick, names, effective_weights(service, split).into_vec())
    }

    fn of_subset(subset: &Subset) -> Self {
        let pick = match subset.balance {
            Balance::RoundRobin | Balance::LeastConnections => "exact".to_owned(),
            Balance::Random => "random".to_owned(),
            Balance::ClientHash(key) => format!("by {key}"),
        };
        let names = subset.backends.iter().map(|backend| backend.addr.to_string()).collect();
        let weights = subset.backends.iter().map(|backend| backend.weight).collect();
        Self::new(&subset.name, pick, names, weights)
    }

    /// An ordinal's error grows fastest from one of its picks to the next, so it is largest right
    /// before or right after one.
    fn pick(&mut self, ordinal: Option<usize>) {
        if let Some(i) = ordinal {
            self.note_error(i);
        }
        self.n += 1;
        if let Some(i) = ordinal {
            self.counts[i] += 1;
            self.note_error(i);
        }
    }

    fn note_error(&mut self, i: usize) {
        let error = (self.counts[i] * self.sum).abs_diff(self.n * u64::from(self.weights[i]));
        self.worst[i] = self.worst[i].max(error);
    }

    fn finish(mut self) -> Shares {
        (0..self.weights.len()).for_each(|i| self.note_error(i));
        let share = |i: usize| Share {
            name: self.shares[i].clone(),
            weight: self.weights[i],
            weights: self.sum,
            connections: self.counts[i],
            largest_error_thousandths: thousandths(self.worst[i], self.sum),
        };
        let shares = (0..self.weights.len()).filter(|i| self.weights[*i] > 0).map(share).collect();
        Shares { name: self.name, pick: self.pick, connections: self.n, shares }
    }
}

fn thousandths(numerator: u64, denominator: u64) -> u64 {
    let thousandths = (u128::from(numerator) * 1000).div_ceil(u128::from(denominator.max(1)));
    u64::try_from(thousandths).unwrap_or(u64::MAX)
}

impl Display for Simulation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let clients = if self.clients == 1 { "client" } else { "clients" };
        let Self { connections, clients: n, to, .. } = self;
        writeln!(f, "{connections} connections from {n} {clients} to {to}")?;
        match &self.service {
            Some(service) => writeln!(f, "service {service}")?,
            None => writeln!(f, "no service has this frontend: every connection is left alone")?,
        }
        for (what, list) in [("route", &self.routes), ("subset", &self.subsets)] {
            for shares in list {
                write!(f, "\n{what} {} ({}): {}\n", shares.name, shares.pick, shares.connections)?;
                write_table(f, &shares.shares)?;
            }
        }
        if !self.others.is_empty() {
            writeln!(f)?;
        }
        for other in &self.others {
            let errno = other.errno.as_ref().map_or(String::new(), |errno| format!(", {errno}"));
            writeln!(f, "{}: {} ({}{errno})", other.verdict, other.connections, other.reason)?;
        }
        Ok(())
    }
}

fn write_table(f: &mut Formatter<'_>, shares: &[Share]) -> fmt::Result {
    let width = shares.iter().map(|share| share.name.len()).max().unwrap_or(0);
    let asked: Vec<String> = shares.iter().map(|s| format!("{}/{}", s.weight, s.weights)).collect();
    let asked_width = asked.iter().map(String::len).max().unwrap_or(0);
    let got = shares.iter().map(|s| s.connections.to_string().len()).max().unwrap_or(0);
    for (share, asked) in shares.iter().zip(asked) {
        let Share { name, connections, largest_error_thousandths: error, .. } = share;
        let error = format!("{}.{:03}", error / 1000, error % 1000);
        writeln!(
            f,
            "  {name:width$}  asked {asked:>asked_width$}  got {connections:>got$}  never off by \
             more than {error}"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Source, load};

    fn run(text: &str, connections: u64, clients: u32) -> Simulation {
        let source = Source::new("-", text);
        let policy = load(&[source]).expect("a valid policy").policy;
        let to = policy.services[0].frontends[0];
        let load = Load { to, connections, clients, role: Role::default(), seed: 1 };
        simulate(&policy, &load).expect("plain memory")
    }

    fn got(shares: &Shares) -> Vec<u64> {
        shares.shares.iter().map(|share| share.connections).collect()
    }

    #[test]
    fn exact_splits_are_exact_and_said_to_be() {
        let simulation = run(include_str!("../../policies/endpoint-weights.yaml"), 400, 1);
        assert_eq!(got(&simulation.routes[0]), [380, 20]);
        assert_eq!(got(&simulation.subsets[0]), [285, 95]);
        let shares = simulation.routes.iter().chain(&simulation.subsets).flat_map(|s| &s.shares);
        for share in shares {
            assert!(share.largest_error_thousandths < 1_000, "{share:?}");
        }
    }

    #[test]
    fn random_splits_are_near_and_said_to_be_off() {
        let simulation = run(include_str!("../../policies/udp.yaml"), 10_000, 1);
        let canary = &simulation.routes[0].shares[1];
        assert!(canary.connections.abs_diff(500) < 100, "{canary:?}");
        assert!(canary.largest_error_thousandths > 1_000, "{canary:?}");
    }

    #[test]
    fn affinity_spreads_clients() {
        let text = include_str!("../../policies/affinity.yaml");
        assert_eq!(
            run(text, 100, 1).routes[0].shares.iter().filter(|s| s.connections > 0).count(),
            1
        );
        let many = run(text, 5_000, 5_000);
        assert!(many.routes[0].shares[1].connections.abs_diff(500) < 100);
    }

    #[test]
    fn one_seed_gives_one_result() {
        let text = include_str!("../../policies/udp.yaml");
        assert_eq!(run(text, 1_000, 3), run(text, 1_000, 3));
    }
}
