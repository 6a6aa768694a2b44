//! A publish that dies, or is refused a write, at any point of it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use proptest::prelude::*;
use splitter_common::abi::FrontendKey;

use super::fixture::{Seen, changes, connect, fresh, images, in_force, observe, put};
use crate::compile::image::{ServiceId, ServiceImage};
use crate::policy::arbitrary::{all_frontends, policy, some_policies};
use crate::policy::model::Policy;
use crate::publish::{FaultyMaps, PublishError, Publisher};
use crate::tables::Maps;
use crate::tables::memory::MemoryMaps;

fn refused() -> io::Result<()> {
    Err(io::ErrorKind::Other.into())
}

/// A policy in force, with tickets that stand somewhere.
fn running(policy: &Policy) -> MemoryMaps {
    let publisher = fresh(policy);
    connect(publisher.maps(), 2);
    publisher.into_maps()
}

/// Writes of an adoption of `old`, and of a publish of `new` after it.
fn count_writes(old: &Policy, new: &Policy) -> (u64, u64) {
    let maps = FaultyMaps::new(running(old), u64::MAX, || Ok(()));
    let mut publisher = Publisher::adopt(maps).expect("a sound policy");
    let adopted = publisher.maps().writes_left();
    put(&mut publisher, new);
    (u64::MAX - adopted, adopted - publisher.maps().writes_left())
}

/// The maps as a publisher leaves them that dies after so many writes.
fn die_after(writes: u64, maps: MemoryMaps, new: &Policy) -> MemoryMaps {
    let faulty = FaultyMaps::new(maps, writes, refused);
    let mut publisher = Publisher::adopt(faulty).expect("dies later");
    let changes = changes(&publisher, new);
    let _dead = publisher.publish(changes);
    publisher.into_maps().into_inner()
}

/// An adoption that dies after so many writes.
fn die_adopting(writes: u64, mut maps: MemoryMaps) -> MemoryMaps {
    let _dead = Publisher::adopt(FaultyMaps::new(Borrowed(&mut maps), writes, refused));
    maps
}

/// Maps that outlive the publisher that took them.
struct Borrowed<'a>(&'a mut MemoryMaps);

impl Maps for Borrowed<'_> {
    fn sizes(&self) -> &crate::tables::Sizes {
        self.0.sizes()
    }
    fn words(&self, arena: crate::tables::Arena) -> &[std::sync::atomic::AtomicU64] {
        self.0.words(arena)
    }
    fn frontend(&self, key: &FrontendKey) -> io::Result<Option<u32>> {
        self.0.frontend(key)
    }
    fn frontends(&self) -> io::Result<Vec<(FrontendKey, u32)>> {
        self.0.frontends()
    }
    fn counters(&self) -> io::Result<Vec<u64>> {
        self.0.counters()
    }
    fn grace(&self) -> std::sync::Arc<dyn crate::tables::Grace> {
        self.0.grace()
    }
    fn insert_frontends(&mut self, frontends: &[(FrontendKey, u32)]) -> io::Result<()> {
        self.0.insert_frontends(frontends)
    }
    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> io::Result<()> {
        self.0.delete_frontends(keys)
    }
    fn zero_counters(&mut self, indices: &[u32]) -> io::Result<()> {
        self.0.zero_counters(indices)
    }
}

fn listed<M: Maps>(maps: &M) -> BTreeSet<FrontendKey> {
    maps.frontends().expect("plain memory").into_iter().map(|(key, _)| key).collect()
}

/// A policy, and all that tells whether maps hold it.
#[derive(Debug)]
struct Expected {
    policy: Policy,
    images: BTreeMap<ServiceId, ServiceImage>,
    keys: BTreeSet<FrontendKey>,
    usage: Vec<(&'static str, u32, u32)>,
    shown: Vec<Seen>,
}

impl Expected {
    fn new(policy: Policy) -> Self {
        let publisher = fresh(&policy);
        let usage = publisher.usage();
        connect(publisher.maps(), 2);
        let shown = observe(publisher.maps());
        let images = images(&policy);
        let keys = images.values().flat_map(|image| image.frontends.iter().copied()).collect();
        Self { policy, images, keys, usage, shown }
    }

    /// Whether the maps hold exactly this policy, and nothing else is taken or listed.
    fn is_all_of<M: Maps>(&self, publisher: &Publisher<M>) -> bool {
        in_force(publisher) == self.images
            && listed(publisher.maps()) == self.keys
            && publisher.usage() == self.usage
    }
}

/// Adopts what a dead publisher left, and publishes.
fn recover(maps: MemoryMaps, old: &Expected, new: &Expected, died_after: u64) {
    let mut publisher = Publisher::adopt(maps).expect("a sound policy");
    if old.is_all_of(&publisher) {
        assert_eq!(observe(publisher.maps()), old.shown, "after {died_after} writes");
    } else {
        assert!(new.is_all_of(&publisher), "after {died_after} writes");
    }
    put(&mut publisher, &new.policy);
    publisher.settle().expect("plain memory");
    assert!(new.is_all_of(&publisher), "after {died_after} writes and another publish");
}

/// A publish that is refused writes from some point on, for as long as `broken` says.
fn refuse_from(writes: u64, old: &Expected, new: &Expected, undo_works: bool) {
    let broken = Rc::new(Cell::new(true));
    let fuse = Rc::clone(&broken);
    let fault = move || {
        let result = if fuse.get() { refused() } else { Ok(()) };
        fuse.set(fuse.get() && !undo_works);
        result
    };
    let maps = FaultyMaps::new(running(&old.policy), writes, fault);
    let mut publisher = Publisher::adopt(maps).expect("is refused later");
    let wanted = changes(&publisher, &new.policy);
    match publisher.publish(wanted.clone()) {
        Ok(_) => assert_eq!(in_force(&publisher), new.images),
        Err(PublishError::Kernel(_)) => {
            assert_eq!(in_force(&publisher), old.images);
            assert_eq!(observe(publisher.maps()), old.shown, "refused after {writes} writes");
        }
        Err(error) => panic!("{error}"),
    }
    broken.set(false);
    publisher.publish(wanted).expect("the maps work again");
    publisher.settle().expect("plain memory");
    assert!(new.is_all_of(&publisher), "refused after {writes} writes");
    let again = Publisher::adopt(publisher.into_maps()).expect("a sound policy");
    assert!(new.is_all_of(&again));
}

fn expected() -> impl Strategy<Value = Expected> {
    policy().prop_map(Expected::new)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn death_leaves_one_policy_or_the_other(old in expected(), new in expected()) {
        let (adopting, publishing) = count_writes(&old.policy, &new.policy);
        for k in 0..=publishing {
            let maps = die_after(adopting + k, running(&old.policy), &new.policy);
            recover(maps, &old, &new, k);
        }
    }

    #[test]
    fn death_while_recovering_is_no_worse(old in expected(), new in expected(), then in 0_u64..12) {
        let (adopting, publishing) = count_writes(&old.policy, &new.policy);
        for k in 0..=publishing {
            let maps = die_after(adopting + k, running(&old.policy), &new.policy);
            recover(die_adopting((k + then) % 12, maps), &old, &new, k);
        }
    }

    #[test]
    fn refusal_leaves_the_old_policy(old in expected(), new in expected(), undo_works: bool) {
        let (adopting, publishing) = count_writes(&old.policy, &new.policy);
        for k in 0..=publishing {
            refuse_from(adopting + k, &old, &new, undo_works);
        }
    }

    #[test]
    fn adoption_changes_nothing(expected in expected()) {
        let mut publisher = Publisher::adopt(running(&expected.policy)).unwrap();
        prop_assert!(expected.is_all_of(&publisher));
        prop_assert_eq!(observe(publisher.maps()), expected.shown);
        let unchanged = changes(&publisher, &expected.policy);
        let published = publisher.publish(unchanged).unwrap();
        prop_assert_eq!((published.changed, published.removed), (0, 0));
    }
}

/// Keys are ordered by their bytes, and the ports of the model by their numbers.
#[test]
fn adoption_knows_frontends_in_any_order() {
    let mut policy = some_policies(64).into_iter().find(|policy| !policy.services.is_empty());
    let policy = policy.as_mut().expect("some policy has a service");
    policy.services.truncate(1);
    policy.services[0].frontends = all_frontends();
    policy.services[0].frontends.sort_unstable();
    let publisher = Publisher::adopt(running(policy)).expect("a sound policy");
    assert_eq!(in_force(&publisher), images(policy));
}
