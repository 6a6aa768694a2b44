//! What is drained by command: who is to have no connections any more, and until when those that
//! are there may go on.
//!
//! Kept in the state directory, where times are those of the calendar: the others begin anew with
//! every boot. Pure, the times are handed in.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::outcomes::monotonic_ns;

const MS: u64 = 1_000_000;

/// When connections that drain are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deadline {
    /// At this time, in nanoseconds of `CLOCK_MONOTONIC`.
    At(u64),
    /// They are left alone.
    Never,
}

impl Deadline {
    /// So many milliseconds after a time; never without a number.
    pub(crate) fn after(now_ns: u64, ms: Option<u64>) -> Self {
        ms.map_or(Self::Never, |ms| Self::At(now_ns.saturating_add(ms.saturating_mul(MS))))
    }

    /// The time, if there is one.
    pub(crate) fn ns(self) -> Option<u64> {
        match self {
            Self::At(ns) => Some(ns),
            Self::Never => None,
        }
    }
}

/// One thing that is drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drain {
    /// Name of the service.
    pub(crate) service: String,
    /// Name of the subset.
    pub(crate) subset: String,
    /// One backend of the subset, which connections step over; else all of the subset, whose weight
    /// is 0.
    pub(crate) backend: Option<SocketAddr>,
    /// Until when connections go on.
    pub(crate) deadline: Deadline,
    /// Routes and the weight that the subset had in each before.
    pub(crate) weights: Vec<(String, u32)>,
}

impl Drain {
    /// Whether it is about the same.
    fn is_of(&self, other: &Self) -> bool {
        (&self.service, &self.subset, self.backend)
            == (&other.service, &other.subset, other.backend)
    }

    /// Whether it is about a backend of a subset.
    pub(crate) fn covers(&self, subset: &str, addr: SocketAddr) -> bool {
        self.subset == subset && self.backend.is_none_or(|backend| backend == addr)
    }
}

/// The time, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub(crate) monotonic_ns: u64,
    /// Of the calendar, in milliseconds since 1970.
    pub(crate) unix_ms: u64,
}

impl Now {
    /// What the clocks say.
    pub(crate) fn read() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        Self { monotonic_ns: monotonic_ns(), unix_ms }
    }
}

/// Everything that is drained by command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drains(Vec<Drain>);

/// As a file has it.
#[derive(Serialize, Deserialize)]
struct Kept {
    service: String,
    subset: String,
    backend: Option<SocketAddr>,
    until_unix_ms: Option<u64>,
    weights: Vec<(String, u32)>,
}

impl Drains {
    /// Reads what a file has. Nothing where it is empty.
    pub(crate) fn from_text(text: &str, now: Now) -> Result<Self, serde_json::Error> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let kept: Vec<Kept> = serde_json::from_str(text)?;
        let drain = |Kept { service, subset, backend, until_unix_ms, weights }: Kept| {
            let left_ms = until_unix_ms.map(|until| until.saturating_sub(now.unix_ms));
            let deadline = Deadline::after(now.monotonic_ns, left_ms);
            Drain { service, subset, backend, deadline, weights }
        };
        Ok(Self(kept.into_iter().map(drain).collect()))
    }

    /// What the file is to have, empty for nothing.
    pub(crate) fn to_text(&self, now: Now) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let kept = |drain: &Drain| {
            let left_ns = drain.deadline.ns().map(|ns| ns.saturating_sub(now.monotonic_ns));
            let until_unix_ms = left_ns.map(|ns| now.unix_ms.saturating_add(ns.div_ceil(MS)));
            let Drain { service, subset, backend, weights, .. } = drain.clone();
            Kept { service, subset, backend, until_unix_ms, weights }
        };
        let kept: Vec<Kept> = self.0.iter().map(kept).collect();
        serde_json::to_string(&kept).expect("strings, numbers and addresses are JSON")
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Drain> {
        self.0.iter()
    }

    /// Those of one service.
    pub(crate) fn of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Drain> {
        self.0.iter().filter(move |drain| drain.service == service)
    }

    /// Until when connections of a backend go on, if it is drained: the first of its deadlines.
    pub(crate) fn find(&self, service: &str, subset: &str, addr: SocketAddr) -> Option<Deadline> {
        let covering = self.of(service).filter(|drain| drain.covers(subset, addr));
        let deadlines = covering.map(|drain| drain.deadline);
        deadlines.min_by_key(|deadline| deadline.ns().unwrap_or(u64::MAX))
    }

    /// What ends the drain of a backend, as a command has it: of the whole subset where that is
    /// drained.
    pub(crate) fn undo_of(&self, service: &str, subset: &str, addr: SocketAddr) -> Option<String> {
        let covering = self.of(service).filter(|drain| drain.covers(subset, addr));
        let drain = covering.min_by_key(|drain| drain.backend.is_some())?;
        Some(match drain.backend {
            None => format!("{service}/{subset}"),
            Some(addr) => format!("{service}/{subset} --backend {addr}"),
        })
    }

    /// Adds drains in place of those that are about the same. What is known of weights stays: they
    /// are 0 since.
    pub(crate) fn with(&self, new: &[Drain]) -> Self {
        let mut drains = self.clone();
        for drain in new {
            let mut drain = drain.clone();
            if let Some(at) = drains.0.iter().position(|old| old.is_of(&drain)) {
                let old = drains.0.remove(at);
                let is_known = |route: &str| drain.weights.iter().any(|(name, _)| name == route);
                let more: Vec<_> =
                    old.weights.into_iter().filter(|(route, _)| !is_known(route)).collect();
                drain.weights.extend(more);
            }
            drains.0.push(drain);
        }
        drains
    }

    /// Leaves out the drains that do not pass.
    pub(crate) fn filtered(&self, keep: impl Fn(&Drain) -> bool) -> Self {
        Self(self.0.iter().filter(|drain| keep(drain)).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { monotonic_ns: 5_000 * MS, unix_ms: 1_000_000 };

    fn drain(backend: Option<&str>, deadline: Deadline, weights: &[(&str, u32)]) -> Drain {
        Drain {
            service: "shop".to_owned(),
            subset: "v1".to_owned(),
            backend: backend.map(|addr| addr.parse().expect("an address")),
            deadline,
            weights: weights.iter().map(|(route, n)| ((*route).to_owned(), *n)).collect(),
        }
    }

    #[test]
    fn deadlines_outlive_the_clock_that_they_were_set_by() {
        let at = |ms| Deadline::At(ms * MS);
        let drains = Drains::default().with(&[
            drain(None, at(5_300), &[("all", 80)]),
            drain(Some("127.0.0.1:1"), Deadline::Never, &[]),
            drain(Some("127.0.0.1:2"), at(4_000), &[]),
        ]);
        let text = drains.to_text(NOW);
        // After a boot, 100 ms later.
        let later = Now { monotonic_ns: 7 * MS, unix_ms: NOW.unix_ms + 100 };
        let read = Drains::from_text(&text, later).unwrap();
        let deadlines: Vec<_> = read.iter().map(|drain| drain.deadline).collect();
        assert_eq!(deadlines, [at(207), Deadline::Never, at(7)]);
        assert_eq!(read.iter().next().map(|drain| drain.weights.len()), Some(1));
        assert_eq!(Drains::default().to_text(NOW), "");
        assert_eq!(Drains::from_text("", NOW).unwrap(), Drains::default());
        assert!(Drains::from_text("[{]", NOW).is_err());
    }

    #[test]
    fn a_second_drain_of_the_same_keeps_what_the_weights_were() {
        let first = drain(None, Deadline::Never, &[("a", 80), ("b", 7)]);
        let second = drain(None, Deadline::At(9), &[("b", 3)]);
        let drains = Drains::default().with(&[first]).with(&[second]);
        let all: Vec<_> = drains.iter().collect();
        let weights = [("b".to_owned(), 3), ("a".to_owned(), 80)];
        assert_eq!((all.len(), &all[0].weights[..]), (1, &weights[..]));
        assert_eq!(all[0].deadline, Deadline::At(9));
    }

    #[test]
    fn the_first_deadline_of_a_backend_counts() {
        let addr = "127.0.0.1:1".parse().unwrap();
        let drains = Drains::default().with(&[
            drain(None, Deadline::Never, &[]),
            drain(Some("127.0.0.1:1"), Deadline::At(9), &[]),
        ]);
        assert_eq!(drains.find("shop", "v1", addr), Some(Deadline::At(9)));
        let other = "127.0.0.1:2".parse().unwrap();
        assert_eq!(drains.find("shop", "v1", other), Some(Deadline::Never));
        assert_eq!(drains.find("shop", "v2", addr), None);
        assert_eq!(drains.find("other", "v1", addr), None);
    }
}
