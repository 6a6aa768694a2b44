//! Documents of this form.

use super::document::Kind;

/// Kinds of this form.
pub(super) const KINDS: &[Kind] = &[];
