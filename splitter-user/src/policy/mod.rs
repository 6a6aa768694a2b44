//! Policy text in, diagnostics or a model out.
//!
//! Nothing in here does I/O or reads a clock, and a [`model::Policy`] that exists is valid.
//!
//! A load goes through these steps, each in a module of its own: `text` (bytes to characters),
//! `yaml` (characters to trees with places), `document` (which form a document is in), [`native`]
//! (a tree to a service), `istio`, `kubernetes` and `gateway_api` (a tree to a resource), `mesh`
//! (all resources together to services), `check` (rules between services). Problems of every step
//! are collected, so that one load shows them all.

mod address;
#[cfg(test)]
pub(crate) mod arbitrary;
mod check;
pub mod code;
pub mod diagnostic;
mod document;
mod fields;
mod gateway_api;
mod istio;
mod kubernetes;
mod mesh;
pub mod model;
pub mod native;
mod reader;
mod render;
mod scalar;
mod text;
mod words;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub use address::NotAFrontend;
pub(crate) use mesh::read::parse_duration_ms;
pub use mesh::vips::{NotAVipRange, VipRange, VipRanges, Vips};
pub(crate) use native::{parse_container, parse_netns, parse_number, parse_pod, parse_unit};
pub(crate) use words::{NAME_RULE, is_name, suggest};

use diagnostic::{Diagnostic, Report, Span};
use document::{Document, Draft};
use mesh::layers::Layers;
use model::Policy;

/// A file or stream of policy text.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file's name as the user gave it, `-` for standard input.
    pub name: String,
    /// What was read from it.
    pub bytes: Vec<u8>,
    /// How it is read.
    pub reading: Reading,
}

impl Source {
    /// Text that is read without any option.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), bytes: bytes.into(), reading: Reading::default() }
    }

    /// The same text, where what is not enforced yet only warns.
    #[must_use]
    pub fn degraded(mut self) -> Self {
        self.reading.degrade = true;
        self
    }
}

/// How a source is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Namespace of foreign documents that name none.
    pub namespace: String,
    /// Whether what has no meaning for a connection, or is not enforced yet, only warns.
    pub degrade: bool,
    /// Whether warnings about the source are left out, because they were told before.
    pub quiet: bool,
    /// Foreign documents replace those of the same kind, namespace and name in lower layers.
    pub layer: u32,
    /// Whether documents of services, `kind: Split`, are left out.
    pub without_services: bool,
    /// Foreign documents that are left out, as [`DocumentRef::identities`] has them.
    pub without: BTreeSet<String>,
}

/// Namespace of foreign documents where nobody names one, as in Kubernetes.
pub const DEFAULT_NAMESPACE: &str = "default";

impl Default for Reading {
    fn default() -> Self {
        Self {
            namespace: DEFAULT_NAMESPACE.to_owned(),
            degrade: false,
            quiet: false,
            layer: 0,
            without_services: false,
            without: BTreeSet::new(),
        }
    }
}

/// What a policy depends on and its text does not say.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Addresses by host name, as a resolver answered last. Names that are not in here are not
    /// resolved yet.
    pub answers: BTreeMap<String, Vec<IpAddr>>,
    /// Addresses for hosts that have none.
    pub vips: Vips,
    /// Addresses at which services are dialled that are not in this load.
    pub taken: Vec<IpAddr>,
}

/// What a load gives where nothing is wrong.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The policy of all sources together.
    pub policy: Policy,
    /// Every document that counts, in the order of the text.
    pub documents: Vec<DocumentRef>,
    /// Index of the source of each service, by its name.
    pub origins: BTreeMap<String, usize>,
    /// Hosts of foreign documents that clients can dial by name, sorted.
    pub hosts: Vec<HostNames>,
    /// Host names whose addresses the policy depends on, sorted.
    pub lookups: Vec<String>,
    /// What is allowed but rarely meant, sorted by source, line and column.
    pub warnings: Vec<Diagnostic>,
}

impl Loaded {
    /// Whether a document that counts is part of services and not one itself.
    pub fn holds_resources(&self) -> bool {
        let mut identities = self.documents.iter().flat_map(|document| &document.identities);
        identities.any(|identity| !is_service(identity))
    }
}

/// What identities of services say instead of [`document::KIND`] where these take clients by labels,
/// and so are parts of a whole and not services by themselves.
pub(crate) const SPLIT_BY_LABELS: &str = "SplitByLabels";

/// Whether a document's identity is that of a service, `Split/NAME`.
pub(crate) fn is_service(identity: &str) -> bool {
    identity.split_once('/').is_some_and(|(kind, _)| kind == document::KIND)
}

/// A host and where to dial it: a line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostNames {
    /// The address that clients shall dial.
    pub address: IpAddr,
    /// The host's full name first, then shorter ones that mean it.
    pub names: Vec<String>,
    /// Whether the address was chosen here, because the documents have none.
    pub allocated: bool,
}

/// A document that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentRef {
    /// `KIND/NAMESPACE/NAME` of what it holds, `Split/NAME` for a service; several for a list.
    pub identities: Vec<String>,
    /// Index into the sources of the load.
    pub source: usize,
}

/// Loads all documents of all sources as one policy that depends on nothing else.
///
/// Fails with every problem of every source, warnings included, sorted by source, line and
/// column, where at least one of them is an error.
pub fn load(sources: &[Source]) -> Result<Loaded, Vec<Diagnostic>> {
    load_in(sources, &Surroundings::default())
}

/// Loads all documents of all sources as one policy. Fails as [`load`] does.
pub fn load_in(sources: &[Source], surroundings: &Surroundings) -> Result<Loaded, Vec<Diagnostic>> {
    let mut load = Load::default();
    for (index, source) in sources.iter().enumerate() {
        if source.reading.degrade {
            load.report.degrade(index);
        }
        if source.reading.quiet {
            load.report.hush(index);
        }
        load.source(text::clamp(index), source);
    }
    load.finish(surroundings)
}

/// Whether any document of a source can be read and is part of services and not one itself, however
/// little it means without others.
pub(crate) fn holds_resources(source: &Source) -> bool {
    let mut report = Report::default();
    let Ok((text, base)) = text::decode(&source.bytes, 0) else { return false };
    let mut documents = yaml::Documents::new(text, 0, base);
    while let Some(document) = documents.next(&mut report) {
        let found = document::read(&document, &mut report, &source.reading);
        if found.iter().any(|found| matches!(found, Document::Resource(_))) {
            return true;
        }
    }
    false
}

/// A load under way.
#[derive(Default)]
struct Load {
    report: Report,
    drafts: Vec<Draft>,
    layers: Layers,
    documents: Vec<DocumentRef>,
    /// Documents that said anything, broken ones included.
    documents_seen: usize,
}

impl Load {
    fn source(&mut self, index: u32, source: &Source) {
        let (text, base) = match text::decode(&source.bytes, index) {
            Ok(decoded) => decoded,
            Err(diagnostic) => {
                self.documents_seen += 1;
                return self.report.push(*diagnostic);
            }
        };
        let mut documents = yaml::Documents::new(text, index, base);
        while let Some(document) = documents.next(&mut self.report) {
            self.document(&document, &source.reading);
        }
        self.documents_seen += documents.failed();
    }

    fn document(&mut self, document: &yaml::Document<'_>, reading: &Reading) {
        if document.is_empty() {
            return;
        }
        self.documents_seen += 1;
        let mut identities = Vec::new();
        for found in document::read(document, &mut self.report, reading) {
            identities.extend(self.keep(found, reading));
        }
        let at = document.tree.span(document.root);
        if !identities.is_empty() {
            self.documents.push(DocumentRef { identities, source: at.source as usize });
        }
    }

    /// Keeps what a document holds, and answers who it is if it counts.
    fn keep(&mut self, found: Document, reading: &Reading) -> Option<String> {
        match found {
            Document::Service(_) if reading.without_services => None,
            Document::Service(draft) => {
                let identity = format!("{}/{}", document::KIND, draft.service.name);
                self.drafts.push(*draft);
                Some(identity)
            }
            Document::Resource(resource) => self.layers.add(*resource, reading, &mut self.report),
        }
    }

    fn finish(mut self, surroundings: &Surroundings) -> Result<Loaded, Vec<Diagnostic>> {
        let resources = self.layers.finish(&mut self.documents);
        let taken = self.drafts.iter().flat_map(|draft| &draft.service.frontends);
        let taken =
            taken.map(|frontend| frontend.addr.ip()).chain(surroundings.taken.iter().copied());
        let lowered = mesh::lower(&resources, surroundings, taken, &mut self.report);
        self.drafts.extend(lowered.drafts);
        check::across(&self.drafts, &mut self.report);
        if self.documents_seen == 0 {
            self.report.push(empty_stream());
        }
        let warnings = self.report.finish()?;
        let origin =
            |draft: &Draft| (draft.service.name.clone(), draft.places.name.source as usize);
        let origins = self.drafts.iter().map(origin).collect();
        let mut services: Vec<_> = self.drafts.into_iter().map(|draft| draft.service).collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Loaded {
            policy: Policy { services, outbound: lowered.outbound },
            documents: self.documents,
            origins,
            hosts: lowered.hosts,
            lookups: lowered.lookups,
            warnings,
        })
    }
}

fn empty_stream() -> Diagnostic {
    let start = Span { line: 1, column: 1, ..Span::default() };
    Diagnostic::new(&code::EMPTY_STREAM, start, "there is no document: the policy is empty")
        .with_help("an empty policy leaves every connection alone; is this the file you meant?")
}
