//! The schedule, thresholds and changes of the policy, in a time that only passes while all wait.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep};

use super::probe::{Outcome, Prober};
use super::record::Record;
use super::*;
use crate::policy::model::Probe;

/// What a backend does when it is probed.
#[derive(Clone, Copy, Debug)]
enum Conduct {
    Serves,
    Fails,
    Panics,
    /// Serves after so long.
    Takes(Duration),
}

/// A probe that was made.
#[derive(Clone, Copy, Debug)]
struct Made {
    addr: SocketAddr,
    begun: Instant,
    /// `None` where it was given up or is under way.
    ended: Option<Instant>,
}

/// Backends that do what they are told. All serve at first.
#[derive(Clone, Default)]
struct Stage {
    conducts: Arc<Mutex<HashMap<SocketAddr, Conduct>>>,
    made: Arc<Mutex<Vec<Made>>>,
}

impl Stage {
    fn set(&self, addr: SocketAddr, conduct: Conduct) {
        self.conducts.lock().unwrap().insert(addr, conduct);
    }

    fn made(&self) -> Vec<Made> {
        self.made.lock().unwrap().clone()
    }

    fn made_of(&self, addr: SocketAddr) -> Vec<Made> {
        self.made().into_iter().filter(|made| made.addr == addr).collect()
    }
}

impl Prober for Stage {
    fn probe(&self, check: &Check) -> impl Future<Output = Outcome> + Send + 'static {
        let (stage, addr) = (self.clone(), check.addr());
        async move {
            let begun = Instant::now();
            let index = {
                let mut made = stage.made.lock().unwrap();
                made.push(Made { addr, begun, ended: None });
                made.len() - 1
            };
            let conduct = stage.conducts.lock().unwrap().get(&addr).copied();
            let failure = match conduct.unwrap_or(Conduct::Serves) {
                Conduct::Serves => None,
                Conduct::Fails => Some("refused".to_owned()),
                Conduct::Panics => panic!("on purpose"),
                Conduct::Takes(time) => {
                    sleep(time).await;
                    None
                }
            };
            stage.made.lock().unwrap()[index].ended = Some(Instant::now());
            Outcome { failure, took: begun.elapsed() }
        }
    }
}

/// A running scheduler.
struct Play {
    stage: Stage,
    orders: UnboundedSender<Order>,
    verdicts: UnboundedReceiver<Verdict>,
    book: HealthBook,
    task: JoinHandle<()>,
}

impl Play {
    fn new() -> Self {
        let (stage, book) = (Stage::default(), HealthBook::default());
        let (orders, receiver) = mpsc::unbounded_channel();
        let (sender, verdicts) = mpsc::unbounded_channel();
        let scheduler = Scheduler::new(stage.clone(), book.clone(), sender);
        let task = tokio::spawn(scheduler.run(receiver));
        Self { stage, orders, verdicts, book, task }
    }

    async fn follow(&self, checks: Vec<Check>) {
        let sent = self.orders.send(Order { service: "web".into(), checks });
        assert!(sent.is_ok());
        yield_now().await;
    }

    /// Every verdict since the last look.
    fn seen(&mut self) -> Vec<(SocketAddr, bool, String)> {
        let mut seen = Vec::new();
        loop {
            match self.verdicts.try_recv() {
                Ok(verdict) => seen.push((verdict.target.addr, verdict.is_healthy, verdict.why)),
                Err(TryRecvError::Empty) => return seen,
                Err(TryRecvError::Disconnected) => panic!("the scheduler ended"),
            }
        }
    }

    fn status(&self, addr: SocketAddr) -> HealthStatus {
        self.book.of("web").remove(&("v1".to_owned(), addr)).expect("it is checked")
    }
}

const INTERVAL: Duration = Duration::from_secs(5);

fn addr(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    ([127, 1, high, low], 9_001).into()
}

fn plain() -> HealthCheck {
    HealthCheck { jitter_percent: 0, ..HealthCheck::new(Probe::Tcp) }
}

fn check(n: u16, how: HealthCheck) -> Check {
    let target = Target { service: "web".into(), subset: "v1".into(), addr: addr(n) };
    Check { target, how: Arc::new(how), is_caught: false }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_checks_are_spread_over_one_interval() {
    let play = Play::new();
    let begun = Instant::now();
    play.follow((0..10_000).map(|n| check(n, plain())).collect()).await;
    sleep(INTERVAL).await;
    let mut per_slice = [0_u32; 50];
    let made = play.stage.made();
    for Made { begun: at, .. } in &made {
        let slice = (*at - begun).as_millis() * 50 / INTERVAL.as_millis();
        // What is due at the very end of the interval may be in.
        per_slice[usize::try_from(slice).unwrap().min(49)] += 1;
    }
    let backends: BTreeSet<SocketAddr> = made.iter().map(|made| made.addr).collect();
    assert_eq!(backends.len(), 10_000, "each is probed in the first interval");
    assert!(per_slice.iter().all(|n| (100..=300).contains(n)), "{per_slice:?}");
}

#[tokio::test(start_paused = true)]
async fn phases_are_the_same_on_every_run() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let play = Play::new();
        let begun = Instant::now();
        play.follow((0..100).map(|n| check(n, plain())).collect()).await;
        sleep(INTERVAL).await;
        let made = play.stage.made();
        runs.push(made.iter().map(|made| (made.addr, made.begun - begun)).collect::<Vec<_>>());
        play.task.abort();
    }
    assert_eq!(runs[0], runs[1]);
}

/// Times between the begins of probes of the first backend.
async fn gaps(how: HealthCheck) -> Vec<Duration> {
    let play = Play::new();
    play.follow(vec![check(1, how)]).await;
    sleep(INTERVAL * 200).await;
    let made = play.stage.made_of(addr(1));
    made.windows(2).map(|pair| pair[1].begun - pair[0].begun).collect()
}

#[tokio::test(start_paused = true)]
async fn without_jitter_probes_are_an_interval_apart() {
    let gaps = gaps(plain()).await;
    assert!(gaps.len() >= 198, "{} gaps", gaps.len());
    assert!(gaps.iter().all(|gap| *gap == INTERVAL), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn jitter_adds_up_to_its_share() {
    let gaps = gaps(HealthCheck { jitter_percent: 10, ..plain() }).await;
    let most = INTERVAL + INTERVAL / 10;
    assert!(gaps.iter().all(|gap| (INTERVAL..=most).contains(gap)), "{gaps:?}");
    let different: BTreeSet<_> = gaps.iter().collect();
    assert!(different.len() > gaps.len() / 2, "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn probes_of_one_backend_never_overlap() {
    let play = Play::new();
    let time = INTERVAL * 2 + Duration::from_millis(1);
    play.stage.set(addr(1), Conduct::Takes(time));
    play.follow(vec![check(1, plain())]).await;
    sleep(INTERVAL * 50).await;
    let made = play.stage.made_of(addr(1));
    assert!(made.len() > 20, "{} probes", made.len());
    for pair in made.windows(2) {
        assert_eq!(pair[0].ended, Some(pair[1].begun), "the next one follows at once");
    }
}

#[tokio::test(start_paused = true)]
async fn verdicts_come_at_the_thresholds() {
    let mut play = Play::new();
    play.stage.set(addr(1), Conduct::Fails);
    play.follow(vec![check(1, plain()), check(2, plain())]).await;
    sleep(INTERVAL * 3).await;
    let why = "3 probes in a row failed: refused".to_owned();
    assert_eq!(play.seen(), [(addr(1), false, why)]);
    assert_eq!(play.stage.made_of(addr(1)).len(), 3);
    sleep(INTERVAL * 10).await;
    assert_eq!(play.seen(), []);
    play.stage.set(addr(1), Conduct::Serves);
    sleep(INTERVAL * 2).await;
    assert_eq!(play.seen(), [(addr(1), true, "2 probes in a row succeeded".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_backend_may_have_to_prove_itself_first() {
    let mut play = Play::new();
    let how = HealthCheck { starts_unhealthy: true, healthy_threshold: 1, ..plain() };
    play.follow(vec![check(1, how)]).await;
    assert_eq!(play.seen(), [(addr(1), false, "its check is new".to_owned())]);
    sleep(INTERVAL).await;
    assert_eq!(play.seen(), [(addr(1), true, "1 probe succeeded".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_dies_has_failed_and_is_followed_by_others() {
    let mut play = Play::new();
    play.stage.set(addr(1), Conduct::Panics);
    play.follow(vec![check(1, plain())]).await;
    sleep(INTERVAL * 3).await;
    assert!(matches!(&play.seen()[..], [(_, false, _)]));
    play.stage.set(addr(1), Conduct::Serves);
    sleep(INTERVAL * 2).await;
    assert!(matches!(&play.seen()[..], [(_, true, _)]));
}

#[tokio::test(start_paused = true)]
async fn checks_that_stay_keep_what_is_known() {
    let mut play = Play::new();
    play.stage.set(addr(1), Conduct::Fails);
    play.follow(vec![check(1, plain())]).await;
    sleep(INTERVAL * 4).await;
    assert_eq!(play.seen().len(), 1);
    let before = play.status(addr(1));
    play.follow(vec![check(2, plain()), check(1, plain())]).await;
    assert_eq!((play.seen(), play.status(addr(1))), (vec![], before.clone()));
    assert_eq!((before.state.as_str(), before.failures, before.probes), ("unhealthy", 4, 4));
    let slower = HealthCheck { interval_ms: 6_000, ..plain() };
    play.follow(vec![check(2, plain()), check(1, slower)]).await;
    assert_eq!(play.seen(), [(addr(1), true, "its check is new".to_owned())]);
    assert_eq!(play.status(addr(1)).probes, 0);
}

#[tokio::test(start_paused = true)]
async fn checks_that_go_leave_nothing_unhealthy() {
    let mut play = Play::new();
    play.stage.set(addr(1), Conduct::Fails);
    play.stage.set(addr(2), Conduct::Takes(INTERVAL * 10));
    play.follow(vec![check(1, plain()), check(2, plain())]).await;
    sleep(INTERVAL * 4).await;
    assert_eq!(play.seen().len(), 1);
    play.follow(vec![]).await;
    assert_eq!(play.seen(), [(addr(1), true, "it is not checked any more".to_owned())]);
    let n_made = play.stage.made().len();
    sleep(INTERVAL * 20).await;
    assert_eq!((play.stage.made().len(), play.seen()), (n_made, vec![]));
    assert_eq!(play.stage.made_of(addr(2))[0].ended, None, "its probe was given up");
    assert_eq!(play.book.summary(), HealthSummary::default());
}

#[tokio::test(start_paused = true)]
async fn what_would_reach_another_backend_is_not_probed() {
    let mut play = Play::new();
    let caught = Check { is_caught: true, ..check(1, plain()) };
    play.follow(vec![caught]).await;
    sleep(INTERVAL * 4).await;
    assert_eq!((play.stage.made().len(), play.seen()), (0, vec![]));
    assert_eq!(play.status(addr(1)).state, "not probed");
    let problems = play.book.summary().problems;
    assert!(problems[0].contains("127.1.0.1:9001 is a frontend"), "{problems:?}");
    play.follow(vec![check(1, plain())]).await;
    sleep(INTERVAL).await;
    assert_eq!(play.stage.made().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_subset_without_healthy_backends_is_a_problem() {
    let play = Play::new();
    play.stage.set(addr(1), Conduct::Fails);
    play.follow(vec![check(1, plain()), check(2, plain())]).await;
    sleep(INTERVAL * 4).await;
    assert_eq!(play.book.summary().problems, Vec::<String>::new());
    play.stage.set(addr(2), Conduct::Fails);
    sleep(INTERVAL * 4).await;
    let summary = play.book.summary();
    let wanted = HealthCounts { healthy: 0, unhealthy: 2, not_probed: 0 };
    assert_eq!((summary.backends, play.book.count("web")), (wanted, wanted));
    let problem = "each of the 2 checked backends of the subset v1 of web is unhealthy";
    assert!(summary.problems[0].starts_with(problem), "{:?}", summary.problems);
}

/// A change on the way.
#[derive(Clone, Debug)]
enum Step {
    Follow(Vec<(u16, bool)>),
    Set(u16, bool),
    Wait(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let checks = prop::collection::btree_map(0_u16..4, any::<bool>(), 0..=4);
    prop_oneof![
        checks.prop_map(|checks| Step::Follow(checks.into_iter().collect())),
        (0_u16..4, any::<bool>()).prop_map(|(n, serves)| Step::Set(n, serves)),
        (1_u32..12_000).prop_map(Step::Wait),
    ]
}

/// Applies all verdicts to an empty set, and compares it with the book after each step.
async fn check_story(steps: Vec<Step>) {
    let mut play = Play::new();
    let mut unhealthy = BTreeSet::new();
    for step in steps {
        match step {
            Step::Follow(checks) => {
                let how = |starts_unhealthy| HealthCheck { starts_unhealthy, ..plain() };
                play.follow(checks.into_iter().map(|(n, b)| check(n, how(b))).collect()).await;
            }
            Step::Set(n, true) => play.stage.set(addr(n), Conduct::Serves),
            Step::Set(n, false) => play.stage.set(addr(n), Conduct::Fails),
            Step::Wait(ms) => sleep(Duration::from_millis(ms.into())).await,
        }
        for (addr, is_healthy, why) in play.seen() {
            let changed = if is_healthy { unhealthy.remove(&addr) } else { unhealthy.insert(addr) };
            assert!(changed, "a verdict is a change: {addr} {is_healthy}, {why}");
        }
        let book = play.book.of("web").into_iter();
        let known = book.filter(|(_, it)| it.state == "unhealthy").map(|((_, addr), _)| addr);
        assert_eq!(unhealthy.iter().copied().collect::<Vec<_>>(), known.collect::<Vec<_>>());
    }
}

proptest! {
    #[test]
    fn verdicts_add_up_to_what_is_known(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(check_story(steps));
    }

    /// A backend is what it was until as many probes in a row as its threshold say otherwise.
    #[test]
    fn verdicts_change_exactly_at_thresholds(
        outcomes in prop::collection::vec(any::<bool>(), 0..200),
        thresholds in (1_u32..6, 1_u32..6),
        starts_unhealthy in any::<bool>(),
        error in select(vec!["refused", "late"]),
    ) {
        let (healthy_threshold, unhealthy_threshold) = thresholds;
        let how =
            HealthCheck { healthy_threshold, unhealthy_threshold, starts_unhealthy, ..plain() };
        let now = Instant::now();
        let mut record = Record::new(&how, now);
        let mut is_healthy = !starts_unhealthy;
        for n in 1..=outcomes.len() {
            let seen = &outcomes[..n];
            let threshold = if is_healthy { unhealthy_threshold } else { healthy_threshold };
            let last = seen.iter().rev().take_while(|success| **success != is_healthy).count();
            let changes = last >= threshold as usize;
            let failure = (!seen[n - 1]).then(|| error.to_owned());
            let outcome = Outcome { failure, took: Duration::ZERO };
            prop_assert_eq!(record.observe(outcome, &how, now).is_some(), changes);
            is_healthy ^= changes;
            prop_assert_eq!(record.is_healthy, is_healthy);
        }
    }
}
