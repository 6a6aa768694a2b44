//! Changes, and deaths in the middle of them.

use std::fs;

use super::files::{JOURNAL, NEW_JOURNAL};
use super::*;
use crate::policy::{self, Source};

fn change(name: &str, port: u16) -> Change {
    let text = format!(
        "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: {name}}}\nspec:\n  \
         frontends: [\"127.10.0.1:{port}\"]\n  subsets:\n    v1: {{backends: \
         [\"127.0.0.1:1\"], maxConnections: 9}}\n  split: {{v1: 1}}\n"
    );
    let source = Source::new("policy.yaml", text).degraded();
    let service = policy::load(&[source]).unwrap().policy.services.remove(0);
    (name.to_owned(), Some(Override { service: Arc::new(service), base: None }))
}

fn names(state: &Path) -> Vec<String> {
    let entries = fs::read_dir(state.join("overrides")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn found(overrides: &Overrides) -> Vec<Change> {
    overrides.iter().map(|(name, found)| (name.clone(), Some(found.clone()))).collect()
}

#[test]
fn documents_that_were_lost_are_noticed() {
    let state = tempfile::tempdir().unwrap();
    let path = Overrides::open(state.path()).unwrap().documents_path();
    fs::write(&path, "").unwrap();
    let error = Overrides::open(state.path()).unwrap_err().to_string();
    assert!(error.contains("_documents.json is empty"), "{error}");
}

#[test]
fn a_change_that_was_not_settled_is_taken_back() {
    let state = tempfile::tempdir().unwrap();
    let old = vec![change("a", 1), change("b", 2)];
    let mut first = Overrides::open(state.path()).unwrap();
    first.set(old.clone()).unwrap();
    first.settle().unwrap();
    first.set(vec![change("a", 3), ("b".to_owned(), None), change("c", 4)]).unwrap();
    let staged = ["_journal.new", "a.new", "a.yaml", "b.yaml", "c.new"];
    assert_eq!(names(state.path()), staged);
    drop(first);
    for _ in 0..2 {
        assert_eq!(found(&Overrides::open(state.path()).unwrap()), old);
        assert_eq!(names(state.path()), ["a.yaml", "b.yaml"]);
    }
}

#[test]
fn a_change_that_was_half_placed_is_taken_back() {
    let state = tempfile::tempdir().unwrap();
    let old = vec![change("a", 1), change("b", 2)];
    let mut first = Overrides::open(state.path()).unwrap();
    first.set(old.clone()).unwrap();
    first.settle().unwrap();
    first.set(vec![change("a", 3), ("b".to_owned(), None), change("c", 4)]).unwrap();
    drop(first);
    let dir = state.path().join("overrides");
    fs::rename(dir.join(NEW_JOURNAL), dir.join(JOURNAL)).unwrap();
    fs::rename(dir.join("c.new"), dir.join("c.yaml")).unwrap();
    fs::remove_file(dir.join("b.yaml")).unwrap();
    assert_eq!(found(&Overrides::open(state.path()).unwrap()), old);
    assert_eq!(names(state.path()), ["a.yaml", "b.yaml"]);
}

#[test]
fn a_change_that_cannot_be_placed_is_rolled_back() {
    let state = tempfile::tempdir().unwrap();
    let old = vec![change("a", 1)];
    let mut first = Overrides::open(state.path()).unwrap();
    first.set(old.clone()).unwrap();
    first.settle().unwrap();
    let in_the_way = state.path().join("overrides/b.yaml");
    fs::create_dir(&in_the_way).unwrap();
    first.set(vec![change("a", 2), change("b", 3)]).unwrap();
    first.settle().unwrap_err();
    assert!(first.roll_back().is_err(), "what is in the way is still there");
    assert_eq!(found(&first), old);
    fs::remove_dir(&in_the_way).unwrap();
    first.set(vec![change("c", 4)]).unwrap();
    first.settle().unwrap();
    assert_eq!(names(state.path()), ["a.yaml", "c.yaml"]);
    assert_eq!(fs::read(state.path().join("overrides/a.yaml")).unwrap(), file_text(old[0].1.as_ref().unwrap()).as_bytes());
}

#[test]
fn a_change_is_rolled_back_at_once() {
    let state = tempfile::tempdir().unwrap();
    let mut overrides = Overrides::open(state.path()).unwrap();
    overrides.set(vec![change("a", 1)]).unwrap();
    overrides.settle().unwrap();
    overrides.set(vec![change("a", 2), change("b", 3)]).unwrap();
    overrides.roll_back().unwrap();
    assert_eq!(found(&overrides), [change("a", 1)]);
    assert_eq!(names(state.path()), ["a.yaml"]);
}

#[test]
fn leftovers_go_and_a_damaged_journal_is_named() {
    let state = tempfile::tempdir().unwrap();
    drop(Overrides::open(state.path()).unwrap());
    let dir = state.path().join("overrides");
    fs::write(dir.join("a.new"), "half").unwrap();
    fs::write(dir.join(NEW_JOURNAL), "half").unwrap();
    drop(Overrides::open(state.path()).unwrap());
    assert!(names(state.path()).is_empty());
    fs::write(dir.join(JOURNAL), "half").unwrap();
    let error = Overrides::open(state.path()).unwrap_err().to_string();
    assert!(error.contains("overrides/journal is damaged"), "{error}");
}

#[test]
fn a_state_directory_has_one_daemon() {
    let state = tempfile::tempdir().unwrap();
    let _first = Overrides::open(state.path()).unwrap();
    let error = Overrides::open(state.path()).unwrap_err();
    assert!(matches!(error, StateError::Busy(_)), "{error}");
}
