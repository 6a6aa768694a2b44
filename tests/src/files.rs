//! The repository's policies, embedded, so that the tests do not need the repository.

include!(concat!(env!("OUT_DIR"), "/policies.rs"));

/// A policy file.
#[derive(Clone, Copy, Debug)]
pub struct PolicyFile {
    /// Its name, without directories.
    pub name: &'static str,
    /// What is in it.
    pub bytes: &'static [u8],
}

/// `policies/*.yaml`.
pub fn policies() -> impl Iterator<Item = PolicyFile> {
    files(POLICIES_EMBEDDED)
}

/// `tests/bad-policies/*.yaml`. Those whose name begins with `warn-` load, with a warning.
pub fn bad_policies() -> impl Iterator<Item = PolicyFile> {
    files(BAD_POLICIES_EMBEDDED)
}

fn files(embedded: &'static [(&str, &[u8])]) -> impl Iterator<Item = PolicyFile> {
    embedded.iter().map(|(name, bytes)| PolicyFile { name, bytes })
}
