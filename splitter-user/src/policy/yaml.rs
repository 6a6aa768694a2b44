//! YAML text to trees whose every node knows its place.
//!
//! The trees are built from parser events and not through serde, because serde's data model drops
//! what diagnostics need: the places of keys, duplicate keys, quotes, tags and aliases.
//!
//! Building is iterative and within budgets, so hostile text costs neither stack nor memory
//! beyond a small multiple of its size. Aliases are not expanded: they refer to the node they
//! name, and a budget bounds how much a reader that follows them can meet.

use std::borrow::Cow;
use std::ops::Range;

use serde_yaml::granit_parser::{self, ErrorKind, Event, Parser, ScanError, StrInput, options};

use super::code;
use super::diagnostic::{Diagnostic, Report, Span};
use super::text::clamp;

/// Deepest nesting of flow and of block collections; a policy needs eight.
const MAX_DEPTH: usize = 64;
/// Longest scalar in bytes.
const MAX_SCALAR_BYTES: usize = 64 << 10;
/// Most nodes of one document.
const MAX_NODES: usize = 500_000;
/// Most nodes that the aliases of one document stand for.
const MAX_ALIASED: u32 = 100_000;

/// Index of a node in its [`Tree`].
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeId(u32);

/// One document's nodes.
#[derive(Debug, Default)]
pub(super) struct Tree<'t> {
    nodes: Vec<Node<'t>>,
    /// Children of sequences; keys and values in turn of mappings.
    children: Vec<NodeId>,
}

#[derive(Debug)]
struct Node<'t> {
    span: Span,
    kind: Kind<'t>,
    /// Number of nodes that a reader meets below and including this one.
    weight: u32,
}

#[derive(Debug)]
enum Kind<'t> {
    Scalar(Scalar<'t>),
    Sequence(Range<usize>),
    Mapping(Range<usize>),
    Alias(NodeId),
    Invalid,
}

/// A value without children.
#[derive(Debug)]
pub(super) struct Scalar<'t> {
    /// Without quotes, escapes resolved.
    pub(super) text: Cow<'t, str>,
    /// Whether it is a string whatever it looks like.
    pub(super) quoted: bool,
}

/// What a node is, with aliases followed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Scalar(&'a Scalar<'a>),
    Sequence(&'a [NodeId]),
    /// Keys and values in turn.
    Mapping(&'a [NodeId]),
    /// In error already: readers have nothing to add.
    Invalid,
}

impl<'t> Tree<'t> {
    /// Where a node stands; for an alias, where it is used.
    pub(super) fn span(&self, id: NodeId) -> Span {
        self.node(id).span
    }

    pub(super) fn value(&self, id: NodeId) -> Value<'_> {
        match &self.node(id).kind {
            Kind::Scalar(scalar) => Value::Scalar(scalar),
            Kind::Sequence(range) => Value::Sequence(&self.children[range.clone()]),
            Kind::Mapping(range) => Value::Mapping(&self.children[range.clone()]),
            // Aliases refer to anchored nodes, and an alias cannot carry an anchor.
            Kind::Alias(target) => self.value(*target),
            Kind::Invalid => Value::Invalid,
        }
    }

    fn node(&self, id: NodeId) -> &Node<'t> {
        &self.nodes[id.0 as usize]
    }

    fn push(&mut self, span: Span, kind: Kind<'t>, weight: u32) -> NodeId {
        let id = NodeId(clamp(self.nodes.len()));
        self.nodes.push(Node { span, kind, weight });
        id
    }
}

/// A document of a stream.
#[derive(Debug)]
pub(super) struct Document<'t> {
    pub(super) tree: Tree<'t>,
    pub(super) root: NodeId,
}

impl Document<'_> {
    /// Whether it holds nothing but comments.
    pub(super) fn is_empty(&self) -> bool {
        matches!(
            self.tree.value(self.root),
            Value::Scalar(scalar) if !scalar.quoted && scalar.text == "~"
        ) && self.tree.span(self.root).start == self.tree.span(self.root).end
    }
}

/// Reads the documents of a source one after the other.
pub(super) struct Documents<'t> {
    parser: Parser<'t, StrInput<'t>>,
    text: &'t str,
    source: u32,
    /// Bytes of the source before `text`.
    base: u32,
    ended: bool,
    failed: usize,
}

/// Why a document was given up.
enum Halt {
    /// The text is broken; the next document may not be.
    Syntax(ScanError),
    /// A budget is spent; reading on would cost what the budget is there to save.
    Budget(Box<Diagnostic>),
    /// The stream ended between documents.
    End,
}

impl From<ScanError> for Halt {
    fn from(error: ScanError) -> Self {
        Self::Syntax(error)
    }
}

impl<'t> Documents<'t> {
    pub(super) fn new(text: &'t str, source: u32, base: u32) -> Self {
        let options = options! {
            emit_comments: false,
            emit_unresolved_aliases: true,
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        };
        let parser = Parser::new_from_str_with_options(text, options);
        Self { parser, text, source, base, ended: false, failed: 0 }
    }

    /// The next document that is YAML; what is wrong with those before it goes to `report`.
    pub(super) fn next(&mut self, report: &mut Report) -> Option<Document<'t>> {
        while !self.ended && !report.is_full() {
            match self.document(report) {
                Ok(document) => return Some(document),
                Err(Halt::End) => self.ended = true,
                Err(Halt::Budget(diagnostic)) => {
                    report.push(*diagnostic);
                    self.failed += 1;
                    self.ended = true;
                }
                Err(Halt::Syntax(error)) => self.recover(&error, report),
            }
        }
        None
    }

    /// Number of documents that were given up.
    pub(super) fn failed(&self) -> usize {
        self.failed
    }

    /// Reports a syntax error and moves to the next `---`.
    fn recover(&mut self, error: &ScanError, report: &mut Report) {
        report.push(self.syntax_error(error));
        self.failed += 1;
        let too_deep = matches!(error.kind(), ErrorKind::RecursionLimitExceeded);
        self.ended = too_deep || !self.parser.proceed_next_document().unwrap_or(false);
    }

    fn document(&mut self, report: &mut Report) -> Result<Document<'t>, Halt> {
        loop {
            match self.event()? {
                (Event::DocumentStart(..), _) => break,
                (Event::StreamEnd, _) => return Err(Halt::End),
                _ => {}
            }
        }
        let mut builder = Builder::default();
        loop {
            let (event, span) = self.event()?;
            let place = self.place(&span);
            if matches!(event, Event::DocumentEnd) {
                return builder.finish(place);
            }
            builder.check_size(place)?;
            if let Some(tag) = span.tag_span() {
                report.push(tag_diagnostic(self.place(&tag)));
                if event.scalar().is_some() {
                    builder.invalid(place);
                    continue;
                }
            }
            builder.event(event, place, report)?;
        }
    }

    fn event(&mut self) -> Result<(Event<'t>, granit_parser::Span), Halt> {
        Ok(self.parser.next_event().ok_or(Halt::End)??)
    }

    fn place(&self, span: &granit_parser::Span) -> Span {
        let offset = |marker: &granit_parser::Marker| clamp(marker.byte_offset().unwrap_or(0));
        Span {
            source: self.source,
            start: offset(&span.start) + self.base,
            end: offset(&span.end) + self.base,
            line: clamp(span.start.line()),
            column: clamp(span.start.col() + 1),
        }
    }

    fn syntax_error(&self, error: &ScanError) -> Diagnostic {
        let at = self.place(&granit_parser::Span::empty(*error.marker()));
        match error.kind() {
            ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabAtBlockScalarStart => {
                Diagnostic::new(&code::TAB, at, "a tab stands where YAML allows spaces only")
                    .with_help("indent with spaces: `expand -t 2 FILE` replaces the tabs")
            }
            ErrorKind::RecursionLimitExceeded => {
                let message = format!("the document is nested deeper than {MAX_DEPTH} levels");
                Diagnostic::new(&code::TOO_DEEP, at, message)
                    .with_help("a policy needs eight; look for brackets that are never closed")
            }
            _ => Diagnostic::new(&code::SYNTAX, at, format!("not YAML: {}", error.info()))
                .with_help(self.syntax_help(at)),
        }
    }

    fn syntax_help(&self, at: Span) -> &'static str {
        let start = (at.start - self.base) as usize;
        let before = self.text.get(..start).unwrap_or_default();
        let line = before.rfind('\n').map_or(0, |position| position + 1);
        let line = self.text.get(line..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        if line.contains("]:") && line.contains("::") {
            return "brackets begin a list in YAML: put an IPv6 address into quotes, \"[::1]:80\"";
        }
        "check the brackets, quotes, colons and indentation here and on the line before"
    }
}

fn tag_diagnostic(at: Span) -> Diagnostic {
    Diagnostic::new(&code::TAG, at, "tags are not supported")
        .with_help("delete the tag; quotes make a value a string")
}

/// An unfinished collection.
struct Open {
    id: NodeId,
    is_mapping: bool,
    children: Vec<NodeId>,
    weight: u32,
}

/// Builds one tree from events.
#[derive(Default)]
struct Builder<'t> {
    tree: Tree<'t>,
    open: Vec<Open>,
    root: Option<NodeId>,
    /// Parser's anchor numbers and the nodes they name.
    anchors: std::collections::HashMap<usize, NodeId>,
    /// Nodes that the aliases so far stand for.
    aliased: u32,
}

impl<'t> Builder<'t> {
    fn check_size(&self, at: Span) -> Result<(), Halt> {
        if self.tree.nodes.len() < MAX_NODES {
            return Ok(());
        }
        Err(too_large(at, format!("the document has more than {MAX_NODES} nodes")))
    }

    fn event(&mut self, event: Event<'t>, at: Span, report: &mut Report) -> Result<(), Halt> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let quoted = style != granit_parser::ScalarStyle::Plain;
                self.scalar(text, quoted, anchor, at)?;
            }
            Event::SequenceStart(_, anchor, _) => self.start(false, anchor, at),
            Event::MappingStart(_, anchor, _) => self.start(true, anchor, at),
            Event::SequenceEnd | Event::MappingEnd => self.end(at),
            Event::Alias(anchor) => self.alias(anchor, at, report)?,
            Event::UnresolvedAlias(name) => {
                report.push(unknown_anchor(&name, at));
                self.invalid(at);
            }
            _ => {}
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        text: Cow<'t, str>,
        quoted: bool,
        anchor: usize,
        at: Span,
    ) -> Result<(), Halt> {
        if text.len() > MAX_SCALAR_BYTES {
            let message =
                format!("a value of {} bytes; at most {MAX_SCALAR_BYTES} are read", text.len());
            let diagnostic = Diagnostic::new(&code::SCALAR_TOO_LONG, at, message)
                .with_help("look for a quote that is never closed");
            return Err(Halt::Budget(Box::new(diagnostic)));
        }
        let id = self.tree.push(at, Kind::Scalar(Scalar { text, quoted }), 1);
        self.name(anchor, id);
        self.attach(id, 1);
        Ok(())
    }

    /// Stands in for a value that is in error already.
    fn invalid(&mut self, at: Span) {
        let id = self.tree.push(at, Kind::Invalid, 1);
        self.attach(id, 1);
    }

    fn start(&mut self, is_mapping: bool, anchor: usize, at: Span) {
        let id = self.tree.push(at, Kind::Sequence(0..0), 0);
        self.name(anchor, id);
        self.open.push(Open { id, is_mapping, children: Vec::new(), weight: 1 });
    }

    fn end(&mut self, at: Span) {
        let Some(open) = self.open.pop() else { return };
        let first = self.tree.children.len();
        let head = open.children.first().map(|child| self.tree.span(*child));
        self.tree.children.extend(open.children);
        let range = first..self.tree.children.len();
        let node = &mut self.tree.nodes[open.id.0 as usize];
        node.kind = if open.is_mapping { Kind::Mapping(range) } else { Kind::Sequence(range) };
        node.weight = open.weight;
        extend(&mut node.span, head, at);
        self.attach(open.id, open.weight);
    }

    fn alias(&mut self, anchor: usize, at: Span, report: &mut Report) -> Result<(), Halt> {
        let target = self.anchors.get(&anchor).copied();
        // An unfinished target has no weight yet: the alias is inside of what it names.
        let Some(target) = target.filter(|target| self.tree.node(*target).weight > 0) else {
            let diagnostic = Diagnostic::new(&code::BAD_ALIAS, at, "an alias contains itself");
            report.push(diagnostic.with_help("write the value out"));
            self.invalid(at);
            return Ok(());
        };
        let weight = self.tree.node(target).weight;
        self.aliased = self.aliased.saturating_add(weight);
        if self.aliased > MAX_ALIASED {
            let message = format!("the aliases stand for more than {MAX_ALIASED} nodes");
            return Err(too_large(at, message));
        }
        let id = self.tree.push(at, Kind::Alias(target), weight);
        self.attach(id, weight);
        Ok(())
    }

    fn name(&mut self, anchor: usize, id: NodeId) {
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
    }

    fn attach(&mut self, id: NodeId, weight: u32) {
        match self.open.last_mut() {
            Some(open) => {
                open.children.push(id);
                open.weight = open.weight.saturating_add(weight);
            }
            None => self.root = Some(id),
        }
    }

    fn finish(mut self, at: Span) -> Result<Document<'t>, Halt> {
        if self.root.is_none() {
            self.invalid(at);
        }
        let root = self.root.ok_or(Halt::End)?;
        Ok(Document { tree: self.tree, root })
    }
}

/// Gives a collection's span an end: its closing bracket, or the end of its first child, whichever
/// is on the line of its start.
fn extend(span: &mut Span, head: Option<Span>, end: Span) {
    if span.end > span.start && end.line == span.line {
        span.end = end.end;
    } else if let Some(head) = head.filter(|head| head.line == span.line) {
        span.end = span.end.max(head.end);
    }
}

fn too_large(at: Span, message: String) -> Halt {
    let diagnostic = Diagnostic::new(&code::DOCUMENT_TOO_LARGE, at, message)
        .with_help("put each service into a document of its own, separated by `---`");
    Halt::Budget(Box::new(diagnostic))
}

fn unknown_anchor(name: &str, at: Span) -> Diagnostic {
    let message = format!("the alias `*{name}` refers to no anchor of this document");
    Diagnostic::new(&code::BAD_ALIAS, at, message)
        .with_help(format!("define it before its use with `&{name}`, or quote the value"))
}
