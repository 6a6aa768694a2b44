//! The engine with foreign documents. Where a test is about services of documents, it takes native
//! ones and says that documents gave them.

use super::*;
use crate::daemon::engine::plan::Keep;
use crate::policy::{DocumentRef, HostNames, Loaded};

fn workload(name: &str, cgroup: &str) -> String {
    format!(
        "apiVersion: splitter.dev/v1\nkind: Workload\nmetadata: {{name: {name}}}\nspec: {{cgroup: \
         {cgroup}}}\n---\n"
    )
}

fn source(name: &str, text: &str) -> Source {
    Source::new(name, text)
}

/// A load in which services do not stand in documents of their own.
fn derived(text: &str, file: &str) -> (Loaded, Vec<Source>) {
    let sources = vec![source(file, text)];
    let mut loaded = load(&sources).unwrap();
    let identities = vec!["VirtualService/default/reviews".to_owned()];
    loaded.documents = vec![DocumentRef { identities, source: 0 }];
    (loaded, sources)
}

fn in_namespace(name: &str, namespace: &str, host: u8, weights: &str) -> String {
    service(name, host, weights)
        .replace(&format!("name: {name}}}"), &format!("name: {name}, namespace: {namespace}}}"))
}

impl Bench {
    fn derive(&mut self, text: &str) -> Result<crate::daemon::control::Applied, ChangeError> {
        let (loaded, sources) = derived(text, "istio.yaml");
        let plan = self.engine.plan_documents(loaded, &sources, &[])?;
        self.engine.carry_out(plan, Keep::First)
    }

    fn kept(&self) -> Vec<(String, u32)> {
        let applied = self.engine.documents().applied.iter();
        applied.map(|held| (held.source.name.clone(), held.source.reading.layer)).collect()
    }
}

#[test]
fn later_documents_replace_earlier_ones_and_the_rest_stays() {
    let mut bench = bench();
    bench.reload(&[source("files.yaml", &workload("base", "/base"))]).unwrap();
    let both = workload("a", "/a") + &workload("b", "/b");
    let outcome = bench.engine.apply_documents(&[source("one.yaml", &both)]).unwrap();
    assert_eq!(outcome.applied.documents, ["Workload/default/a", "Workload/default/b"]);
    bench.engine.apply_documents(&[source("two.yaml", &workload("a", "/other"))]).unwrap();
    assert_eq!(bench.kept(), [("one.yaml".to_owned(), 1), ("two.yaml".to_owned(), 2)]);
    // Nothing of the first source counts after this.
    bench.engine.apply_documents(&[source("three.yaml", &workload("b", "/b"))]).unwrap();
    assert_eq!(bench.kept(), [("two.yaml".to_owned(), 2), ("three.yaml".to_owned(), 3)]);
    // Over a document of a policy file, and back.
    bench.engine.apply_documents(&[source("four.yaml", &workload("base", "/new"))]).unwrap();
    assert_eq!(bench.engine.documents().base[0].identities, [""; 0]);
    bench.engine.remove(&["Workload/default/base".to_owned()]).unwrap();
    assert_eq!(bench.engine.documents().base[0].identities, ["Workload/default/base"]);
}

#[test]
fn services_by_labels_follow_workloads_and_are_removed_by_name() {
    let mut bench = bench();
    let split = service("shop", 1, "v1: 1")
        .replace("  split: ", "  routes:\n    - {match: {labels: {app: web}}, split: ")
        .replace("{v1: 1}\n", "{v1: 1}}\n    - {reject: ECONNREFUSED}\n");
    let labelled = |cgroup: &str| {
        workload("web", cgroup).replace("{cgroup: ", "{labels: {app: web}, cgroup: ")
    };
    bench.reload(&[source("files.yaml", &labelled("/a"))]).unwrap();
    bench.engine.apply_documents(&[source("shop.yaml", &split)]).unwrap();
    let cgroup = |bench: &Bench| {
        let matches = &bench.engine.find("shop").unwrap().service.routes[0].matches;
        matches[0].cgroup.as_ref().unwrap().value().to_owned()
    };
    assert_eq!(cgroup(&bench), "/a");
    bench.engine.apply_documents(&[source("web.yaml", &labelled("/b"))]).unwrap();
    assert_eq!(cgroup(&bench), "/b");
    // A plain one in its place would be replaced again at the next change of a workload.
    let error = bench.apply(&service("shop", 1, "v1: 1")).unwrap_err().to_string();
    assert!(error.contains("`splitter apply --remove shop` takes that one away"), "{error}");
    let applied = bench.engine.remove(&["shop".to_owned()]).unwrap();
    assert_eq!((applied.removed, applied.dropped.len()), (vec!["shop".to_owned()], 1));
    assert!(bench.engine.find("shop").is_err());
}

#[test]
fn an_egress_document_for_nobody_is_told() {
    let mut bench = bench();
    let egress = "apiVersion: splitter.dev/v1\nkind: Egress\nmetadata: {name: some}\n\
                  spec: {mode: registryOnly, clients: [{labels: {app: web}}]}\n";
    let web = workload("web", "/a").replace("{cgroup: ", "{labels: {app: web}, cgroup: ");
    bench.engine.apply_documents(&[source("other.yaml", &workload("other", "/b"))]).unwrap();
    bench.engine.apply_documents(&[source("web.yaml", &web)]).unwrap();
    bench.engine.apply_documents(&[source("some.yaml", egress)]).unwrap();
    assert_eq!(bench.engine.egress_problems(), [""; 0]);
    bench.engine.remove(&["Workload/default/web".to_owned()]).unwrap();
    let problems = bench.engine.egress_problems();
    assert!(problems[0].starts_with("the egress document default/some holds for nobody"));
}

#[test]
fn documents_are_removed_by_identity() {
    let mut bench = bench();
    bench.reload(&[source("files.yaml", &workload("base", "/base"))]).unwrap();
    let both = workload("a", "/a") + &workload("b", "/b");
    bench.engine.apply_documents(&[source("one.yaml", &both)]).unwrap();
    bench.engine.apply_documents(&[source("two.yaml", &workload("a", "/other"))]).unwrap();
    let applied = bench.engine.remove(&["Workload/default/a".to_owned()]).unwrap();
    assert_eq!(applied.dropped, ["Workload/default/a"]);
    // The one below it does not come back.
    assert_eq!(bench.engine.applied_documents(), ["Workload/default/b"]);
    let refused = |bench: &mut Bench, name: &str| {
        bench.engine.remove(&[name.to_owned()]).unwrap_err().to_string()
    };
    let error = refused(&mut bench, "Workload/default/base");
    assert!(error.contains("files.yaml"), "{error}");
    let error = refused(&mut bench, "Workload/default/bb");
    assert!(error.contains("did you mean `Workload/default/b`"), "{error}");
    bench.engine.remove(&["Workload/default/b".to_owned()]).unwrap();
    assert!(bench.kept().is_empty());
    let error = refused(&mut bench, "Workload/default/b");
    assert!(error.contains("no document was applied"), "{error}");
}

#[test]
fn applied_documents_outlive_the_daemon() {
    let mut first = bench();
    let mut new = source("one.yaml", &(workload("a", "/a") + &workload("b", "/b")));
    new.reading.namespace = "shop".to_owned();
    first.engine.apply_documents(&[new]).unwrap();
    first.engine.remove(&["Workload/shop/a".to_owned()]).unwrap();
    let mut second = first.restart();
    second.reload(&[]).unwrap();
    assert_eq!(second.engine.applied_documents(), ["Workload/shop/b"]);
    second.engine.remove(&["Workload/shop/b".to_owned()]).unwrap();
    assert!(!second.engine.overrides.documents_path().exists());
}

#[test]
fn services_among_documents_are_applied_by_the_same_commit() {
    let mut first = bench();
    first.files(&service("a", 1, "v1: 1, v2: 3")).unwrap();
    let mixed = workload("w", "/w") + &service("a", 1, "v1: 1, v2: 1") + &service("b", 2, "v1: 1");
    let outcome = first.engine.apply_documents(&[source("mixed.yaml", &mixed)]).unwrap();
    let applied = outcome.applied;
    assert_eq!((applied.added, applied.changed), (vec!["b".to_owned()], vec!["a".to_owned()]));
    assert_eq!((applied.generation, first.split("a")), (2, (2, 1)));
    assert_eq!(first.engine.overridden(), ["a", "b"]);
    let mut second = first.restart();
    second.reload(&[source("policy.yaml", &service("a", 1, "v1: 1, v2: 3"))]).unwrap();
    assert_eq!(second.split("a"), (2, 1));
    let both = ["b".to_owned(), "Workload/default/w".to_owned()];
    let applied = second.engine.remove(&both).unwrap();
    assert_eq!((applied.removed, applied.dropped.len()), (vec!["b".to_owned()], 1));
    assert_eq!(second.engine.overridden(), ["a"]);
}

#[test]
fn documents_that_cannot_be_published_are_not_kept() {
    let sizes = Sizes { subsets: 4, ..Sizes::for_services(16) };
    let mut bench = bench_with(sizes, tempfile::tempdir().unwrap());
    bench.apply(&service("a", 1, "v1: 3, v2: 1")).unwrap();
    bench.engine.apply_documents(&[source("one.yaml", &workload("w", "/w"))]).unwrap();
    let before = bench.engine.overrides.documents().to_owned();
    let mixed = workload("x", "/x") + &service("b", 2, "v1: 1");
    let error = bench.engine.apply_documents(&[source("mixed.yaml", &mixed)]).err().unwrap();
    assert!(matches!(error, ChangeError::Full { .. }), "{error}");
    assert_eq!(bench.engine.overrides.documents(), before);
    assert_eq!(bench.engine.applied_documents(), ["Workload/default/w"]);
    assert_eq!(bench.engine.overridden(), ["a"]);
    let on_disk = std::fs::read_to_string(bench.engine.overrides.documents_path()).unwrap();
    assert_eq!(on_disk, before);
}

#[test]
fn wrong_documents_change_nothing_and_are_shown_with_their_text() {
    let mut bench = bench();
    let twice = workload("w", "/w") + &workload("w", "/x");
    let Err(ChangeError::Invalid { diagnostics, sources }) =
        bench.engine.apply_documents(&[source("twice.yaml", &twice)])
    else {
        panic!("the document is given twice");
    };
    assert_eq!(sources[diagnostics[0].primary.source].name, "twice.yaml");
    assert!(bench.kept().is_empty() && bench.engine.overrides.documents().is_empty());
}

#[test]
fn services_of_documents_are_replaced_as_a_set() {
    let mut bench = bench();
    bench.files(&service("native", 9, "v1: 1")).unwrap();
    let two = in_namespace("reviews", "default", 1, "v1: 3, v2: 1")
        + &in_namespace("ratings", "default", 2, "v1: 1");
    assert_eq!(bench.derive(&two).unwrap().added, ["default/ratings", "default/reviews"]);
    let one = in_namespace("reviews", "default", 1, "v1: 1, v2: 1");
    let applied = bench.derive(&one).unwrap();
    assert_eq!(applied.removed, ["default/ratings"]);
    assert_eq!(applied.changed, ["default/reviews"]);
    assert_eq!(applied.unchanged, ["native"]);
    assert_eq!(
        bench.engine.find("reviews").unwrap().origin.to_string(),
        "from documents, istio.yaml"
    );
    let error = bench.engine.remove(&["reviews".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("remove those"), "{error}");
}

#[test]
fn commands_stand_on_services_of_documents_until_those_say_otherwise() {
    let mut bench = bench();
    let text = in_namespace("reviews", "default", 1, "v1: 80, v2: 20");
    bench.derive(&text).unwrap();
    bench.weight("reviews", &[("v1", 50), ("v2", 50)]).unwrap();
    bench.weight("reviews/route-1", &[("v1", 150)]).unwrap();
    assert_eq!(bench.engine.overridden(), ["default/reviews"]);
    // Servers come and go: the command counts.
    let moved = text.replace("127.0.0.1:2", "127.0.0.1:3");
    assert_eq!(bench.derive(&moved).unwrap().changed, ["default/reviews"]);
    assert_eq!(bench.split("default/reviews"), (4, 3));
    let running = bench.engine.find("reviews").unwrap();
    assert_eq!(running.service.subsets[1].backends[0].addr.port(), 3);
    // Other weights: the documents count.
    bench.derive(&in_namespace("reviews", "default", 1, "v1: 1, v2: 9")).unwrap();
    assert_eq!(bench.split("default/reviews"), (10, 1));
    assert!(bench.engine.overridden().is_empty());
}

#[test]
fn services_of_documents_may_not_collide_with_others() {
    let mut bench = bench();
    bench.files(&service("native", 1, "v1: 1")).unwrap();
    for clash in [service("other", 1, "v1: 1"), service("native", 2, "v1: 1")] {
        let error = bench.derive(&clash).unwrap_err();
        assert!(matches!(error, ChangeError::Invalid { .. }), "{error}");
    }
    assert_eq!(bench.engine.publisher().generation(), 1);
    bench.derive(&service("other", 2, "v1: 1")).unwrap();
    let error = bench.apply(&service("third", 2, "v1: 1")).unwrap_err();
    assert!(matches!(error, ChangeError::Invalid { .. }), "{error}");
}

#[test]
fn a_comparison_of_documents_changes_nothing() {
    let mut bench = bench();
    bench.files(&(service("a", 1, "v1: 1") + &service("c", 3, "v1: 1"))).unwrap();
    let mixed = workload("w", "/w") + &service("a", 1, "v2: 1") + &service("b", 2, "v1: 1");
    let stand = bench.engine.stand_documents(&[source("mixed.yaml", &mixed)]).unwrap();
    let names = |services: &[Arc<Service>]| -> Vec<String> {
        services.iter().map(|service| service.name.clone()).collect()
    };
    assert_eq!(
        (names(&stand.old), names(&stand.new)),
        (vec!["a".into()], vec!["a".into(), "b".into()])
    );
    assert_eq!((stand.left_alone, stand.generation), (1, 1));
    assert!(bench.kept().is_empty() && bench.engine.overridden().is_empty());
}

#[test]
fn a_name_without_its_namespace_must_fit_one_service() {
    let mut bench = bench();
    let shop = in_namespace("web", "shop", 1, "v1: 1, v2: 3");
    let blog = in_namespace("web", "blog", 2, "v1: 1");
    bench.files(&(shop.clone() + &blog)).unwrap();
    let error = bench.weight("web", &[("v1", 2)]).unwrap_err().to_string();
    assert!(error.contains("`blog/web`, `shop/web`"), "{error}");
    bench.weight("shop/web/route-1", &[("v1", 3)]).unwrap();
    assert_eq!(bench.split("shop/web"), (2, 1));
    bench.files(&shop).unwrap();
    bench.weight("web", &[("v1", 9)]).unwrap();
    assert_eq!(bench.split("shop/web"), (4, 3));
    bench.engine.remove(&["web".to_owned()]).unwrap();
    assert_eq!(bench.split("shop/web"), (4, 1));
    // The very name comes first.
    bench.files(&(shop + &service("web", 3, "v1: 1"))).unwrap();
    assert_eq!(bench.engine.find("web").unwrap().service.name, "web");
}

#[test]
fn answers_and_addresses_are_remembered() {
    let mut first = bench();
    first.files(&service("a", 1, "v1: 1")).unwrap();
    let (mut loaded, sources) = derived(&in_namespace("web", "shop", 2, "v1: 1"), "istio.yaml");
    let address = "127.240.0.5".parse().unwrap();
    let names = vec!["web.example".to_owned(), "web".to_owned()];
    loaded.hosts = vec![HostNames { address, names, allocated: true }];
    loaded.lookups = vec!["web.example".to_owned()];
    let plan = first.engine.plan_documents(loaded, &sources, &[]).unwrap();
    first.engine.carry_out(plan, Keep::First).unwrap();
    let answers = BTreeMap::from([("web.example".to_owned(), vec!["10.0.0.1".parse().unwrap()])]);
    first.engine.set_answers(&answers).unwrap();
    let second = first.restart();
    assert_eq!(second.engine.documents().assigned["web.example"], address);
    assert_eq!(second.engine.documents().answers, answers);
}

#[test]
fn answers_count_where_they_cannot_be_kept() {
    let mut bench = bench();
    bench.files(&service("a", 1, "v1: 1")).unwrap();
    std::fs::remove_dir_all(bench.state.path()).unwrap();
    let answers = BTreeMap::from([("web.example".to_owned(), vec!["10.0.0.1".parse().unwrap()])]);
    bench.engine.set_answers(&answers).unwrap();
    assert_eq!(bench.engine.documents().answers, answers);
}
