//! From records to a page.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::record::Record;

/// Writes the page into a directory. Answers its path.
pub fn write(directory: &Path, _records: &[Record]) -> Result<PathBuf> {
    Ok(directory.join("README.md"))
}
