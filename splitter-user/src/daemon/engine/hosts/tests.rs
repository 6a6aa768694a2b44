//! Addresses come, leave, stay for a time and go.

use super::*;
use crate::policy::model::{Destinations, Reach};

const API: &str = "api.example.com";

/// One document that names one host.
fn wanted() -> Vec<Outbound> {
    let to = Destinations::Hosts(vec![API.to_owned()]);
    let reaches = vec![Reach { is_refused: false, to, ports: Vec::new(), protocol: None }];
    vec![Outbound { reaches, ..Outbound::plain("default/web".to_owned(), Vec::new(), true) }]
}

fn address(n: usize) -> IpAddr {
    IpAddr::from((0x0a00_0000 + u32::try_from(n).unwrap()).to_be_bytes())
}

fn answers(numbers: impl IntoIterator<Item = usize>) -> Answers {
    [(API.to_owned(), numbers.into_iter().map(address).collect())].into()
}

fn stands_for(hosts: &Hosts) -> Vec<IpAddr> {
    hosts.addresses(&wanted())[API].clone()
}

fn addresses(numbers: impl IntoIterator<Item = usize>) -> Vec<IpAddr> {
    numbers.into_iter().map(address).collect()
}

#[test]
fn what_left_an_answer_counts_for_an_hour() {
    let (mut hosts, start) = (Hosts::default(), Instant::now());
    let at = |minutes| start + Duration::from_mins(minutes);
    assert!(stands_for(&hosts).is_empty());
    hosts.learn(&answers([1, 2]), &wanted(), at(0));
    hosts.learn(&answers([2, 3]), &wanted(), at(10));
    hosts.learn(&answers([4]), &wanted(), at(20));
    assert_eq!(stands_for(&hosts)[..1], addresses([4]));
    assert_eq!(stands_for(&hosts).len(), 4);
    // One that comes back has its time anew.
    hosts.learn(&answers([1, 4]), &wanted(), at(30));
    hosts.learn(&answers([4]), &wanted(), at(40));
    assert_eq!(stands_for(&hosts)[..2], addresses([4, 1]), "the latest first");
    assert!(!hosts.forget(at(79)));
    assert_eq!(stands_for(&hosts).len(), 4);
    assert!(hosts.forget(at(80)));
    assert_eq!(stands_for(&hosts), addresses([4, 1]));
    assert!(hosts.forget(at(100)));
    assert_eq!(stands_for(&hosts), addresses([4]));
    assert!(hosts.left.is_empty());
}

#[test]
fn names_that_rotate_do_not_grow_without_end() {
    let (mut hosts, now) = (Hosts::default(), Instant::now());
    for n in 0..MAX_HOST_ADDRESSES + 10 {
        let at = now + Duration::from_secs(u64::try_from(n).unwrap());
        hosts.learn(&answers([n, n + 1]), &wanted(), at);
    }
    let stands_for = stands_for(&hosts);
    assert_eq!(stands_for.len(), MAX_HOST_ADDRESSES);
    assert!(stands_for.contains(&address(11)) && !stands_for.contains(&address(10)));
    // A whole answer leaves no room for what left.
    hosts.learn(&answers(1_000..1_000 + MAX_HOST_ADDRESSES), &wanted(), now);
    assert!(hosts.left.is_empty());
}

#[test]
fn names_of_services_alone_leave_nothing_behind() {
    let (mut hosts, now) = (Hosts::default(), Instant::now());
    hosts.learn(&answers([1]), &[], now);
    assert_eq!(stands_for(&hosts), addresses([1]), "known at once to a document that comes");
    hosts.learn(&answers([2]), &[], now);
    assert!(hosts.left.is_empty());
}

#[test]
fn the_next_daemon_knows_all_of_it() {
    let (mut hosts, now) = (Hosts::default(), Instant::now());
    hosts.learn(&answers([1, 2]), &wanted(), now);
    hosts.learn(&answers([2, 3]), &wanted(), now);
    // Services may be at older answers, and what is no document's now may be one's again.
    for (of_services, named) in
        [(answers([2, 3]), wanted()), (answers([2, 3]), Vec::new()), (answers([1]), wanted())]
    {
        let beside = hosts.beside(&of_services, &named);
        let next = Hosts::restore(&of_services, &beside, now);
        let known: BTreeSet<IpAddr> = stands_for(&next).into_iter().collect();
        assert_eq!(known, addresses([1, 2, 3]).into_iter().collect());
    }
    assert_eq!(Hosts::default().beside(&answers([1]), &wanted()), Answers::new());
}
