//! The real-kernel tests: the integration tests of the member crate `tests`.
//!
//! Cargo builds them and tells where they are; they are run without cargo, so that a guest can run
//! them in the same way.

use std::convert::Infallible;
use std::env;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{TESTS_CRATE, clients};
use crate::build::{self, Profile};
use crate::{exec, workspace};

/// Argument of every test: they share one kernel, so they take turns.
const IN_TURN: &str = "--test-threads=1";
/// What else tests find in their environment where it is set here, guests included.
const PASSED_ON: &str = "SPLITTER_TEST_TIMES";

/// Tests of programs that are too large for a guest.
pub(crate) const NOT_FOR_GUESTS: [&str; 2] = ["programs", "resolvers"];

/// A part of the tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Only {
    /// Name of a test target.
    target: String,
    /// What the names of its tests contain.
    text: Option<String>,
}

impl FromStr for Only {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.split_once("::") {
            Some((target, text)) => Self { target: target.to_owned(), text: Some(text.to_owned()) },
            None => Self { target: text.to_owned(), text: None },
        })
    }
}

/// Built tests and what they need.
pub(super) struct Suite {
    /// In the order of their names.
    pub(super) tests: Vec<Test>,
    /// The `splitter` binary.
    pub(super) binary: PathBuf,
    /// Programs that tests run as clients.
    pub(super) clients: Vec<PathBuf>,
    /// Which tests are run, where not all are.
    only: Option<Only>,
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
    pub(super) fn build(only: Option<&Only>) -> Result<Self> {
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
        if let Some(Only { target, .. }) = only {
            tests.retain(|test| test.name == *target);
            if tests.is_empty() {
                bail!("there is no real-kernel test {target} in {}", directory().display());
            }
        }
        let binary = build::binary(Profile::Dev);
        Ok(Self { tests, binary, clients: clients::build()?, only: only.cloned() })
    }

    /// Whether all tests are run.
    pub(super) fn is_whole(&self) -> bool {
        self.only.is_none()
    }

    /// The tests that guests run.
    pub(super) fn for_guests(self) -> Result<Self> {
        let mut suite = self;
        suite.tests.retain(|test| !NOT_FOR_GUESTS.contains(&test.name.as_str()));
        if suite.tests.is_empty() {
            bail!("tests of {} are not for guests", NOT_FOR_GUESTS.join(", "));
        }
        Ok(suite)
    }

    /// Arguments of every test.
    pub(super) fn arguments(&self) -> impl Iterator<Item = &str> {
        let text = self.only.as_ref().and_then(|only| only.text.as_deref());
        [IN_TURN].into_iter().chain(text)
    }

    /// What tests find in their environment.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let passed_on = env::var(PASSED_ON).ok().map(|value| (PASSED_ON, value));
        let binary = ("SPLITTER_BIN", self.binary.display().to_string());
        [binary].into_iter().chain(passed_on).collect()
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
    fn a_part_is_a_file_and_maybe_a_text() {
        let only = |target: &str, text: Option<&str>| Only {
            target: target.to_owned(),
            text: text.map(str::to_owned),
        };
        assert_eq!("life".parse(), Ok(only("life", None)));
        assert_eq!("life::times".parse(), Ok(only("life", Some("times"))));
        assert_eq!("daemon::a::b".parse(), Ok(only("daemon", Some("a::b"))));
    }

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
