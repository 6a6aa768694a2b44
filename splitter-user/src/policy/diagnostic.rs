//! What is wrong with a policy, and where.
//!
//! Diagnostics are plain data: collected by the readers, sorted once, then rendered for people by
//! [`render`] or serialized for programs. Nothing here knows what a policy is.

use std::collections::HashSet;

use serde::Serialize;

use super::code::{self, Code};
pub use super::render::render;

/// Most errors, and most warnings, that one load reports. A hostile file has millions.
pub const MAX_PROBLEMS: usize = 500;

/// Whether the policy can still be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy loads; it says something that is rarely meant.
    Warning,
}

/// A place in a source and what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Label {
    /// Index into the sources of the load.
    pub source: usize,
    /// First byte, counted from the start of the file, a byte-order mark included.
    pub start: usize,
    /// Byte after the last one; equal to `start` for a point.
    pub end: usize,
    /// Line of the first byte, from 1.
    pub line: u32,
    /// Column of the first byte in characters, from 1.
    pub column: u32,
    /// A few words beside the underline; may be empty.
    pub text: String,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether the policy can still be loaded.
    pub severity: Severity,
    /// Stable code; [`code::ALL`] lists them.
    pub code: &'static str,
    /// One sentence that stands alone, without a full stop.
    pub message: String,
    /// Where the problem is.
    pub primary: Label,
    /// Other places that explain it ("first defined here").
    pub secondary: Vec<Label>,
    /// A way out.
    pub help: Option<String>,
}

impl Diagnostic {
    pub(super) fn new(code: &'static Code, at: Span, message: impl Into<String>) -> Self {
        Self {
            severity: code.severity,
            code: code.id,
            message: message.into(),
            primary: at.label(""),
            secondary: Vec::new(),
            help: None,
        }
    }

    pub(super) fn with_label(mut self, text: impl Into<String>) -> Self {
        self.primary.text = text.into();
        self
    }

    pub(super) fn with_secondary(mut self, at: Span, text: &str) -> Self {
        self.secondary.push(at.label(text));
        self
    }

    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A place in a source, small enough to keep beside every value. Fields are those of [`Label`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) source: u32,
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Span {
    fn label(self, text: &str) -> Label {
        Label {
            source: self.source as usize,
            start: self.start as usize,
            end: self.end as usize,
            line: self.line,
            column: self.column,
            text: text.to_owned(),
        }
    }
}

/// Collects diagnostics, so that readers can go on after the first.
#[derive(Debug, Default)]
pub(super) struct Report {
    errors: Problems,
    warnings: Problems,
    /// Sources whose errors of degradable codes are warnings.
    degraded: HashSet<usize>,
    /// Sources of which warnings are left out.
    quiet: HashSet<usize>,
    /// Sources that were told what is worth telling once.
    told: HashSet<usize>,
    /// Number of errors that stay errors when a load is asked to degrade.
    failures: usize,
}

/// The problems of one severity: the first [`MAX_PROBLEMS`], and whether there were more.
#[derive(Debug, Default)]
struct Problems {
    kept: Vec<Diagnostic>,
    cut: bool,
}

impl Report {
    /// Makes errors of a source warnings where their code lets them be.
    pub(super) fn degrade(&mut self, source: usize) {
        self.degraded.insert(source);
    }

    /// Leaves out warnings about a source.
    pub(super) fn hush(&mut self, source: usize) {
        self.quiet.insert(source);
    }

    pub(super) fn push(&mut self, mut diagnostic: Diagnostic) {
        if code::is_degradable(diagnostic.code) && diagnostic.severity == Severity::Error {
            self.soften(&mut diagnostic);
        } else if diagnostic.severity == Severity::Error {
            self.failures += 1;
        }
        let source = diagnostic.primary.source;
        let is_general = diagnostic.code == code::PER_CONNECTION.id;
        let is_known = is_general && !self.told.insert(source) || self.quiet.contains(&source);
        if is_known && diagnostic.severity == Severity::Warning {
            return;
        }
        let problems = match diagnostic.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        // A value under an alias is read, and found wrong, once per use, and a rule in error once
        // per client that it takes.
        if problems.cut || problems.kept.contains(&diagnostic) {
            return;
        }
        if problems.kept.len() < MAX_PROBLEMS {
            problems.kept.push(diagnostic);
        } else {
            problems.cut = true;
        }
    }

    fn soften(&self, diagnostic: &mut Diagnostic) {
        if self.degraded.contains(&diagnostic.primary.source) {
            diagnostic.severity = Severity::Warning;
        } else {
            let help = diagnostic.help.take().map_or(String::new(), |help| format!("{help}; "));
            let rest = "`--degrade` loads the rest and warns of this";
            diagnostic.help = Some(format!("{help}{rest}"));
        }
    }

    /// Number of errors so far that stay errors when a load is asked to degrade.
    pub(super) fn failures(&self) -> usize {
        self.failures
    }

    /// Whether further errors would be dropped, so that reading on finds nothing worth its time.
    pub(super) fn is_full(&self) -> bool {
        self.errors.cut
    }

    /// Every problem, sorted by place: as `Err` if one of them is an error.
    pub(super) fn finish(self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        let failed = !self.errors.kept.is_empty();
        let cuts = [
            self.errors.cut.then_some((&code::TOO_MANY_PROBLEMS, "errors")),
            self.warnings.cut.then_some((&code::TOO_MANY_WARNINGS, "warnings")),
        ];
        let mut all = self.errors.kept;
        all.extend(self.warnings.kept);
        all.sort_by_key(|d| (d.primary.source, d.primary.line, d.primary.column, d.code));
        for (code, what) in cuts.into_iter().flatten() {
            all.extend(too_many(&all, code, what));
        }
        if failed { Err(all) } else { Ok(all) }
    }
}

/// Says that the list was cut, at the place of its last problem.
fn too_many(all: &[Diagnostic], code: &'static Code, what: &str) -> Option<Diagnostic> {
    let message = format!("more than {MAX_PROBLEMS} {what}; the rest are not shown");
    let mut diagnostic = Diagnostic::new(code, Span::default(), message)
        .with_help("mend the first ones and check again: one cause often has many effects");
    diagnostic.primary = Label { text: String::new(), ..all.last()?.primary.clone() };
    Some(diagnostic)
}
