//! Reading typed values out of a tree.
//!
//! Every method answers `None` after it has reported why, so that callers go on with what is next
//! and one load finds every problem. Nothing here knows what the keys of a policy are.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::address::{self, Fault};
use super::code;
use super::diagnostic::{Diagnostic, Report, Span};
use super::model::{Frontend, Protocol};
use super::scalar::{self, Meaning};
use super::words::{self, NAME_RULE, nearest, quote, suggest};
use super::yaml::{NodeId, Scalar, Tree, Value};

/// A tree and where to report what is wrong with it.
pub(super) struct Reader<'a> {
    tree: &'a Tree<'a>,
    report: &'a mut Report,
}

/// A key and its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) key: Span,
    pub(super) value: NodeId,
}

/// The entries of a mapping with a fixed set of keys.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    at: Span,
    what: &'static str,
    entries: Vec<Entry<'a>>,
    /// Keys that others were probably meant to be; `None` for one that could be any.
    meant: Vec<Option<&'static str>>,
    /// Whether some keys were wrong in any way.
    refused: bool,
}

/// Finds earlier entries by name: by looking at all of them while they are few, as nearly always.
#[derive(Default)]
struct Seen<'a>(HashMap<&'a str, Span>);

impl<'a> Seen<'a> {
    const FEW: usize = 16;

    fn find(&mut self, entries: &[Entry<'a>], name: &str) -> Option<Span> {
        if entries.len() < Self::FEW {
            return entries.iter().find(|entry| entry.name == name).map(|entry| entry.key);
        }
        let unseen = entries.iter().skip(self.0.len());
        self.0.extend(unseen.map(|entry| (entry.name, entry.key)));
        self.0.get(name).copied()
    }
}

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<Entry<'a>> {
        self.entries.iter().find(|entry| entry.name == name).copied()
    }

    pub(super) fn value(&self, name: &str) -> Option<NodeId> {
        self.get(name).map(|entry| entry.value)
    }

    /// Forgets the entries that do not pass.
    pub(super) fn retain(&mut self, keep: impl Fn(&Entry<'a>) -> bool) {
        self.entries.retain(keep);
    }

    /// Whether a wrong key was probably meant to be one of `names`, and saying that those are
    /// missing would be a second message about one mistake.
    pub(super) fn may_mean(&self, names: &[&str]) -> bool {
        self.meant.iter().any(|meant| meant.is_none_or(|meant| names.contains(&meant)))
    }

    /// Whether none of the known keys is there.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether keys were refused.
    pub(super) fn has_unknown(&self) -> bool {
        self.refused
    }

    /// Where the mapping begins.
    pub(super) fn span(&self) -> Span {
        self.at
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(tree: &'a Tree<'a>, report: &'a mut Report) -> Self {
        Self { tree, report }
    }

    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        self.report.push(diagnostic);
    }

    /// What `read` answers, and whether it found no error but such as can be degraded.
    pub(super) fn watch<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> (T, bool) {
        let before = self.report.failures();
        let value = read(self);
        (value, self.report.failures() == before)
    }

    pub(super) fn span(&self, node: NodeId) -> Span {
        self.tree.span(node)
    }

    pub(super) fn value(&self, node: NodeId) -> Value<'a> {
        self.tree.value(node)
    }

    pub(super) fn is_null(&self, node: NodeId) -> bool {
        matches!(self.value(node), Value::Scalar(scalar) if scalar.meaning() == Meaning::Null)
    }

    /// The value of a key of a mapping that has it, without any check.
    pub(super) fn peek(&self, node: NodeId, name: &str) -> Option<NodeId> {
        let Value::Mapping(children) = self.value(node) else { return None };
        let mut pairs = children.chunks_exact(2);
        pairs.find_map(|pair| match (self.value(*pair.first()?), pair.last()) {
            (Value::Scalar(key), Some(value)) if key.text == name => Some(*value),
            _ => None,
        })
    }

    /// The text of a scalar, without any check.
    pub(super) fn text(&self, node: NodeId) -> Option<&'a str> {
        match self.value(node) {
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// A mapping whose keys are all in `known`; `what` names it, with its article.
    pub(super) fn fields(
        &mut self,
        node: NodeId,
        what: &'static str,
        known: &[&'static str],
    ) -> Option<Fields<'a>> {
        let all = self.entries(node, what)?;
        let Value::Mapping(children) = self.value(node) else { return None };
        let is_opaque =
            |pair: &[NodeId]| pair.first().is_none_or(|key| self.key_text(*key).is_none());
        let mut meant = vec![None; usize::from(children.chunks_exact(2).any(is_opaque))];
        let mut refused = !meant.is_empty();
        let mut entries = Vec::with_capacity(all.len());
        for entry in all {
            if known.contains(&entry.name) {
                entries.push(entry);
            } else {
                refused = true;
                // Guesses are dear, and hostile text has keys by the million.
                if !self.report.is_full() {
                    self.unknown_key(entry, what, known);
                    meant.extend(nearest(entry.name, known.iter().copied()).map(Some));
                }
            }
        }
        Some(Fields { at: self.span(node), what, entries, meant, refused })
    }

    /// A mapping with keys of any name; `what` names it, with its article.
    pub(super) fn open_fields(&mut self, node: NodeId, what: &'static str) -> Option<Fields<'a>> {
        let entries = self.entries(node, what)?;
        Some(Fields { at: self.span(node), what, entries, meant: Vec::new(), refused: false })
    }

    fn unknown_key(&mut self, entry: Entry<'_>, what: &str, known: &[&str]) {
        let message = format!("unknown key {} in {what}", quote(entry.name));
        let help = match known {
            [] => "there are no keys here: write `{}`".to_owned(),
            _ => suggest(entry.name, known, "the keys here are"),
        };
        self.push(Diagnostic::new(&code::UNKNOWN_KEY, entry.key, message).with_help(help));
    }

    /// A mapping with keys of the user's choice; of duplicates, the first.
    pub(super) fn entries(&mut self, node: NodeId, what: &str) -> Option<Vec<Entry<'a>>> {
        let Value::Mapping(children) = self.value(node) else {
            return self.wrong_type(node, what, "a mapping", "write `key: value` lines below it");
        };
        let mut entries: Vec<Entry<'a>> = Vec::with_capacity(children.len() / 2);
        let mut seen = Seen::default();
        for pair in children.chunks_exact(2) {
            let &[key, value] = pair else { continue };
            let Some(name) = self.key(key, what) else { continue };
            let key = self.span(key);
            match seen.find(&entries, name) {
                Some(first) => self.duplicate_key(name, key, first),
                None => entries.push(Entry { name, key, value }),
            }
        }
        Some(entries)
    }

    /// A key that is a string, and not the merge key.
    fn key_text(&self, key: NodeId) -> Option<&'a str> {
        let Value::Scalar(scalar) = self.value(key) else { return None };
        let is_string = scalar.meaning() == Meaning::Text && !scalar.is_merge();
        is_string.then_some(scalar.text.as_ref())
    }

    fn key(&mut self, key: NodeId, what: &str) -> Option<&'a str> {
        let text = self.key_text(key);
        if text.is_none() {
            self.refuse_key(key, what);
        }
        text
    }

    fn refuse_key(&mut self, key: NodeId, what: &str) {
        let at = self.span(key);
        match self.value(key) {
            Value::Scalar(scalar) if scalar.is_merge() => {
                let help = "write the keys out, or repeat a whole value with an alias (`*name`)";
                self.push(
                    Diagnostic::new(&code::MERGE_KEY, at, "merge keys are not supported")
                        .with_help(help),
                );
            }
            Value::Invalid => {}
            value => {
                let found = self.describe(key);
                let message = format!("a key of {what} is a string, not {found}");
                let help = match value {
                    Value::Scalar(_) => "put the key into quotes",
                    _ => {
                        "brackets and braces begin lists and mappings in YAML: put an IPv6 address \
                         into quotes, \"[::1]:80\""
                    }
                };
                self.push(Diagnostic::new(&code::KEY_NOT_STRING, at, message).with_help(help));
            }
        }
    }

    fn duplicate_key(&mut self, name: &str, at: Span, first: Span) {
        let message = format!("the key {} appears twice", quote(name));
        self.push(
            Diagnostic::new(&code::DUPLICATE_KEY, at, message)
                .with_label("again here")
                .with_secondary(first, "first here")
                .with_help("delete one of the two, or rename it"),
        );
    }

    /// The value of a key that must be there.
    pub(super) fn required(
        &mut self,
        fields: &Fields<'_>,
        name: &'static str,
        help: &str,
    ) -> Option<NodeId> {
        let value = fields.value(name);
        if value.is_none() && !fields.may_mean(&[name]) {
            let message = format!("{} has no `{name}`", fields.what);
            self.push(
                Diagnostic::new(&code::MISSING_KEY, fields.at, message)
                    .with_label(format!("`{name}` is missing here"))
                    .with_help(help),
            );
        }
        value
    }

    /// A list; `example` is shown where it is none.
    pub(super) fn list(&mut self, node: NodeId, what: &str, example: &str) -> Option<&'a [NodeId]> {
        match self.value(node) {
            Value::Sequence(items) => Some(items),
            _ => self.wrong_type(node, what, "a list", example),
        }
    }

    /// Says that a list or mapping needs an entry.
    pub(super) fn empty(&mut self, at: Span, what: &str, help: &str) {
        let message = format!("{what} is empty");
        self.push(Diagnostic::new(&code::EMPTY, at, message).with_help(help));
    }

    pub(super) fn string(&mut self, node: NodeId, what: &str) -> Option<&'a str> {
        match self.value(node) {
            Value::Scalar(scalar) if scalar.meaning() == Meaning::Text => Some(&scalar.text),
            Value::Scalar(scalar) if scalar.meaning() != Meaning::Null => {
                let help = format!("put it into quotes: \"{:.60}\"", scalar.text);
                self.wrong_type(node, what, "a string", &help)
            }
            _ => self.wrong_type(node, what, "a string", "write a string"),
        }
    }

    pub(super) fn boolean(&mut self, node: NodeId, what: &str) -> Option<bool> {
        let help = match self.value(node) {
            Value::Scalar(scalar) => match scalar.meaning() {
                Meaning::Bool(value) => return Some(value),
                _ => scalar::boolean_help(&scalar.text),
            },
            _ => scalar::boolean_help(""),
        };
        self.wrong_type(node, what, "`true` or `false`", help)
    }

    pub(super) fn number(&mut self, node: NodeId, what: &str) -> Option<u32> {
        let Value::Scalar(scalar) = self.value(node) else {
            return self.wrong_type(node, what, "a whole number", "write a number such as 80");
        };
        match scalar::whole(scalar) {
            Ok(number) => Some(number),
            Err(fault) => {
                let at = self.span(node);
                let message = format!("{what} {}", fault.message);
                self.push(Diagnostic::new(fault.code, at, message).with_help(fault.help));
                None
            }
        }
    }

    /// One of a fixed set of words.
    pub(super) fn word<T: Copy>(
        &mut self,
        node: NodeId,
        what: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let known: Vec<&str> = words.iter().map(|(known, _)| *known).collect();
        let word = match self.value(node) {
            Value::Scalar(scalar) if scalar.meaning() == Meaning::Text => scalar.text.as_ref(),
            // In quotes it would be none of the words either.
            _ => {
                let help = format!("the words here are: {}", words::list(&known));
                return self.wrong_type(node, what, "a word", &help);
            }
        };
        if let Some((_, value)) = words.iter().find(|(known, _)| *known == word) {
            return Some(*value);
        }
        let message = format!("{} is not {what}", quote(word));
        let help = suggest(word, &known, "the words here are");
        let at = self.span(node);
        self.push(Diagnostic::new(&code::UNKNOWN_WORD, at, message).with_help(help));
        None
    }

    /// A string that keeps the rule for names; `what` is what it names.
    pub(super) fn name(&mut self, node: NodeId, what: &str) -> Option<&'a str> {
        let name = self.string(node, &format!("the name of {what}"))?;
        self.check_name(name, self.span(node), what).then_some(name)
    }

    /// Reports a name that breaks the rule.
    pub(super) fn check_name(&mut self, name: &str, at: Span, what: &str) -> bool {
        let is_good = words::is_name(name);
        if !is_good {
            let message = format!("{} is not a name for {what}", quote(name));
            self.push(Diagnostic::new(&code::BAD_NAME, at, message).with_help(NAME_RULE));
        }
        is_good
    }

    pub(super) fn frontend(&mut self, node: NodeId) -> Option<Frontend> {
        let text = self.string(node, "a frontend")?;
        self.address(node, address::parse_frontend(text))
    }

    pub(super) fn backend(&mut self, node: NodeId) -> Option<SocketAddr> {
        let text = self.string(node, "a backend")?;
        self.address(node, address::parse_backend(text))
    }

    pub(super) fn ip(&mut self, node: NodeId) -> Option<IpAddr> {
        let text = self.string(node, "an address")?;
        self.address(node, address::parse_ip(text))
    }

    pub(super) fn protocol(&mut self, node: NodeId) -> Option<Protocol> {
        let text = self.string(node, "a protocol")?;
        self.address(node, address::parse_protocol(text))
    }

    pub(super) fn port(&mut self, node: NodeId) -> Option<u16> {
        // Quoted or not, the port's own rule has the better message.
        let Value::Scalar(Scalar { text, quoted: false }) = self.value(node) else {
            self.number(node, "a port")?;
            return None;
        };
        self.address(node, address::parse_port(text))
    }

    fn address<T>(&mut self, node: NodeId, parsed: Result<T, Fault>) -> Option<T> {
        parsed
            .map_err(|fault| {
                let at = self.span(node);
                self.push(Diagnostic::new(fault.code, at, fault.message).with_help(fault.help));
            })
            .ok()
    }

    /// Reports that `what` should be `expected`; always `None`, for callers to return.
    pub(super) fn wrong_type<T>(
        &mut self,
        node: NodeId,
        what: &str,
        expected: &str,
        help: &str,
    ) -> Option<T> {
        if !matches!(self.value(node), Value::Invalid) {
            let message = format!("{what} is {expected}, not {}", self.describe(node));
            let at = self.span(node);
            self.push(Diagnostic::new(&code::WRONG_TYPE, at, message).with_help(help));
        }
        None
    }

    fn describe(&self, node: NodeId) -> String {
        match self.value(node) {
            Value::Scalar(scalar) => scalar::describe(scalar),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
            Value::Invalid => "nothing".to_owned(),
        }
    }
}
