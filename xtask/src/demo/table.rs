//! Asked beside served: the table after each step.

use anyhow::{Result, bail};

use super::servers::{Served, VERSIONS};

/// What a step did to one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// Its weight.
    pub(super) weight: u64,
    /// What its server says.
    pub(super) served: Served,
    /// Connections that `splitter status` says went there; `None` where it was not asked.
    pub(super) decided: Option<u64>,
}

/// Both versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table(pub(super) [Row; 2]);

impl Table {
    /// Prints it.
    pub(super) fn print(&self) {
        println!("  version  weight      connections served       requests served  by status");
        for (version, row) in VERSIONS.iter().zip(self.0) {
            let Served { connections, requests } = row.served;
            let decided = row.decided.map_or_else(|| "-".to_owned(), |n| n.to_string());
            println!(
                "  {version:<7}  {:>6}  {connections:>12} {:>9}  {requests:>10} {:>9}  {decided:>9}",
                row.weight,
                percent(connections, self.sum(|row| row.served.connections)),
                percent(requests, self.sum(|row| row.served.requests)),
            );
        }
    }

    /// Fails where a version got `slack` connections more or fewer than its weight asks for.
    pub(super) fn check(&self, slack: u64) -> Result<()> {
        let n = self.sum(|row| row.served.connections);
        let sum = self.sum(|row| row.weight);
        for (version, row) in VERSIONS.iter().zip(self.0) {
            let Row { weight, served: Served { connections, .. }, decided } = row;
            if (connections * sum).abs_diff(n * weight) >= slack * sum {
                bail!("{version} got {connections} of {n} connections with weight {weight}/{sum}");
            }
            if decided.is_some_and(|decided| decided != connections) {
                bail!("{version} got {connections} connections and status counts {decided:?}");
            }
        }
        Ok(())
    }

    /// Fails unless each version got exactly so many connections.
    pub(super) fn check_exactly(&self, expected: [u64; 2]) -> Result<()> {
        let got = self.0.map(|row| row.served.connections);
        if got != expected {
            bail!("the versions got {got:?} connections and should have got {expected:?}");
        }
        self.check(1)
    }

    fn sum(&self, of: impl Fn(&Row) -> u64) -> u64 {
        self.0.iter().map(of).sum()
    }
}

/// With two decimals.
fn percent(part: u64, whole: u64) -> String {
    match (part * 10_000 + whole / 2).checked_div(whole) {
        Some(hundredths) => format!("{}.{:02} %", hundredths / 100, hundredths % 100),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(weights: [u64; 2], connections: [u64; 2]) -> Table {
        let row = |i: usize| Row {
            weight: weights[i],
            served: Served { connections: connections[i], requests: connections[i] },
            decided: Some(connections[i]),
        };
        Table([row(0), row(1)])
    }

    #[test]
    fn shares_have_two_decimals() {
        assert_eq!(percent(1, 3), "33.33 %");
        assert_eq!(percent(2, 3), "66.67 %");
        assert_eq!(percent(0, 0), "-");
    }

    #[test]
    fn a_share_that_is_off_by_the_slack_fails() {
        assert!(table([80, 20], [16, 4]).check_exactly([16, 4]).is_ok());
        assert!(table([80, 20], [17, 4]).check(1).is_ok());
        assert!(table([80, 20], [18, 2]).check(2).is_err());
    }
}
