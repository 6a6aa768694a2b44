//! What a guest does, and what it says.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, bail};

use super::super::suite::{self, Suite};
use super::super::tally::Tally;

/// How often shorter than usual tests are asked to make their long loops: an emulated processor is
/// that much slower.
const SCALE: u32 = 50;
/// Tests that a guest leaves out, by target and module: what the daemon makes of files, documents,
/// requests and probes is the same on every kernel, and each start of a daemon takes seconds of
/// verification. What it has the kernel do, other modules and targets show: `stranded` and `sweep`
/// close sockets as drains do, and `crash` adopts what another daemon left.
const LEFT_OUT: (&str, [&str; 11]) = (
    "daemon",
    [
        "agreement::",
        "documents::",
        "drain::",
        "files::",
        "health::",
        "refusals::",
        "restarts::",
        "rights::",
        "sizes::",
        "socket::",
        "weights::",
    ],
);
/// Starts every line that the guest's own script writes.
const MARK: &str = "guest: ";

/// Makes the file systems that a Linux system has. `/tmp` and `/run` stay what they are, because
/// the root is in memory already, and the tests themselves may live below `/tmp`.
const PROLOGUE: &str = "\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
ulimit -n 65536
";

/// The script that a guest runs as its first process.
pub(super) fn script(suite: &Suite, modules: &[String]) -> String {
    let mut script = PROLOGUE.to_owned();
    for module in modules {
        let _ = writeln!(script, "insmod '{module}'");
    }
    for (name, value) in suite.environment() {
        let _ = writeln!(script, "export {name}='{value}'");
    }
    let _ = writeln!(script, "export SPLITTER_TEST_SCALE={SCALE}");
    let _ = writeln!(script, "cd '{}'", suite::directory().display());
    for test in &suite.tests {
        let (name, executable) = (&test.name, test.executable.display());
        let arguments = arguments(suite, name);
        let _ = writeln!(script, "echo '{MARK}run {name}'");
        let _ = writeln!(script, "'{executable}' {arguments}");
        let _ = writeln!(script, "echo \"{MARK}exit {name} $?\"");
    }
    script.push_str("poweroff -f\n");
    script
}

/// Arguments of one test. What somebody asks for by name is not left out.
fn arguments(suite: &Suite, test: &str) -> String {
    let (target, modules) = LEFT_OUT;
    let is_whole = suite.is_whole() && test == target;
    let skipped = modules.iter().filter(|_| is_whole).flat_map(|module| ["--skip", module]);
    let quoted = suite.arguments().chain(skipped).map(|argument| format!("'{argument}'"));
    quoted.collect::<Vec<_>>().join(" ")
}

/// What was read from a guest's console so far.
#[derive(Default)]
pub(super) struct Transcript {
    tally: Tally,
    /// Exit status of every test that ended, and how many of its tests failed.
    exits: BTreeMap<String, (String, usize)>,
    failed_before: usize,
}

impl Transcript {
    /// Takes in a line.
    pub(super) fn read(&mut self, line: &str) {
        self.tally.read(line);
        let words: Vec<_> = match line.split_once(MARK) {
            Some((_, said)) => said.split(' ').collect(),
            None => return,
        };
        if let ["exit", name, status] = words[..] {
            let failed = self.tally.failed - self.failed_before;
            self.exits.insert(name.to_owned(), (status.to_owned(), failed));
            self.failed_before = self.tally.failed;
        }
    }

    /// The counts, if every test came to its end and every failure is in them.
    pub(super) fn close<'a>(self, tests: impl Iterator<Item = &'a str>) -> Result<Tally> {
        for test in tests {
            match self.exits.get(test) {
                None => bail!("the guest ended before test {test} did; its last lines are above"),
                Some((status, 0)) if status != "0" => {
                    bail!("test {test} ended with status {status} and does not say why");
                }
                Some(_) => {}
            }
        }
        Ok(self.tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(lines: &[&str]) -> Transcript {
        let mut transcript = Transcript::default();
        for line in lines {
            transcript.read(line);
        }
        transcript
    }

    #[test]
    fn counts_are_those_of_all_tests() {
        let lines = [
            "test result: ok. 2 passed; 0 failed; 0 ignored",
            "guest: exit a 0",
            "test result: FAILED. 1 passed; 3 failed; 0 ignored",
            "guest: exit b 101",
        ];
        let tally = transcript(&lines).close(["a", "b"].into_iter()).unwrap();
        assert_eq!(tally, Tally { passed: 3, failed: 3 });
    }

    #[test]
    fn a_test_that_dies_or_never_ends_is_an_error() {
        let killed = transcript(&["guest: run a", "guest: exit a 139"]);
        assert!(killed.close(["a"].into_iter()).is_err());
        let cut_off = transcript(&["guest: run a"]);
        assert!(cut_off.close(["a"].into_iter()).is_err());
    }
}
