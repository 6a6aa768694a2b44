//! Every way to get a policy wrong, and what is said about it.
//!
//! `tests/bad-policies/NAME.yaml` is a policy with one problem, `NAME.stderr` what people see.
//! `UPDATE_EXPECT=1` rewrites the latter. Inputs that cannot be kept as text are made here.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use splitter_user::policy::diagnostic::{Diagnostic, MAX_PROBLEMS, Severity, render};
use splitter_user::policy::{Source, load};

/// Fewer files than this mean that the folder was not found, or lost its contents.
const FEWEST: usize = 60;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bad-policies")
}

fn source(name: &str, bytes: impl Into<Vec<u8>>) -> Source {
    Source::new(name, bytes)
}

fn diagnostics(sources: &[Source]) -> Vec<Diagnostic> {
    match load(sources) {
        Ok(loaded) => loaded.warnings,
        Err(diagnostics) => diagnostics,
    }
}

fn codes(bytes: impl Into<Vec<u8>>) -> Vec<&'static str> {
    diagnostics(&[source("-", bytes)]).iter().map(|d| d.code).collect()
}

#[test]
fn corpus() {
    let entries = fs::read_dir(folder()).expect("tests/bad-policies exists");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(files.len() >= FEWEST, "only {} files in {}", files.len(), folder().display());
    let failures: Vec<String> = files.iter().filter_map(|path| check_file(path)).collect();
    assert!(failures.is_empty(), "{}\nUPDATE_EXPECT=1 accepts the change", failures.join("\n"));
}

/// What differs from the expectation, if anything does.
fn check_file(path: &Path) -> Option<String> {
    let name = path.file_name().expect("a file").to_string_lossy();
    let sources = [source(&name, fs::read(path).expect("readable"))];
    let diagnostics = diagnostics(&sources);
    assert!(!diagnostics.is_empty(), "{name} has no problem");
    let is_warning = name.starts_with("warn-");
    let has_errors = diagnostics.iter().any(|d| d.severity == Severity::Error);
    assert_eq!(has_errors, !is_warning, "{name}: only warn-*.yaml load");
    let actual = render(&diagnostics, &sources, false);
    let expected = path.with_extension("stderr");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&expected, &actual).expect("writable");
    }
    let wanted = fs::read_to_string(&expected).unwrap_or_default();
    (actual != wanted).then(|| format!("{name}:\n{actual}instead of\n{wanted}"))
}

#[test]
fn expectations_belong_to_a_policy() {
    for entry in fs::read_dir(folder()).expect("tests/bad-policies exists") {
        let path = entry.expect("readable").path();
        assert!(path.with_extension("yaml").exists(), "{} expects nothing", path.display());
    }
}

#[test]
fn encodings() {
    let text = good("web", 1);
    let utf16 = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<_>>();
    let little = utf16(u16::to_le_bytes);
    let big = utf16(u16::to_be_bytes);
    assert_eq!(codes(little.clone()), ["SP0102"]);
    assert_eq!(codes(big), ["SP0102"]);
    assert_eq!(codes([vec![0xff, 0xfe], little].concat()), ["SP0102"]);
    assert_eq!(codes(b"name: caf\xe9\n"), ["SP0101"]);
    assert_eq!(codes(b"a\0b"), ["SP0103"]);
    assert_eq!(codes(b"name: \x1b[31m"), ["SP0103"]);
}

#[test]
fn encoding_errors_name_the_byte() {
    let problems = diagnostics(&[source("-", b"a: b\r\nname: caf\xe9\n")]);
    let problem = problems.first().expect("not UTF-8");
    assert!(problem.message.contains("byte 15"), "{}", problem.message);
    assert_eq!((problem.primary.line, problem.primary.column), (2, 10));
}

#[test]
fn marks_and_line_ends_are_accepted() {
    let text = good("web", 1);
    for text in [format!("\u{feff}{text}"), text.replace('\n', "\r\n"), text.replace('\n', "\r")] {
        assert!(codes(text.clone()).is_empty(), "{text:?}");
    }
}

#[test]
fn columns_do_not_count_a_mark() {
    let problems = diagnostics(&[source("-", "\u{feff}kind: Spilt\n")]);
    let problem = problems.first().expect("unknown kind");
    assert_eq!((problem.primary.column, problem.primary.start), (7, 9));
    assert!(render(&problems, &[source("-", "\u{feff}kind: Spilt\n")], false).contains("-:1:7"));
}

#[test]
fn deep_nesting() {
    for open in ["[", "{a: ", "- ", "? ", "a: {b: [", "{{", "[["] {
        assert_eq!(codes(open.repeat(100_000)), ["SP0107"], "{open}");
    }
    let indented: String = (0..2_000).map(|depth| " ".repeat(depth) + "a:\n").collect();
    assert_eq!(codes(indented), ["SP0107"]);
}

#[test]
fn long_scalars() {
    let long = "x".repeat(10 << 20);
    assert_eq!(codes(format!("a: {long}")), ["SP0108"]);
    assert_eq!(codes(format!("a: \"{long}\"")), ["SP0108"]);
    assert_eq!(codes(format!("a: \"{long}")), ["SP0105"]);
    assert_eq!(codes(format!("a: |\n  {long}")), ["SP0108"]);
    assert_eq!(codes("a\n".repeat(1 << 20)), ["SP0108"]);
}

#[test]
fn many_nodes() {
    assert_eq!(codes("- a\n".repeat(500_001)), ["SP0109"]);
    assert_eq!(codes(format!("[{}]", "a,".repeat(500_001))), ["SP0109"]);
}

#[test]
fn alias_bomb() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(text, "a{level}: &a{level} [{aliases}]").expect("strings take all");
    }
    assert_eq!(codes(text), ["SP0109"]);
}

#[test]
fn many_problems_are_cut() {
    for text in ["---\na\n", "---\n[\n", "---\n*a\n"] {
        let codes = codes(text.repeat(100_000));
        assert_eq!(codes.len(), MAX_PROBLEMS + 1, "{text:?}");
        assert_eq!(codes.last(), Some(&"SP0114"), "{text:?}");
    }
}

#[test]
fn many_warnings_are_cut() {
    let service = |index: usize| {
        let [high, low] = u16::try_from(index).expect("few").to_be_bytes();
        format!(
            "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: web-{index}}}\n\
             spec: {{frontends: \"127.1.{high}.{low}:80\", routes: [{{match: {{uid: 1}}, \
             pass: true}}]}}\n"
        )
    };
    let services: Vec<String> = (0..=MAX_PROBLEMS).map(service).collect();
    let codes = codes(services.join("---\n"));
    assert_eq!(codes.len(), MAX_PROBLEMS + 1);
    assert_eq!((codes.first(), codes.last()), (Some(&"SP0705"), Some(&"SP0117")));
}

#[test]
fn large_sources() {
    let mut text = good("web", 1);
    text.extend(std::iter::repeat_n('#', 64 << 20));
    assert_eq!(codes(text), ["SP0104"]);
}

#[test]
fn limits_of_a_service() {
    let subsets: Vec<String> = (0..256).map(|i| format!("s{i}: {{backends: []}}")).collect();
    let subsets = subsets.join(", ");
    let backends: Vec<String> =
        (0..4_097).map(|i| format!("\"127.1.{}.{}:80\"", i >> 8, i & 255)).collect();
    let head = good("web", 1);
    let head = head.split("  subsets").next().expect("text before the subsets");
    let text = format!("{head}  subsets: {{{subsets}}}\n  split: {{s0: 1}}\n");
    assert!(codes(text).contains(&"SP0609"));
    let list = backends.join(", ");
    let text = format!("{head}  subsets: {{s: {{backends: [{list}]}}}}\n  split: {{s: 1}}\n");
    assert_eq!(codes(text), ["SP0610"]);
}

#[test]
fn as_many_egress_documents_as_the_kernel_has_rules() {
    let document = |n| {
        format!(
            "apiVersion: splitter.dev/v1\nkind: Egress\nmetadata: {{name: e{n}}}\n\
             spec: {{mode: allowAny, clients: [{{cgroup: /c{n}}}]}}\n---\n"
        )
    };
    let documents = |n| (0..n).map(document).collect::<String>();
    assert!(codes(documents(256)).is_empty());
    let problems = diagnostics(&[source("-", documents(257))]);
    let places: Vec<_> = problems.iter().map(|d| (d.code, d.primary.line)).collect();
    assert_eq!(places, [("SP0932", 256 * 5 + 3)]);
}

#[test]
fn rules_hold_across_sources() {
    let sources = [
        source("one.yaml", good("web", 1)),
        source("two.yaml", good("web", 2)),
        source("three.yaml", good("cart", 1)),
        source("four.yaml", "a: [\n"),
    ];
    let problems = diagnostics(&sources);
    let found: Vec<_> = problems.iter().map(|d| (d.primary.source, d.code)).collect();
    assert_eq!(found, [(1, "SP0601"), (2, "SP0602"), (3, "SP0105")]);
    let text = render(&problems, &sources, false);
    assert!(text.contains("two.yaml:3:18") && text.contains("one.yaml:3:18"), "{text}");
}

#[test]
fn long_lines_are_not_shown() {
    let text = format!("{{{}kind: Spilt}}", "a: 1, ".repeat(50_000));
    let sources = [source("-", text)];
    let text = render(&diagnostics(&sources), &sources, false);
    assert!(text.contains("-:1:300008") && text.len() < 500, "{text}");
}

#[test]
fn terminals_are_safe_from_names() {
    let sources = [source("evil\u{1b}[31m.yaml", "kind: \"a\\e[31mb\"\n")];
    let text = render(&diagnostics(&sources), &sources, false);
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn diagnostics_serialize() {
    let json = serde_json::to_value(diagnostics(&[source("-", "kind: Spilt\n")])).expect("plain");
    assert_eq!(json[0]["severity"], "error");
    assert_eq!(json[0]["code"], "SP0205");
    assert_eq!(json[0]["primary"]["line"], 1);
}

/// A service without problems.
fn good(name: &str, address: u8) -> String {
    format!(
        "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: {name}}}\nspec:\n  \
         frontends: [\"127.10.0.{address}:8080\"]\n  subsets:\n    \
         v1: {{backends: [\"127.0.0.1:9001\"]}}\n  split: {{v1: 1}}\n"
    )
}
