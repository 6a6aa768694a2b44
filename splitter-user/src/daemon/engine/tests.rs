//! The engine on tables in memory.

mod checks;
mod documents;
mod drains;
mod egress;
mod hosts;
mod mesh;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tempfile::TempDir;

use super::*;
use crate::compile::Cgroup;
use crate::compile::egress::Places;
use crate::compile::image::{ActionImage, ChoiceImage};
use crate::policy::load;
use crate::policy::model::CgroupName;
use crate::rehearsal::{Role, lineage};
use crate::tables::Sizes;
use crate::tables::egress::MemoryEgress;
use crate::tables::memory::MemoryMaps;

/// Hooks that remember whether they are attached, and can refuse.
#[derive(Clone, Default)]
struct FakeHooks {
    attached: Rc<RefCell<Vec<bool>>>,
    refuse: bool,
}

impl OptionalHooks for FakeHooks {
    fn set(&mut self, _need: Need, wanted: bool) -> io::Result<()> {
        if self.refuse {
            return Err(io::Error::from_raw_os_error(1));
        }
        self.attached.borrow_mut().push(wanted);
        Ok(())
    }
}

#[derive(Clone, Default)]
struct FakeClients(Rc<RefCell<BTreeMap<String, u64>>>);

fn level_of(path: &str) -> u32 {
    (lineage(path).len() - 1).try_into().unwrap()
}

impl ClientSource for FakeClients {
    fn cgroup(&self, path: &str) -> Option<Cgroup> {
        self.0.borrow().get(path).map(|id| Cgroup { id: *id, level: level_of(path) })
    }

    fn places(&self, names: &BTreeSet<CgroupName>) -> Places {
        let known = self.0.borrow();
        let mut places = Places::new();
        for name in names {
            for (path, id) in known.iter().filter(|(path, _)| name.is_at(path)) {
                let cgroup = Cgroup { id: *id, level: level_of(path) };
                places.entry(name.clone()).or_default().push((path.clone(), cgroup));
            }
        }
        places
    }

    fn find(&self, names: &ClientNames) -> Ids {
        let found = self.places(&names.cgroups).into_iter();
        let only = found.filter_map(|(name, places)| Some((name, places.first()?.1)));
        Ids { cgroups: only.collect(), ..Ids::default() }
    }
}

type Weights = &'static [(&'static str, u32)];

struct Bench {
    engine: Engine<MemoryMaps, FakeHooks>,
    hooks: FakeHooks,
    clients: FakeClients,
    state: TempDir,
}

fn bench() -> Bench {
    bench_with(Sizes::for_services(16), tempfile::tempdir().unwrap())
}

fn bench_with(sizes: Sizes, state: TempDir) -> Bench {
    bench_on(MemoryMaps::new(sizes), state)
}

fn bench_on(maps: MemoryMaps, state: TempDir) -> Bench {
    let publisher = Publisher::adopt(maps).unwrap();
    let (hooks, clients) = (FakeHooks::default(), FakeClients::default());
    let overrides = Overrides::open(state.path()).unwrap();
    let documents = Documents::from_text(overrides.documents()).unwrap();
    let (looked_up, egress) = (Box::new(clients.clone()), Box::new(MemoryEgress::default()));
    let engine = Engine::new(publisher, hooks.clone(), looked_up, overrides, documents, egress);
    Bench { engine, hooks, clients, state }
}

fn sources(text: &str) -> Vec<Source> {
    vec![Source::new("policy.yaml", text)]
}

impl Bench {
    fn files(&mut self, text: &str) -> Result<crate::daemon::control::Applied, ChangeError> {
        self.engine.replace_files(load(&sources(text)).unwrap(), &sources(text))
    }

    /// As the daemon does, with what was applied.
    fn reload(&mut self, files: &[Source]) -> Result<(), ChangeError> {
        let sources = self.engine.with_applied(files.to_vec());
        let loaded = self.engine.load(&sources)?;
        self.engine.replace_files(loaded, &sources).map(drop)
    }

    fn apply(&mut self, text: &str) -> Result<crate::daemon::control::Applied, ChangeError> {
        self.engine.apply(&load(&sources(text)).unwrap(), &sources(text))
    }

    fn weight(&mut self, name: &str, weights: &[(&str, u32)]) -> Result<(), ChangeError> {
        let weights: Vec<(String, u32)> =
            weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        let (service, route) = self.engine.find_target(name);
        self.engine.set_weights(service, route, &weights).map(drop)
    }

    /// Length of the wheel in force of a service's first route, with v1's share of it.
    fn split(&self, name: &str) -> (usize, usize) {
        let image = self.engine.publisher().image(service_id(name)).unwrap();
        match &image.routes[0].action {
            ActionImage::Split(ChoiceImage::Ticket(slots)) => {
                (slots.iter().count(), slots.iter().filter(|slot| *slot == 0).count())
            }
            ActionImage::Split(ChoiceImage::Only(0)) => (1, 1),
            ActionImage::Split(ChoiceImage::Only(_)) => (1, 0),
            other => panic!("not a split by weight: {other:?}"),
        }
    }

    /// Another daemon with the same state directory.
    fn restart(self) -> Self {
        self.restart_with(Sizes::for_services(16))
    }

    fn restart_with(self, sizes: Sizes) -> Self {
        // The directory is locked while its daemon lives.
        drop(self.engine);
        bench_with(sizes, self.state)
    }
}

fn service(name: &str, host: u8, weights: &str) -> String {
    format!(
        "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: {name}}}\nspec:\n  frontends: \
         [\"127.10.0.{host}:80\"]\n  subsets:\n    v1: {{backends: [\"127.0.0.1:1\"]}}\n    v2: \
         {{backends: [\"127.0.0.1:2\"]}}\n  split: {{{weights}}}\n---\n"
    )
}

#[test]
fn files_replace_each_other_and_unnamed_services_go() {
    let mut bench = bench();
    let applied =
        bench.files(&(service("a", 1, "v1: 1, v2: 3") + &service("b", 2, "v1: 1"))).unwrap();
    assert_eq!(applied.added, ["a", "b"]);
    let applied =
        bench.files(&(service("a", 1, "v1: 1, v2: 1") + &service("c", 3, "v1: 1"))).unwrap();
    assert_eq!(
        (applied.added, applied.changed, applied.removed, applied.generation),
        (vec!["c".to_owned()], vec!["a".to_owned()], vec!["b".to_owned()], 2)
    );
    assert_eq!(bench.split("a"), (2, 1));
    assert!(bench.engine.publisher().image(service_id("b")).is_none());
}

#[test]
fn weights_change_what_is_named_and_leave_the_rest() {
    let mut bench = bench();
    bench.files(&service("a", 1, "v1: 80, v2: 20")).unwrap();
    bench.weight("a", &[("v2", 80)]).unwrap();
    assert_eq!(bench.split("a"), (2, 1));
    bench.weight("a/route-1", &[("v1", 0)]).unwrap();
    assert_eq!(bench.split("a"), (1, 0));
    assert_eq!(bench.engine.publisher().generation(), 3);
}

#[test]
fn impossible_weights_change_nothing() {
    let mut bench = bench();
    bench.files(&service("a", 1, "v1: 80, v2: 20")).unwrap();
    let cases: [(&str, Weights, &str); 6] = [
        ("a", &[("v1", 0), ("v2", 0)], "every weight"),
        ("a", &[("v3", 1)], "did you mean `v1`"),
        ("a", &[("v1", u32::MAX), ("v2", 1)], "the most is"),
        ("a", &[("v1", 1), ("nope", 1)], "no subset `nope`"),
        ("aa", &[("v1", 1)], "did you mean `a`"),
        ("a/route-2", &[("v1", 1)], "did you mean `route-1`"),
    ];
    for (name, weights, expected) in cases {
        let error = bench.weight(name, weights).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(bench.split("a"), (5, 4));
    assert_eq!(bench.engine.publisher().generation(), 1);
    assert!(bench.engine.overridden().is_empty());
}

#[test]
fn applied_services_join_those_of_files() {
    let mut bench = bench();
    bench.files(&service("a", 1, "v1: 1, v2: 3")).unwrap();
    let applied = bench.apply(&service("b", 2, "v1: 1, v2: 1")).unwrap();
    assert_eq!((applied.added, applied.removed), (vec!["b".to_owned()], vec![]));
    // A later load of the files does not know of it and leaves it.
    bench.files(&service("a", 1, "v1: 1, v2: 1")).unwrap();
    assert_eq!(bench.split("b"), (2, 1));
    bench.engine.remove(&["b".to_owned()]).unwrap();
    assert!(bench.engine.find("b").is_err());
    let error = bench.engine.remove(&["a".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("policy.yaml"), "{error}");
}

#[test]
fn a_frontend_of_a_running_service_is_refused_with_both_places() {
    let mut bench = bench();
    bench.files(&service("a", 1, "v1: 1, v2: 3")).unwrap();
    let Err(ChangeError::Invalid { diagnostics, sources }) = bench.apply(&service("b", 1, "v1: 1"))
    else {
        panic!("two services have one frontend");
    };
    assert_eq!(sources[diagnostics[0].primary.source].name, "policy.yaml");
    assert_eq!(sources[diagnostics[0].secondary[0].source].name, "(running service a)");
    assert!(bench.engine.find("b").is_err());
    assert!(bench.engine.overridden().is_empty());
}

#[test]
fn a_file_may_not_take_the_frontend_of_an_applied_service() {
    let mut bench = bench();
    bench.apply(&service("b", 1, "v1: 1, v2: 1")).unwrap();
    let error = bench.files(&service("a", 1, "v1: 1")).unwrap_err();
    assert!(matches!(error, ChangeError::Invalid { .. }), "{error}");
    assert_eq!(bench.split("b"), (2, 1));
}

#[test]
fn the_last_writer_wins_between_command_and_file() {
    let mut bench = bench();
    let file = service("a", 1, "v1: 80, v2: 20");
    bench.files(&file).unwrap();
    bench.weight("a", &[("v1", 50), ("v2", 50)]).unwrap();
    // The same document again, with other words around it: the command counts.
    bench.files(&format!("# a comment\n{file}")).unwrap();
    assert_eq!(bench.split("a"), (2, 1));
    // Another document: the file counts.
    bench.files(&service("a", 1, "v1: 3, v2: 1")).unwrap();
    assert_eq!(bench.split("a"), (4, 3));
    assert!(bench.engine.overridden().is_empty());
}

#[test]
fn saying_what_the_file_says_ends_an_override() {
    let mut bench = bench();
    bench.files(&service("a", 1, "v1: 80, v2: 20")).unwrap();
    bench.weight("a", &[("v1", 50)]).unwrap();
    assert_eq!(bench.engine.overridden(), ["a"]);
    bench.weight("a", &[("v1", 80)]).unwrap();
    assert!(bench.engine.overridden().is_empty());
    bench.weight("a", &[("v1", 20)]).unwrap();
    bench.engine.remove(&["a".to_owned()]).unwrap();
    assert_eq!(bench.split("a"), (5, 4));
}

#[test]
fn overrides_outlive_the_daemon() {
    let mut first = bench();
    let file = service("a", 1, "v1: 80, v2: 20");
    first.files(&file).unwrap();
    first.weight("a", &[("v1", 20)]).unwrap();
    first.apply(&service("b", 2, "v1: 3, v2: 1")).unwrap();
    let mut second = first.restart();
    second.files(&file).unwrap();
    assert_eq!((second.split("a"), second.split("b")), ((2, 1), (4, 3)));
    let mut third = second.restart();
    third.files(&service("a", 1, "v1: 1, v2: 9")).unwrap();
    assert_eq!((third.split("a"), third.split("b")), ((10, 1), (4, 3)));
}

#[test]
fn a_damaged_override_is_left_out() {
    let mut first = bench();
    first.apply(&service("b", 2, "v1: 3, v2: 1")).unwrap();
    let file = first.state.path().join("overrides/b.yaml");
    std::fs::write(&file, "# splitter override of nothing\nkind: [").unwrap();
    let mut second = first.restart();
    second.files(&service("a", 1, "v1: 1")).unwrap();
    assert!(second.engine.find("b").is_err());
    assert!(file.exists());
}

#[test]
fn a_policy_that_does_not_fit_changes_nothing() {
    let mut bench =
        bench_with(Sizes { subsets: 4, ..Sizes::for_services(16) }, tempfile::tempdir().unwrap());
    bench.apply(&service("a", 1, "v1: 3, v2: 1")).unwrap();
    let error = bench.apply(&service("b", 2, "v1: 1")).unwrap_err().to_string();
    assert!(error.contains("SUBSETS") && error.contains("--max-subsets"), "{error}");
    assert_eq!(bench.engine.overridden(), ["a"]);
    assert_eq!(bench.split("a"), (4, 3));
}

#[test]
fn a_state_directory_that_is_gone_changes_nothing() {
    let mut bench = bench();
    bench.files(&service("a", 1, "v1: 80, v2: 20")).unwrap();
    std::fs::remove_dir_all(bench.state.path()).unwrap();
    let error = bench.weight("a", &[("v1", 1)]).unwrap_err().to_string();
    assert!(error.contains("--state-dir"), "{error}");
    assert_eq!(bench.split("a"), (5, 4));
}

#[test]
fn clients_that_come_and_go_are_compiled_anew() {
    let mut bench = bench();
    let text = service("a", 1, "v1: 1").replace(
        "  split: {v1: 1}",
        "  routes:\n    - {match: [{cgroup: /jobs}], split: {v2: 1}}\n    - {split: {v1: 1}}",
    );
    bench.files(&text).unwrap();
    let names = bench.engine.take_changed_names().unwrap();
    assert_eq!(names.cgroups.len(), 1);
    assert_eq!(bench.engine.take_changed_names(), None);
    assert!(matches!(bench.engine.find("a").unwrap().notes[..], [Note::NoClient { .. }]));
    assert_eq!(bench.engine.refresh_clients().unwrap(), 0);
    for id in [7, 8] {
        bench.clients.0.borrow_mut().insert("/jobs".to_owned(), id);
        assert_eq!(bench.engine.refresh_clients().unwrap(), 1);
        let image = bench.engine.publisher().image(service_id("a")).unwrap();
        assert_eq!(image.routes[0].client.unwrap().cgroup, id);
        assert!(bench.engine.find("a").unwrap().notes.is_empty());
    }
    bench.files(&service("a", 1, "v1: 1")).unwrap();
    assert!(bench.engine.take_changed_names().unwrap().is_empty());
}

#[test]
fn getpeername_hooks_are_there_while_a_service_needs_them() {
    let mut bench = bench();
    let answering = |name, host| {
        service(name, host, "v1: 1").replace("spec:\n", "spec:\n  getpeername: frontend\n")
    };
    bench.apply(&answering("a", 1)).unwrap();
    bench.apply(&answering("b", 2)).unwrap();
    bench.engine.remove(&["a".to_owned()]).unwrap();
    assert_eq!(*bench.hooks.attached.borrow(), [true]);
    bench.apply(&service("b", 2, "v1: 1")).unwrap();
    assert_eq!(*bench.hooks.attached.borrow(), [true, false]);
    bench.engine.hooks_mut().refuse = true;
    let error = bench.apply(&answering("b", 2)).unwrap_err();
    assert!(matches!(error, ChangeError::Hooks(_)), "{error}");
    assert_eq!(bench.engine.needs().count(), 0);
}

#[test]
fn a_degraded_daemon_keeps_what_runs_until_the_files_are_mended() {
    let mut bench = bench();
    bench.files(&service("a", 1, "v1: 80, v2: 20")).unwrap();
    bench.engine.running.clear();
    bench.engine.keep_adopted("broken".to_owned());
    for error in [
        bench.apply(&service("b", 2, "v1: 1")).unwrap_err(),
        bench.weight("a", &[("v1", 1)]).unwrap_err(),
    ] {
        assert!(matches!(error, ChangeError::Degraded(_)), "{error}");
    }
    assert_eq!(bench.split("a"), (5, 4));
    bench.files(&service("b", 2, "v1: 3, v2: 1")).unwrap();
    assert!(bench.engine.degraded().is_none());
    assert!(bench.engine.publisher().image(service_id("a")).is_none());
    assert_eq!(bench.split("b"), (4, 3));
}

#[test]
fn a_comparison_says_what_an_apply_would_do() {
    let mut bench = bench();
    bench.files(&(service("a", 1, "v1: 1, v2: 3") + &service("b", 2, "v1: 1"))).unwrap();
    let stand = |bench: &Bench, text: &str| {
        let sources = [Source::new("new.yaml", text)];
        bench.engine.stand(&load(&sources).unwrap(), &sources)
    };
    let text = service("a", 1, "v1: 1, v2: 1") + &service("c", 3, "v1: 1");
    let found = stand(&bench, &text).unwrap();
    let names: Vec<&str> = found.old.iter().map(|service| service.name.as_str()).collect();
    assert_eq!((names, found.left_alone, found.generation), (vec!["a"], 1, 1));
    let error = stand(&bench, &service("c", 2, "v1: 1")).err();
    assert!(matches!(error, Some(ChangeError::Invalid { .. })), "the frontend is b's");
    assert_eq!(bench.engine.publisher().generation(), 1);
    bench.engine.keep_adopted("broken".to_owned());
    assert!(matches!(stand(&bench, &text).err(), Some(ChangeError::Degraded(_))));
}

#[test]
fn an_explanation_is_of_the_live_tables_and_this_node() {
    let mut bench = bench();
    bench.clients.0.borrow_mut().extend([("/".to_owned(), 1), ("/jobs".to_owned(), 7)]);
    bench.files(&service("a", 1, "v1: 1, v2: 3")).unwrap();
    bench.weight("a", &[("v1", 3)]).unwrap();
    let explain = |to: &str, cgroup: Option<&str>| {
        let role = Role {
            cgroup: cgroup.map(|path| CgroupName::Path(path.to_owned())),
            ..Role::default()
        };
        bench.engine.explain(&to.parse().unwrap(), &role)
    };
    let told = explain("127.10.0.1:80", Some("/jobs")).unwrap();
    assert_eq!((told.committed, told.next_ticket), (2, Some(0)));
    assert_eq!(told.explanation.routes[0].name, "route-1");
    // No ticket was taken, and the answer crosses the socket.
    let json = serde_json::to_string(&told).unwrap();
    assert_eq!(explain("127.10.0.1:80", None).unwrap(), serde_json::from_str(&json).unwrap());
    let miss = explain("127.10.0.9:80", None).unwrap();
    assert_eq!((miss.committed, &*miss.explanation.verdict), (2, "miss"));
    let error = explain("127.10.0.1:80", Some("/gone")).unwrap_err().to_string();
    assert!(error.contains("/gone"), "{error}");
}

#[test]
fn many_overrides_outlive_the_daemon_like_few() {
    let mut first = bench_with(Sizes::for_services(64), tempfile::tempdir().unwrap());
    let name = |host: u8| format!("s{host:02}");
    let all: String = (1..=40).map(|host| service(&name(host), host, "v1: 3, v2: 1")).collect();
    first.apply(&all).unwrap();
    first.engine.remove(&[name(7)]).unwrap();
    let mut second = first.restart_with(Sizes::for_services(64));
    second.files(&service("a", 99, "v1: 1")).unwrap();
    assert_eq!(second.engine.running().count(), 40);
    assert!(second.engine.find("s07").is_err());
    assert_eq!(second.split("s40"), (4, 3));
    let files = std::fs::read_dir(second.state.path().join("overrides")).unwrap();
    assert_eq!(files.count(), 39, "nothing else is left");
}

#[test]
fn overrides_that_cannot_be_written_leave_those_before() {
    let mut bench = bench();
    bench.apply(&service("a", 1, "v1: 3, v2: 1")).unwrap();
    let dir = bench.state.path().join("overrides");
    // What is in the way of one file fails the change of both.
    std::fs::create_dir(dir.join("b.yaml")).unwrap();
    let both = service("a", 1, "v1: 1, v2: 1") + &service("b", 2, "v1: 1");
    let error = bench.apply(&both).unwrap_err().to_string();
    assert!(error.contains("`a` and 1 more"), "{error}");
    assert_eq!(bench.split("a"), (4, 3));
    assert!(bench.engine.find("b").is_err());
    std::fs::remove_dir(dir.join("b.yaml")).unwrap();
    let mut second = bench.restart();
    second.files(&service("z", 9, "v1: 1")).unwrap();
    assert_eq!(second.split("a"), (4, 3));
    assert!(second.engine.find("b").is_err());
}
