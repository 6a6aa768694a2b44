//! What documents of Istio, Kubernetes and the Gateway API come to, case by case.
//!
//! `tests/mesh/NAME.yaml` is a stream of documents whose first line is a comment that says what the
//! case shows. `NAME.out` is what loading it gives: the services as canonical native YAML, the lines
//! for `/etc/hosts`, the names to be looked up, and what is said about it. `UPDATE_EXPECT=1`
//! rewrites the latter. Every policy is also loaded again from its native text, and both have to
//! compile to the same images.
//!
//! More comments at the beginning mean something: `# answers: NAME=ADDRESS,ADDRESS ...` is what a
//! resolver said, `# vips: RANGE` is where addresses for hosts are taken from, and `# degrade` loads
//! what is not enforced yet.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use splitter_user::compile::Compiler;
use splitter_user::compile::image::ServiceImage;
use splitter_user::policy::diagnostic::render;
use splitter_user::policy::model::Policy;
use splitter_user::policy::native::policy_to_yaml;
use splitter_user::policy::{Loaded, Source, Surroundings, load, load_in};
use splitter_user::rehearsal::imagine_ids;

/// Fewer files than this mean that the folder was not found, or lost its contents.
const FEWEST: usize = 60;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/mesh")
}

#[test]
fn documents_come_to_what_is_expected() {
    let entries = fs::read_dir(folder()).expect("tests/mesh exists");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(files.len() >= FEWEST, "only {} files in {}", files.len(), folder().display());
    let failures: Vec<String> = files.iter().filter_map(|path| check_file(path)).collect();
    assert!(failures.is_empty(), "{}\nUPDATE_EXPECT=1 accepts the change", failures.join("\n"));
}

#[test]
fn expectations_belong_to_documents() {
    for entry in fs::read_dir(folder()).expect("tests/mesh exists") {
        let path = entry.expect("readable").path();
        assert!(path.with_extension("yaml").exists(), "{} expects nothing", path.display());
    }
}

/// What differs from the expectation, if anything does.
fn check_file(path: &Path) -> Option<String> {
    let name = path.file_name().expect("a file").to_string_lossy().into_owned();
    let text = fs::read_to_string(path).expect("readable");
    assert!(text.starts_with("# "), "{name} does not say what it shows");
    let mut source = Source::new(&name, text.clone());
    source.reading.degrade = text.lines().any(|line| line == "# degrade");
    let sources = [source];
    let (actual, diagnostics) = match load_in(&sources, &surroundings(&text)) {
        Ok(loaded) => {
            check_native(&name, &loaded);
            (describe(&loaded), loaded.warnings)
        }
        Err(diagnostics) => (String::new(), diagnostics),
    };
    let actual = actual + &render(&diagnostics, &sources, false);
    let expected = path.with_extension("out");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&expected, &actual).expect("writable");
    }
    let wanted = fs::read_to_string(&expected).unwrap_or_default();
    (actual != wanted).then(|| format!("{name}:\n{actual}instead of\n{wanted}"))
}

/// What the comments of a case say of the world.
fn surroundings(text: &str) -> Surroundings {
    let said = |mark: &'static str| text.lines().filter_map(move |line| line.strip_prefix(mark));
    let answer = |word: &str| {
        let (name, addresses) = word.split_once('=').expect("NAME=ADDRESS,ADDRESS");
        let addresses = addresses.split(',').map(|ip| ip.parse().expect("an address"));
        (name.to_owned(), addresses.collect())
    };
    let words = said("# answers:").flat_map(str::split_whitespace);
    let answers: BTreeMap<_, _> = words.map(answer).collect();
    let mut surroundings = Surroundings { answers, ..Surroundings::default() };
    for range in said("# vips: ") {
        surroundings.vips.ranges.v4 = range.parse().expect("a range");
    }
    surroundings
}

fn describe(loaded: &Loaded) -> String {
    let mut text = policy_to_yaml(&loaded.policy);
    text.push_str("hosts:\n");
    for host in &loaded.hosts {
        let allocated = if host.allocated { " (allocated)" } else { "" };
        let names = host.names.join(" ");
        writeln!(text, "  {} {names}{allocated}", host.address).expect("text takes everything");
    }
    if !loaded.lookups.is_empty() {
        writeln!(text, "lookups:\n  {}", loaded.lookups.join("\n  ")).expect("as above");
    }
    text
}

/// The native text of a policy is the same policy.
fn check_native(name: &str, loaded: &Loaded) {
    let text = policy_to_yaml(&loaded.policy);
    let source = Source::new(name, text.clone()).degraded();
    let native = match load(std::slice::from_ref(&source)) {
        Ok(native) => native,
        Err(found) => {
            let said = render(&found, &[source], false);
            panic!("{name}: the native text does not load:\n{said}\n{text}");
        }
    };
    assert_eq!(native.policy.outbound, loaded.policy.outbound, "{name}:\n{text}");
    assert_eq!(images(&native.policy), images(&loaded.policy), "{name}:\n{text}");
}

fn images(policy: &Policy) -> Vec<ServiceImage> {
    let mut compiler = Compiler::new(imagine_ids(policy, &[]));
    policy.services.iter().map(|service| compiler.compile(service).0).collect()
}
