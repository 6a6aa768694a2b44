//! The engine with documents of Istio, applied one by one as their users do.

use super::*;
use crate::policy::diagnostic::Severity;

const REGISTRY: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: shop}
spec:
  hosts: [web.shop.svc.cluster.local]
  addresses: [127.10.0.1]
  ports: [{number: 80, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints:
    - {address: 127.0.0.1, ports: {tcp: 9001}, labels: {version: v1}}
    - {address: 127.0.0.1, ports: {tcp: 9002}, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec:
  host: web
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
";

fn split(v1: u32, v2: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: web, \
         namespace: shop}}\nspec:\n  hosts: [web]\n  tcp:\n    - route:\n        - {{destination: \
         {{host: web, subset: v1}}, weight: {v1}}}\n        - {{destination: {{host: web, subset: \
         v2}}, weight: {v2}}}\n"
    )
}

const BY_NAME: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out, namespace: shop}
spec:
  hosts: [out.example.com]
  endpoints: [{address: far.example.com}]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
";

impl Bench {
    fn documents(&mut self, name: &str, text: &str) -> Result<Outcome, ChangeError> {
        self.engine.apply_documents(&[Source::new(name, text)])
    }
}

#[test]
fn a_virtual_service_is_applied_alone_after_its_registry() {
    let mut bench = bench();
    let Err(ChangeError::Invalid { diagnostics, sources }) =
        bench.documents("vs.yaml", &split(80, 20))
    else {
        panic!("the host is in no registry");
    };
    let errors = diagnostics.iter().filter(|it| it.severity == Severity::Error);
    assert!(errors.clone().count() > 0);
    assert!(errors.clone().all(|it| sources[it.primary.source].name == "vs.yaml"));
    assert_eq!(bench.documents("registry.yaml", REGISTRY).unwrap().applied.added, ["shop/web"]);
    for (v1, v2, expected) in [(100, 0, (1, 1)), (80, 20, (5, 4)), (50, 50, (2, 1))] {
        let applied = bench.documents("vs.yaml", &split(v1, v2)).unwrap().applied;
        assert_eq!(applied.changed, ["shop/web"]);
        assert_eq!(bench.split("shop/web"), expected);
    }
    assert_eq!(bench.engine.documents().applied.len(), 2, "one step is kept");
    let again = bench.documents("vs.yaml", &split(50, 50)).unwrap().applied;
    assert_eq!((again.changed.len(), again.generation), (0, 4));
}

#[test]
fn a_virtual_service_stands_over_files_through_reloads_and_restarts() {
    let mut first = bench();
    let files = format!("{REGISTRY}---\n{}---\n{}", split(1, 0), service("native", 9, "v1: 1"));
    first.reload(&sources(&files)).unwrap();
    assert_eq!(first.split("shop/web"), (1, 1));
    first.documents("vs.yaml", &split(80, 20)).unwrap();
    assert!(first.engine.find("native").is_ok());
    first.reload(&sources(&files.replace("127.0.0.1:2", "127.0.0.1:3"))).unwrap();
    assert_eq!(first.split("shop/web"), (5, 4));
    let mut second = first.restart();
    second.reload(&sources(&files)).unwrap();
    assert_eq!(second.split("shop/web"), (5, 4));
    second.engine.remove(&["VirtualService/shop/web".to_owned()]).unwrap();
    assert_eq!(second.split("shop/web"), (1, 1));
    let error = second.engine.remove(&["VirtualService/shop/web".to_owned()]).unwrap_err();
    assert!(error.to_string().contains("policy.yaml"), "{error}");
}

#[test]
fn a_policy_file_counts_again_once_what_was_applied_over_all_of_it_is_taken_back() {
    let mut bench = bench();
    let named = |name: &str, text: &str| Source::new(name, text);
    let files = [named("registry.yaml", REGISTRY), named("vs.yaml", &split(1, 0))];
    let loaded = crate::policy::load(&files).unwrap();
    bench.engine.replace_files(loaded, &files).unwrap();
    bench.documents("other.yaml", &split(80, 20)).unwrap();
    assert_eq!(bench.split("shop/web"), (5, 4));
    bench.engine.remove(&["VirtualService/shop/web".to_owned()]).unwrap();
    assert_eq!(bench.split("shop/web"), (1, 1));
}

#[test]
fn weights_by_command_stand_until_the_next_step() {
    let mut first = bench();
    let files = format!("{REGISTRY}---\n{}", split(80, 20));
    first.reload(&sources(&files)).unwrap();
    first.weight("web", &[("v1", 50), ("v2", 50)]).unwrap();
    first
        .documents("other.yaml", &REGISTRY.replace("web", "other").replace("0.1]", "0.2]"))
        .unwrap();
    assert_eq!(first.split("shop/web"), (2, 1));
    // A server more is no step.
    let more = REGISTRY.replace(
        "    - {address: 127.0.0.1, ports: {tcp: 9002}",
        "    - {address: 127.0.0.1, ports: {tcp: 9003}, labels: {version: v2}}\n    - {address: \
         127.0.0.1, ports: {tcp: 9002}",
    );
    first.documents("more.yaml", &more).unwrap();
    assert_eq!(first.split("shop/web"), (2, 1));
    let mut second = first.restart();
    second.reload(&sources(&files)).unwrap();
    assert_eq!(second.split("shop/web"), (2, 1));
    assert_eq!(second.engine.find("web").unwrap().service.subsets[1].backends.len(), 2);
    second.documents("vs.yaml", &split(1, 9)).unwrap();
    assert_eq!(second.split("shop/web"), (10, 1));
    assert!(second.engine.overridden().is_empty());
}

#[test]
fn answers_of_the_resolver_become_backends() {
    let mut bench = bench();
    bench.documents("out.yaml", BY_NAME).unwrap();
    assert_eq!(bench.engine.documents().lookups, ["far.example.com"]);
    let address = bench.engine.documents().assigned["out.example.com"];
    for answer in ["10.0.0.1", "10.0.0.2"] {
        let answers =
            BTreeMap::from([("far.example.com".to_owned(), vec![answer.parse().unwrap()])]);
        bench.engine.set_answers(&answers).unwrap();
        let running = bench.engine.running().next().unwrap();
        let subsets = running.service.subsets.iter();
        let served: Vec<_> =
            subsets.flat_map(|subset| &subset.backends).map(|it| it.addr).collect();
        assert_eq!(served, [format!("{answer}:443").parse().unwrap()]);
        assert!(running.service.frontends.iter().all(|frontend| frontend.addr.ip() == address));
    }
    let mut second = bench.restart();
    second.reload(&sources("# nothing\n")).unwrap();
    let served = &second.engine.running().next().unwrap().service.subsets[0].backends;
    assert_eq!(served[0].addr.to_string(), "10.0.0.2:443");
    assert_eq!(second.engine.documents().assigned["out.example.com"], address);
    // A native service at the address: the host moves.
    let taken = service("native", 1, "v1: 1").replace("127.10.0.1", &address.to_string());
    second.reload(&sources(&taken)).unwrap();
    assert_ne!(second.engine.documents().assigned["out.example.com"], address);
}

#[test]
fn a_host_that_is_dialled_where_it_serves_may_be_reweighted() {
    let mut first = bench();
    let direct = BY_NAME.replace("  endpoints: [{address: far.example.com}]\n", "");
    first.documents("out.yaml", &direct).unwrap();
    let answers =
        BTreeMap::from([("out.example.com".to_owned(), vec!["10.0.0.1".parse().unwrap()])]);
    first.engine.set_answers(&answers).unwrap();
    first.weight("out.example.com", &[("all", 7)]).unwrap();
    let near = service("near", 1, "v1: 1").replace("127.0.0.1:2", "10.0.0.2:443");
    first.apply(&near).unwrap();
    let answers =
        BTreeMap::from([("out.example.com".to_owned(), vec!["10.0.0.2".parse().unwrap()])]);
    // The address of a server may be a backend of any service.
    first.engine.set_answers(&answers).unwrap();
    first.engine.remove(&["near".to_owned()]).unwrap();
    let mut second = first.restart();
    second.reload(&sources("# nothing\n")).unwrap();
    assert_eq!(second.engine.overridden().len(), 1);
    assert_eq!(second.engine.documents().answers, answers);
}
