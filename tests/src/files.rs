//! The policies of the repository.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use splitter_user::policy::Source;

/// A policy file.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// Its name, without directories.
    pub name: String,
    /// What is in it.
    pub text: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Files of `policies/` that are meant together, as its documents say.
#[derive(Clone, Debug)]
pub struct PolicySet {
    /// Path of the last file or directory, from `policies/`.
    pub name: String,
    /// What is applied, one after the other; documents replace those of earlier steps.
    pub steps: Vec<Vec<PolicyFile>>,
    /// Whether `--degrade` is needed.
    pub degrade: bool,
}

impl PolicySet {
    /// The files as sources of one load.
    pub fn sources(&self) -> Vec<Source> {
        let source = |(layer, file): (u32, &PolicyFile)| {
            let mut source = Source::new(file.name.clone(), file.text.clone());
            source.reading.layer = layer;
            source.reading.degrade = self.degrade;
            source
        };
        let steps = (0..).zip(&self.steps);
        let files = steps.flat_map(|(layer, files)| files.iter().map(move |file| (layer, file)));
        files.map(source).collect()
    }
}

/// Everything in `policies/`, each file in a set of its own with what it needs.
pub fn policy_sets() -> Result<Vec<PolicySet>> {
    let mut sets = Vec::new();
    for file in policies()? {
        sets.push(PolicySet { name: file.name.clone(), steps: vec![vec![file]], degrade: false });
    }
    let istio = "../policies/istio";
    let base = read(&format!("{istio}/registry"))?;
    for (folder, degrade) in [("rollout", false), ("resiliency", true)] {
        for file in read(&format!("{istio}/{folder}"))? {
            let name = format!("istio/{folder}/{}", file.name);
            sets.push(PolicySet { name, steps: vec![base.clone(), vec![file]], degrade });
        }
    }
    for file in read(istio)? {
        // A dump is complete; the others are about the registry.
        let needs = if file.name == "kubernetes-dump.yaml" { Vec::new() } else { base.clone() };
        let name = format!("istio/{}", file.name);
        let steps = [needs, vec![file]].into_iter().filter(|step| !step.is_empty()).collect();
        sets.push(PolicySet { name, steps, degrade: false });
    }
    let outbound = read(&format!("{istio}/outbound"))?;
    let name = "istio/outbound".to_owned();
    sets.push(PolicySet { name, steps: vec![outbound], degrade: false });
    sets.extend(gateway_sets()?);
    Ok(sets)
}

/// The routes of the Gateway API, all together and one by one.
fn gateway_sets() -> Result<Vec<PolicySet>> {
    let all = read("../policies/gateway-api")?;
    let (registry, routes): (Vec<_>, Vec<_>) =
        all.iter().cloned().partition(|file| file.name == "registry.yaml");
    let alone = routes.into_iter().map(|file| PolicySet {
        name: format!("gateway-api/{}", file.name),
        steps: vec![registry.clone(), vec![file]],
        degrade: false,
    });
    let mut sets: Vec<PolicySet> = alone.collect();
    sets.push(PolicySet { name: "gateway-api".to_owned(), steps: vec![all], degrade: false });
    Ok(sets)
}

/// The text of a file, by its path from this crate.
pub fn read_policy(path: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// `policies/*.yaml`.
pub fn policies() -> Result<Vec<PolicyFile>> {
    read("../policies")
}

/// `tests/bad-policies/*.yaml`. Those whose name begins with `warn-` load, with a warning.
pub fn bad_policies() -> Result<Vec<PolicyFile>> {
    read("bad-policies")
}

/// Every policy of a directory, sorted by name.
fn read(folder: &str) -> Result<Vec<PolicyFile>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let name = path.file_name().context("a file has a name")?.to_string_lossy();
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let name = name.into_owned();
            files.push(PolicyFile { name, text, path });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}
