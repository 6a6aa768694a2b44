//! One lookup of one name: the hosts file first, then the name servers of the node.
//!
//! Both are read anew for each lookup, since they change without notice and lookups are rare.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::daemon::{HOSTS_BEGIN, HOSTS_END};
use crate::policy::VipRanges;

/// How long what the hosts file says stands.
const HOSTS_VALID: Duration = Duration::from_secs(10);
/// A lookup with all its retries takes no longer.
const LONGEST_LOOKUP: Duration = Duration::from_secs(30);

/// Makes a resolver of what the node is configured with.
type Configure = fn(&Upstream) -> Result<TokioResolver, NetError>;

/// Where answers come from.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    /// The hosts file.
    pub(super) hosts: PathBuf,
    /// Addresses that hosts are given here: an answer with one of them came from ourselves, by way
    /// of the hosts file or of a name server that reads it.
    pub(super) vips: VipRanges,
    pub(super) configure: Configure,
    /// Port of the only name server, on 127.0.0.1, instead of those of the node.
    #[cfg(test)]
    pub(super) port: u16,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// At least one, sorted.
    pub(super) addresses: Vec<IpAddr>,
    /// How long it stands.
    pub(super) valid: Duration,
}

/// What a lookup begins with.
enum Start {
    /// The hosts file has the name.
    InFile(Vec<IpAddr>),
    /// The name servers have to be asked.
    Ask(Box<TokioResolver>),
}

impl Upstream {
    /// The hosts file and the name servers of this node.
    pub(crate) fn of_node(vips: VipRanges) -> Self {
        let configure = |_: &Self| {
            let mut builder = TokioResolver::builder_tokio()?;
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder.build()
        };
        Self {
            hosts: PathBuf::from("/etc/hosts"),
            vips,
            configure,
            #[cfg(test)]
            port: 0,
        }
    }

    /// The addresses of a name. Fails with a reason where there are none.
    pub(super) async fn look_up(&self, name: &str) -> Result<Found, String> {
        let (upstream, wanted) = (self.clone(), name.to_owned());
        let start = spawn_blocking(move || upstream.start(&wanted)).await;
        let found = match start.map_err(|error| error.to_string())?? {
            Start::InFile(addresses) => Found { addresses, valid: HOSTS_VALID },
            Start::Ask(resolver) => timeout(LONGEST_LOOKUP, ask(&resolver, name))
                .await
                .map_err(|_| "the name servers did not answer in time".to_owned())??,
        };
        let usable: BTreeSet<IpAddr> = found
            .addresses
            .iter()
            .map(IpAddr::to_canonical)
            .filter(|ip| !ip.is_unspecified() && !ip.is_multicast() && !self.vips.contains(*ip))
            .collect();
        match (usable.is_empty(), found.addresses.first()) {
            (true, Some(ip)) => Err(format!("the only answer is {ip}, where no server can be")),
            (true, None) => Err("the name has no address".to_owned()),
            _ => Ok(Found { addresses: usable.into_iter().collect(), ..found }),
        }
    }

    fn start(&self, name: &str) -> Result<Start, String> {
        // A node without a hosts file is fine.
        let text = fs::read_to_string(&self.hosts).unwrap_or_default();
        let addresses = find_in_hosts(&text, name);
        if !addresses.is_empty() {
            return Ok(Start::InFile(addresses));
        }
        let fail = |error| format!("read the configuration of the resolver: {error}");
        Ok(Start::Ask(Box::new((self.configure)(self).map_err(fail)?)))
    }
}

/// Addresses of a name in a hosts file, but for what `splitter hosts` printed into it.
fn find_in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let mut is_ours = false;
    let mut addresses = Vec::new();
    for line in text.lines() {
        match line.trim() {
            HOSTS_BEGIN => is_ours = true,
            HOSTS_END => is_ours = false,
            _ => {}
        }
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let address: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
        if !is_ours && words.any(|word| is_same(word, name)) {
            addresses.extend(address);
        }
    }
    addresses
}

fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches('.').eq_ignore_ascii_case(other.trim_end_matches('.'))
}

/// Asks for both families at once. One that fails, other than by having nothing, fails both: the
/// addresses of half an answer would replace those of a whole one.
async fn ask(resolver: &TokioResolver, name: &str) -> Result<Found, String> {
    let (v4, v6) =
        tokio::join!(resolver.lookup(name, RecordType::A), resolver.lookup(name, RecordType::AAAA));
    let lookups = [given(v4)?, given(v6)?];
    let lookups = || lookups.iter().flatten();
    let now = Instant::now();
    let valid = lookups().map(|lookup| lookup.valid_until().saturating_duration_since(now)).min();
    let records = lookups().flat_map(Lookup::answers);
    let address = |data: &RData| match data {
        RData::A(v4) => Some(IpAddr::V4(v4.0)),
        RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
        _ => None,
    };
    let addresses = records.filter_map(|record| address(&record.data)).collect();
    Ok(Found { addresses, valid: valid.unwrap_or_default() })
}

/// `None` where the name has nothing of a family.
fn given(result: Result<Lookup, NetError>) -> Result<Option<Lookup>, String> {
    match result {
        Ok(lookup) => Ok(Some(lookup)),
        Err(error) if error.is_nx_domain() => Err("there is no such name".to_owned()),
        Err(error) if error.is_no_records_found() => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_is_read_without_our_own_lines() {
        let text = "127.0.0.1 localhost\n10.0.0.1  Web.example db # web.commented\n\
                    # splitter: begin\n127.240.0.9 web.example\n# splitter: end\n\
                    ::1 web.example.\nnonsense web.example\n";
        let found = find_in_hosts(text, "web.example");
        let expected: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(found, expected);
        assert_eq!(find_in_hosts(text, "web.commented"), Vec::<IpAddr>::new());
    }
}
