//! What the command line and the daemon say to each other.
//!
//! A unix stream socket carries one request and one response per connection. Each is a JSON value
//! behind its length in bytes as a little-endian `u32`. The daemon names the caller by
//! `SO_PEERCRED`, so there is no authentication in the protocol itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::assignments::Command;
use super::dump::Dump;
use super::engine::{DrainTarget, Drained, LiveExplanation};
use super::events::Event;
use super::health::HealthCounts;
use super::status::Status;
use crate::diff::Difference;
use crate::policy::diagnostic::{Diagnostic, Label, Severity};
use crate::policy::{DEFAULT_NAMESPACE, HostNames, code};
use crate::rehearsal::Role;

/// Largest request in bytes.
pub(crate) const MAX_REQUEST: u32 = 64 << 20;

/// Of requests by programs that are older than namespaces.
fn default_namespace() -> String {
    DEFAULT_NAMESPACE.to_owned()
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Adds or replaces the services of these documents.
    Apply {
        /// Policy text.
        sources: Vec<Text>,
        /// Namespace of foreign documents that name none.
        #[serde(default = "default_namespace")]
        namespace: String,
        /// Whether what is not enforced or has no meaning for a connection only warns.
        #[serde(default)]
        degrade: bool,
    },
    /// Removes services, or what was applied over those of a policy file.
    Remove {
        /// Names of services, and of documents as `KIND/NAMESPACE/NAME`.
        services: Vec<String>,
    },
    /// The running policy.
    Get {
        /// Names of services; all where none is named.
        services: Vec<String>,
        /// Whether each shall come with its backends and as a document, most of the answer.
        details: bool,
    },
    /// What [`Request::Apply`] of these documents would change.
    Compare {
        /// Policy text.
        sources: Vec<Text>,
        /// Namespace of foreign documents that name none.
        #[serde(default = "default_namespace")]
        namespace: String,
        /// Whether what is not enforced or has no meaning for a connection only warns.
        #[serde(default)]
        degrade: bool,
    },
    /// What the next connection of a client would meet.
    Explain {
        /// The frontend that it dials, as in a policy.
        to: String,
        /// The client.
        role: Role,
    },
    /// Sets weights of a split; subsets that are not named keep theirs.
    Weight {
        /// Name of the service, or of the service and the route with `/` between. Without a route
        /// it is the only one that splits, or the last of those that take every client.
        target: String,
        /// Subset and weight.
        weights: Vec<(String, u32)>,
    },
    /// Has a subset or a backend get no new connections, and closes those that it has.
    Drain {
        /// What is drained.
        target: DrainTarget,
        /// How long connections go on, in milliseconds; for ever where there is none.
        deadline_ms: Option<u64>,
    },
    /// Ends what [`Request::Drain`] began.
    UndoDrain {
        /// What is drained no more.
        target: DrainTarget,
    },
    /// Has the clients of a command's cgroup get chosen subsets.
    Assign(Command),
    /// What was refused, from after a number on.
    Events {
        /// The number of an event; 0 for all that are kept.
        after: u64,
    },
    /// Hosts that clients can dial by name.
    Hosts,
    /// State, problems and counts.
    Status {
        /// Services to tell of in detail.
        services: Vec<String>,
        /// Tell of every service in detail.
        all: bool,
    },
    /// The tables.
    Dump,
    /// Removes links and maps, then ends.
    Detach,
}

impl Request {
    /// Whether a caller needs the right to change.
    pub(crate) fn changes(&self) -> bool {
        match self {
            Self::Get { .. }
            | Self::Compare { .. }
            | Self::Explain { .. }
            | Self::Events { .. }
            | Self::Hosts
            | Self::Status { .. }
            | Self::Dump => false,
            Self::Apply { .. }
            | Self::Remove { .. }
            | Self::Weight { .. }
            | Self::Drain { .. }
            | Self::UndoDrain { .. }
            | Self::Assign(_)
            | Self::Detach => true,
        }
    }
}

/// What the daemon answers. The kind stands before the content and not in it, so that a reader need
/// not keep the whole of a long answer until it knows the kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", content = "content", rename_all = "kebab-case")]
pub(crate) enum Response {
    /// It could not be done; nothing changed.
    Failed {
        /// What, on what, why, and what to do.
        message: String,
    },
    /// The policy is wrong; nothing changed.
    Invalid {
        /// What is wrong.
        problems: Vec<Problem>,
        /// The texts that the problems point into, those of running services included.
        sources: Vec<Text>,
    },
    /// A change is in force.
    Applied {
        /// What it did.
        applied: Box<Applied>,
        /// What is allowed in it but rarely meant.
        problems: Vec<Problem>,
        /// The texts that the problems point into.
        sources: Vec<Text>,
    },
    /// Weights are in force.
    Weighted(Weighted),
    /// A drain is in force, or has ended.
    Drained(Drained),
    /// Subsets are assigned.
    Assigned,
    /// Events in the order of their numbers.
    Events {
        /// The events; there may be more behind the last one.
        events: Vec<Event>,
    },
    /// Running services, sorted by name.
    Services {
        /// The services.
        services: Vec<ServiceView>,
        /// Documents of what clients may reach, in the order in which they count.
        #[serde(default)]
        egress: Vec<EgressView>,
    },
    /// Hosts, sorted.
    Hosts {
        /// The hosts.
        hosts: Vec<Host>,
    },
    /// See [`Compared`].
    Compared(Compared),
    /// See [`LiveExplanation`].
    Explained(Box<LiveExplanation>),
    /// See [`Status`].
    Status(Box<Status>),
    /// See [`Dump`].
    Dump(Box<Dump>),
    /// Everything is removed.
    Detached {
        /// What was, as paths.
        removed: Vec<String>,
    },
}

/// Policy text with its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Text {
    /// Name of the file as its user gave it.
    pub(crate) name: String,
    /// Its content.
    pub(crate) text: String,
}

/// What a change did, by service name, each list sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// New services.
    pub(crate) added: Vec<String>,
    /// Services that are different now.
    pub(crate) changed: Vec<String>,
    /// Services that are gone.
    pub(crate) removed: Vec<String>,
    /// Services that are what they were.
    pub(crate) unchanged: Vec<String>,
    /// Documents that are kept because they were applied, as `KIND/NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) documents: Vec<String>,
    /// Documents that are not kept any more, because they were removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) dropped: Vec<String>,
    /// The generation that is in force.
    pub(crate) generation: u64,
    /// Time that the daemon took, from the parsed policy to the commit, in microseconds.
    pub(crate) microseconds: u64,
}

/// What a change would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compared {
    /// From the running policy to what would run.
    #[serde(flatten)]
    pub(crate) difference: Difference,
    /// Running services that the change does not name, and would leave as they are.
    pub(crate) left_alone: usize,
    /// The generation that was compared with.
    pub(crate) generation: u64,
}

/// What a change of weights did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Weighted {
    /// Name of the service.
    pub(crate) service: String,
    /// Name of the route.
    pub(crate) route: String,
    /// Subsets with their weights before the change.
    pub(crate) before: Vec<(String, u32)>,
    /// Subsets with their weights now.
    pub(crate) after: Vec<(String, u32)>,
    /// The generation that is in force.
    pub(crate) generation: u64,
    /// Time that the daemon took, from the request to the commit, in microseconds.
    pub(crate) microseconds: u64,
}

/// A running service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceView {
    /// Its name.
    pub(crate) name: String,
    /// Where it comes from.
    pub(crate) origin: String,
    /// What clients dial.
    pub(crate) frontends: Vec<String>,
    /// Subsets with the addresses of their backends; empty without details.
    pub(crate) subsets: BTreeMap<String, Vec<String>>,
    /// Routes in their order.
    pub(crate) routes: Vec<RouteView>,
    /// What its checked backends are, where some are checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<HealthCounts>,
    /// The service as a native document, where details were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) document: Option<String>,
}

/// What clients may reach besides services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EgressView {
    /// Name of the document.
    pub(crate) name: String,
    /// Cgroups of the clients; every client where empty.
    pub(crate) clients: Vec<String>,
    /// Keys of its specification with their values, but for clients and defaults.
    pub(crate) says: Vec<(String, String)>,
    /// The native document, where details were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) document: Option<String>,
}

/// A route of a running service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RouteView {
    /// Its name.
    pub(crate) name: String,
    /// Number of client matches; 0 takes every client.
    pub(crate) matches: usize,
    /// `split`, `pass`, or `reject` with the errno.
    pub(crate) action: String,
    /// Subsets and weights of a split.
    pub(crate) weights: Vec<(String, u32)>,
}

/// A host that clients can dial by name. Fields are those of [`HostNames`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    pub(crate) address: IpAddr,
    pub(crate) names: Vec<String>,
    pub(crate) allocated: bool,
}

impl From<HostNames> for Host {
    fn from(host: HostNames) -> Self {
        let HostNames { address, names, allocated } = host;
        Self { address, names, allocated }
    }
}

/// A diagnostic that crosses the socket. Fields are those of [`Diagnostic`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    is_error: bool,
    code: String,
    message: String,
    primary: Place,
    secondary: Vec<Place>,
    help: Option<String>,
}

/// A label that crosses the socket. Fields are those of [`Label`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    source: usize,
    start: usize,
    end: usize,
    line: u32,
    column: u32,
    text: String,
}

impl From<Diagnostic> for Problem {
    fn from(diagnostic: Diagnostic) -> Self {
        Self {
            is_error: diagnostic.severity == Severity::Error,
            code: diagnostic.code.to_owned(),
            message: diagnostic.message,
            primary: diagnostic.primary.into(),
            secondary: diagnostic.secondary.into_iter().map(Place::from).collect(),
            help: diagnostic.help,
        }
    }
}

impl From<Problem> for Diagnostic {
    fn from(problem: Problem) -> Self {
        let known = code::ALL.iter().find(|known| known.id == problem.code);
        Self {
            severity: if problem.is_error { Severity::Error } else { Severity::Warning },
            // A newer daemon may know rules that this program does not.
            code: known.map_or("", |known| known.id),
            message: problem.message,
            primary: problem.primary.into(),
            secondary: problem.secondary.into_iter().map(Label::from).collect(),
            help: problem.help,
        }
    }
}

impl From<Label> for Place {
    fn from(label: Label) -> Self {
        let Label { source, start, end, line, column, text } = label;
        Self { source, start, end, line, column, text }
    }
}

impl From<Place> for Label {
    fn from(place: Place) -> Self {
        let Place { source, start, end, line, column, text } = place;
        Self { source, start, end, line, column, text }
    }
}
