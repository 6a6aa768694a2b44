//! The lines of `splitter status` about what clients may reach.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use crate::cli::count;
use crate::daemon::engine::HostStatus;
use crate::daemon::status::EgressStatus;

/// Egress documents that have a line.
const MOST_EGRESS: usize = 32;
/// Host names of a document that have a line.
const MOST_HOSTS: usize = 32;
/// Addresses in a line, of each kind.
const MOST_ADDRESSES: usize = 8;

/// All of them are in the JSON form.
pub(super) fn write(text: &mut String, egress: &[EgressStatus]) -> fmt::Result {
    for (i, rule) in egress.iter().take(MOST_EGRESS).enumerate() {
        let label = if i == 0 { "egress" } else { "" };
        let EgressStatus { name, cgroups, mode, audit, refused, audited, untold, hosts, notes } =
            rule;
        let clients = match cgroups[..] {
            [] => "every client".to_owned(),
            [ref only] => only.clone(),
            [ref first, ref rest @ ..] => {
                format!("{first} and {}", count(rest.len() as u64, "more cgroup"))
            }
        };
        let audit = if *audit { ", audit" } else { "" };
        write!(text, "{label:<11} {name} ({mode}{audit}) of {clients}: {refused} refused")?;
        write!(text, ", {audited} audited")?;
        match untold {
            0 => writeln!(text)?,
            n => writeln!(text, ", {n} of them in no event")?,
        }
        for note in notes {
            writeln!(text, "              note: {note}")?;
        }
        write_hosts(text, hosts)?;
    }
    match egress.len().saturating_sub(MOST_EGRESS) {
        0 => Ok(()),
        n => writeln!(text, "            and {n} more"),
    }
}

/// All of them are in the JSON form.
fn write_hosts(text: &mut String, hosts: &[HostStatus]) -> fmt::Result {
    for HostStatus { name, addresses, left, left_out, unresolved } in hosts.iter().take(MOST_HOSTS)
    {
        write!(text, "            {name}: ")?;
        match (&addresses[..], &left[..], unresolved) {
            ([], [], Some(_)) => write!(text, "never resolved, so it stands for no address")?,
            ([], [], None) => write!(text, "no address")?,
            _ => write!(text, "{}", show_some(addresses))?,
        }
        if !left.is_empty() {
            write!(text, "; in the last hour {}", show_some(left))?;
        }
        if !left_out.is_empty() {
            write!(text, "; left out {}", show_some(left_out))?;
        }
        writeln!(text)?;
    }
    match hosts.len().saturating_sub(MOST_HOSTS) {
        0 => Ok(()),
        n => writeln!(text, "            and {n} more host names"),
    }
}

/// The first few, and how many more.
fn show_some(addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        return "no address now".to_owned();
    }
    let few: Vec<String> = addresses.iter().take(MOST_ADDRESSES).map(ToString::to_string).collect();
    match addresses.len() - few.len() {
        0 => few.join(" "),
        more => format!("{} and {more} more", few.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(n: u8) -> Vec<IpAddr> {
        (1..=n).map(|n| IpAddr::from([10, 0, 0, n])).collect()
    }

    #[test]
    fn every_host_says_what_it_stands_for() {
        let name = || "api.example.com".to_owned();
        let cases = [
            (HostStatus { name: name(), ..Default::default() }, "no address"),
            (
                HostStatus {
                    name: name(),
                    unresolved: Some("there is no such name".to_owned()),
                    ..Default::default()
                },
                "never resolved, so it stands for no address",
            ),
            (
                HostStatus { name: name(), addresses: addresses(1), ..Default::default() },
                "10.0.0.1",
            ),
            (
                HostStatus { name: name(), left: addresses(2), ..Default::default() },
                "no address now; in the last hour 10.0.0.1 10.0.0.2",
            ),
            (
                HostStatus {
                    name: name(),
                    addresses: addresses(10),
                    left_out: vec!["fd00::1".parse().unwrap()],
                    ..Default::default()
                },
                "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6 10.0.0.7 10.0.0.8 and 2 \
                 more; left out fd00::1",
            ),
        ];
        for (host, expected) in cases {
            let mut text = String::new();
            write_hosts(&mut text, &[host]).unwrap();
            assert_eq!(text, format!("            api.example.com: {expected}\n"));
        }
        let many = vec![HostStatus { name: name(), ..Default::default() }; MOST_HOSTS + 2];
        let mut text = String::new();
        write_hosts(&mut text, &many).unwrap();
        assert!(text.ends_with("            and 2 more host names\n"), "{text}");
    }
}
