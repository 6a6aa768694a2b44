//! The examples in `policies/` and everything in `docs/policy.md` are true.

use std::fs;
use std::path::{Path, PathBuf};

use splitter_user::policy::code;
use splitter_user::policy::diagnostic::{Severity, render};
use splitter_user::policy::model::Errno;
use splitter_user::policy::{Source, load};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn reference() -> String {
    fs::read_to_string(root().join("docs/policy.md")).expect("docs/policy.md exists")
}

/// Codes of all errors and warnings of a text, and the text for people.
fn codes(name: &str, text: &str) -> (Vec<&'static str>, String) {
    let sources = [Source::new(name, text)];
    let diagnostics = match load(&sources) {
        Ok(loaded) => loaded.warnings,
        Err(diagnostics) => diagnostics,
    };
    (diagnostics.iter().map(|d| d.code).collect(), render(&diagnostics, &sources, false))
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
    /// The code that it must fail with.
    error: Option<String>,
    text: String,
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
            let error = info.strip_prefix(",error=").map(str::to_owned);
            assert_eq!(error.is_none(), info.is_empty(), "line {}: {info}", index + 1);
            open = Some(Block { line: index + 1, error, text: String::new() });
        }
    }
    blocks
}

#[test]
fn blocks_of_the_reference_do_what_they_say() {
    let blocks = blocks(&reference());
    assert!(blocks.len() >= 10, "only {} blocks", blocks.len());
    for block in blocks {
        let (codes, rendered) = codes("-", &block.text);
        match block.error {
            None => assert!(codes.is_empty(), "line {}:\n{rendered}", block.line),
            Some(code) => {
                assert!(codes.contains(&code.as_str()), "line {}:\n{rendered}", block.line);
            }
        }
    }
}

#[test]
fn the_reference_lists_every_code() {
    let text = reference();
    let listed: Vec<&str> = text.lines().filter(|line| line.starts_with("| SP")).collect();
    let severity = |severity| match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let expected: Vec<String> = code::ALL
        .iter()
        .map(|code| format!("| {} | {} | {} |", code.id, severity(code.severity), code.title))
        .collect();
    assert_eq!(listed, expected);
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
    let folder = root().join("tests/bad-policies");
    let mut seen = fs::read_to_string(root().join("splitter-user/tests/bad_policies.rs"))
        .expect("the tests of what cannot be kept as text");
    for entry in fs::read_dir(folder).expect("tests/bad-policies exists") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "stderr") {
            seen += &fs::read_to_string(path).expect("readable");
        }
    }
    let untested = code::ALL.iter().map(|code| code.id).filter(|id| !seen.contains(id));
    assert_eq!(untested.collect::<Vec<_>>(), Vec::<&str>::new());
}
