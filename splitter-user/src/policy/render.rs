//! Diagnostics as text for people: `file:line:column`, the line itself, and a way out.
//!
//! Only a window of bytes around the places is looked at, so the cost of a report does not depend
//! on the size of the file or on the length of its lines.

use std::ops::Range;

use annotate_snippets::{
    AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str,
};

use super::Source;
use super::code;
use super::diagnostic::{Diagnostic, Label, Severity};

/// Bytes looked at before and after a place in search of the ends of its line.
const REACH: usize = 2048;
/// Bytes of one snippet; labels further apart get snippets of their own.
const MAX_SNIPPET: usize = 2 * REACH;

/// Renders diagnostics as blocks separated by an empty line; `sources` are those of the load.
pub fn render(diagnostics: &[Diagnostic], sources: &[Source], color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let blocks = diagnostics.iter().map(|diagnostic| block(diagnostic, sources, &renderer));
    blocks.collect::<Vec<_>>().join("\n")
}

/// One diagnostic, with a line feed at its end.
fn block(diagnostic: &Diagnostic, sources: &[Source], renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(normalize_untrusted_str(&diagnostic.message));
    let id = match code::find(diagnostic.code).and_then(|code| code.istio) {
        Some(istio) => format!("{} ({istio})", diagnostic.code),
        None => diagnostic.code.to_owned(),
    };
    let mut group = Group::with_title(title.id(id));
    for labels in clusters(diagnostic, sources) {
        group = add_snippet(group, diagnostic, &labels, sources);
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
    }
    let mut out = renderer.render(&[group]);
    out.push('\n');
    out
}

/// The labels, gathered by snippet: all of one source in one where they are near each other.
fn clusters<'a>(diagnostic: &'a Diagnostic, sources: &[Source]) -> Vec<Vec<&'a Label>> {
    let mut clusters = vec![vec![&diagnostic.primary]];
    for label in &diagnostic.secondary {
        let near = clusters.iter_mut().find(|cluster| {
            let all: Vec<&Label> = cluster.iter().copied().chain([label]).collect();
            cluster.iter().all(|other| other.source == label.source)
                && sources
                    .get(label.source)
                    .is_some_and(|source| window(&source.bytes, &all).len() <= MAX_SNIPPET)
        });
        match near {
            Some(cluster) => cluster.push(label),
            None => clusters.push(vec![label]),
        }
    }
    clusters
}

/// The whole lines from the first label's to the last one's, as far as they are in reach.
fn window(bytes: &[u8], labels: &[&Label]) -> Range<usize> {
    let first = labels.iter().map(|label| label.start).min().unwrap_or(0).min(bytes.len());
    let last = labels.iter().map(|label| label.start).max().unwrap_or(0).min(bytes.len());
    line_start(bytes, first)..line_end(bytes, last)
}

fn add_snippet<'a>(
    group: Group<'a>,
    diagnostic: &Diagnostic,
    labels: &[&Label],
    sources: &[Source],
) -> Group<'a> {
    let Some((source, first)) = labels
        .iter()
        .min_by_key(|label| label.start)
        .and_then(|first| Some((sources.get(first.source)?, first)))
    else {
        return group;
    };
    let path = normalize_untrusted_str(&source.name);
    let window = window(&source.bytes, labels);
    if is_cut(&source.bytes, window.start) {
        // A column counted from the middle of a line would be wrong.
        let origin = Origin::path(path).line(first.line as usize);
        return group.element(origin.char_column(first.column as usize));
    }
    let mut snippet = Snippet::source(lossy(&source.bytes, window.clone()))
        .path(path)
        .line_start(first.line as usize);
    for label in labels {
        let is_primary = **label == diagnostic.primary;
        let kind = if is_primary { AnnotationKind::Primary } else { AnnotationKind::Context };
        let text = (!label.text.is_empty()).then(|| normalize_untrusted_str(&label.text));
        let span = position(&source.bytes, &window, label);
        snippet = snippet.annotation(kind.span(span).label(text));
    }
    group.element(snippet)
}

/// Where a label is in the text of its window, within one line.
fn position(bytes: &[u8], window: &Range<usize>, label: &Label) -> Range<usize> {
    let start = label.start.clamp(window.start, window.end);
    let end = label.end.clamp(start, line_end(bytes, start));
    let before = lossy(bytes, window.start..start).len();
    before..before + lossy(bytes, start..end).len()
}

/// Bytes that are not UTF-8 are shown as `U+FFFD`.
fn lossy(bytes: &[u8], range: Range<usize>) -> String {
    String::from_utf8_lossy(bytes.get(range).unwrap_or_default()).into_owned()
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

fn is_break(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// Start of the line of `at`, or a place [`REACH`] bytes before it.
fn line_start(bytes: &[u8], at: usize) -> usize {
    let floor = at.saturating_sub(REACH);
    let near = bytes.get(floor..at).unwrap_or_default();
    match near.iter().rposition(|byte| is_break(*byte)) {
        Some(position) => floor + position + 1,
        None if floor == 0 && near.starts_with(BYTE_ORDER_MARK) => BYTE_ORDER_MARK.len(),
        None => floor,
    }
}

/// Whether text that begins here begins inside of a line.
fn is_cut(bytes: &[u8], start: usize) -> bool {
    let before = bytes.get(..start).unwrap_or_default();
    before != BYTE_ORDER_MARK && before.last().is_some_and(|byte| !is_break(*byte))
}

/// End of the line of `at`, or a character boundary at most [`REACH`] bytes after it.
fn line_end(bytes: &[u8], at: usize) -> usize {
    let ceiling = bytes.len().min(at + REACH);
    let near = bytes.get(at..ceiling).unwrap_or_default();
    match near.iter().position(|byte| is_break(*byte)) {
        Some(position) => at + position,
        None if ceiling == bytes.len() => ceiling,
        None => ceiling - near.iter().rev().take_while(|byte| is_continuation(**byte)).count(),
    }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}
