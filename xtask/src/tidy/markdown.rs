//! Links in Markdown that point into the repository.

use std::path::Path;

use super::Finding;
use super::files::File;
use crate::workspace;

pub(super) fn check(file: &File) -> Vec<Finding> {
    if !file.is(".md") {
        return Vec::new();
    }
    let directory = workspace::path(&file.path);
    let directory = directory.parent().unwrap_or(workspace::root());
    let dead = links(file).into_iter().filter(|(_, target)| !exists(directory, target));
    dead.map(|(number, target)| file.finding(number, format!("no such file: {target}"))).collect()
}

fn exists(directory: &Path, target: &str) -> bool {
    match target.strip_prefix('/') {
        Some(from_root) => workspace::path(from_root).exists(),
        None => directory.join(target).exists(),
    }
}

/// Targets of links to files, without the part after `#`. Blocks of code have none.
fn links(file: &File) -> Vec<(usize, &str)> {
    let mut in_code = false;
    let mut links = Vec::new();
    for (number, line) in file.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if !in_code {
            let targets =
                line.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next());
            let local = targets.filter(|to| !to.is_empty() && !to.contains(':'));
            links.extend(local.map(|target| (number, target)));
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_files_are_found_outside_of_code() {
        let text = "[a](b.md) and [c](d/e.md#f)\n[g](https://h/i.md) [j](#k)\n```\n[l](m)\n```\n";
        let file = File { path: "x.md".to_owned(), text: text.to_owned() };
        assert_eq!(links(&file), [(1, "b.md"), (1, "d/e.md")]);
    }
}
