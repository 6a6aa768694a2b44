//! `trafficPolicy.connectionPool`: what is asked of connections. Its `http` part is about requests.

use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::fields::{Field, meaningless, read as field};
use crate::policy::mesh::resource::{At, TcpSettings};
use crate::policy::model::Keepalive;
use crate::policy::reader::{Entry, Fields, Reader};
use crate::policy::yaml::NodeId;

const QUEUE: &str = "requests are not counted: limit connections by `tcp.maxConnections`";
const CLIENT: &str = "connections are the client's own: set it there";

/// Most of `TCP_KEEPCNT`.
const MAX_PROBES: u32 = 127;
/// Most of `TCP_KEEPIDLE` and `TCP_KEEPINTVL`, in seconds.
const MAX_KEEPALIVE_S: u32 = 32_767;
const SECOND_MS: u32 = 1_000;

/// `ConnectionPoolSettings`.
const TABLE: &[Field] = &[field("tcp"), field("http")];

/// `ConnectionPoolSettings.TCPSettings`.
const TCP: &[Field] = &[
    field("maxConnections"),
    field("connectTimeout"),
    field("tcpKeepalive"),
    field("maxConnectionDuration"),
    field("idleTimeout"),
];

/// `ConnectionPoolSettings.TCPSettings.TcpKeepalive`.
const KEEPALIVE: &[Field] = &[field("probes"), field("time"), field("interval")];

/// `ConnectionPoolSettings.HTTPSettings`.
const HTTP: &[Field] = &[
    meaningless("http1MaxPendingRequests", QUEUE),
    meaningless("http2MaxRequests", QUEUE),
    meaningless("maxRequestsPerConnection", CLIENT),
    meaningless("maxRetries", "a connection is made once: retry in the client"),
    meaningless("idleTimeout", "write `tcp.idleTimeout`"),
    meaningless("h2UpgradePolicy", CLIENT),
    meaningless("useClientProtocol", CLIENT),
    meaningless("maxConcurrentStreams", CLIENT),
    meaningless("http2KeepAlive", "write `tcp.tcpKeepalive`"),
];

/// Reads the block.
pub(super) fn read(reader: &mut Reader<'_>, entry: Entry<'_>) -> Option<At<TcpSettings>> {
    let fields = reader.object(entry.value, "the connection pool", TABLE)?;
    if fields.is_empty() && !fields.has_unknown() {
        let help = "write `tcp: {maxConnections: 100}`, or delete it";
        reader.empty(reader.span(entry.value), "the connection pool", help);
    }
    if let Some(node) = fields.value("http") {
        reader.object(node, "the http settings", HTTP);
    }
    let value = match fields.value("tcp") {
        Some(node) => read_tcp(reader, node)?,
        None => TcpSettings::default(),
    };
    Some(At { value, at: reader.span(entry.value) })
}

fn read_tcp(reader: &mut Reader<'_>, node: NodeId) -> Option<TcpSettings> {
    let fields = reader.object(node, "the tcp settings", TCP)?;
    Some(TcpSettings {
        max_connections: read_max(reader, &fields),
        connect_timeout_ms: read_time(reader, &fields, "connectTimeout"),
        keepalive: read_keepalive(reader, &fields),
        idle_timeout_ms: read_time(reader, &fields, "idleTimeout"),
        max_lifetime_ms: read_time(reader, &fields, "maxConnectionDuration"),
    })
}

/// 0 is what protobuf writes for none.
fn read_max(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<u32> {
    let entry = fields.get("maxConnections")?;
    let number = reader.int32(entry.value, "`maxConnections`").filter(|number| *number > 0)?;
    Some(number)
}

/// A time in milliseconds. An `idleTimeout` of `0s` is none.
fn read_time(reader: &mut Reader<'_>, fields: &Fields<'_>, name: &str) -> Option<u32> {
    let entry = fields.get(name)?;
    if name == "idleTimeout" && reader.text(entry.value) == Some("0s") {
        return None;
    }
    reader.duration_ms(entry.value, &format!("`{name}`"))
}

/// An empty block turns keepalive on, with the kernel's values.
fn read_keepalive(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Keepalive> {
    let entry = fields.get("tcpKeepalive")?;
    let (keepalive, is_good) = reader.watch(|reader| {
        let fields = reader.object(entry.value, "the keepalive", KEEPALIVE)?;
        Some(Keepalive {
            probes: fields.value("probes").and_then(|node| read_probes(reader, node)),
            time_s: fields.get("time").and_then(|entry| read_seconds(reader, entry)),
            interval_s: fields.get("interval").and_then(|entry| read_seconds(reader, entry)),
        })
    });
    let keepalive = keepalive.filter(|_| is_good)?;
    Some(keepalive)
}

fn read_probes(reader: &mut Reader<'_>, node: NodeId) -> Option<u8> {
    let number = reader.number(node, "`probes`").filter(|number| *number > 0)?;
    if number > MAX_PROBES {
        let message = format!("`probes` is at most {MAX_PROBES}, and {number} is larger");
        reader.out_of_range(reader.span(node), message, "write a number such as 9");
        return None;
    }
    u8::try_from(number).ok()
}

/// A time in whole seconds, rounded up.
fn read_seconds(reader: &mut Reader<'_>, entry: Entry<'_>) -> Option<u16> {
    let ms = reader.duration_ms(entry.value, &format!("`{}`", entry.name))?;
    let seconds = ms.div_ceil(SECOND_MS);
    let at = reader.span(entry.value);
    if seconds > MAX_KEEPALIVE_S {
        let message = format!("`{}` is at most {MAX_KEEPALIVE_S} seconds", entry.name);
        reader.out_of_range(at, message, "write a shorter time, such as 7200s");
        return None;
    }
    if !ms.is_multiple_of(SECOND_MS) {
        let message = format!("`{}` is rounded up to {seconds} seconds", entry.name);
        let diagnostic = Diagnostic::new(&code::ROUNDED, at, message);
        reader.push(diagnostic.with_help("the kernel has whole seconds: write those"));
    }
    u16::try_from(seconds).ok()
}
