//! `docs/maps.md` describes `abi.rs` and its submodules: it names the hash of the text that it was last
//! held against.

use std::fs;

use anyhow::{Context as _, Result, bail};

use super::Finding;
use super::files::File;
use crate::workspace;

const ABI: &str = "splitter-common/src/abi.rs";
/// The rest of the types and numbers.
const REST: [&str; 2] = ["splitter-common/src/abi/life.rs", "splitter-common/src/abi/reason.rs"];
const DOCUMENT: &str = "docs/maps.md";
/// Begins the line with the hash.
const LABEL: &str = "abi.rs: ";

/// Finds a document that describes another `abi.rs`.
pub(super) fn check(files: &[File]) -> Option<Finding> {
    let text = |path| files.iter().find(|file| file.path == path).map(|file| &file.text);
    let rest: String = REST.into_iter().filter_map(text).map(String::as_str).collect();
    let expected = expected_line(&format!("{}{rest}", text(ABI)?));
    let (line, rule) = match text(DOCUMENT) {
        None => (1, format!("missing; it describes {ABI}")),
        Some(document) if document.lines().any(|line| line == expected) => return None,
        Some(document) => {
            let rule = format!(
                "{ABI} changed: bring this page up to date, then run `cargo xtask tidy --bless` \
                 (which makes the line `{expected}`)"
            );
            (document.lines().position(|line| line.starts_with(LABEL)).unwrap_or(0) + 1, rule)
        }
    };
    Some(Finding { path: DOCUMENT.to_owned(), line, rule })
}

/// Writes the hash of `abi.rs` into the document.
pub(super) fn bless() -> Result<()> {
    let read =
        |path| fs::read_to_string(workspace::path(path)).with_context(|| format!("read {path}"));
    let rest = REST.into_iter().map(read).collect::<Result<String>>()?;
    let expected = expected_line(&format!("{}{rest}", read(ABI)?));
    let document = read(DOCUMENT)?;
    let Some(old) = document.lines().find(|line| line.starts_with(LABEL)) else {
        bail!("{DOCUMENT} has no line that begins with `{LABEL}`; add one");
    };
    let blessed = document.replacen(old, &expected, 1);
    fs::write(workspace::path(DOCUMENT), blessed).with_context(|| format!("write {DOCUMENT}"))
}

fn expected_line(abi: &str) -> String {
    format!("{LABEL}{:016x}", fnv1a(abi.as_bytes()))
}

/// FNV-1a, 64 bits: nobody tries to cheat here, and it is stable for ever.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_document_of_another_text_is_found_where_its_hash_stands() {
        let good = format!("# Maps\n\n{}\n", expected_line("x"));
        assert_eq!(check(&[file(ABI, "x"), file(DOCUMENT, &good)]), None);
        let finding = check(&[file(ABI, "y"), file(DOCUMENT, &good)]).unwrap();
        assert_eq!((finding.path.as_str(), finding.line), (DOCUMENT, 3));
        assert_eq!(check(&[file(ABI, "y")]).unwrap().path, DOCUMENT);
    }
}
