//! The policy files that the daemon follows.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::show;
use crate::policy::{Reading, Source};

/// The files that a policy path stands for: itself, or, for a directory, its `*.yaml` and `*.yml`
/// that are not hidden, in the order of their names.
pub(crate) fn policy_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for file in policy_names(path)? {
        // Through symlinks: that is how orchestrators swap whole sets of files.
        match fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() => files.push(file),
            Ok(_) => {}
            Err(error) if is_gone(&file, &error) => {}
            // Left out, its services would be removed.
            Err(error) => {
                let text = format!("{}: {error}", file.display());
                return Err(io::Error::new(error.kind(), text));
            }
        }
    }
    Ok(files)
}

/// Whether a file was removed after its directory was read. A dangling link is still there.
fn is_gone(file: &Path, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound && !file.is_symlink()
}

/// What is called like a policy in a directory, whatever it is, in the order of the names.
fn policy_names(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.path());
    }
    names.retain(|path| is_policy_name(path));
    names.sort();
    Ok(names)
}

fn is_policy_name(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml"))
}

/// Tells one state of the files from another without reading them.
pub(crate) type Fingerprint = Vec<(PathBuf, Option<[i64; 5]>)>;

/// The paths given with `--policy`.
#[derive(Clone, Debug)]
pub(crate) struct PolicyFiles {
    paths: Vec<PathBuf>,
    reading: Reading,
}

impl PolicyFiles {
    /// Follows these files and directories.
    pub(crate) fn new(paths: Vec<PathBuf>, reading: Reading) -> Self {
        Self { paths, reading }
    }

    /// Whether there is anything to follow.
    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The paths as they were given.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Reads every file. The first that cannot be read fails it, named.
    pub(crate) fn read(&self) -> Result<Vec<Source>, String> {
        let fail = |path: &Path, error: &io::Error| {
            let missing =
                missing_directory(path).filter(|_| error.kind() == io::ErrorKind::NotFound);
            let missing = missing.map(|it| format!("; there is no directory {}", it.display()));
            format!("read the policy {}: {error}{}", path.display(), missing.unwrap_or_default())
        };
        let mut sources = Vec::new();
        for path in &self.paths {
            for file in policy_files(path).map_err(|error| fail(path, &error))? {
                let bytes = fs::read(&file).map_err(|error| fail(&file, &error))?;
                let reading = self.reading.clone();
                sources.push(Source { name: show(&file), bytes, reading });
            }
        }
        Ok(sources)
    }

    /// Inode, size and times of every file.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let files = self
            .paths
            .iter()
            .flat_map(|path| policy_names(path).unwrap_or_else(|_| vec![path.clone()]));
        files
            .map(|file| {
                let state = file_state(&file);
                (file, state)
            })
            .collect()
    }

    /// Directories in which a change may change the policy, with their inodes: those of the
    /// files, of symbolic links on the way to them, and of what those lead to. Where one does not
    /// exist yet, the nearest that does.
    pub(crate) fn directories(&self) -> BTreeMap<PathBuf, u64> {
        let mut directories = BTreeMap::new();
        let mut add = |path: PathBuf| {
            let here = |it: &Path| it.as_os_str().is_empty();
            let around = path.ancestors();
            let mut around = around.map(|it| if here(it) { Path::new(".") } else { it });
            let inode = |path: &Path| {
                let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_dir)?;
                Some((path.to_owned(), metadata.ino()))
            };
            let found = around.find_map(inode);
            directories.extend(found);
        };
        for path in &self.paths {
            add(path.clone());
            for file in std::iter::once(path.clone()).chain(policy_names(path).unwrap_or_default())
            {
                add(parent(&file));
                file.ancestors().filter(|a| a.is_symlink()).for_each(|link| add(parent(link)));
                if let Ok(target) = fs::canonicalize(&file) {
                    add(parent(&target));
                }
            }
        }
        directories
    }
}

/// The outermost directory that a path leads through and that does not exist.
fn missing_directory(path: &Path) -> Option<&Path> {
    path.ancestors().skip(1).filter(|it| !it.as_os_str().is_empty() && !it.exists()).last()
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn file_state(path: &Path) -> Option<[i64; 5]> {
    let metadata = fs::metadata(path).ok()?;
    let (inode, size) = (metadata.ino().cast_signed(), metadata.size().cast_signed());
    Some([inode, size, metadata.mtime(), metadata.mtime_nsec(), metadata.ctime_nsec()])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_directory_is_its_visible_policies_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", ".hidden.yaml", "a.yaml~", "notes.txt"] {
            write(&dir.path().join(name), "");
        }
        fs::create_dir(dir.path().join("dir.yaml")).unwrap();
        let files = policy_files(dir.path()).unwrap();
        assert_eq!(files, [dir.path().join("a.yml"), dir.path().join("b.yaml")]);
        assert!(policy_files(&dir.path().join("none")).is_err());
        symlink(dir.path().join("lost"), dir.path().join("c.yaml")).unwrap();
        let error = policy_files(dir.path()).unwrap_err().to_string();
        assert!(error.contains("c.yaml: No such file"), "{error}");
    }

    #[test]
    fn writes_renames_swapped_links_and_losses_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("one")).unwrap();
        fs::create_dir(at("two")).unwrap();
        write(&at("one/p.yaml"), "1");
        write(&at("two/p.yaml"), "2");
        symlink(at("one"), at("current")).unwrap();
        let files = PolicyFiles::new(vec![at("current/p.yaml")], Reading::default());
        let directories = files.directories();
        for watched in [fs::canonicalize(at("one")).unwrap(), dir.path().to_owned()] {
            assert!(directories.contains_key(&watched), "{}", watched.display());
        }
        let mut seen = files.fingerprint();
        let mut changed = |what: &str| {
            let now = files.fingerprint();
            assert_ne!(now, std::mem::replace(&mut seen, now.clone()), "{what}");
            assert_eq!(now, files.fingerprint(), "{what}");
        };
        write(&at("one/p.yaml"), "longer");
        changed("a write");
        write(&at("one/p.new"), "longer");
        fs::rename(at("one/p.new"), at("one/p.yaml")).unwrap();
        changed("a rename");
        symlink(at("two"), at("next")).unwrap();
        fs::rename(at("next"), at("current")).unwrap();
        changed("a swapped link");
        fs::remove_file(at("two/p.yaml")).unwrap();
        changed("a loss");
    }
}
