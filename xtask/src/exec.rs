//! Running programs: the command is printed before it runs and stands whole in every error.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a command with this program's own output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", show(command));
    let status = command.status().with_context(|| unstartable(command))?;
    if !status.success() {
        bail!("`{}`: {status}", show(command));
    }
    Ok(())
}

/// Runs a command, quietly, for the text on its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let bytes = output_bytes(command)?;
    String::from_utf8(bytes).with_context(|| format!("output of `{}`", show(command)))
}

/// Runs a command, quietly, for the bytes on its standard output.
pub(crate) fn output_bytes(command: &mut Command) -> Result<Vec<u8>> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| unstartable(command))?;
    if !status.success() {
        bail!("`{}`: {status}\n{}", show(command), String::from_utf8_lossy(&stderr).trim_end());
    }
    Ok(stdout)
}

/// Whether a command runs and succeeds; its output is discarded.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command, prints its standard output as it comes, and hands each line to `on_line`.
pub(crate) fn watch(command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<ExitStatus> {
    println!("$ {}", show(command));
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| unstartable(command))?;
    let stdout = child.stdout.take().expect("stdout was just piped");
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.with_context(|| format!("output of `{}`", show(command)))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        on_line(&line);
    }
    child.wait().with_context(|| format!("end of `{}`", show(command)))
}

/// The command as one would type it, with the environment that was set for it.
pub(crate) fn show(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| {
        value.map(|value| format!("{}={}", name.to_string_lossy(), quote(value)))
    });
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quote);
    set.chain(words).collect::<Vec<_>>().join(" ")
}

/// Path of a program on `PATH` or where administrators' programs are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    env::split_paths(&path)
        .chain(cargo_home.or(home).map(|cargo| cargo.join("bin")))
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "'\"$;&|<>*".contains(c)) {
        format!("'{}'", word.replace('\'', r"'\''"))
    } else {
        word.into_owned()
    }
}

fn unstartable(command: &Command) -> String {
    format!("cannot start `{}`", show(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_whole_command() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'exit 3'`: exit status: 3");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(Command::new("/nonexistent/program").env("A", "b c")).unwrap_err();
        assert_eq!(error.to_string(), "cannot start `A='b c' /nonexistent/program`");
    }

    #[test]
    fn lines_are_seen_as_they_are_and_without_their_ends() {
        let mut lines = Vec::new();
        let mut command = Command::new("printf");
        watch(command.arg(r"one\ntwo"), |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["one", "two"]);
    }
}
