//! What foreign documents say, as read: typed and with places, and not yet put together.
//!
//! Times are in milliseconds, fractions in parts per million, ports in host order. Host names are
//! lower case without a trailing dot. A part that was in error is left out; its error was reported.

mod gateway;

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::policy::diagnostic::Span;
use crate::policy::document::Draft;
use crate::policy::model::{CgroupName, Ejection, Errno, Fault, Keepalive, Outbound};
pub(in crate::policy) use gateway::*;

/// A value and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) struct At<T> {
    pub(in crate::policy) value: T,
    pub(in crate::policy) at: Span,
}

/// Labels of an endpoint or client, or those that a selector asks for.
pub(in crate::policy) type Labels = BTreeMap<String, String>;

/// Whether everything that a selector asks for is there. An empty selector fits all.
pub(in crate::policy) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Clients that a native document takes by what other documents say of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) struct ClientSelector {
    pub(in crate::policy) namespace: String,
    /// At least one.
    pub(in crate::policy) labels: Labels,
}

/// Who a document is.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Meta {
    /// `metadata.namespace`, or that of the load.
    pub(in crate::policy) namespace: String,
    pub(in crate::policy) name: String,
    pub(in crate::policy) labels: Labels,
    /// Of the name.
    pub(in crate::policy) at: Span,
}

/// Namespaces that see something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::policy) enum Export {
    /// Every namespace, and clients without one.
    #[default]
    All,
    /// These; none where empty (`~`). `.` is resolved to the document's own.
    Namespaces(Vec<String>),
}

/// An address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) struct Cidr {
    /// First address; host bits are 0.
    pub(in crate::policy) ip: IpAddr,
    /// Bits that are equal in all addresses of the range.
    pub(in crate::policy) prefix: u8,
}

// ---- Istio ----

/// networking.istio.io VirtualService.
#[derive(Clone, Debug)]
pub(in crate::policy) struct VirtualService {
    pub(in crate::policy) meta: Meta,
    /// As written, lower case. Empty in one that others delegate to.
    pub(in crate::policy) hosts: Vec<At<String>>,
    /// Empty where absent, which means the mesh.
    pub(in crate::policy) gateways: Vec<At<String>>,
    pub(in crate::policy) export: Export,
    pub(in crate::policy) http: Vec<Rule>,
    pub(in crate::policy) tcp: Vec<Rule>,
    pub(in crate::policy) tls: Vec<Rule>,
}

/// One entry of `http`, `tcp` or `tls`.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Rule {
    /// `http.name`.
    pub(in crate::policy) name: Option<At<String>>,
    pub(in crate::policy) at: Span,
    /// Any of these; everything where empty. Matches with an error are left out, see `complete`.
    pub(in crate::policy) matches: Vec<Match>,
    pub(in crate::policy) action: RuleAction,
    pub(in crate::policy) fault: Option<Fault>,
    /// Whether all of it was understood. Rules that were not take part in no further check.
    pub(in crate::policy) complete: bool,
}

/// All that is given must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) struct Match {
    pub(in crate::policy) at: Span,
    pub(in crate::policy) port: Option<u16>,
    pub(in crate::policy) source_labels: Labels,
    pub(in crate::policy) source_namespace: Option<String>,
    /// Empty where absent, which means those of the VirtualService.
    pub(in crate::policy) gateways: Vec<String>,
    pub(in crate::policy) destination_subnets: Vec<At<Cidr>>,
    pub(in crate::policy) sni_hosts: Vec<At<String>>,
}

impl Match {
    /// A match that asks for nothing.
    pub(in crate::policy) fn everything(at: Span) -> Self {
        Self {
            at,
            port: None,
            source_labels: Labels::new(),
            source_namespace: None,
            gateways: Vec::new(),
            destination_subnets: Vec::new(),
            sni_hosts: Vec::new(),
        }
    }
}

/// What a rule does.
#[derive(Clone, Debug)]
pub(in crate::policy) enum RuleAction {
    /// Weighted destinations, at least one.
    Route(Vec<RouteDestination>),
    /// The rules of another VirtualService, by namespace (where given) and name.
    Delegate(At<(Option<String>, String)>),
    /// It was in error.
    Unknown,
}

/// One destination of a route.
#[derive(Clone, Debug)]
pub(in crate::policy) struct RouteDestination {
    pub(in crate::policy) at: Span,
    pub(in crate::policy) host: At<String>,
    pub(in crate::policy) subset: Option<At<String>>,
    pub(in crate::policy) port: Option<At<u16>>,
    /// As written; what absence means depends on the form.
    pub(in crate::policy) weight: Option<At<u32>>,
}

/// networking.istio.io DestinationRule.
#[derive(Clone, Debug)]
pub(in crate::policy) struct DestinationRule {
    pub(in crate::policy) meta: Meta,
    pub(in crate::policy) host: At<String>,
    pub(in crate::policy) export: Export,
    /// Clients, of the document's namespace only.
    pub(in crate::policy) workload_selector: Option<Labels>,
    pub(in crate::policy) policy: TrafficPolicy,
    pub(in crate::policy) subsets: Vec<RuleSubset>,
}

/// `subsets[]` of a DestinationRule.
#[derive(Clone, Debug)]
pub(in crate::policy) struct RuleSubset {
    pub(in crate::policy) name: At<String>,
    pub(in crate::policy) labels: Labels,
    pub(in crate::policy) policy: TrafficPolicy,
}

/// `trafficPolicy`, as far as it means something for connections. Blocks override each other as
/// wholes, so each is absent or complete.
#[derive(Clone, Debug, Default)]
pub(in crate::policy) struct TrafficPolicy {
    pub(in crate::policy) load_balancer: Option<At<LoadBalancer>>,
    pub(in crate::policy) tcp: Option<At<TcpSettings>>,
    pub(in crate::policy) ejection: Option<At<Ejection>>,
    /// Replace everything above for one service port.
    pub(in crate::policy) ports: Vec<(u16, TrafficPolicy)>,
}

/// `trafficPolicy.loadBalancer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum LoadBalancer {
    RoundRobin,
    Random,
    LeastRequest,
    /// Leave connections alone.
    Passthrough,
    /// `consistentHash.useSourceIp`: the client, as far as one node can tell.
    Client,
}

/// `trafficPolicy.connectionPool.tcp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::policy) struct TcpSettings {
    pub(in crate::policy) max_connections: Option<u32>,
    pub(in crate::policy) connect_timeout_ms: Option<u32>,
    pub(in crate::policy) keepalive: Option<Keepalive>,
    pub(in crate::policy) idle_timeout_ms: Option<u32>,
    pub(in crate::policy) max_lifetime_ms: Option<u32>,
}

/// networking.istio.io ServiceEntry.
#[derive(Clone, Debug)]
pub(in crate::policy) struct ServiceEntry {
    pub(in crate::policy) meta: Meta,
    pub(in crate::policy) hosts: Vec<At<String>>,
    pub(in crate::policy) addresses: Vec<At<Cidr>>,
    pub(in crate::policy) ports: Vec<ServicePort>,
    pub(in crate::policy) resolution: Resolution,
    pub(in crate::policy) endpoints: Vec<Endpoint>,
    pub(in crate::policy) workload_selector: Option<Labels>,
    pub(in crate::policy) export: Export,
    /// `status.addresses`: allocated by another control plane, for one host or for all.
    pub(in crate::policy) allocated: Vec<(Option<String>, IpAddr)>,
}

/// `resolution` of a ServiceEntry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Resolution {
    None,
    Static,
    Dns,
    /// Only the first address of an answer.
    DnsRoundRobin,
}

/// A server: an endpoint of a ServiceEntry, or a WorkloadEntry.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Endpoint {
    pub(in crate::policy) at: Span,
    /// `None` where it was absent or in error.
    pub(in crate::policy) address: Option<At<EndpointAddress>>,
    /// Port by name of the service's port.
    pub(in crate::policy) ports: BTreeMap<String, u16>,
    /// With `topology.*` labels from `locality` and `network`.
    pub(in crate::policy) labels: Labels,
    pub(in crate::policy) network: Option<At<String>>,
    /// At least 1.
    pub(in crate::policy) weight: u32,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) enum EndpointAddress {
    Ip(IpAddr),
    /// To be resolved.
    Name(String),
}

/// networking.istio.io WorkloadEntry.
#[derive(Clone, Debug)]
pub(in crate::policy) struct WorkloadEntry {
    pub(in crate::policy) meta: Meta,
    pub(in crate::policy) endpoint: Endpoint,
}

/// networking.istio.io Sidecar, as far as it is about outbound connections.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Sidecar {
    pub(in crate::policy) meta: Meta,
    /// `None` means every client of the namespace.
    pub(in crate::policy) workload_selector: Option<Labels>,
    /// Empty where there is no `egress`: everything is seen.
    pub(in crate::policy) egress: Vec<Egress>,
    pub(in crate::policy) outbound: Option<At<OutboundMode>>,
}

/// `egress[]` of a Sidecar.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Egress {
    pub(in crate::policy) port: Option<u16>,
    /// Namespace (`*` any, `.` resolved, `~` none) and host pattern.
    pub(in crate::policy) hosts: Vec<At<(String, String)>>,
}

/// `outboundTrafficPolicy.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum OutboundMode {
    AllowAny,
    RegistryOnly,
}

// ---- Kubernetes ----

/// v1 Service.
#[derive(Clone, Debug)]
pub(in crate::policy) struct KubeService {
    pub(in crate::policy) meta: Meta,
    /// Every address that clients dial: `clusterIPs`, `externalIPs`. Empty in a manifest.
    pub(in crate::policy) addresses: Vec<At<IpAddr>>,
    /// `clusterIP: None`.
    pub(in crate::policy) headless: bool,
    pub(in crate::policy) ports: Vec<ServicePort>,
    pub(in crate::policy) selector: Labels,
    /// `type: ExternalName`.
    pub(in crate::policy) external_name: Option<At<String>>,
    pub(in crate::policy) publish_not_ready: bool,
    /// Annotation `networking.istio.io/exportTo`.
    pub(in crate::policy) export: Export,
}

/// A port of a service.
#[derive(Clone, Debug)]
pub(in crate::policy) struct ServicePort {
    pub(in crate::policy) at: Span,
    pub(in crate::policy) number: u16,
    pub(in crate::policy) name: Option<String>,
    pub(in crate::policy) transport: Transport,
    pub(in crate::policy) application: Application,
    /// `None`: the port itself.
    pub(in crate::policy) target: Option<Target>,
}

/// A port of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Target {
    Number(u16),
    /// Name of a container's port.
    Name(String),
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::policy) enum Transport {
    Tcp,
    Udp,
    /// Nothing that can be split.
    Sctp,
}

/// What Istio takes a port to speak: from `appProtocol`, the ServiceEntry's `protocol`, or the
/// prefix of the port's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Application {
    Http,
    Tls,
    Tcp,
    Unknown,
}

/// discovery.k8s.io EndpointSlice.
#[derive(Clone, Debug)]
pub(in crate::policy) struct EndpointSlice {
    pub(in crate::policy) meta: Meta,
    /// Port by name; the empty name where there is none.
    pub(in crate::policy) ports: BTreeMap<String, u16>,
    pub(in crate::policy) endpoints: Vec<SliceEndpoint>,
}

/// `endpoints[]` of an EndpointSlice.
#[derive(Clone, Debug)]
pub(in crate::policy) struct SliceEndpoint {
    pub(in crate::policy) at: Span,
    pub(in crate::policy) addresses: Vec<IpAddr>,
    pub(in crate::policy) ready: bool,
    pub(in crate::policy) terminating: bool,
    /// Namespace and name of the pod of `targetRef`.
    pub(in crate::policy) pod: Option<(String, String)>,
    /// `topology.kubernetes.io/zone`, `kubernetes.io/hostname`.
    pub(in crate::policy) labels: Labels,
}

/// v1 Pod.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Pod {
    pub(in crate::policy) meta: Meta,
    pub(in crate::policy) addresses: Vec<IpAddr>,
    pub(in crate::policy) ready: bool,
    /// Container ports by name.
    pub(in crate::policy) ports: BTreeMap<String, u16>,
    /// Of the pod, with `kubernetes.io/hostname` of its node.
    pub(in crate::policy) labels: Labels,
    /// Who its containers are as clients, where its uid says which cgroup is theirs.
    pub(in crate::policy) client: Option<Workload>,
}

/// v1 Namespace.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Namespace {
    pub(in crate::policy) meta: Meta,
}

// ---- Native ----

/// splitter.dev Workload: who the clients of a cgroup are.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Workload {
    pub(in crate::policy) meta: Meta,
    /// Who its clients are.
    pub(in crate::policy) cgroup: At<CgroupName>,
    /// `spec.labels`, over `metadata.labels`.
    pub(in crate::policy) labels: Labels,
    /// What connections of its clients to services fail with, whatever rules say.
    pub(in crate::policy) reject: Option<Errno>,
}

/// splitter.dev Split that takes clients by labels, so that it depends on other documents.
#[derive(Clone, Debug)]
pub(in crate::policy) struct LabelledSplit {
    pub(in crate::policy) meta: Meta,
    /// The service, where matches by labels are only what they say of the client itself.
    pub(in crate::policy) draft: Draft,
}

/// splitter.dev Egress: what clients may reach besides the services.
#[derive(Clone, Debug)]
pub(in crate::policy) struct ClientEgress {
    pub(in crate::policy) meta: Meta,
    /// Who the clients are; every client where this and `selectors` are empty.
    pub(in crate::policy) cgroups: Vec<At<CgroupName>>,
    /// Clients by labels.
    pub(in crate::policy) selectors: Vec<At<ClientSelector>>,
    /// All the rest; its cgroups are empty.
    pub(in crate::policy) said: Outbound,
}

/// Everything that the foreign documents of a load say, each list in the order of the text, without
/// what a higher layer replaced.
#[derive(Debug, Default)]
pub(in crate::policy) struct Resources {
    pub(in crate::policy) virtual_services: Vec<VirtualService>,
    pub(in crate::policy) destination_rules: Vec<DestinationRule>,
    pub(in crate::policy) service_entries: Vec<ServiceEntry>,
    pub(in crate::policy) workload_entries: Vec<WorkloadEntry>,
    pub(in crate::policy) sidecars: Vec<Sidecar>,
    pub(in crate::policy) services: Vec<KubeService>,
    pub(in crate::policy) endpoint_slices: Vec<EndpointSlice>,
    pub(in crate::policy) pods: Vec<Pod>,
    pub(in crate::policy) routes: Vec<GatewayRoute>,
    pub(in crate::policy) grants: Vec<ReferenceGrant>,
    pub(in crate::policy) gateways: Vec<Gateway>,
    pub(in crate::policy) workloads: Vec<Workload>,
    pub(in crate::policy) splits: Vec<LabelledSplit>,
    pub(in crate::policy) egresses: Vec<ClientEgress>,
}

/// One document that is not a service by itself.
#[derive(Debug)]
pub(in crate::policy) enum Resource {
    VirtualService(VirtualService),
    DestinationRule(DestinationRule),
    ServiceEntry(ServiceEntry),
    WorkloadEntry(WorkloadEntry),
    Sidecar(Sidecar),
    Service(KubeService),
    EndpointSlice(EndpointSlice),
    Pod(Pod),
    Namespace(Namespace),
    Route(GatewayRoute),
    ReferenceGrant(ReferenceGrant),
    Gateway(Gateway),
    Workload(Workload),
    Split(LabelledSplit),
    Egress(ClientEgress),
}
