//! What fields of several kinds have in common: names, labels, `exportTo`, and what is said where
//! two fields exclude each other or one is not enforced yet.

use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Span};
use crate::policy::mesh::resource::{At, Export, Labels};
use crate::policy::reader::{Entry, Fields, Reader};
use crate::policy::words::quote;
use crate::policy::yaml::NodeId;

/// Longest DNS label, and longest name or value of a label.
const MAX_LABEL: usize = 63;
/// Longest prefix of a label's name.
const MAX_PREFIX: usize = 253;
/// Largest number of protobuf's `int32`.
const MAX_INT32: u32 = i32::MAX.unsigned_abs();

impl Reader<'_> {
    /// Says that a field has no meaning for a connection.
    pub(super) fn meaningless(&mut self, entry: Entry<'_>, help: &str) {
        let message = format!("`{}` has no meaning for a connection", entry.name);
        self.push(Diagnostic::new(&code::L7_POLICY, entry.key, message).with_help(help));
    }

    /// Says that a field is deprecated.
    pub(super) fn deprecated(&mut self, entry: Entry<'_>, help: &str) {
        let message = format!("`{}` is deprecated", entry.name);
        self.push(Diagnostic::new(&code::DEPRECATED, entry.key, message).with_help(help));
    }

    /// Says that of two fields only one may be given, where both are.
    pub(super) fn exclude(&mut self, fields: &Fields<'_>, names: [&str; 2], help: &str) {
        let [Some(first), Some(second)] = names.map(|name| fields.get(name)) else { return };
        let message = format!("`{}` and `{}` exclude each other", first.name, second.name);
        self.push(
            Diagnostic::new(&code::EXCLUSIVE_KEYS, second.key, message)
                .with_secondary(first.key, "the other one")
                .with_help(help),
        );
    }

    /// Says that a number is out of its range.
    pub(super) fn out_of_range(&mut self, at: Span, message: impl Into<String>, help: &str) {
        self.push(Diagnostic::new(&code::OUT_OF_RANGE, at, message).with_help(help));
    }

    /// A number that protobuf keeps in an `int32`, and that is not negative.
    pub(super) fn int32(&mut self, node: NodeId, what: &str) -> Option<u32> {
        let number = self.number(node, what)?;
        if number > MAX_INT32 {
            let message = format!("{what} is at most {MAX_INT32}, and {number} is larger");
            self.out_of_range(self.span(node), message, "use a smaller number");
            return None;
        }
        Some(number)
    }

    /// A name of up to 63 characters of `a-z`, `0-9` and `-`.
    pub(super) fn dns_label(&mut self, node: NodeId, what: &str) -> Option<At<String>> {
        let name = self.string(node, &format!("the name of {what}"))?;
        let at = self.span(node);
        if is_dns_label(name) {
            return Some(At { value: name.to_owned(), at });
        }
        let message = format!("{} is not a name for {what}", quote(name));
        let help = "a name is 1 to 63 characters of a-z, 0-9 and `-`, and begins and ends with a \
                    letter or digit";
        self.push(Diagnostic::new(&code::BAD_NAME, at, message).with_help(help));
        None
    }

    /// Labels that keep the rules of Kubernetes for names and values; others are left out.
    pub(super) fn selector(&mut self, entry: Entry<'_>) -> Labels {
        let mut labels = self.labels(entry.value, entry.name);
        labels.retain(|name, value| {
            let problem = if !is_label_name(name) {
                "is not a name for a label"
            } else if !is_label_value(value) {
                "has a value that no label has"
            } else {
                return true;
            };
            let message = format!("{} in `{}` {problem}", quote(name), entry.name);
            let help = "names and values are up to 63 characters of a-z, A-Z, 0-9, `-`, `_` and \
                        `.`, and begin and end with a letter or digit; there are no wildcards";
            self.push(Diagnostic::new(&code::BAD_LABEL, entry.key, message).with_help(help));
            false
        });
        labels
    }

    /// `exportTo` of a document that is a rule: `~` has no meaning there. One with an error is
    /// taken for none, so that nothing else is said about who sees the document.
    pub(super) fn export_of_rule(&mut self, fields: &Fields<'_>, own: &str) -> Export {
        let Some(node) = fields.value("exportTo") else { return Export::All };
        let (export, is_good) = self.watch(|reader| {
            reader.check_export(node, own);
            reader.export(node, own)
        });
        if is_good { export } else { Export::All }
    }

    fn check_export(&mut self, node: NodeId, own: &str) {
        let entries = self.strings(node, "`exportTo`");
        let find = |word: &str| entries.iter().find(|entry| entry.value == word);
        if let Some(none) = find("~") {
            let message = "`~` in `exportTo` of a rule: nobody would see it";
            let help = "write `.` for the document's own namespace, or delete the document";
            self.push(Diagnostic::new(&code::UNKNOWN_WORD, none.at, message).with_help(help));
        }
        if let (Some(_), Some(named)) = (find("."), find(own)) {
            let message = format!("`.` in `exportTo` is {} already", quote(own));
            let diagnostic = Diagnostic::new(&code::DUPLICATE_ENTRY, named.at, message);
            self.push(diagnostic.with_help("delete one"));
        }
    }
}

fn is_dns_label(name: &str) -> bool {
    let is_edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.len() <= MAX_LABEL
        && bytes.first().is_some_and(is_edge)
        && bytes.last().is_some_and(is_edge)
        && bytes.iter().all(|byte| is_edge(byte) || *byte == b'-')
}

fn is_label_name(name: &str) -> bool {
    let (prefix, name) = name.split_once('/').unwrap_or(("prefix", name));
    let is_prefix = prefix.len() <= MAX_PREFIX && prefix.split('.').all(is_dns_label);
    is_prefix && !name.is_empty() && is_label_value(name)
}

fn is_label_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let is_edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= MAX_LABEL
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_labels() {
        for good in ["app", "a/b", "app.kubernetes.io/name", "A_b.c-d", &"a".repeat(63)] {
            assert!(is_label_name(good), "{good}");
        }
        for bad in ["", "/", "a/", "/a", "a/b/c", "-a", "a b", "*", "A.b/c", &"a".repeat(64)] {
            assert!(!is_label_name(bad), "{bad}");
        }
    }

    #[test]
    fn values_of_labels() {
        for good in ["", "v1", "1.0", "A_b-c"] {
            assert!(is_label_value(good), "{good}");
        }
        for bad in ["*", "v*", "-a", "a.", "a/b", &"a".repeat(64)] {
            assert!(!is_label_value(bad), "{bad}");
        }
    }
}
