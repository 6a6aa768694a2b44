//! The files of the repository.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Finding;
use crate::workspace;

/// What holds no text of ours.
const SKIPPED: [&str; 2] = [".git", "target"];

/// A text file.
pub(super) struct File {
    /// Relative to the root, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    /// Whether the name ends so.
    pub(super) fn is(&self, ending: &str) -> bool {
        self.path.ends_with(ending)
    }

    /// The lines with their numbers.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The lines of Rust with their numbers, less comments and what stands between quotes.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, String)> {
        self.lines().map(|(number, line)| (number, strip_comment_and_strings(line)))
    }

    /// A finding in this file.
    pub(super) fn finding(&self, line: usize, rule: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, rule: rule.into() }
    }
}

/// Reads all text files below the root.
///
/// The directory is walked rather than git asked, so that a source archive can be checked as well
/// and new files count before they are added.
pub(super) fn collect() -> Result<Vec<File>> {
    let mut files = Vec::new();
    collect_below(workspace::root(), &mut files)?;
    Ok(files)
}

fn collect_below(directory: &Path, files: &mut Vec<File>) -> Result<()> {
    let entries = fs::read_dir(directory);
    for entry in entries.with_context(|| format!("list {}", directory.display()))? {
        let entry = entry.with_context(|| format!("list {}", directory.display()))?;
        let path = entry.path();
        if SKIPPED.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if path.is_dir() {
            collect_below(&path, files)?;
        } else if let Ok(text) = fs::read_to_string(&path) {
            let relative = path.strip_prefix(workspace::root()).unwrap_or(&path);
            files.push(File { path: relative.to_string_lossy().into_owned(), text });
        }
    }
    Ok(())
}

/// Line by line, so text that runs over several lines is taken for code.
fn strip_comment_and_strings(line: &str) -> String {
    let line = line.replace("'\"'", "").replace("\\\\", "").replace("\\\"", "");
    let mut code = String::new();
    // Parts between quotes alternate: code, text, code ...
    for (index, part) in line.split('"').enumerate() {
        if index % 2 == 0 {
            match part.split_once("//") {
                Some((before, _)) => return code + before,
                None => code += part,
            }
        }
    }
    code
}

/// Whether `text` contains `word` with no letter, digit or `_` on either side.
pub(super) fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_has_neither_comments_nor_strings() {
        for (line, code) in [
            ("let a = 1; // unsafe", "let a = 1; "),
            (r#"f("https://x", b) // c"#, "f(, b) "),
            (r#"f("a \" // b", c)"#, "f(, c)"),
            (r#"f('"', x) "#, "f(, x) "),
        ] {
            assert_eq!(strip_comment_and_strings(line), code);
        }
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("use aya::Ebpf", "aya"));
        assert!(!has_word("use aya_ebpf::x", "aya"));
        assert!(!has_word("papaya", "aya"));
    }
}
