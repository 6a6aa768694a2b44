//! The commands in the documents are true: every `splitter` command line of a fenced block is one
//! that the program understands, and those that need no daemon do what they say.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use splitter_user::cli;

const DOCUMENTS: [&str; 4] = ["README.md", "docs/policy.md", "docs/istio.md", "docs/operations.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A command line of a document.
struct Line {
    /// Where it stands.
    place: String,
    /// Its words, without the program.
    words: Vec<String>,
}

/// The command lines of all fenced blocks, whatever their language: `sh` blocks, unit files.
fn lines() -> Vec<Line> {
    let mut found = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root().join(document)).expect("the document exists");
        for (number, line) in fenced(&text) {
            let commands = line.split(['|', '&', ';']).filter_map(words_of_splitter);
            found.extend(
                commands.map(|words| Line { place: format!("{document}:{number}"), words }),
            );
        }
    }
    found
}

/// Lines of fenced blocks with their numbers; those that end in a backslash go on.
fn fenced(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let (mut is_open, mut goes_on) = (false, false);
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with("```") {
            (is_open, goes_on) = (!is_open, false);
        } else if is_open {
            let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
            match lines.last_mut().filter(|_| goes_on) {
                Some((_, whole)) => whole.push_str(part),
                None => lines.push((number, part.to_owned())),
            }
            goes_on = more;
        }
    }
    assert!(!is_open, "a fenced block is not closed");
    lines
}

/// The words behind the program where it is `splitter`, by whatever path.
fn words_of_splitter(command: &str) -> Option<Vec<String>> {
    let command = command.trim_start().trim_start_matches("ExecStart=").trim_start_matches("$ ");
    let mut words = command.split_whitespace();
    let program = words.next()?;
    let is_ours = program == "splitter" || program.ends_with("/splitter");
    // A quoted variable is one word, and so is what it stands for.
    is_ours.then(|| words.map(|word| word.trim_matches('"').to_owned()).collect())
}

#[test]
fn every_command_is_understood() {
    let lines = lines();
    assert!(lines.len() >= 8, "only {} commands", lines.len());
    for Line { place, words } in lines {
        let arguments = ["splitter".to_owned()].into_iter().chain(with_known_groups(words));
        if let Err(error) = cli::command().try_get_matches_from(arguments) {
            panic!("{place}: {error}");
        }
    }
}

/// Groups that a document tells to make are not on this machine; `root` is on all.
fn with_known_groups(mut words: Vec<String>) -> Vec<String> {
    for i in 1..words.len() {
        if matches!(&*words[i - 1], "--admin-group" | "--read-group") {
            "root".clone_into(&mut words[i]);
        }
    }
    words
}

/// Whether a command asks for files of this repository and for no daemon.
fn is_offline(words: &[String]) -> bool {
    let [verb, rest @ ..] = words else { return false };
    let n_policies = rest.iter().filter(|word| word.starts_with("policies/")).count();
    match verb.as_str() {
        "check" | "simulate" | "explain" | "get" | "hosts" => n_policies > 0,
        "diff" => n_policies == 2,
        _ => false,
    }
}

#[test]
fn commands_without_a_daemon_run() {
    let lines: Vec<Line> = lines().into_iter().filter(|line| is_offline(&line.words)).collect();
    assert!(lines.len() >= 3, "only {} commands", lines.len());
    for Line { place, words } in lines {
        let mut splitter = Command::new(env!("CARGO_BIN_EXE_splitter"));
        let output = splitter.current_dir(root()).args(&words).output().expect("the program runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        // As that of diff(1), the status of `diff` says whether anything differs.
        let is_fine = output.status.success() || (words[0] == "diff" && complaint.is_empty());
        assert!(is_fine, "{place}: splitter {}\n{complaint}", words.join(" "));
    }
}

#[test]
fn what_the_readme_shows_of_simulate_is_what_it_prints() {
    let text = fs::read_to_string(root().join("README.md")).expect("README.md exists");
    let lines = lines().into_iter();
    let words = lines.map(|line| line.words).find(|words| words[0] == "simulate");
    let words = words.expect("README.md has a simulation");
    let mut splitter = Command::new(env!("CARGO_BIN_EXE_splitter"));
    let output = splitter.current_dir(root()).args(&words).output().expect("the program runs");
    let shown = String::from_utf8(output.stdout).expect("text");
    // The document shows the beginning.
    let mut blocks = text.split("```text\n").skip(1).filter_map(|rest| rest.split("```").next());
    let is_shown = blocks.any(|block| shown.starts_with(block));
    assert!(is_shown, "README.md does not show this:\n{shown}");
}

#[test]
fn commands_are_found_in_every_form() {
    let text = "splitter no\n```sh\ntarget/release/splitter run --cgroup \"$c\" \\\n  --state-dir /s &\n\
                ExecStart=/bin/splitter get\nmount | grep x\n```\n";
    let found: Vec<_> =
        fenced(text).iter().filter_map(|(n, line)| Some((*n, words_of_splitter(line)?))).collect();
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(found, [(3, words("run --cgroup $c --state-dir /s &")), (5, words("get"))]);
}
