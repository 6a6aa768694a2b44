//! nftables: a map from frontend to chain, and a destination drawn by `numgen` in each chain.
//!
//! This is how kube-proxy's nftables mode looks up a service. Connections are tracked, and every
//! packet passes through that.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use splitter_user::policy::model::Service;

use super::shares::{frontend, shares, total};
use super::{Ground, Missing, Peer, Running, place_of_clients};
use crate::arm::Network;

/// Name of the table.
const TABLE: &str = "ip splitter_bench";
const INSTALL: &str = "apt-get install nftables";

/// How a rule draws its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numgen {
    /// One after the other.
    Inc,
    /// At random.
    Random,
}

impl Numgen {
    fn keyword(self) -> &'static str {
        match self {
            Self::Inc => "inc",
            Self::Random => "random",
        }
    }
}

/// nftables with destination rewriting.
#[derive(Clone, Copy, Debug)]
pub struct Nftables {
    name: &'static str,
    numgen: Numgen,
}

impl Nftables {
    /// Backends in turn, in blocks: all turns of the first, then all of the second.
    pub const IN_TURN: Self = Self { name: "nftables", numgen: Numgen::Inc };
    /// Backends at random.
    pub const AT_RANDOM: Self = Self { name: "nftables random", numgen: Numgen::Random };
}

impl Peer for Nftables {
    fn name(&self) -> &'static str {
        self.name
    }

    fn missing(&self) -> Option<Missing> {
        Missing::program("nft", INSTALL)
    }

    fn start(&self, ground: &Rc<Ground>, services: &[Service]) -> Result<Running> {
        let dial = frontend(services.first().context("a comparison needs a service")?)?;
        load(&ground.network, &ruleset(services, self.numgen)?)?;
        Ok(Running::new(self.name, ground, place_of_clients()?, dial.into(), ()))
    }
}

/// Rules for all services. Loading them replaces what was loaded before in one transaction.
pub fn ruleset(services: &[Service], numgen: Numgen) -> Result<String> {
    let mut text = format!("table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    for (number, service) in services.iter().enumerate() {
        writeln!(text, "\tchain s{number} {{\n\t\t{}\n\t}}", rule(service, numgen)?)?;
    }
    let elements: Result<Vec<String>> = services.iter().enumerate().map(element).collect();
    write!(
        text,
        "\tmap services {{
\t\ttype ipv4_addr . inet_service : verdict
\t\telements = {{ {} }}
\t}}
\tchain output {{
\t\ttype nat hook output priority -100; policy accept;
\t\tip daddr . tcp dport vmap @services
\t}}
}}
",
        elements?.join(", ")
    )?;
    Ok(text)
}

/// What changes one service of a loaded set of rules, given its place among the services.
pub fn change(number: usize, service: &Service, numgen: Numgen) -> Result<String> {
    let rule = rule(service, numgen)?;
    Ok(format!("flush chain {TABLE} s{number}\nadd rule {TABLE} s{number} {rule}\n"))
}

/// Loads rules in a network, as one transaction.
pub fn load(network: &Network, rules: &str) -> Result<()> {
    let mut command = network.command("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("run nft")?;
    let mut input = child.stdin.take().context("its input is a pipe")?;
    input.write_all(rules.as_bytes()).context("hand nft its rules")?;
    drop(input);
    let output = child.wait_with_output().context("wait for nft")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "nft refused its rules: {}", said.trim());
    Ok(())
}

fn element((number, service): (usize, &Service)) -> Result<String> {
    let dial = frontend(service)?;
    Ok(format!("{} . {} : goto s{number}", dial.ip(), dial.port()))
}

/// Each backend has as many numbers as it has weight.
fn rule(service: &Service, numgen: Numgen) -> Result<String> {
    let shares = shares(service)?;
    let mut next = 0;
    let mut ranges = Vec::new();
    for share in &shares {
        let (first, last) = (next, next + u64::from(share.weight) - 1);
        let numbers = if first == last { first.to_string() } else { format!("{first}-{last}") };
        ranges.push(format!("{numbers} : {} . {}", share.addr.ip(), share.addr.port()));
        next = last + 1;
    }
    let (keyword, ranges) = (numgen.keyword(), ranges.join(", "));
    Ok(format!(
        "meta l4proto tcp dnat to numgen {keyword} mod {} map {{ {ranges} }}",
        total(&shares)
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tests::service;
    use super::*;

    #[test]
    fn every_backend_has_numbers_by_its_weight() {
        let service = service("127.10.0.1:8080", "90: 1 / 10: 2");
        assert_eq!(
            ruleset(&[service], Numgen::Inc).unwrap(),
            "table ip splitter_bench
delete table ip splitter_bench
table ip splitter_bench {
\tchain s0 {
\t\tmeta l4proto tcp dnat to numgen inc mod 10 map { 0-8 : 127.0.0.1 . 1, 9 : 127.0.0.1 . 2 }
\t}
\tmap services {
\t\ttype ipv4_addr . inet_service : verdict
\t\telements = { 127.10.0.1 . 8080 : goto s0 }
\t}
\tchain output {
\t\ttype nat hook output priority -100; policy accept;
\t\tip daddr . tcp dport vmap @services
\t}
}
"
        );
    }

    #[test]
    fn a_change_replaces_the_rule_of_one_chain() {
        let service = service("127.10.0.1:8080", "1: 1");
        assert_eq!(
            change(7, &service, Numgen::Random).unwrap(),
            "flush chain ip splitter_bench s7
add rule ip splitter_bench s7 meta l4proto tcp dnat to numgen random mod 1 map { 0 : 127.0.0.1 . 1 }
"
        );
    }
}
