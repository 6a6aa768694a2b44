//! Room in the tables: nothing leaks, nothing overlaps, and a full table changes nothing.

use proptest::prelude::*;

use super::fixture::{SIZES, changes, fresh, images, in_force, observe, put, words};
use crate::policy::arbitrary::{policy, some_policies};
use crate::policy::model::Policy;
use crate::publish::{PublishError, Publisher};
use crate::tables::Sizes;
use crate::tables::memory::MemoryMaps;

/// Room for little more than one policy, so that room is short all the time.
const TIGHT: Sizes = Sizes {
    frontends: 12,
    plans: 9,
    routes: 40,
    matches: 40,
    wheels: 32,
    cells: 1_500,
    subsets: 24,
    backends: 60,
    counters: 130,
    conducts: 24,
    faults: 24,
    states: 110,
};

/// Whether a policy was published; if not, the table was full and nothing happened.
fn try_put(publisher: &mut Publisher<MemoryMaps>, policy: &Policy) -> bool {
    let wanted = changes(publisher, policy);
    let before = in_force(publisher);
    match publisher.publish(wanted) {
        Ok(_) => true,
        Err(PublishError::Full { wanted, used, size, .. }) => {
            assert!(wanted > 0 && used <= size);
            assert_eq!(in_force(publisher), before);
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn ten_thousand_publishes_in_a_small_table() {
    let policies = some_policies(64);
    let shown: Vec<_> = policies.iter().map(|policy| observe(fresh(policy).maps())).collect();
    let mut publisher = Publisher::adopt(MemoryMaps::new(TIGHT)).expect("empty maps");
    let (mut done, mut full) = (0, 0);
    for i in 0..10_000 {
        // Neighbours are others in every round.
        let n = (i * 13 + i / policies.len()) % policies.len();
        if try_put(&mut publisher, &policies[n]) {
            done += 1;
            // Overlaps would show: nobody took a ticket.
            assert_eq!(observe(publisher.maps()), shown[n], "publish {i}");
        } else {
            full += 1;
        }
        if i % 3 == 0 {
            publisher.settle().expect("plain memory");
        }
    }
    assert!(done > 5_000 && full > 0, "{done} published, {full} full");
    put(&mut publisher, &Policy::default());
    publisher.settle().expect("plain memory");
    let empty = Publisher::adopt(MemoryMaps::new(TIGHT)).expect("empty maps");
    assert_eq!(publisher.usage(), empty.usage());
}

/// Every pool, by the name of its map, made too small by itself.
fn too_small(map: &str, size: u32) -> Sizes {
    let mut sizes = SIZES;
    let field = match map {
        "FRONTENDS" => &mut sizes.frontends,
        "PLANS" => &mut sizes.plans,
        "ROUTES" => &mut sizes.routes,
        "MATCHES" => &mut sizes.matches,
        "WHEELS" => &mut sizes.wheels,
        "CELLS" => &mut sizes.cells,
        "SUBSETS" => &mut sizes.subsets,
        "BACKENDS" => &mut sizes.backends,
        "COUNTERS" => &mut sizes.counters,
        "CONDUCTS" => &mut sizes.conducts,
        "FAULTS" => &mut sizes.faults,
        "STATES" => &mut sizes.states,
        other => panic!("no map {other}"),
    };
    *field = size;
    sizes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn full_is_found_before_the_first_write(policy in policy()) {
        let usage = fresh(&policy).usage();
        let empty = Publisher::adopt(MemoryMaps::new(SIZES)).unwrap().usage();
        for ((map, used, _), (_, least, _)) in usage.into_iter().zip(empty) {
            if used == least {
                continue;
            }
            let maps = MemoryMaps::new(too_small(map, used - 1));
            let mut publisher = Publisher::adopt(maps).unwrap();
            let before = words(publisher.maps());
            let wanted = changes(&publisher, &policy);
            match publisher.publish(wanted) {
                Err(PublishError::Full { map: named, .. }) => prop_assert_eq!(named, map),
                other => prop_assert!(false, "{other:?} with {map} too small"),
            }
            prop_assert_eq!(words(publisher.maps()), before);
            prop_assert!(publisher.services().next().is_none());
            let maps = MemoryMaps::new(too_small(map, used));
            put(&mut Publisher::adopt(maps).unwrap(), &policy);
        }
    }

    #[test]
    fn retired_records_serve_again(first in policy(), second in policy()) {
        let mut publisher = fresh(&first);
        put(&mut publisher, &second);
        publisher.settle().unwrap();
        prop_assert_eq!(publisher.usage(), fresh(&second).usage());
        prop_assert_eq!(in_force(&publisher), images(&second));
    }
}
