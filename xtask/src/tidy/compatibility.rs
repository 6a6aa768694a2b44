//! `docs/compatibility.md` is a table of promises, each with the tests that hold it: they exist, they
//! run on the kernels that the row names, and no test of what programs see is left out.

use super::Finding;
use super::files::File;
use crate::test::NOT_FOR_GUESTS;

const DOCUMENT: &str = "docs/compatibility.md";
/// Where the tests are that rows name, by paths from there.
const TESTS: &str = "tests/tests/";
/// Tests that are there for the table, by the beginnings of their files' paths from [`TESTS`].
const OWN: [&str; 3] = ["compat/", "programs.rs", "resolvers.rs"];
/// What the last column says of tests that guests run too, and of those that they do not.
const KERNELS: [&str; 2] = ["all", "own"];

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let Some(document) = files.iter().find(|file| file.path == DOCUMENT) else { return Vec::new() };
    let rows = rows(document);
    let named: Vec<_> = rows.iter().flat_map(Row::tests).collect();
    let mut findings: Vec<_> = rows.iter().flat_map(|row| row.check(document, files)).collect();
    for (file, path) in
        test_files(files).filter(|(_, path)| OWN.iter().any(|own| path.starts_with(own)))
    {
        let unnamed = tests(file).filter(|(_, test)| !named.contains(&(path, *test)));
        findings.extend(
            unnamed.map(|(line, test)| {
                file.finding(line, format!("{DOCUMENT} has no row for {test}"))
            }),
        );
    }
    findings
}

/// A line of a table: what, what happens, the tests, the kernels.
struct Row<'a> {
    line: usize,
    cells: Vec<&'a str>,
}

impl<'a> Row<'a> {
    /// Files and names of the tests that the row names as `file::name`.
    fn tests(&self) -> Vec<(&'a str, &'a str)> {
        let texts = self.cells.get(2).map(|cell| cell.split('`').skip(1).step_by(2));
        texts.into_iter().flatten().filter_map(|test| test.split_once("::")).collect()
    }

    fn check(&self, document: &File, files: &[File]) -> Vec<Finding> {
        let finding = |rule: String| document.finding(self.line, rule);
        let named = self.tests();
        if named.is_empty() {
            return vec![finding("no test shows this; name one as `file::name`".to_owned())];
        }
        let missing = named.iter().filter(|(path, test)| !exists(files, path, test));
        let mut findings: Vec<_> =
            missing.map(|(path, test)| finding(format!("no such test: {path}::{test}"))).collect();
        let [in_guests, not_in_guests] = KERNELS;
        let wanted = if named.iter().any(|(path, _)| is_for_guests(path)) {
            in_guests
        } else {
            not_in_guests
        };
        if self.cells.get(3).map(|cell| cell.trim()) != Some(wanted) {
            findings.push(finding(format!("kernels of these tests: {wanted}")));
        }
        findings
    }
}

/// The rows of all tables, less their headings.
fn rows(document: &File) -> Vec<Row<'_>> {
    let is_rule = |line: &str| line.starts_with("|---");
    let lines: Vec<_> = document.lines().collect();
    let is_heading = |at: usize| lines.get(at + 1).is_some_and(|(_, next)| is_rule(next));
    let mut rows = Vec::new();
    for (at, (line, text)) in lines.iter().enumerate() {
        if text.starts_with('|') && !is_rule(text) && !is_heading(at) {
            rows.push(Row { line: *line, cells: text.trim_matches('|').split('|').collect() });
        }
    }
    rows
}

fn test_files(files: &[File]) -> impl Iterator<Item = (&File, &str)> {
    files.iter().filter_map(|file| file.path.strip_prefix(TESTS).map(|path| (file, path)))
}

fn exists(files: &[File], path: &str, test: &str) -> bool {
    let found = test_files(files).find(|(_, its)| *its == path);
    found.is_some_and(|(file, _)| tests(file).any(|(_, name)| name == test))
}

/// The target of a test is its file, or the directory that its file is in.
fn is_for_guests(path: &str) -> bool {
    let target = path.split(['/', '.']).next().unwrap_or_default();
    !NOT_FOR_GUESTS.contains(&target)
}

/// Lines and names of the tests in a file.
fn tests(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let marked = file.lines().zip(file.lines().skip(1)).filter(|((_, mark), _)| *mark == "#[test]");
    marked
        .filter_map(|(_, (line, code))| Some((line, code.strip_prefix("fn ")?.split_once('(')?.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    fn found(rows: &str) -> Vec<(usize, String)> {
        let files = [
            file(
                DOCUMENT,
                &format!("| what | happens | test | kernels |\n|---|---|---|---|\n{rows}"),
            ),
            file("tests/tests/compat/calls.rs", "#[test]\nfn a() {}\nfn b() {}\n"),
            file("tests/tests/programs.rs", "#[test]\nfn java() {}\n"),
        ];
        check(&files).into_iter().map(|finding| (finding.line, finding.rule)).collect()
    }

    const GOOD: &str =
        "| x | y | `compat/calls.rs::a` | all |\n| x | y | `programs.rs::java` | own |\n";

    #[test]
    fn rows_with_tests_that_exist_are_good() {
        assert_eq!(found(GOOD), []);
    }

    #[test]
    fn a_row_without_a_test_or_with_another_kernel_is_found() {
        let wrong = "| x | y | | all |\n| x | y | `compat/calls.rs::b` | all |\n\
             | x | y | `programs.rs::java` | all |\n";
        let lines: Vec<_> =
            found(&format!("{GOOD}{wrong}")).iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [5, 6, 7]);
    }

    #[test]
    fn a_test_without_a_row_is_found_where_it_stands() {
        let rules = found("| x | y | `compat/calls.rs::a` | all |\n");
        assert_eq!(rules, [(2, format!("{DOCUMENT} has no row for java"))]);
    }
}
