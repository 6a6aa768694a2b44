//! The examples in `policies/` and everything in the references of policy text are true.

use std::fs;
use std::path::{Path, PathBuf};

use splitter_user::policy::code::{self, Code};
use splitter_user::policy::diagnostic::{Diagnostic, Severity, render};
use splitter_user::policy::model::Errno;
use splitter_user::policy::{Source, load};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect("the document exists")
}

fn reference() -> String {
    read("docs/policy.md")
}

/// Codes of all errors and warnings of a text, and the text for people.
fn codes(name: &str, text: &str) -> (Vec<&'static str>, String) {
    let sources = [Source::new(name, text)];
    let diagnostics = match load(&sources) {
        Ok(loaded) => loaded.warnings,
        Err(diagnostics) => diagnostics,
    };
    shown(&diagnostics, &sources)
}

fn shown(diagnostics: &[Diagnostic], sources: &[Source]) -> (Vec<&'static str>, String) {
    (diagnostics.iter().map(|d| d.code).collect(), render(diagnostics, sources, false))
}

#[test]
fn examples_load_without_a_word() {
    let entries = fs::read_dir(root().join("policies")).expect("policies/ exists");
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            continue;
        }
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("readable");
        assert!(text.starts_with("# "), "{name} does not say what it shows");
        assert!(text.contains(&format!("`splitter apply {name}`")), "{name} does not say how");
        let (codes, rendered) = codes(&name, &text);
        // What this one is about.
        let expected: &[&str] = if name == "spill.yaml" { &["SP0701"] } else { &[] };
        assert_eq!(codes, expected, "{rendered}");
        count += 1;
    }
    assert!(count >= 12, "only {count} examples");
}

/// A fenced block of the reference.
struct Block {
    line: usize,
    expected: Expected,
    text: String,
}

/// What a block does.
enum Expected {
    /// It loads without a word.
    Nothing,
    /// It fails with this code, among others.
    Error(String),
    /// It fails with this code alone, and loads where it is asked to degrade.
    Degradable(String),
}

impl Expected {
    /// Reads what follows the language of a block.
    fn parse(info: &str) -> Option<Self> {
        match info.split_once('=') {
            None if info.is_empty() => Some(Self::Nothing),
            Some((",error", code)) => Some(Self::Error(code.to_owned())),
            Some((",degrade", code)) => Some(Self::Degradable(code.to_owned())),
            _ => None,
        }
    }
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in text.lines().enumerate() {
        if let Some(block) = &mut open {
            if line == "```" {
                blocks.extend(open.take());
            } else {
                block.text += line;
                block.text.push('\n');
            }
        } else if let Some(info) = line.strip_prefix("```yaml") {
            let line = index + 1;
            let expected = Expected::parse(info);
            let expected = expected.unwrap_or_else(|| panic!("line {line}: {info}"));
            open = Some(Block { line, expected, text: String::new() });
        }
    }
    blocks
}

#[test]
fn blocks_of_the_references_do_what_they_say() {
    for (document, fewest) in [("docs/policy.md", 10), ("docs/istio.md", 5)] {
        let blocks = blocks(&read(document));
        assert!(blocks.len() >= fewest, "only {} blocks in {document}", blocks.len());
        for block in blocks {
            check_block(&format!("{document}:{}", block.line), &block);
        }
    }
}

fn check_block(place: &str, block: &Block) {
    let (codes, rendered) = codes("-", &block.text);
    match &block.expected {
        Expected::Nothing => assert!(codes.is_empty(), "{place}:\n{rendered}"),
        Expected::Error(code) => assert!(codes.contains(&code.as_str()), "{place}:\n{rendered}"),
        Expected::Degradable(code) => {
            let all_are = |codes: &[&str]| codes.iter().all(|known| known == code);
            assert!(!codes.is_empty() && all_are(&codes), "{place}:\n{rendered}");
            let sources = [Source::new("-", block.text.as_str()).degraded()];
            let loaded = load(&sources).unwrap_or_else(|diagnostics| {
                panic!("{place}:\n{}", shown(&diagnostics, &sources).1)
            });
            let (warnings, rendered) = shown(&loaded.warnings, &sources);
            assert_eq!(warnings, codes, "{place}:\n{rendered}");
        }
    }
}

#[test]
fn the_reference_lists_every_code() {
    let text = reference();
    let listed: Vec<&str> = text.lines().filter(|line| line.starts_with("| SP")).collect();
    let severity = |code: &Code| match code.severity {
        Severity::Error if code.degradable => "degradable error",
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let row = |code: &&Code| {
        let istio = code.istio.map(|istio| format!(" ({istio})")).unwrap_or_default();
        format!("| {}{istio} | {} | {} |", code.id, severity(code), code.title)
    };
    assert_eq!(listed, code::ALL.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn the_reference_lists_every_errno() {
    let text = reference();
    for errno in Errno::ALL {
        assert!(text.contains(&format!("`{}`", errno.name)), "{}", errno.name);
    }
}

#[test]
fn every_code_has_a_test() {
    let mut seen = fs::read_to_string(root().join("splitter-user/tests/bad_policies.rs"))
        .expect("the tests of what cannot be kept as text");
    let folders = [
        ("tests/bad-policies", "stderr"),
        ("tests/mesh", "out"),
        ("splitter-user/tests/fields", "md"),
    ];
    // A folder without a file would show as codes without a test.
    for (folder, kind) in folders {
        for entry in fs::read_dir(root().join(folder)).into_iter().flatten() {
            let path = entry.expect("readable").path();
            if path.extension().is_some_and(|extension| extension == kind) {
                seen += &fs::read_to_string(path).expect("readable");
            }
        }
    }
    let untested = code::ALL.iter().map(|code| code.id).filter(|id| !seen.contains(id));
    assert_eq!(untested.collect::<Vec<_>>(), Vec::<&str>::new());
}
