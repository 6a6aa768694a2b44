//! `cargo xtask tidy`: the rules of the house that no other tool knows.
//!
//! Every check reads the text of files and reports places; all findings are printed at once. The
//! checks know words and paths, not Rust: they are for catching what slips in, not what is hidden.

mod compatibility;
mod files;
mod layers;
mod manifests;
mod maps;
mod markdown;
mod rust;
mod words;

use std::fmt;

use anyhow::{Result, bail};

use files::File;

/// A place that breaks a rule, and the rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// Counted from 1.
    line: usize,
    rule: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

/// Checks all files, after recording the hash of `abi.rs` if asked to.
pub(crate) fn run(bless: bool) -> Result<()> {
    if bless {
        maps::bless()?;
    }
    let files = files::collect()?;
    let mut findings: Vec<_> = files.iter().flat_map(check_file).collect();
    findings.extend(maps::check(&files));
    findings.extend(compatibility::check(&files));
    findings.extend(manifests::check_unused(&files));
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() { Ok(()) } else { bail!("{} places break a rule", findings.len()) }
}

fn check_file(file: &File) -> Vec<Finding> {
    [words::check, rust::check, layers::check, manifests::check, markdown::check]
        .into_iter()
        .flat_map(|check| check(file))
        .collect()
}
