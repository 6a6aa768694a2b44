//! Words and paths that have no place in the repository.

use super::Finding;
use super::files::{File, has_word};

/// This list itself, texts by others, and what cargo writes.
const EXEMPT: [&str; 6] = [
    "Cargo.lock",
    "LICENSE-APACHE",
    "LICENSE-GPL2",
    "LICENSE-MIT",
    "xtask/src/tidy/words.rs",
    ".gitignore",
];

/// Whole words as they stand.
const MARKERS: [&str; 4] = ["FIXME", "HACK", "TODO", "XXX"];

/// Anywhere in a line, whatever its case; in lower case here.
const TEXTS: [(&str, &str); 16] = [
    ("#[ignore", "a test that cannot run must say so and fail"),
    ("last session", "say what holds, not when it was worked on"),
    ("previous session", "say what holds, not when it was worked on"),
    ("this session", "say what holds, not when it was worked on"),
    ("should_panic", "assert the error; a panic can come from anywhere"),
    ("/home/", "a path of one machine"),
    ("/root/", "a path of one machine"),
    ("/tmp/wt", "a path of one machine"),
    ("/work/", "a path of one machine"),
    ("deb.debian.org", "which mirror serves packages is for the machine to say"),
    ("files.pythonhosted.org", "which mirror serves packages is for the machine to say"),
    ("index.crates.io", "which mirror serves packages is for the machine to say"),
    ("pypi.org", "which mirror serves packages is for the machine to say"),
    ("registry.npmjs.org", "which mirror serves packages is for the machine to say"),
    ("static.crates.io", "which mirror serves packages is for the machine to say"),
    ("static.rust-lang.org", "which mirror serves packages is for the machine to say"),
];

pub(super) fn check(file: &File) -> Vec<Finding> {
    if EXEMPT.contains(&file.path.as_str()) {
        return Vec::new();
    }
    let findings = file.lines().flat_map(|(number, line)| {
        rules(line).into_iter().map(move |rule| file.finding(number, rule))
    });
    findings.collect()
}

/// What a line breaks.
fn rules(line: &str) -> Vec<String> {
    let lower = line.to_lowercase();
    let texts = TEXTS.iter().filter(|(text, _)| lower.contains(text));
    let mut rules: Vec<_> = texts.map(|(text, why)| format!("`{text}`: {why}")).collect();
    let markers = MARKERS.iter().filter(|marker| has_word(line, marker));
    rules.extend(markers.map(|marker| format!("`{marker}`: do it, or write down why not")));
    if names_an_issue(&lower) {
        rules.push("number of an issue: say what it says".to_owned());
    }
    rules
}

/// Whether `#` and a number follow a word that makes them an issue's.
fn names_an_issue(line: &str) -> bool {
    const BEFORE: [&str; 7] = ["bug", "closes", "fixes", "issue", "issues", "pr", "request"];
    let mut words = line.split_whitespace();
    let mut previous = "";
    words.any(|word| {
        let number = word.trim_start_matches('(').strip_prefix('#');
        let is_number = number.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let is_issue = is_number && BEFORE.contains(&previous);
        previous = word;
        is_issue
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_finds_its_words_and_no_others() {
        for line in
            ["done in this session", "// TODO: x", "see issue #12", "fixes #3.", "cd /work/x"]
        {
            assert_eq!(rules(line).len(), 1, "{line}");
        }
        for line in [
            "session-store",
            "sessionPersistence",
            "mktemp fooXXXXXX",
            "# 12 issues",
            "color: #123",
        ] {
            assert_eq!(rules(line).len(), 0, "{line}");
        }
    }
}
