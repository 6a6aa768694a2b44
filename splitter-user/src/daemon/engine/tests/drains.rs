//! Drains by command and by the policy, and what the daemon asks of connections for it.

use splitter_common::abi::{State, StateRef, cell, standing};

use super::*;
use crate::compile::backend_image;
use crate::daemon::sweep::Asking;
use crate::publish::{CounterOwner, Counters};
use crate::tables::{Arena, read};

/// A followed service of two backends in its first subset and one in the second.
fn followed(asked: &str, weights: &str) -> String {
    service("a", 1, weights)
        .replace("  split:", &format!("  {asked}\n  split:"))
        .replace("[\"127.0.0.1:1\"]", "[\"127.0.0.1:1\", \"127.0.0.2:1\"]")
}

impl Bench {
    fn drain(&mut self, name: &str, backend: Option<&str>) -> Result<(), ChangeError> {
        let backend = backend.map(|addr| addr.parse().unwrap());
        self.engine.drain(&DrainTarget { name: name.to_owned(), backend }, Some(30_000)).map(drop)
    }

    fn undo(&mut self, name: &str, backend: Option<&str>) -> Result<(), ChangeError> {
        let backend = backend.map(|addr| addr.parse().unwrap());
        self.engine.undo_drain(&DrainTarget { name: name.to_owned(), backend }).map(drop)
    }

    /// What the only service asks of connections now.
    fn asking(&mut self) -> Asking {
        self.engine.timed.touch("a");
        let changed = self.engine.take_changed_terms();
        changed.into_iter().find(|(name, _)| name == "a").expect("it was touched").1
    }

    /// States of backends with a deadline.
    fn ending(&mut self) -> Vec<StateRef> {
        let terms = self.asking().terms.into_iter();
        terms.filter(|(_, terms)| terms.until_ns.is_some()).map(|(state, _)| state).collect()
    }

    /// Whether connections step over a backend.
    fn is_stepped_over(&self, addr: &str) -> bool {
        let publisher = self.engine.publisher();
        let states = publisher.states(service_id("a"));
        let image = backend_image(addr.parse().unwrap());
        let is_meant = |owner| matches!(owner, CounterOwner::Backend(_, other) if other == image);
        let mut states = states.iter().flat_map(Counters::iter);
        let (_, index) = states.find(|(owner, _)| is_meant(*owner)).expect("a backend");
        let state: State = read(publisher.maps(), Arena::States, index).unwrap();
        state.cells[cell::STANDING] & standing::DRAINING != 0
    }
}

#[test]
fn a_subset_loses_its_weight_until_the_drain_is_undone() {
    let mut bench = bench();
    bench.files(&followed("outcomes: true", "v1: 3, v2: 1")).unwrap();
    bench.drain("a/v2", None).unwrap();
    assert_eq!(bench.split("a"), (1, 1));
    assert_eq!(bench.ending().len(), 1);
    let mut bench = bench.restart();
    bench.files(&followed("outcomes: true", "v1: 3, v2: 1")).unwrap();
    assert_eq!((bench.split("a"), bench.ending().len()), ((1, 1), 1));
    bench.drain("a/v2", None).unwrap();
    bench.undo("a/v2", None).unwrap();
    assert_eq!((bench.split("a"), bench.ending().len()), ((4, 3), 0));
    assert!(bench.engine.overridden().is_empty(), "as the file says");
    assert!(bench.undo("a/v2", None).is_err());
}

#[test]
fn a_weight_ends_the_drain_of_a_subset() {
    let mut bench = bench();
    bench.files(&followed("outcomes: true", "v1: 3, v2: 1")).unwrap();
    bench.drain("a/v2", None).unwrap();
    bench.weight("a", &[("v1", 5)]).unwrap();
    assert_eq!(bench.ending().len(), 1, "another weight");
    bench.weight("a", &[("v2", 5)]).unwrap();
    assert!(bench.ending().is_empty());
    assert!(bench.undo("a/v2", None).is_err());
    let mut bench = bench.restart();
    bench.files(&followed("outcomes: true", "v1: 3, v2: 1")).unwrap();
    assert!(bench.ending().is_empty(), "nor after a restart");
}

#[test]
fn a_backend_is_stepped_over_until_the_drain_is_undone() {
    let mut bench = bench();
    let text = followed("outcomes: true", "v1: 3, v2: 1");
    bench.files(&text).unwrap();
    bench.drain("a", Some("127.0.0.2:1")).unwrap();
    assert!(bench.is_stepped_over("127.0.0.2:1") && !bench.is_stepped_over("127.0.0.1:1"));
    let refused = bench.drain("a", Some("127.0.0.1:1")).unwrap_err().to_string();
    assert!(refused.contains("no other backend of the subset `v1`"), "{refused}");
    bench.files(&followed("outcomes: true", "v1: 5, v2: 1")).unwrap();
    assert!(bench.is_stepped_over("127.0.0.2:1"), "it outlives a change");
    let mut bench = bench.restart();
    bench.files(&text).unwrap();
    bench.engine.resume_drains().unwrap();
    assert!(bench.is_stepped_over("127.0.0.2:1") && !bench.is_stepped_over("127.0.0.1:1"));
    assert_eq!(bench.ending().len(), 1);
    bench.undo("a/v1", Some("127.0.0.2:1")).unwrap();
    assert!(!bench.is_stepped_over("127.0.0.2:1") && bench.ending().is_empty());
}

#[test]
fn a_backend_that_leaves_while_it_drains_is_known_by_the_state_that_it_had() {
    let mut bench = bench();
    let text = followed("outcomes: true", "v1: 3, v2: 1");
    bench.files(&text).unwrap();
    bench.drain("a", Some("127.0.0.2:1")).unwrap();
    let before = bench.ending();
    bench.files(&text.replace(", \"127.0.0.2:1\"", "")).unwrap();
    assert_eq!(bench.ending(), before);
    assert!(bench.undo("a", Some("127.0.0.2:1")).is_err(), "it is no backend any more");
    bench.files(&text).unwrap();
    assert!(bench.ending().is_empty() && !bench.is_stepped_over("127.0.0.2:1"), "it is back");
}

#[test]
fn a_policy_that_drains_asks_for_the_end_of_what_it_gives_up() {
    let mut bench = bench();
    let text = followed("oldConnections: drain", "v1: 3, v2: 1");
    bench.files(&text).unwrap();
    assert!(bench.ending().is_empty());
    bench.weight("a", &[("v2", 0)]).unwrap();
    let weightless = bench.ending();
    bench.weight("a", &[("v2", 1)]).unwrap();
    assert_eq!((weightless.len(), bench.ending().len()), (1, 0));
    bench.files(&text.replace(", \"127.0.0.2:1\"", "")).unwrap();
    assert_eq!(bench.ending().len(), 1);
    assert_ne!(bench.ending(), weightless);
    bench.files(&service("b", 2, "v1: 1")).unwrap();
    assert_eq!(bench.ending().len(), 3, "with the service all of it goes");
    bench.files(&followed("outcomes: true", "v1: 3, v2: 0")).unwrap();
    assert!(bench.ending().is_empty(), "this one leaves connections alone");
}

#[test]
fn a_policy_that_rebalances_tells_its_weights_and_who_takes_connections() {
    let mut bench = bench();
    let text = followed("oldConnections: rebalance", "v1: 3, v2: 1");
    bench.files(&text).unwrap();
    let balance = bench.asking().balance.expect("it rebalances");
    let weights: Vec<u32> = balance.routes[0].weights.iter().map(|(_, weight)| *weight).collect();
    assert_eq!((weights, balance.routes[0].is_able), (vec![3, 1], true));
    let addr = "127.0.0.1:2".parse().unwrap();
    bench.engine.set_standing("a", "v2", addr, (standing::DOWN, true)).unwrap();
    assert!(!bench.asking().balance.unwrap().routes[0].is_able);
    bench.weight("a", &[("v2", 0)]).unwrap();
    assert!(bench.asking().balance.unwrap().routes[0].is_able, "it needs to take none");
    let random = text.replace("split:", "routes: [{pick: random, split:").replace("1}\n", "1}}]\n");
    bench.files(&random).unwrap();
    assert!(bench.asking().balance.unwrap().routes.is_empty());
}
