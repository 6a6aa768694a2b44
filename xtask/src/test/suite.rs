//! The real-kernel tests: the integration tests of the member crate `tests`.
//!
//! Cargo builds them and tells where they are; they are run without cargo, so that a guest can run
//! them in the same way.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::TESTS_CRATE;
use crate::build::{self, Profile};
use crate::{exec, workspace};

/// Arguments of every test: they share one kernel, so they take turns.
pub(super) const ARGUMENTS: [&str; 1] = ["--test-threads=1"];

/// Built tests and what they need.
pub(super) struct Suite {
    /// In the order of their names.
    pub(super) tests: Vec<Test>,
    /// The `splitter` binary.
    pub(super) binary: PathBuf,
}

/// One test executable.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Test {
    /// Name of the test target, which is its file's.
    pub(super) name: String,
    /// Absolute path.
    pub(super) executable: PathBuf,
}

impl Suite {
    /// Builds the tests; the binary is there already.
    pub(super) fn build() -> Result<Self> {
        let messages = exec::output(
            workspace::cargo()
                .args(["test", "--package", TESTS_CRATE, "--tests", "--no-run"])
                .arg("--message-format=json-render-diagnostics"),
        )?;
        let mut tests = integration_tests(&messages)?;
        tests.sort();
        if tests.is_empty() {
            bail!("there is no real-kernel test in {}", directory().display());
        }
        Ok(Self { tests, binary: build::binary(Profile::Dev) })
    }

    /// What tests find in their environment.
    pub(super) fn environment(&self) -> [(&'static str, String); 1] {
        [("SPLITTER_BIN", self.binary.display().to_string())]
    }
}

/// Where tests run, as they would under cargo.
pub(super) fn directory() -> PathBuf {
    workspace::path("tests")
}

/// Reads cargo's messages, one JSON object in a line.
fn integration_tests(messages: &str) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("message of cargo")?;
        let target = &message["target"];
        let is_test = target["kind"].as_array().is_some_and(|kinds| kinds.contains(&"test".into()));
        if let (true, Some(name), Some(executable)) =
            (is_test, target["name"].as_str(), message["executable"].as_str())
        {
            tests.push(Test { name: name.to_owned(), executable: executable.into() });
        }
    }
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_integration_tests_with_an_executable_count() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"l"},"executable":"/l"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"t"},"executable":"/t"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"u"},"executable":null}
{"reason":"build-finished","success":true}"#;
        let expected = vec![Test { name: "t".to_owned(), executable: "/t".into() }];
        assert_eq!(integration_tests(messages).unwrap(), expected);
    }
}
