//! From records to a page with plots.

mod figures;
mod goals;
mod tables;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::benches::ALL;
use crate::record::Record;

#[cfg(test)]
pub(crate) use goals::tests::record as record_of;
pub(crate) use text::number;

/// Writes the page and its plots into a directory. Answers the path of the page.
pub fn write(directory: &Path, records: &[Record]) -> Result<PathBuf> {
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let mut page = vec![text::INTRODUCTION.to_owned()];
    page.extend(records.first().map(text::machine));
    page.push(goals::section(records));
    for bench in ALL {
        let Some(record) = records.iter().find(|record| record.header.bench == bench.name) else {
            continue;
        };
        let mut parts = vec![format!("## {}\n", bench.title), format!("{}\n", bench.about)];
        parts.push(format!("`cargo xtask bench {}` measures it.\n", bench.name));
        for (name, title, svg) in figures::of(bench, record) {
            let path = directory.join(&name);
            fs::write(&path, svg).with_context(|| format!("write {}", path.display()))?;
            parts.push(format!("![{title}]({name})\n"));
        }
        parts.push(tables::of(bench, record));
        parts.push(text::notes(record));
        parts.retain(|part| !part.is_empty());
        page.push(parts.join("\n"));
    }
    page.push(text::disturbances(records));
    let path = directory.join("README.md");
    fs::write(&path, page.join("\n")).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Sample;

    #[test]
    fn a_page_has_a_part_for_every_bench_that_ran() {
        let directory = tempfile::tempdir().unwrap();
        let sample = |arm: &str, round, value| Sample {
            case: String::new(),
            arm: arm.to_owned(),
            metric: "connect".to_owned(),
            unit: "ns".to_owned(),
            sitting: 0,
            round,
            value,
        };
        let samples =
            (0..9).flat_map(|n| [sample("empty program", n, 800.0), sample("matched", n, 840.0)]);
        let path = write(directory.path(), &[record_of("udp-connect", samples.collect())]).unwrap();
        let page = fs::read_to_string(path).unwrap();
        assert!(page.contains("## One connect() at the hook"), "{page}");
        assert!(page.contains("| matched | 840 | 1.050 (1.050 to 1.050) |"), "{page}");
        assert!(page.contains("(udp-connect.svg)"), "{page}");
        assert!(directory.path().join("udp-connect.svg").is_file());
    }
}
