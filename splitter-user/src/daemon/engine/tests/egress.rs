//! The engine with egress documents.

use splitter_common::abi::EgressCounts;

use super::*;

fn document(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: splitter.dev/v1\nkind: Egress\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n"
    )
}

const WEB: &str = "mode: registryOnly, clients: [{unit: web.service}]";

impl Bench {
    /// Another daemon on the maps of this one.
    fn adopt(self) -> Self {
        let maps = MemoryMaps::copy_of(self.engine.publisher().maps()).unwrap();
        drop(self.engine);
        bench_on(maps, self.state)
    }

    fn refuse(&mut self, rule: u32, refused: u64) {
        let counts = EgressCounts { refused, ..EgressCounts::default() };
        self.engine.publisher_mut().set_egress_counts(rule, &counts).unwrap();
    }

    /// Documents with what they refused and their notes.
    fn told(&self) -> Vec<(String, u64, Vec<String>)> {
        let told = self.engine.egress().map(|(said, counts, _, notes)| {
            let notes = notes.into_iter().map(str::to_owned).collect();
            (said.name.clone(), counts.refused, notes)
        });
        told.collect()
    }

    fn refused(&self) -> Vec<u64> {
        self.told().into_iter().map(|(_, refused, _)| refused).collect()
    }
}

#[test]
fn names_and_counts_outlive_a_daemon_and_follow_their_documents() {
    let mut bench = bench();
    let (web, rest) = (document("web", WEB), document("rest", "mode: registryOnly"));
    bench.files(&(web.clone() + &rest)).unwrap();
    bench.refuse(0, 7);
    bench.refuse(1, 9);
    let set = bench.engine.publisher().egress_root().set;
    let mut bench = bench.adopt();
    assert_eq!(bench.engine.egress_name(set, 0), Some("default/web"));
    assert_eq!(bench.engine.egress_name(set, 1), Some("default/rest"));
    assert_eq!(bench.engine.egress_name(set, 2), None);
    let jobs = document("jobs", "mode: registryOnly, clients: [{cgroup: /jobs}]");
    bench.files(&(jobs + &web + &rest)).unwrap();
    assert_eq!(bench.refused(), [0, 7, 9]);
    bench.files(&(web + &document("others", "mode: registryOnly"))).unwrap();
    assert_eq!(bench.refused(), [7, 0]);
    assert_eq!(bench.engine.egress_name(set, 1), Some("default/rest"), "an event that comes late");
}

#[test]
fn names_of_maps_that_are_gone_are_not_taken_for_those_of_others() {
    let mut bench = bench();
    bench.files(&document("web", WEB)).unwrap();
    let mut bench = bench.restart();
    assert_eq!(bench.engine.egress_name(1, 0), None);
    bench.files(&document("rest", "mode: registryOnly")).unwrap();
    assert_eq!(bench.engine.egress_name(1, 0), Some("default/rest"));
}

#[test]
fn names_of_clients_are_noted_as_long_as_they_are_not_clear() {
    let mut bench = bench();
    bench.files(&document("web", WEB)).unwrap();
    let notes = |bench: &Bench| bench.told().remove(0).2;
    assert_eq!(notes(&bench), ["the unit web.service does not exist now"]);
    let appear = |bench: &mut Bench, path: &str, id| {
        bench.clients.0.borrow_mut().insert(path.to_owned(), id);
        bench.engine.refresh_clients().unwrap();
    };
    appear(&mut bench, "/system.slice/web.service", 5);
    assert_eq!(notes(&bench), Vec::<String>::new());
    appear(&mut bench, "/other.slice/web.service", 6);
    assert_eq!(notes(&bench), ["2 cgroups are the unit web.service: it holds for all of them"]);
    let verdict = |id: &str| {
        let cgroup = Some(CgroupName::Path(id.to_owned()));
        let role = Role { cgroup, ..Role::default() };
        let told = bench.engine.explain(&"10.0.0.1:80".parse().unwrap(), &role).unwrap();
        told.explanation.egress.unwrap().verdict
    };
    for path in ["/", "/system.slice", "/other.slice"] {
        bench.clients.0.borrow_mut().insert(path.to_owned(), 1);
    }
    assert_eq!(verdict("/system.slice/web.service"), "refused");
    assert_eq!(verdict("/other.slice/web.service"), "refused");
    assert_eq!(verdict("/other.slice"), "allowed");
}

#[test]
fn a_comparison_says_what_changes_for_clients() {
    let mut bench = bench();
    bench.files(&document("rest", "mode: allowAny")).unwrap();
    let next = document("rest", "mode: registryOnly") + &document("web", WEB);
    let stand = bench.engine.stand_documents(&sources(&next)).unwrap();
    let [old, new] = stand.outbound.map(|said| said.len());
    assert_eq!((old, new), (1, 2));
    let unknown = bench.engine.find_egress("default/rset").unwrap_err().to_string();
    assert!(unknown.contains("did you mean `default/rest`"), "{unknown}");
    assert!(bench.engine.find_egress("default/rest").unwrap().cgroups.is_empty());
}
