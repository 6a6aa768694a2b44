//! Asked beside served: the table after each step.

use anyhow::{Result, bail};

use super::servers::{Served, VERSIONS};

/// What a step did to one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// Its weight.
    pub(super) weight: u64,
    /// What its server says; `None` where it was not asked.
    pub(super) served: Option<Served>,
    /// Connections that `splitter status` says went there.
    pub(super) decided: u64,
}

impl Row {
    /// By the server, if it was asked.
    fn connections(&self) -> u64 {
        self.served.map_or(self.decided, |served| served.connections)
    }
}

/// Both versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table(pub(super) [Row; 2]);

impl Table {
    /// Prints it.
    pub(super) fn print(&self) {
        println!("  version  weight      connections served       requests served  by status");
        let requests = |row: &Row| row.served.map_or(0, |served| served.requests);
        for (version, row) in VERSIONS.iter().zip(self.0) {
            let count = |n: u64| row.served.map_or_else(|| "-".to_owned(), |_| n.to_string());
            println!(
                "  {version:<7}  {:>6}  {:>12} {:>9}  {:>10} {:>9}  {:>9}",
                row.weight,
                count(row.connections()),
                percent(row.connections(), self.sum(Row::connections)),
                count(requests(&row)),
                percent(requests(&row), self.sum(requests)),
                row.decided,
            );
        }
    }

    /// Fails where a version got `slack` connections more or fewer than its weight asks for, or
    /// where servers and status disagree.
    pub(super) fn check(&self, slack: u64) -> Result<()> {
        let (n, sum) = (self.sum(Row::connections), self.sum(|row| row.weight));
        for (version, row) in VERSIONS.iter().zip(self.0) {
            let (weight, connections) = (row.weight, row.connections());
            if (connections * sum).abs_diff(n * weight) >= slack * sum {
                bail!("{version} got {connections} of {n} connections with weight {weight}/{sum}");
            }
        }
        self.check_agreement()
    }

    /// Fails where servers and status disagree.
    pub(super) fn check_agreement(&self) -> Result<()> {
        for (version, row) in VERSIONS.iter().zip(self.0) {
            let (connections, decided) = (row.connections(), row.decided);
            if connections != decided {
                bail!("{version} got {connections} connections, and status counts {decided}");
            }
        }
        Ok(())
    }

    /// Fails unless each version got exactly so many connections.
    pub(super) fn check_exactly(&self, expected: [u64; 2]) -> Result<()> {
        let got = self.connections();
        if got != expected {
            bail!("the versions got {got:?} connections and should have got {expected:?}");
        }
        self.check_agreement()
    }

    /// Connections of each version.
    pub(super) fn connections(&self) -> [u64; 2] {
        self.0.map(|row| row.connections())
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
            served: Some(Served { connections: connections[i], requests: connections[i] }),
            decided: connections[i],
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
        let mut other = table([80, 20], [16, 4]);
        other.0[0].decided = 15;
        assert!(other.check(2).is_err());
    }
}
