//! What clients may reach as canonical native YAML.

use super::egress::MODES;
use super::write::Quoted;
use crate::policy::document::{API_VERSION, EGRESS};
use crate::policy::mesh::resource::OutboundMode;
use crate::policy::model::{CgroupName, Destinations, Errno, Network, Outbound, PortSpan, Reach};

/// Writes a document that loads to the same.
pub fn outbound_to_yaml(outbound: &Outbound) -> String {
    let (namespace, name) = outbound.name.split_once('/').unwrap_or_default();
    let cgroup = |name: &CgroupName| {
        let (key, value) = (name.key(), Quoted(name.value()));
        format!("\n    - {{{key}: {value}}}")
    };
    let clients = match outbound.cgroups[..] {
        [] => String::new(),
        _ => format!("  clients:{}\n", outbound.cgroups.iter().map(cgroup).collect::<String>()),
    };
    let said = egress_values(outbound).into_iter();
    let said: Vec<String> = said.map(|(key, value)| format!("  {key}: {value}\n")).collect();
    let said = said.concat();
    format!(
        "apiVersion: {API_VERSION}\nkind: {EGRESS}\nmetadata:\n  name: {name}\n  \
         namespace: {namespace}\nspec:\n{said}{clients}"
    )
}

/// Keys of a specification with their values, but for the clients and defaults.
pub(crate) fn egress_values(outbound: &Outbound) -> Vec<(&'static str, String)> {
    let mode =
        if outbound.registry_only { OutboundMode::RegistryOnly } else { OutboundMode::AllowAny };
    let mode = MODES.iter().find(|(_, known)| *known == mode).map_or("", |(word, _)| word);
    let mut values = vec![("mode", mode.to_owned())];
    if outbound.audit {
        values.push(("audit", "true".to_owned()));
    }
    if outbound.errno != Errno::ACCESS {
        values.push(("errno", outbound.errno.name.to_owned()));
    }
    if !outbound.loopback {
        values.push(("loopback", "false".to_owned()));
    }
    for (key, is_refused) in [("refuse", true), ("allow", false)] {
        let reaches = outbound.reaches.iter().filter(|reach| reach.is_refused == is_refused);
        let reaches: Vec<String> = reaches.map(reach_value).collect();
        if !reaches.is_empty() {
            values.push((key, format!("[{}]", reaches.join(", "))));
        }
    }
    values
}

/// A destination.
pub(crate) fn reach_value(reach: &Reach) -> String {
    let network = |Network { ip, prefix }: &Network| format!("\"{ip}/{prefix}\"");
    let port = |PortSpan { first, last }: &PortSpan| {
        if first == last { first.to_string() } else { format!("\"{first}-{last}\"") }
    };
    let host = |host: &String| Quoted(host).to_string();
    let (key, to): (_, Vec<String>) = match &reach.to {
        Destinations::Networks(networks) => ("cidr", networks.iter().map(network).collect()),
        Destinations::Hosts(hosts) => ("host", hosts.iter().map(host).collect()),
    };
    let mut keys = vec![format!("{key}: [{}]", to.join(", "))];
    let ports: Vec<String> = reach.ports.iter().map(port).collect();
    if !ports.is_empty() {
        keys.push(format!("ports: [{}]", ports.join(", ")));
    }
    keys.extend(reach.protocol.map(|protocol| format!("protocol: {protocol}")));
    format!("{{{}}}", keys.join(", "))
}
