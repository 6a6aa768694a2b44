//! Tables of the fields of foreign forms, and what becomes of each.
//!
//! A foreign document has fields that mean nothing for one connection. Each has one of a few fates,
//! written once in the table of its object, so that no field is ignored by accident and a reader
//! can compare a table with the form's own reference.

use super::code::{self, Code};
use super::diagnostic::Diagnostic;
use super::reader::{Fields, Reader};
use super::words::quote;
use super::yaml::{NodeId, Value};

/// What becomes of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// It is read: its meaning is kept.
    Read,
    /// Accepted and without effect on connections: names for logs, what a server wrote.
    Inert,
    /// Reported with a code; the text is a way out.
    Refused(&'static Code, &'static str),
}

/// A field of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    /// Its key.
    pub(super) name: &'static str,
    /// What becomes of it.
    pub(super) fate: Fate,
}

/// A field that is read.
pub(super) const fn read(name: &'static str) -> Field {
    Field { name, fate: Fate::Read }
}

/// A field that has no effect on connections.
pub(super) const fn inert(name: &'static str) -> Field {
    Field { name, fate: Fate::Inert }
}

/// A match on what is not known when a connection is made.
pub(super) const fn unseen(name: &'static str, help: &'static str) -> Field {
    Field { name, fate: Fate::Refused(&code::L7_MATCH, help) }
}

/// An action that only a proxy can take.
pub(super) const fn proxied(name: &'static str, help: &'static str) -> Field {
    Field { name, fate: Fate::Refused(&code::L7_ACTION, help) }
}

/// A policy without a meaning for connections, which does not choose the backend.
pub(super) const fn meaningless(name: &'static str, help: &'static str) -> Field {
    Field { name, fate: Fate::Refused(&code::L7_POLICY, help) }
}

/// A field with another rule that it breaks.
pub(super) const fn refused(name: &'static str, code: &'static Code, help: &'static str) -> Field {
    Field { name, fate: Fate::Refused(code, help) }
}

impl<'a> Reader<'a> {
    /// A mapping whose keys are all in a table. Refused fields are reported; those that are read
    /// are in the answer. Keys without a value count as absent, as in Kubernetes.
    pub(super) fn object(
        &mut self,
        node: NodeId,
        what: &'static str,
        table: &'static [Field],
    ) -> Option<Fields<'a>> {
        let known: Vec<&'static str> = table.iter().map(|field| field.name).collect();
        let mut fields = self.fields(node, what, &known)?;
        fields.retain(|entry| !self.is_null(entry.value));
        for field in table {
            let Fate::Refused(code, help) = field.fate else { continue };
            let Some(entry) = fields.get(field.name) else { continue };
            if self.is_unset(entry.value) {
                continue;
            }
            let message = format!("{} of {what}: {}", quote(field.name), code.title);
            self.push(Diagnostic::new(code, entry.key, message).with_help(help));
        }
        let is_read = |name: &str| {
            table.iter().any(|field| field.name == name && matches!(field.fate, Fate::Read))
        };
        fields.retain(|entry| is_read(entry.name));
        Some(fields)
    }

    /// A mapping of which only some keys matter: the others, known or not, are their owner's affair.
    /// For what API servers write about objects that are not rules of traffic, where a closed table
    /// would refuse every new release. Keys without a value count as absent.
    pub(super) fn open_object(
        &mut self,
        node: NodeId,
        what: &'static str,
        keys: &[&str],
    ) -> Option<Fields<'a>> {
        let mut fields = self.open_fields(node, what)?;
        fields.retain(|entry| keys.contains(&entry.name) && !self.is_null(entry.value));
        Some(fields)
    }

    /// Whether a value is what protobuf writes for a field that nobody set.
    pub(super) fn is_unset(&self, node: NodeId) -> bool {
        match self.value(node) {
            Value::Sequence(items) => items.is_empty(),
            Value::Scalar(scalar) => matches!(scalar.text.as_ref(), "" | "false" | "0"),
            Value::Mapping(_) | Value::Invalid => false,
        }
    }
}
