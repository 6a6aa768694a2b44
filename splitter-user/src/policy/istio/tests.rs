//! What readers leave behind, as far as tables of fields do not show it.

use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report};
use crate::policy::document::{self, Document};
use crate::policy::mesh::resource::{
    DestinationRule, LoadBalancer, Resource, RuleAction, TcpSettings, VirtualService,
};
use crate::policy::model::Ejection;
use crate::policy::{Reading, yaml};

/// Reads one document, and answers what was said about it.
fn read(text: &str) -> (Resource, Vec<Diagnostic>) {
    let mut report = Report::default();
    let mut documents = yaml::Documents::new(text, 0, 0);
    let document = documents.next(&mut report).expect("a document");
    let found = document::read(&document, &mut report, &Reading::default()).pop();
    let Some(Document::Resource(resource)) = found else { panic!("no resource in {text}") };
    let (Ok(said) | Err(said)) = report.finish();
    (*resource, said)
}

fn virtual_service(spec: &str) -> (VirtualService, Vec<Diagnostic>) {
    let head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\n";
    match read(&format!("{head}spec: {spec}\n")) {
        (Resource::VirtualService(service), said) => (service, said),
        (other, _) => panic!("{other:?}"),
    }
}

fn destination_rule(spec: &str) -> (DestinationRule, Vec<Diagnostic>) {
    let head = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\n";
    match read(&format!("{head}spec: {spec}\n")) {
        (Resource::DestinationRule(rule), said) => (rule, said),
        (other, _) => panic!("{other:?}"),
    }
}

fn codes(said: &[Diagnostic]) -> Vec<&'static str> {
    said.iter().map(|diagnostic| diagnostic.code).collect()
}

#[test]
fn a_document_says_once_that_connections_are_split() {
    let split =
        "{route: [{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 1}]";
    let one = "{match: [{port: 1}], route: [{destination: {host: a}}]}";
    let rules = format!("{one}, {split}, match: [{{port: 2}}]}}, {split}}}");
    let (service, said) = virtual_service(&format!("{{hosts: [a], http: [{rules}]}}"));
    assert_eq!(codes(&said), [code::PER_CONNECTION.id]);
    let [_, first, _] = &service.http[..] else { panic!("{:?}", service.http) };
    assert_eq!(said[0].primary.start, first.at.start as usize);
    let (_, said) = virtual_service(&format!("{{hosts: [a], tcp: [{split}}}]}}"));
    assert_eq!(codes(&said), Vec::<&str>::new());
}

#[test]
fn every_rule_after_a_catch_all_is_unreachable() {
    let rule = "{route: [{destination: {host: a}}]}";
    let (_, said) = virtual_service(&format!("{{hosts: [a], tcp: [{rule}, {rule}, {rule}]}}"));
    assert_eq!(codes(&said), [code::RULE_UNREACHABLE.id; 2]);
    let delegate = "{delegate: {name: b}}";
    let (_, said) = virtual_service(&format!("{{hosts: [a], http: [{delegate}, {rule}]}}"));
    assert_eq!(codes(&said), Vec::<&str>::new());
}

#[test]
fn a_rule_about_requests_is_kept_and_takes_part_in_nothing() {
    let by_user = "{match: [{headers: {user: {exact: a}}}, {port: 80}], \
                   route: [{destination: {host: a, subset: v2}}]}";
    let rest = "{route: [{destination: {host: a, subset: v1}}]}";
    let (service, said) = virtual_service(&format!("{{hosts: [a], http: [{by_user}, {rest}]}}"));
    assert_eq!(codes(&said), [code::L7_MATCH.id]);
    let [first, second] = &service.http[..] else { panic!("{:?}", service.http) };
    assert!(!first.complete && second.complete);
    assert_eq!(first.matches.len(), 1);
    assert!(matches!(&first.action, RuleAction::Route(to) if to[0].subset.is_some()));
}

#[test]
fn what_can_be_degraded_leaves_a_rule_complete() {
    let rule = "{timeout: 1s, fault: {abort: {httpStatus: 500, percentage: {value: 5}}}, \
                route: [{destination: {host: a}}]}";
    let (service, said) = virtual_service(&format!("{{hosts: [a], http: [{rule}]}}"));
    let expected = [code::L7_POLICY.id, code::L7_POLICY.id];
    assert_eq!(codes(&said), expected);
    assert!(service.http[0].complete);
    let abort = service.http[0].fault.and_then(|fault| fault.abort).expect("an abort");
    assert_eq!((abort.ppm, abort.errno.name), (50_000, "ECONNREFUSED"));
}

#[test]
fn the_source_of_an_http_match_is_nothing_beside_gateways() {
    let found = "match: [{gateways: [mesh], sourceLabels: {app: web}, sourceNamespace: shop}], \
                 route: [{destination: {host: a}}]";
    let (service, _) = virtual_service(&format!("{{hosts: [a], http: [{{{found}}}]}}"));
    let http = &service.http[0].matches[0];
    assert!(http.source_labels.is_empty() && http.source_namespace.is_none());
    let (service, said) = virtual_service(&format!("{{hosts: [a], tcp: [{{{found}}}]}}"));
    let tcp = &service.tcp[0].matches[0];
    assert!(!tcp.source_labels.is_empty() && tcp.source_namespace.is_some());
    assert_eq!(codes(&said), Vec::<&str>::new());
}

#[test]
fn wrong_entries_are_left_out_and_the_others_are_kept() {
    let route = "[{destination: {host: '*'}}, {destination: {host: b}, weight: 5}]";
    let (service, said) = virtual_service(&format!("{{hosts: [a], tcp: [{{route: {route}}}]}}"));
    assert_eq!(codes(&said), [code::BAD_HOST.id]);
    assert!(matches!(&service.tcp[0].action, RuleAction::Route(to) if to.len() == 1));
    let subsets = "[{name: v1}, {name: V2}, {name: v1}, {name: v3, labels: {a: '*', b: c}}]";
    let (rule, _) = destination_rule(&format!("{{host: a, subsets: {subsets}}}"));
    let names: Vec<&str> = rule.subsets.iter().map(|it| it.name.value.as_str()).collect();
    assert_eq!(names, ["v1", "v3"]);
    assert_eq!(rule.subsets[1].labels.keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn blocks_that_ask_for_nothing_are_there() {
    let policy = "{loadBalancer: {}, connectionPool: {http: {}}, \
                  outlierDetection: {consecutive5xxErrors: 0}}";
    let (rule, said) = destination_rule(&format!("{{host: a, trafficPolicy: {policy}}}"));
    assert_eq!(codes(&said), Vec::<&str>::new());
    let value = |found: Option<_>| found.expect("a block");
    assert_eq!(value(rule.policy.load_balancer).value, LoadBalancer::RoundRobin);
    assert_eq!(rule.policy.tcp.expect("a block").value, TcpSettings::default());
    let none = Ejection { max_percent: 0, ..Ejection::default() };
    assert_eq!(rule.policy.ejection.expect("a block").value, none);
}

#[test]
fn settings_of_ports_stand_beside_those_of_all() {
    let ports = "[{port: {number: 80}, loadBalancer: {simple: RANDOM}}]";
    let policy = format!("{{tls: {{mode: DISABLE}}, portLevelSettings: {ports}}}");
    let (rule, said) = destination_rule(&format!("{{host: a, trafficPolicy: {policy}}}"));
    assert_eq!(codes(&said), Vec::<&str>::new());
    assert!(rule.policy.load_balancer.is_none());
    let [(80, port)] = &rule.policy.ports[..] else { panic!("{:?}", rule.policy.ports) };
    assert_eq!(port.load_balancer.as_ref().map(|it| it.value), Some(LoadBalancer::Random));
}
