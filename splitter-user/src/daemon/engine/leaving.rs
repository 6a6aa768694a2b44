//! Backends that a policy with `oldConnections: drain` sends nobody to any more, and until when their
//! connections go on. Pure: the time is handed in.
//!
//! What is drained by command counts before that: see [`crate::daemon::drains`].

use std::collections::BTreeMap;
use std::net::SocketAddr;

use splitter_common::abi::StateRef;

use crate::daemon::drains::Deadline;

/// How long after its end the drain of a backend that is gone is remembered: connections that are
/// established late are closed for so long.
const AFTER_NS: u64 = 600 * 1_000_000_000;

/// A backend in its subset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) subset: String,
    pub(super) addr: SocketAddr,
}

/// A member of a policy.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) member: Member,
    /// Where its connections count.
    pub(super) state: StateRef,
    /// Whether weights send connections to it.
    pub(super) is_offered: bool,
    /// What a command says of its connections.
    pub(super) command: Option<Deadline>,
    /// Connections that it has.
    pub(super) live: u64,
    /// Whether UDP sockets may be connected to it too, which nobody counts.
    pub(super) has_datagrams: bool,
}

/// When connections are closed that a policy would not make any more, in nanoseconds of
/// `CLOCK_MONOTONIC`, if the policy closes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    /// Those to backends that left the policy.
    pub(super) gone_ns: Option<u64>,
    /// Those to backends to which no weight sends others.
    pub(super) weightless_ns: Option<u64>,
}

/// A backend whose connections are to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaver {
    pub(super) member: Member,
    pub(super) state: StateRef,
    /// When its connections are closed, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) until_ns: u64,
    /// Whether a command said so, before it left the policy.
    pub(super) by_command: bool,
    /// Connections that it had when it left the policy; `None` while it is there.
    pub(super) last_live: Option<u64>,
    /// As of its seat.
    pub(super) has_datagrams: bool,
}

/// All of them, by service.
#[derive(Default)]
pub(super) struct Leaving(BTreeMap<String, Vec<Leaver>>);

impl Leaving {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a service has any.
    pub(super) fn has(&self, service: &str) -> bool {
        self.0.contains_key(service)
    }

    /// All of them with the names of their services.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Leaver)> {
        let all = self.0.iter();
        all.flat_map(|(name, leavers)| leavers.iter().map(move |leaver| (name.as_str(), leaver)))
    }

    /// Those of one service.
    pub(super) fn of(&self, service: &str) -> &[Leaver] {
        self.0.get(service).map_or(&[], Vec::as_slice)
    }

    /// A service has other members than it had, other weights or other drains by command. `ends` is
    /// for connections of those that nobody is sent to from now on. Answers who is new among the
    /// leavers.
    pub(super) fn change(
        &mut self,
        service: &str,
        (was, is): (&[Seat], &[Seat]),
        ends: Ends,
    ) -> Vec<Member> {
        let mut leavers = self.0.remove(service).unwrap_or_default();
        leavers.retain(|leaver| stays(leaver, is, ends));
        for leaver in leavers.iter_mut().filter(|leaver| find(is, leaver.state).is_none()) {
            let last = find(was, leaver.state).map(|seat| seat.live);
            leaver.last_live = leaver.last_live.or(last);
        }
        let is_new = |leavers: &[Leaver], state| leavers.iter().all(|it| it.state != state);
        let n_old = leavers.len();
        for seat in was.iter().filter(|seat| find(is, seat.state).is_none()) {
            if is_new(&leavers, seat.state) {
                leavers.extend(gone(seat, ends.gone_ns));
            }
        }
        for seat in is.iter().filter(|seat| !seat.is_offered && seat.command.is_none()) {
            if is_new(&leavers, seat.state)
                && let Some(until_ns) = ends.weightless_ns
            {
                leavers.push(Leaver::new(seat, until_ns));
            }
        }
        let new = leavers[n_old..].iter().map(|leaver| leaver.member.clone()).collect();
        if !leavers.is_empty() {
            self.0.insert(service.to_owned(), leavers);
        }
        new
    }

    /// Forgets those that are gone for long. Answers the services that had such.
    pub(super) fn prune(&mut self, now_ns: u64) -> Vec<String> {
        let is_over = |leaver: &Leaver| {
            leaver.last_live.is_some() && leaver.until_ns.saturating_add(AFTER_NS) < now_ns
        };
        let mut pruned = Vec::new();
        self.0.retain(|name, leavers| {
            let before = leavers.len();
            leavers.retain(|leaver| !is_over(leaver));
            if leavers.len() != before {
                pruned.push(name.clone());
            }
            !leavers.is_empty()
        });
        pruned
    }
}

impl Leaver {
    /// A member that is still in the policy.
    fn new(seat: &Seat, until_ns: u64) -> Self {
        let (member, state) = (seat.member.clone(), seat.state);
        let has_datagrams = seat.has_datagrams;
        Self { member, state, until_ns, by_command: false, last_live: None, has_datagrams }
    }
}

fn find(seats: &[Seat], state: StateRef) -> Option<&Seat> {
    seats.iter().find(|seat| seat.state == state)
}

/// Whether a leaver is one in the policy that comes.
fn stays(leaver: &Leaver, is: &[Seat], ends: Ends) -> bool {
    if is.iter().any(|seat| seat.member == leaver.member && seat.is_offered) {
        return false;
    }
    match find(is, leaver.state) {
        Some(seat) => ends.weightless_ns.is_some() && seat.command.is_none(),
        None => ends.gone_ns.is_some() || leaver.by_command,
    }
}

/// A member that left the policy.
fn gone(seat: &Seat, until_ns: Option<u64>) -> Option<Leaver> {
    let until_ns = match seat.command {
        Some(deadline) => deadline.ns(),
        None => until_ns,
    };
    let by_command = seat.command.is_some();
    Some(Leaver { by_command, last_live: Some(seat.live), ..Leaver::new(seat, until_ns?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(port: u16, epoch: u32, is_offered: bool) -> Seat {
        Seat {
            member: Member { subset: "v1".to_owned(), addr: ([127, 0, 0, 1], port).into() },
            state: StateRef { index: u32::from(port), epoch },
            is_offered,
            command: None,
            live: 4,
            has_datagrams: false,
        }
    }

    /// A policy that drains.
    fn until(ns: u64) -> Ends {
        Ends { gone_ns: Some(ns), weightless_ns: Some(ns) }
    }

    /// States with their deadlines.
    fn left(leaving: &Leaving) -> Vec<(u32, u32, u64)> {
        leaving.iter().map(|(_, it)| (it.state.index, it.state.epoch, it.until_ns)).collect()
    }

    #[test]
    fn who_is_sent_nobody_any_more_has_until_the_deadline() {
        let mut leaving = Leaving::default();
        let was = [seat(1, 1, true), seat(2, 1, true), seat(3, 1, true)];
        let is = [seat(1, 1, true), seat(2, 1, false)];
        let new = leaving.change("a", (&was, &is), until(90));
        assert_eq!(new.len(), 2);
        assert_eq!(left(&leaving), [(3, 1, 90), (2, 1, 90)]);
        // Another change does not give them more time.
        assert!(leaving.change("a", (&is, &is), until(120)).is_empty());
        assert_eq!(left(&leaving), [(3, 1, 90), (2, 1, 90)]);
        let live: Vec<_> = leaving.of("a").iter().map(|leaver| leaver.last_live).collect();
        assert_eq!(live, [Some(4), None]);
    }

    #[test]
    fn who_comes_back_keeps_its_connections() {
        let mut leaving = Leaving::default();
        let (both, one) = ([seat(1, 1, true), seat(2, 1, true)], [seat(1, 1, true)]);
        leaving.change("a", (&both, &one), until(90));
        leaving.change("a", (&one, &[seat(1, 1, true), seat(2, 3, true)]), until(100));
        assert!(left(&leaving).is_empty() && !leaving.has("a"));
        // One that comes back without weight does not, and its new state has a deadline too.
        leaving.change("a", (&both, &one), until(90));
        leaving.change("a", (&one, &[seat(1, 1, true), seat(2, 3, false)]), until(100));
        assert_eq!(left(&leaving), [(2, 1, 90), (2, 3, 100)]);
    }

    #[test]
    fn a_policy_that_leaves_connections_alone_closes_none() {
        let mut leaving = Leaving::default();
        let (both, one) = ([seat(1, 1, true), seat(2, 1, true)], [seat(1, 1, true)]);
        leaving.change("a", (&both, &one), Ends::default());
        assert!(left(&leaving).is_empty());
        leaving.change("a", (&both, &one), until(90));
        leaving.change("a", (&one, &one), Ends::default());
        assert!(left(&leaving).is_empty(), "nor any more");
    }

    #[test]
    fn a_policy_may_be_about_those_alone_that_are_gone() {
        let mut leaving = Leaving::default();
        let was = [seat(1, 1, true), seat(2, 1, true), seat(3, 1, true)];
        let is = [seat(1, 1, true), seat(2, 1, false)];
        let ends = Ends { gone_ns: Some(90), weightless_ns: None };
        assert_eq!(leaving.change("a", (&was, &is), ends).len(), 1);
        assert_eq!(left(&leaving), [(3, 1, 90)]);
    }

    #[test]
    fn a_service_that_goes_leaves_as_a_whole() {
        let mut leaving = Leaving::default();
        leaving.change("a", (&[seat(1, 1, true), seat(2, 1, false)], &[]), until(90));
        assert_eq!(left(&leaving), [(1, 1, 90), (2, 1, 90)]);
        assert!(leaving.prune(90 + AFTER_NS).is_empty());
        assert_eq!(leaving.prune(91 + AFTER_NS), ["a"]);
        assert!(!leaving.has("a"));
    }

    #[test]
    fn a_start_gives_weight_0_its_time_anew() {
        let mut leaving = Leaving::default();
        leaving.change("a", (&[], &[seat(1, 1, true), seat(2, 1, false)]), until(90));
        assert_eq!(left(&leaving), [(2, 1, 90)]);
        assert!(leaving.prune(u64::MAX).is_empty(), "it is there");
    }

    #[test]
    fn a_command_counts_before_the_policy() {
        let mut leaving = Leaving::default();
        let drained = |deadline| Seat { command: Some(deadline), ..seat(2, 1, false) };
        let one = seat(1, 1, true);
        leaving.change("a", (&[], &[one.clone(), seat(2, 1, false)]), until(90));
        let commanded = [one.clone(), drained(Deadline::At(500))];
        leaving.change("a", (&commanded, &commanded), until(95));
        assert!(left(&leaving).is_empty(), "the command has it");
        leaving.change("a", (&commanded, std::slice::from_ref(&one)), until(100));
        assert_eq!(left(&leaving), [(2, 1, 500)]);
        leaving.change(
            "a",
            (std::slice::from_ref(&one), std::slice::from_ref(&one)),
            Ends::default(),
        );
        assert_eq!(left(&leaving), [(2, 1, 500)], "whatever the policy says");
        let mut leaving = Leaving::default();
        let never = [one.clone(), drained(Deadline::Never)];
        leaving.change("a", (&never, std::slice::from_ref(&one)), until(100));
        assert!(left(&leaving).is_empty());
    }
}
