//! Where a wheel stands after its service, or another, was published.

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use splitter_common::abi::FrontendKey;
use splitter_common::decide::decide;

use super::fixture::{fresh, put};
use crate::compile::{frontend_key, service_id};
use crate::policy::arbitrary::policy;
use crate::policy::model::{Action, Policy, Service};
use crate::policy::{Source, load};
use crate::publish::Publisher;
use crate::tables::memory::MemoryMaps;
use crate::tables::world::{Client, HostWorld, Tickets};
use crate::tables::{Arena, Maps};

const WEB: &str = "
apiVersion: splitter.dev/v1
kind: Split
metadata: {name: web}
spec:
  frontends: [\"127.20.0.1:80\"]
  subsets:
    v1: {backends: [\"127.0.0.1:9001\", \"127.0.0.2:9001\"]}
    v2: {backends: [\"127.0.0.1:9002\"]}
  routes:
    - {name: all, split: {v1: 3, v2: 2}}
";

fn web(text: &str) -> Service {
    let source = Source::new("web", text);
    load(&[source]).expect("a valid policy").policy.services.remove(0)
}

fn alone(service: Service) -> Policy {
    Policy { services: vec![service], outbound: Vec::new() }
}

/// Port of the backend of the next connection.
fn dial<M: Maps>(publisher: &Publisher<M>) -> u16 {
    let key: FrontendKey = frontend_key(&web(WEB).frontends[0]);
    let world = HostWorld::new(publisher.maps(), Client::default(), Tickets::Take, 0);
    decide(&world, &key).backend.expect("rewritten").port_be.to_host()
}

/// Tickets of all wheels that were ever used.
fn tickets(publisher: &Publisher<MemoryMaps>) -> Vec<u64> {
    let words = publisher.maps().words(Arena::Wheels).chunks(Arena::Wheels.record_words());
    let tickets = words.map(|wheel| wheel[0].load(Ordering::SeqCst));
    tickets.filter(|ticket| *ticket > 0).collect()
}

#[test]
fn other_changes_of_the_service_keep_its_place() {
    let mut publisher = fresh(&alone(web(WEB)));
    let first: Vec<u16> = (0..4).map(|_| dial(&publisher)).collect();
    for (from, to) in [
        ("127.20.0.1:80\"", "127.20.0.1:80\", \"127.20.0.2:80\""),
        ("127.0.0.1:9002", "127.0.0.9:9002"),
        ("name: all", "name: all, onEmpty: spill"),
        ("frontends", "getpeername: frontend\n  frontends"),
    ] {
        put(&mut publisher, &alone(web(&WEB.replace(from, to))));
    }
    let mut publisher = Publisher::adopt(publisher.into_maps()).expect("a sound policy");
    put(&mut publisher, &alone(web(WEB)));
    let all: Vec<u16> = first.into_iter().chain((4..10).map(|_| dial(&publisher))).collect();
    assert_eq!(all[..5], all[5..], "two turns of one wheel");
    assert_eq!(all.iter().filter(|port| **port == 9_002).count(), 4);
}

#[test]
fn a_changed_wheel_starts_anew() {
    let mut publisher = fresh(&alone(web(WEB)));
    (0..7).for_each(|_| assert_ne!(dial(&publisher), 0));
    put(&mut publisher, &alone(web(&WEB.replace("v1: 3, v2: 2", "v1: 2, v2: 3"))));
    publisher.settle().expect("plain memory");
    let started: Vec<u16> = (0..5).map(|_| dial(&publisher)).collect();
    let fresh = fresh(&alone(web(&WEB.replace("v1: 3, v2: 2", "v1: 2, v2: 3"))));
    assert_eq!(started, (0..5).map(|_| dial(&fresh)).collect::<Vec<_>>());
}

#[test]
fn a_wheel_that_another_service_had_starts_at_zero() {
    let mut publisher = fresh(&alone(web(WEB)));
    (0..7).for_each(|_| assert_ne!(dial(&publisher), 0));
    for _ in 0..3 {
        put(&mut publisher, &Policy::default());
        publisher.settle().expect("plain memory");
        put(&mut publisher, &alone(web(WEB)));
        assert!(tickets(&publisher).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_hundred_commits_of_others_leave_it_exact(others in prop::collection::vec(policy(), 8)) {
        let mut publisher = fresh(&alone(web(WEB)));
        let mut v2 = 0_u64;
        for n in 1..=100_u64 {
            v2 += u64::from(dial(&publisher) == 9_002);
            prop_assert!((v2 * 5).abs_diff(n * 2) < 5, "{} of {}", v2, n);
            let mut policy = others[usize::try_from(n).unwrap() % others.len()].clone();
            // Another weight every time, so that something is written.
            if let Some(Action::Split(split)) = policy.services.first_mut().map(|s| &mut s.routes[0].action) {
                split.weights[0].1 = u32::try_from(n).unwrap();
            }
            policy.services.push(web(WEB));
            put(&mut publisher, &policy);
            if n % 7 == 0 {
                publisher = Publisher::adopt(publisher.into_maps()).unwrap();
            }
        }
        prop_assert!(publisher.image(service_id("web")).is_some());
    }
}
