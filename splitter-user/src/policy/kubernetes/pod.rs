//! `v1` `Pod` and `Namespace`, as API servers dump them.
//!
//! Of a pod only its uid, labels, addresses, readiness and named ports matter. Its other fields, some
//! hundred, are the cluster's affair and are not looked at.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::policy::Reading;
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, read as field};
use crate::policy::mesh::meta::{Object, read_object};
use crate::policy::mesh::resource::{At, Labels, Namespace, Pod, Resource, Workload};
use crate::policy::model::CgroupName;
use crate::policy::native::parse_pod;
use crate::policy::reader::{Fields, Reader};
use crate::policy::yaml::NodeId;

const POD: &[Field] =
    &[inert("apiVersion"), inert("kind"), inert("metadata"), field("spec"), field("status")];

/// Annotation of pods that the kubelet has from files, and not from the API server.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

const NAMESPACE: &[Field] =
    &[inert("apiVersion"), inert("kind"), inert("metadata"), inert("spec"), inert("status")];

/// Reads a pod.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId, reading: &Reading) -> Option<Document> {
    let Object { meta, fields, annotations } = read_object(reader, node, reading, POD)?;
    let spec = fields.value("spec").and_then(|node| {
        reader.open_object(node, "the spec", &["nodeName", "containers", "initContainers"])
    });
    let status = fields.value("status").and_then(|node| {
        reader.open_object(node, "the status", &["phase", "podIP", "podIPs", "conditions"])
    });
    let mut labels = meta.labels.clone();
    let node_name = spec.as_ref().and_then(|spec| spec.value("nodeName"));
    if let Some(name) = node_name.and_then(|node| reader.string(node, "`nodeName`")) {
        labels.insert("kubernetes.io/hostname".to_owned(), name.to_owned());
    }
    let addresses = status.as_ref().map(|it| read_addresses(reader, it)).unwrap_or_default();
    let is_deleted = reader
        .peek(node, "metadata")
        .and_then(|meta| reader.peek(meta, "deletionTimestamp"))
        .is_some_and(|node| !reader.is_null(node));
    let is_over = status.as_ref().is_some_and(|status| is_over(reader, status));
    let is_ready = status.as_ref().is_none_or(|status| is_ready(reader, status));
    let cgroup = if is_over { None } else { find_cgroup(reader, node, &annotations) };
    let pod = Pod {
        client: cgroup.map(|cgroup| Workload {
            meta: meta.clone(),
            cgroup,
            labels: meta.labels.clone(),
            reject: None,
        }),
        ready: is_ready && !is_deleted && !addresses.is_empty(),
        addresses,
        ports: spec.as_ref().map(|spec| read_ports(reader, spec)).unwrap_or_default(),
        labels,
        meta,
    };
    Some(Document::Resource(Box::new(Resource::Pod(pod))))
}

/// Reads a namespace.
pub(super) fn read_namespace(
    reader: &mut Reader<'_>,
    node: NodeId,
    reading: &Reading,
) -> Option<Document> {
    let Object { meta, .. } = read_object(reader, node, reading, NAMESPACE)?;
    Some(Document::Resource(Box::new(Resource::Namespace(Namespace { meta }))))
}

/// Every address, each once.
fn read_addresses(reader: &mut Reader<'_>, status: &Fields<'_>) -> Vec<IpAddr> {
    let mut nodes: Vec<NodeId> = status.value("podIP").into_iter().collect();
    if let Some(list) = status.value("podIPs") {
        let items = reader.items(list, "`podIPs`");
        nodes.extend(items.iter().filter_map(|item| reader.peek(*item, "ip")));
    }
    let mut addresses = Vec::new();
    for node in nodes {
        // Written before the pod has one.
        if reader.text(node) == Some("") {
            continue;
        }
        if let Some(ip) = reader.ip(node).filter(|ip| !addresses.contains(ip)) {
            addresses.push(ip);
        }
    }
    addresses
}

/// The cgroup that the kubelet gives a pod, by its uid; for pods of files, which the API server knows
/// by another one, by the hash that the kubelet took for it.
fn find_cgroup(reader: &Reader<'_>, node: NodeId, annotations: &Labels) -> Option<At<CgroupName>> {
    let uid = reader.peek(node, "metadata").and_then(|meta| reader.peek(meta, "uid"))?;
    let known = annotations.get(CONFIG_HASH).map(String::as_str).or(reader.text(uid))?;
    let pod = parse_pod(known).ok().map(CgroupName::Pod)?;
    Some(At { value: pod, at: reader.span(uid) })
}

/// Whether none of its containers will run again.
fn is_over(reader: &Reader<'_>, status: &Fields<'_>) -> bool {
    let phase = status.value("phase").and_then(|node| reader.text(node));
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a pod that has an address may get connections. One that nobody watches, because it was
/// written by hand, has no condition and is taken to be ready.
fn is_ready(reader: &mut Reader<'_>, status: &Fields<'_>) -> bool {
    if is_over(reader, status) {
        return false;
    }
    let Some(node) = status.value("conditions") else { return true };
    let conditions = reader.items(node, "`conditions`");
    let is = |node, key, text: &str| {
        reader.peek(node, key).and_then(|node| reader.text(node)) == Some(text)
    };
    let ready = conditions.iter().find(|condition| is(**condition, "type", "Ready"));
    ready.is_none_or(|condition| is(*condition, "status", "True"))
}

/// Ports of containers by name; of several with one name the first, as Kubernetes does.
fn read_ports(reader: &mut Reader<'_>, spec: &Fields<'_>) -> BTreeMap<String, u16> {
    let mut ports = BTreeMap::new();
    for (name, what) in [("containers", "`containers`"), ("initContainers", "`initContainers`")] {
        let Some(list) = spec.value(name) else { continue };
        for container in reader.items(list, what) {
            let policy = reader.peek(*container, "restartPolicy");
            let stays = policy.and_then(|node| reader.text(node)) == Some("Always");
            if name == "containers" || stays {
                read_container(reader, *container, &mut ports);
            }
        }
    }
    ports
}

fn read_container(reader: &mut Reader<'_>, node: NodeId, ports: &mut BTreeMap<String, u16>) {
    let Some(list) = reader.peek(node, "ports").filter(|list| !reader.is_null(*list)) else {
        return;
    };
    for port in reader.items(list, "`ports`") {
        let name = reader.peek(*port, "name").and_then(|node| reader.text(node));
        let number = reader.peek(*port, "containerPort").and_then(|node| reader.port(node));
        if let (Some(name), Some(number)) = (name.filter(|name| !name.is_empty()), number) {
            ports.entry(name.to_owned()).or_insert(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::document::read_resources;

    fn read(metadata: &str, spec: &str, status: &str) -> Pod {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, {metadata}}}\n\
             spec: {{{spec}}}\nstatus: {{{status}}}\n"
        );
        match read_resources(&text).pop() {
            Some(Resource::Pod(pod)) => pod,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn readiness() {
        let gone = "deletionTimestamp: '2026-09-14T07:31:05Z'";
        for (metadata, status, ready) in [
            ("", "podIP: 10.0.0.1", true),
            ("", "", false),
            ("", "podIP: ''", false),
            ("", "podIP: 10.0.0.1, conditions: []", true),
            ("", "podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]", true),
            ("", "podIP: 10.0.0.1, conditions: [{type: Ready, status: Unknown}]", false),
            ("", "podIP: 10.0.0.1, conditions: [{type: Initialized, status: 'False'}]", true),
            ("", "podIP: 10.0.0.1, phase: Succeeded", false),
            ("", "podIP: 10.0.0.1, phase: Failed", false),
            (gone, "podIP: 10.0.0.1", false),
        ] {
            assert_eq!(read(metadata, "", status).ready, ready, "{metadata} {status}");
        }
    }

    #[test]
    fn a_pod_is_a_client_by_its_uid() {
        const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";
        const HASH: &str = "0123456789abcdef0123456789abcdef";
        let uid = format!("uid: {UID}");
        let of_file = format!("{uid}, annotations: {{{CONFIG_HASH}: {HASH}}}");
        for (metadata, status, wanted) in [
            (uid.as_str(), "", Some(UID)),
            (&of_file, "", Some(HASH)),
            (&uid, "phase: Succeeded", None),
            ("", "", None),
            ("uid: web-1", "", None),
        ] {
            let client = read(metadata, "", status).client;
            let found = client.map(|client| client.cgroup.value);
            assert_eq!(found, wanted.map(|uid| CgroupName::Pod(uid.to_owned())), "{metadata}");
        }
    }

    #[test]
    fn addresses_are_unique() {
        let pod = read("", "", "podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: '::5'}]");
        let texts: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.1", "::5"]);
    }

    #[test]
    fn ports_of_containers_that_stay() {
        let pod = read(
            "labels: {app: web}",
            "nodeName: n, containers: [{ports: [{name: a, containerPort: 1}, {containerPort: 2}]}, \
             {ports: [{name: a, containerPort: 3}]}], initContainers: [\
             {ports: [{name: b, containerPort: 4}]}, \
             {restartPolicy: Always, ports: [{name: c, containerPort: 5}]}]",
            "",
        );
        assert_eq!(pod.ports, BTreeMap::from([("a".to_owned(), 1), ("c".to_owned(), 5)]));
        assert_eq!(pod.labels.get("kubernetes.io/hostname").map(String::as_str), Some("n"));
    }
}
