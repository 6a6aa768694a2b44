//! Load by `wrk`, and what it says of it.

use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, bail};

use super::place::{Place, Role};

/// A load to be run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load<'a> {
    /// Who makes the connections.
    pub(super) role: Role,
    /// What is dialled, as `address:port`.
    pub(super) address: &'a str,
    /// Connections at a time.
    pub(super) connections: u32,
    /// Whether each connection carries one request only.
    pub(super) short: bool,
    /// How long it runs.
    pub(super) seconds: u64,
}

/// What became of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Requests that were answered.
    pub(super) requests: u64,
    /// Of them in one second.
    pub(super) per_second: u64,
    /// The lines that tell of failed requests; none where all went well.
    pub(super) failures: Vec<String>,
}

/// A load that is running.
pub(super) struct Running {
    process: Child,
}

impl Load<'_> {
    /// The words of the command. One thread: the machine may have few CPUs.
    fn words(&self) -> Vec<String> {
        let url = format!("http://{}/", self.address);
        let (connections, seconds) =
            (format!("-c{}", self.connections), format!("-d{}s", self.seconds));
        let mut words = vec!["wrk".to_owned(), "-t1".to_owned(), connections, seconds];
        if self.short {
            words.extend(["-H".to_owned(), "Connection: close".to_owned()]);
        }
        words.push(url);
        words
    }

    /// The command as one would type it.
    pub(super) fn show(&self) -> String {
        let quote = |word: String| if word.contains(' ') { format!("'{word}'") } else { word };
        let words: Vec<String> = self.words().into_iter().map(quote).collect();
        format!("{} {}", self.role.name(), words.join(" "))
    }

    /// Starts it, unseen.
    pub(super) fn start(&self, place: &Place) -> Result<Running> {
        let words = self.words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let process = place
            .command(self.role, &words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start wrk")?;
        Ok(Running { process })
    }

    /// Runs it, unseen.
    pub(super) fn run(&self, place: &Place) -> Result<Outcome> {
        self.start(place)?.finish()
    }
}

impl Running {
    /// Waits for its end.
    pub(super) fn finish(self) -> Result<Outcome> {
        let output = self.process.wait_with_output().context("wait for wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("wrk: {}\n{text}", output.status);
        }
        parse(&text).with_context(|| format!("counts in what wrk says:\n{text}"))
    }
}

fn parse(text: &str) -> Option<Outcome> {
    let lines = || text.lines().map(str::trim);
    let requests = lines().find_map(|line| line.split_once(" requests in ")?.0.parse().ok())?;
    let rate = lines().find_map(|line| line.strip_prefix("Requests/sec:"))?;
    let per_second = rate.trim().split('.').next()?.parse().ok()?;
    let is_failure = |line: &&str| line.starts_with("Socket errors") || line.starts_with("Non-2xx");
    let failures = lines().filter(is_failure).map(str::to_owned).collect();
    Some(Outcome { requests, per_second, failures })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_rate_and_failures_are_read() {
        let text = "Running 1s test @ http://127.0.0.1:9001/\n  1 threads and 10 connections\n  \
                    40652 requests in 1.10s, 7.75MB read\n  Socket errors: connect 0, read 3, \
                    write 0, timeout 0\nRequests/sec:  36987.20\nTransfer/sec:      7.05MB\n";
        let outcome = parse(text).unwrap();
        assert_eq!((outcome.requests, outcome.per_second), (40_652, 36_987));
        assert_eq!(outcome.failures, ["Socket errors: connect 0, read 3, write 0, timeout 0"]);
        assert_eq!(parse("unable to connect"), None);
    }
}
