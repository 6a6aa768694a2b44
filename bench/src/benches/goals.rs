//! What splitter must reach, as checks of what benches record.

use std::fmt::{self, Display, Formatter};

use super::{apply, effect, exactness, memory, rest, tcp_connect, torn, udp_connect, wrk};
use crate::peers::Splitter;
use crate::report::number;
use crate::run::Metric;

/// A goal.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    /// Its short name.
    pub(crate) name: &'static str,
    /// All of them have to hold.
    pub(crate) checks: Vec<Check>,
}

/// A figure and what it has to be.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    /// What is measured, in words.
    pub(crate) what: &'static str,
    /// What it has to be.
    pub(crate) bound: Bound,
    /// Where the figure comes from.
    pub(crate) measure: Measure,
}

/// The right side, with a unit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// No more than this.
    AtMost(f64, &'static str),
    /// No less than this.
    AtLeast(f64, &'static str),
}

impl Display for Bound {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (words, value, unit) = match self {
            Self::AtMost(value, unit) => ("at most", value, unit),
            Self::AtLeast(value, unit) => ("at least", value, unit),
        };
        let space = if unit.is_empty() { "" } else { " " };
        // Ratios have three digits that count, where a report rounds to two.
        let value = if *value < 100.0 { value.to_string() } else { number(*value) };
        write!(f, "{words} {value}{space}{unit}")
    }
}

/// How a figure is found among records.
#[derive(Clone, Debug)]
pub(crate) enum Measure {
    /// Ratio of two arms of the same rounds.
    Ratio {
        bench: &'static str,
        case: String,
        arm: String,
        base: &'static str,
        metric: &'static str,
    },
    /// Ratio of one arm in two cases, the second to the first.
    Growth { bench: &'static str, cases: [String; 2], arm: &'static str, metric: &'static str },
    /// Median of an arm.
    Median { bench: &'static str, case: String, arm: &'static str, metric: &'static str },
    /// The only figure of an arm, which is no time and needs no interval.
    Only { bench: &'static str, case: String, arm: &'static str, metric: &'static str },
    /// The largest of all cases of some arms. A case that ends so has to be among them.
    Worst { bench: &'static str, arms: Vec<&'static str>, metric: &'static str, needs: String },
}

/// All goals that benches are about.
pub(crate) fn all() -> Vec<Goal> {
    let goal = |name, checks| Goal { name, checks };
    vec![
        goal("G1", connects()),
        goal("G2", requests()),
        goal("G3", kept()),
        goal("G4", exact()),
        goal("G5", surviving()),
        goal("G6", loading()),
        goal("G7", changing()),
        goal("G8", whole()),
        goal("G9", small()),
    ]
}

fn check(what: &'static str, bound: Bound, measure: Measure) -> Check {
    Check { what, bound, measure }
}

fn connects() -> Vec<Check> {
    let udp = |arm: String| Measure::Ratio {
        bench: "udp-connect",
        case: String::new(),
        arm,
        base: udp_connect::EMPTY,
        metric: udp_connect::CONNECT.0,
    };
    let tcp = Measure::Ratio {
        bench: "tcp-connect",
        case: String::new(),
        arm: tcp_connect::STATEFUL.to_owned(),
        base: tcp_connect::DIRECT,
        metric: tcp_connect::P50.0,
    };
    let matched = udp(udp_connect::MATCHED.to_owned());
    let missed = udp(udp_connect::missed(100_000));
    let at_most = |value| Bound::AtMost(value, "x");
    vec![
        check("a matched connect() to one with an empty program", at_most(1.10), matched),
        check("a missed connect(), 100,000 services, to the same", at_most(1.05), missed),
        check("a TCP connect() with socket state to one without a hook", at_most(1.05), tcp),
    ]
}

fn rate_ratio(bench: &'static str, case: &str, base: &'static str) -> Measure {
    let (case, arm) = (case.to_owned(), "splitter".to_owned());
    Measure::Ratio { bench, case, arm, base, metric: "rate" }
}

/// Medians of latency, of which a busy machine changes less than of rates: how many times as long
/// the other takes.
fn requests() -> Vec<Check> {
    let time_of = |arm: &str| Measure::Ratio {
        bench: "requests",
        case: "1 client".to_owned(),
        arm: arm.to_owned(),
        base: "splitter",
        metric: "p50",
    };
    let at_least = |value| Bound::AtLeast(value, "x");
    vec![
        check(
            "time of a direct short connection to a split one's",
            at_least(0.99),
            time_of("direct"),
        ),
        check("the same of nftables", at_least(1.0), time_of("nftables")),
        check("the same of nginx", at_least(1.8), time_of("nginx")),
        check("the same of HAProxy", at_least(1.8), time_of("haproxy")),
        check("the same of Envoy", at_least(3.0), time_of("envoy")),
        check(
            "time of a short connection that is followed to its end to a split one's",
            Bound::AtMost(1.02, "x"),
            time_of(Splitter::FOLLOWED),
        ),
    ]
}

fn kept() -> Vec<Check> {
    let slowest = Measure::Ratio {
        bench: "wrk",
        case: wrk::ALONE.to_owned(),
        arm: "splitter".to_owned(),
        base: "direct",
        metric: "p99",
    };
    vec![
        check(
            "HTTP requests per second on kept connections to direct ones",
            Bound::AtLeast(0.995, "x"),
            rate_ratio("wrk", wrk::ALONE, "direct"),
        ),
        check("99th percentile of their latency to direct ones", Bound::AtMost(1.02, "x"), slowest),
    ]
}

fn worst(
    bench: &'static str,
    arms: &[&'static str],
    Metric(metric, _): Metric,
    needs: &str,
) -> Measure {
    Measure::Worst { bench, arms: arms.to_vec(), metric, needs: needs.to_owned() }
}

fn exact() -> Vec<Check> {
    const MOST: &str = ", 1,000,000 connections";
    let of = |arms: &[&'static str], metric| worst("exactness", arms, metric, MOST);
    let one = Bound::AtMost(1.0, "connection");
    vec![
        check(
            "error of every beginning of a million connections",
            one,
            of(&[exactness::SPLITTER], exactness::LARGEST),
        ),
        check(
            "error after a million on two CPUs",
            one,
            of(&[exactness::TWO_CPUS], exactness::LARGEST),
        ),
        check(
            "error at whole turns of the wheel",
            Bound::AtMost(0.0, "connections"),
            of(&[exactness::SPLITTER], exactness::WHOLE),
        ),
    ]
}

fn surviving() -> Vec<Check> {
    let arms = [exactness::SURVIVING];
    vec![check(
        "error through commits of other services, kill -9 and restarts",
        Bound::AtMost(1.0, "connection"),
        worst("exactness", &arms, exactness::LARGEST, " connections"),
    )]
}

fn applied(services: u32, Metric(metric, _): Metric) -> Measure {
    let case = apply::case(services);
    Measure::Median { bench: "apply", case, arm: apply::SPLITTER, metric }
}

fn loading() -> Vec<Check> {
    let ms = |value| Bound::AtMost(value, "ms");
    vec![
        check("compile and publish 10,000 services", ms(25.0), applied(10_000, apply::SYNC)),
        check("compile and publish 100,000 services", ms(250.0), applied(100_000, apply::SYNC)),
    ]
}

fn changing() -> Vec<Check> {
    let growth = Measure::Growth {
        bench: "apply",
        cases: [apply::case(1_000), apply::case(100_000)],
        arm: apply::SPLITTER,
        metric: apply::CHANGE.0,
    };
    let moved = |arm| Measure::Median {
        bench: "effect",
        case: effect::case(100_000),
        arm,
        metric: effect::EFFECT.0,
    };
    let (us, ms) = (Bound::AtMost(200.0, "us"), Bound::AtMost(1_000.0, "us"));
    vec![
        check("one weight among 100,000 services", us, applied(100_000, apply::CHANGE)),
        check("the same to one among 1,000", Bound::AtMost(1.2, "x"), growth),
        check("from a request to its first connection", ms, moved(effect::REQUEST)),
        check("from the start of `splitter weight` to the same", ms, moved(effect::COMMAND)),
    ]
}

fn whole() -> Vec<Check> {
    let none = Bound::AtMost(0.0, "");
    let arms = [effect::REQUEST, effect::COMMAND];
    vec![
        check(
            "connections on old weights after a change returned",
            none,
            worst("effect", &arms, effect::STALE, " services"),
        ),
        check("connections of mixed policies", none, worst("torn", &[torn::ARM], torn::TORN, "")),
    ]
}

fn small() -> Vec<Check> {
    let service = Measure::Only {
        bench: "memory",
        case: memory::case(100_000),
        arm: memory::TABLES,
        metric: memory::SERVICE.0,
    };
    let resting = |Metric(metric, _): Metric| Measure::Only {
        bench: "rest",
        case: String::new(),
        arm: rest::RESTING,
        metric,
    };
    vec![
        check("kernel memory of a service", Bound::AtMost(700.0, "B"), service),
        check("memory of the daemon at rest", Bound::AtMost(10e6, "B"), resting(rest::MEMORY)),
        check("CPU time of the daemon at rest", Bound::AtMost(0.05, "%"), resting(rest::CPU)),
    ]
}
