//! Dependencies: each stands once, with its version, in the root manifest, and somebody uses it.

use super::Finding;
use super::files::File;

const ROOT: &str = "Cargo.toml";

/// Members take all their dependencies from the root.
pub(super) fn check(file: &File) -> Vec<Finding> {
    if !file.is("/Cargo.toml") {
        return Vec::new();
    }
    let own =
        dependencies(file).into_iter().filter(|(_, entry)| !entry.contains("workspace = true"));
    own.map(|(number, _)| {
        file.finding(
            number,
            "versions stand in the root manifest; take it with `.workspace = true`",
        )
    })
    .collect()
}

/// The root lists nothing that no member takes.
pub(super) fn check_unused(files: &[File]) -> Vec<Finding> {
    let members = files.iter().filter(|file| file.is("/Cargo.toml"));
    let used: Vec<_> = members.flat_map(dependencies).map(|(_, entry)| name(entry)).collect();
    let Some(root) = files.iter().find(|file| file.path == ROOT) else { return Vec::new() };
    let unused = dependencies(root).into_iter().filter(|(_, entry)| !used.contains(&name(entry)));
    unused
        .map(|(number, entry)| root.finding(number, format!("no member uses {}", name(entry))))
        .collect()
}

/// Lines that begin an entry of a table of dependencies.
fn dependencies(file: &File) -> Vec<(usize, &str)> {
    let mut in_table = false;
    let mut entries = Vec::new();
    for (number, line) in file.lines() {
        if line.starts_with('[') {
            in_table = line.trim_end().ends_with("dependencies]");
        } else if in_table && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            entries.push((number, line));
        }
    }
    entries
}

fn name(entry: &str) -> &str {
    entry.split(['.', '=', ' ']).next().unwrap_or(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_member_with_a_version_of_its_own_is_found() {
        let text = "[dependencies]\na.workspace = true\nb = \"1\"\n[dev-dependencies]\n\
             c = { workspace = true, features = [\"x\"] }\nd = { path = \"../d\" }\n";
        let lines: Vec<_> = check(&manifest("m/Cargo.toml", text)).iter().map(|f| f.line).collect();
        assert_eq!(lines, [3, 6]);
    }

    #[test]
    fn an_entry_of_the_root_that_nobody_takes_is_found() {
        let files = [
            manifest(
                "Cargo.toml",
                "[workspace.dependencies]\na = \"1\"\nb-c = { version = \"2\" }\n",
            ),
            manifest("m/Cargo.toml", "[dependencies]\na.workspace = true\n"),
        ];
        assert_eq!(check_unused(&files), [files[0].finding(3, "no member uses b-c")]);
    }
}
