//! Which parts may name what.

use super::Finding;
use super::files::{File, has_word};

/// A rule about words in code.
struct Layer {
    /// Beginnings of the paths it holds for.
    within: &'static [&'static str],
    /// Beginnings of the paths that are free of it.
    except: &'static [&'static str],
    /// Whether tests in the files are free of it.
    except_tests: bool,
    words: &'static [&'static str],
    why: &'static str,
}

const LAYERS: [Layer; 3] = [
    Layer {
        within: &["splitter-user/", "tests/"],
        // A program to compare with, which must owe nothing to the code that it is compared with.
        except: &["splitter-user/src/kernel/", "tests/src/empty.rs"],
        except_tests: false,
        words: &["aya", "aya_log", "SYS_bpf"],
        why: "only splitter-user/src/kernel/ talks to BPF",
    },
    Layer {
        within: &["splitter-user/src/policy/", "splitter-user/src/compile/"],
        except: &[],
        except_tests: true,
        words: &[
            "Instant",
            "SystemTime",
            "TcpListener",
            "TcpStream",
            "UdpSocket",
            "env::var",
            "fs",
            "process",
            "rand",
            "tokio",
        ],
        why: "policy/ and compile/ do no I/O and read neither clock nor randomness",
    },
    Layer {
        within: &[""],
        except: &[
            "splitter-ebpf/",
            "splitter-user/src/kernel/",
            "tests/src/empty.rs",
            "tests/src/daemon.rs",
            "tests/src/datagrams.rs",
            "tests/src/etc.rs",
            "tests/src/net.rs",
            "tests/src/peers.rs",
            "tests/src/ring.rs",
            "tests/src/shared.rs",
            "tests/tests/outcomes.rs",
        ],
        except_tests: false,
        words: &["unsafe"],
        why: "only splitter-ebpf/, splitter-user/src/kernel/ and the tests listed in \
              xtask/src/tidy/layers.rs make system calls by hand",
    },
];

pub(super) fn check(file: &File) -> Vec<Finding> {
    if !file.is(".rs") {
        return Vec::new();
    }
    LAYERS.iter().filter(|layer| layer.holds_for(&file.path)).flat_map(|l| l.check(file)).collect()
}

impl Layer {
    fn holds_for(&self, path: &str) -> bool {
        let starts = |beginnings: &[&str]| beginnings.iter().any(|b| path.starts_with(b));
        let is_test = self.except_tests && path.ends_with("/tests.rs");
        starts(self.within) && !starts(self.except) && !is_test
    }

    fn check(&self, file: &File) -> Vec<Finding> {
        let code =
            file.code().take_while(|(_, code)| !(self.except_tests && code == "#[cfg(test)]"));
        let mut findings = Vec::new();
        for (number, code) in code {
            let named = self.words.iter().filter(|word| has_word(&code, word));
            findings
                .extend(named.map(|word| file.finding(number, format!("`{word}`: {}", self.why))));
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        check(&file).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn only_the_kernel_module_names_aya() {
        let text = "//! About aya.\nuse aya::Ebpf;\n";
        assert_eq!(lines("splitter-user/src/publish.rs", text), [2]);
        assert_eq!(lines("splitter-user/src/kernel/load.rs", text), [0_usize; 0]);
    }

    #[test]
    fn the_policy_is_pure_but_its_tests_may_read_files() {
        let text = "use std::{fs, fmt};\n#[cfg(test)]\nmod tests { use std::fs; }\n";
        assert_eq!(lines("splitter-user/src/policy/native.rs", text), [1]);
        assert_eq!(lines("splitter-user/src/policy/native/tests.rs", text), [0_usize; 0]);
    }

    #[test]
    fn unsafe_is_a_word_of_few() {
        let text = "#![forbid(unsafe_code)]\nunsafe { f() }\n";
        assert_eq!(lines("splitter-common/src/lib.rs", text), [2]);
    }
}
