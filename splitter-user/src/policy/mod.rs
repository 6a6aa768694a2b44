//! Policy text in, diagnostics or a model out.
//!
//! Nothing in here does I/O or reads a clock, and a [`model::Policy`] that exists is valid.
//!
//! A load goes through these steps, each in a module of its own: `text` (bytes to characters),
//! `yaml` (characters to trees with places), `document` (which form a document is in),
//! [`native`] (a tree to a service), `check` (rules between services). Problems of every step are
//! collected, so that one load shows them all.

mod address;
#[cfg(test)]
pub(crate) mod arbitrary;
mod check;
pub mod code;
pub mod diagnostic;
mod document;
pub mod model;
pub mod native;
mod reader;
mod render;
mod scalar;
mod text;
mod words;
mod yaml;

pub use address::NotAFrontend;
pub(crate) use words::suggest;

use diagnostic::{Diagnostic, Report, Span};
use document::Draft;
use model::Policy;

/// A file or stream of policy text.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file's name as the user gave it, `-` for standard input.
    pub name: String,
    /// What was read from it.
    pub bytes: Vec<u8>,
}

/// What a load gives where nothing is wrong.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The policy of all sources together.
    pub policy: Policy,
    /// The document of each service, in the order of the text.
    pub documents: Vec<DocumentRef>,
    /// What is allowed but rarely meant, sorted by source, line and column.
    pub warnings: Vec<Diagnostic>,
}

/// The document that a service was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentRef {
    /// [`model::Service::name`].
    pub service: String,
    /// Index into the sources of the load.
    pub source: usize,
    /// Line of the document's first value, from 1.
    pub line: u32,
    /// The document without its `---`; loads by itself to the same service.
    pub text: String,
}

/// Loads all documents of all sources as one policy.
///
/// Fails with every problem of every source, warnings included, sorted by source, line and
/// column, where at least one of them is an error.
pub fn load(sources: &[Source]) -> Result<Loaded, Vec<Diagnostic>> {
    let mut load = Load::default();
    for (index, source) in sources.iter().enumerate() {
        load.source(text::clamp(index), &source.bytes);
    }
    check::across(&load.drafts, &mut load.report);
    if load.documents_seen == 0 {
        load.report.push(empty_stream());
    }
    let warnings = load.report.finish()?;
    let mut services: Vec<_> = load.drafts.into_iter().map(|draft| draft.service).collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Loaded { policy: Policy { services }, documents: load.documents, warnings })
}

/// A load under way.
#[derive(Default)]
struct Load {
    report: Report,
    drafts: Vec<Draft>,
    documents: Vec<DocumentRef>,
    /// Documents that said anything, broken ones included.
    documents_seen: usize,
}

impl Load {
    fn source(&mut self, source: u32, bytes: &[u8]) {
        let (text, base) = match text::decode(bytes, source) {
            Ok(decoded) => decoded,
            Err(diagnostic) => {
                self.documents_seen += 1;
                return self.report.push(*diagnostic);
            }
        };
        let mut documents = yaml::Documents::new(text, source, base);
        while let Some(document) = documents.next(&mut self.report) {
            self.document(&document);
        }
        self.documents_seen += documents.failed();
    }

    fn document(&mut self, document: &yaml::Document<'_>) {
        if document.is_empty() {
            return;
        }
        self.documents_seen += 1;
        let Some(draft) = document::read(document, &mut self.report) else { return };
        let at = document.tree.span(document.root);
        self.documents.push(DocumentRef {
            service: draft.service.name.clone(),
            source: at.source as usize,
            line: at.line,
            text: document.text.to_owned(),
        });
        self.drafts.push(draft);
    }
}

fn empty_stream() -> Diagnostic {
    let start = Span { line: 1, column: 1, ..Span::default() };
    Diagnostic::new(&code::EMPTY_STREAM, start, "there is no document: the policy is empty")
        .with_help("an empty policy leaves every connection alone; is this the file you meant?")
}
