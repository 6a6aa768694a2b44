//! A service as canonical native YAML.
//!
//! Canonical means: one spelling for one meaning, keys in the order of `docs/policy.md`, defaults
//! left out, addresses and free strings in quotes.

use std::fmt::{self, Display, Formatter};

use super::subset::CLIENT_KEYS;
use crate::policy::document::{API_VERSION, KIND};
use crate::policy::model::{
    Action, Balance, ClientKey, ClientMatch, Frontend, OnEmpty, PeerName, Pick, Protocol, Route,
    Service, Split, Subset,
};
use crate::policy::scalar::{Meaning, meaning};

/// Writes a service as a document that loads to the same service.
pub fn to_yaml(service: &Service) -> String {
    Yaml(service).to_string()
}

impl Display for Frontend {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.protocol)
    }
}

impl Display for Protocol {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl Display for ClientKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let word = CLIENT_KEYS.iter().find(|(_, key)| key == self);
        f.write_str(word.map_or("", |(word, _)| word))
    }
}

struct Yaml<'a>(&'a Service);

impl Display for Yaml<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let service = self.0;
        writeln!(f, "apiVersion: {API_VERSION}\nkind: {KIND}\nmetadata:")?;
        match service.name.split_once('/') {
            Some((namespace, name)) => {
                writeln!(f, "  name: {}\n  namespace: {}", Name(name), Name(namespace))?;
            }
            None => writeln!(f, "  name: {}", Name(&service.name))?,
        }
        writeln!(f, "spec:\n  frontends:")?;
        for frontend in &service.frontends {
            writeln!(f, "    - \"{frontend}\"")?;
        }
        if service.getpeername == PeerName::Frontend {
            writeln!(f, "  getpeername: frontend")?;
        }
        if !service.subsets.is_empty() {
            writeln!(f, "  subsets:")?;
        }
        for subset in &service.subsets {
            write_subset(f, subset)?;
        }
        writeln!(f, "  routes:")?;
        for route in &service.routes {
            write_route(f, service, route)?;
        }
        Ok(())
    }
}

fn write_subset(f: &mut Formatter<'_>, subset: &Subset) -> fmt::Result {
    writeln!(f, "    {}:", Name(&subset.name))?;
    if subset.backends.is_empty() {
        writeln!(f, "      backends: []")?;
    } else {
        writeln!(f, "      backends:")?;
    }
    for backend in &subset.backends {
        match backend.weight {
            1 => writeln!(f, "        - \"{}\"", backend.addr)?,
            weight => {
                writeln!(f, "        - {{address: \"{}\", weight: {weight}}}", backend.addr)?;
            }
        }
    }
    match subset.balance {
        Balance::RoundRobin => Ok(()),
        Balance::LeastConnections => writeln!(f, "      balance: leastConnections"),
        Balance::Random => writeln!(f, "      balance: random"),
        Balance::ClientHash(key) => writeln!(f, "      balance: {{clientHash: {key}}}"),
    }
}

fn write_route(f: &mut Formatter<'_>, service: &Service, route: &Route) -> fmt::Result {
    // Always named, so that a route keeps its name when others are put before it.
    writeln!(f, "    - name: {}", Name(&route.name))?;
    if !route.matches.is_empty() {
        writeln!(f, "      match:")?;
    }
    for client in &route.matches {
        write_match(f, client)?;
    }
    match &route.action {
        Action::Split(split) => write_split(f, service, split),
        Action::Reject(errno) => writeln!(f, "      reject: {}", errno.name),
        Action::Pass => writeln!(f, "      pass: true"),
    }
}

fn write_match(f: &mut Formatter<'_>, client: &ClientMatch) -> fmt::Result {
    let fields = [
        client.uid.map(|uid| format!("uid: {uid}")),
        client.gid.map(|gid| format!("gid: {gid}")),
        client.command.as_ref().map(|command| format!("command: {}", Quoted(command))),
        client.cgroup.as_ref().map(|cgroup| format!("cgroup: {}", Quoted(cgroup))),
    ];
    let fields: Vec<String> = fields.into_iter().flatten().collect();
    writeln!(f, "        - {{{}}}", fields.join(", "))
}

fn write_split(f: &mut Formatter<'_>, service: &Service, split: &Split) -> fmt::Result {
    writeln!(f, "      split:")?;
    for (ordinal, weight) in &split.weights {
        if let Some(subset) = service.subsets.get(*ordinal) {
            writeln!(f, "        {}: {weight}", Name(&subset.name))?;
        }
    }
    match split.pick {
        Pick::Exact => {}
        Pick::Random => writeln!(f, "      pick: random")?,
        Pick::Affinity(key) => writeln!(f, "      affinity: {key}")?,
    }
    match split.on_empty {
        OnEmpty::Reject => Ok(()),
        OnEmpty::Spill => writeln!(f, "      onEmpty: spill"),
    }
}

/// A name, in quotes where YAML of any version would read something else than a string.
struct Name<'a>(&'a str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let is_old_bool = matches!(self.0, "y" | "n" | "yes" | "no" | "on" | "off");
        let begins_plain = self.0.starts_with(|c: char| c.is_ascii_lowercase());
        if begins_plain && !is_old_bool && meaning(self.0) == Meaning::Text {
            f.write_str(self.0)
        } else {
            Display::fmt(&Quoted(self.0), f)
        }
    }
}

/// A string in double quotes. The model's strings hold no control characters.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}
