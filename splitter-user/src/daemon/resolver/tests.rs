//! The resolver with a name server in this process.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::*;
use crate::policy::VipRanges;

/// So long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the name server says, by name: `None` fails.
type Zone = Arc<Mutex<BTreeMap<String, Option<Vec<IpAddr>>>>>;

fn addresses(text: &[&str]) -> Vec<IpAddr> {
    text.iter().map(|address| address.parse().unwrap()).collect()
}

fn say(zone: &Zone, name: &str, answer: Option<&[&str]>) {
    zone.lock().unwrap().insert(name.to_owned(), answer.map(addresses));
}

/// Answers with a time to live of 0.
async fn serve(socket: UdpSocket, zone: Zone) {
    let mut bytes = [0; 1500];
    while let Ok((length, peer)) = socket.recv_from(&mut bytes).await {
        let request = Message::from_vec(&bytes[..length]).unwrap();
        let response = respond(&request, &zone.lock().unwrap());
        socket.send_to(&response.to_vec().unwrap(), peer).await.unwrap();
    }
}

fn respond(request: &Message, zone: &BTreeMap<String, Option<Vec<IpAddr>>>) -> Message {
    let query = request.queries[0].clone();
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    let name = query.name().to_utf8().to_ascii_lowercase();
    match zone.get(name.trim_end_matches('.')) {
        None => response.metadata.response_code = ResponseCode::NXDomain,
        Some(None) => response.metadata.response_code = ResponseCode::ServFail,
        Some(Some(addresses)) => {
            for address in addresses {
                let data = match (address, query.query_type()) {
                    (IpAddr::V4(v4), RecordType::A) => RData::A(A(*v4)),
                    (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA(AAAA(*v6)),
                    _ => continue,
                };
                response.add_answer(Record::from_rdata(query.name().clone(), 0, data));
            }
        }
    }
    response.add_query(query);
    response
}

fn configure(upstream: &Upstream) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let mut connection = ConnectionConfig::udp();
    connection.port = upstream.port;
    let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().use_hosts_file = ResolveHosts::Never;
    builder.options_mut().attempts = 0;
    builder.build()
}

const QUICK: Pace = Pace {
    shortest: Duration::from_millis(20),
    longest: Duration::from_millis(50),
    first_retry: Duration::from_millis(10),
    last_retry: Duration::from_millis(40),
};

/// Runs a test on a name server of its own.
fn with_server<F: Future<Output = ()>>(test: impl FnOnce(Zone, Upstream) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let zone = Zone::default();
        let server = tokio::spawn(serve(socket, Arc::clone(&zone)));
        let hosts = "/nonexistent/hosts".into();
        test(zone, Upstream { hosts, vips: VipRanges::default(), configure, port }).await;
        server.abort();
    });
}

async fn changed(resolver: &mut Resolver) {
    timeout(PATIENCE, resolver.changed()).await.expect("an answer");
}

/// Waits for counts that fit.
async fn until(resolver: &Resolver, fits: impl Fn(&DnsStatus) -> bool) {
    timeout(PATIENCE, async {
        while !fits(&resolver.status()) {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the counts");
}

#[test]
fn both_families_are_merged_and_followed() {
    with_server(async |zone, upstream| {
        say(&zone, "web.example", Some(&["10.0.0.2", "fd00::1", "10.0.0.1"]));
        let mut resolver = Resolver::new(upstream, QUICK, Answers::new());
        resolver.follow(&["web.example".to_owned()]);
        changed(&mut resolver).await;
        let first = addresses(&["10.0.0.1", "10.0.0.2", "fd00::1"]);
        assert_eq!(resolver.known()["web.example"], first);
        // The same addresses in another order are the same answer.
        say(&zone, "web.example", Some(&["fd00::1", "10.0.0.1", "10.0.0.2"]));
        let lookups = resolver.status().lookups;
        until(&resolver, |status| status.lookups > lookups + 2).await;
        say(&zone, "web.example", Some(&["10.0.0.3"]));
        changed(&mut resolver).await;
        assert_eq!(resolver.known()["web.example"], addresses(&["10.0.0.3"]));
        let status = resolver.status();
        assert_eq!((status.names, status.failures, status.changed_answers), (1, 0, 1));
    });
}

#[test]
fn a_failure_keeps_the_last_answer() {
    with_server(async |zone, upstream| {
        say(&zone, "web.example", Some(&["10.0.0.1"]));
        let mut resolver = Resolver::new(upstream, QUICK, Answers::new());
        resolver.follow(&["gone.example".to_owned(), "web.example".to_owned()]);
        changed(&mut resolver).await;
        say(&zone, "web.example", None);
        until(&resolver, |status| status.failures > 8).await;
        assert_eq!(resolver.known()["web.example"], addresses(&["10.0.0.1"]));
        let unresolved = resolver.status().unresolved;
        let names: Vec<&String> = unresolved.keys().collect();
        assert_eq!(names, ["gone.example"], "the other was resolved once");
        assert_eq!(unresolved["gone.example"], "there is no such name");
        // What is not wanted any more is not asked for, and back is back.
        say(&zone, "web.example", Some(&["10.0.0.9"]));
        resolver.follow(&["web.example".to_owned()]);
        changed(&mut resolver).await;
        assert!(resolver.status().unresolved.is_empty());
        assert_eq!(resolver.known().len(), 1);
    });
}

#[test]
fn our_own_addresses_are_no_answers() {
    with_server(async |zone, upstream| {
        say(&zone, "loop.example", Some(&["127.240.0.7"]));
        say(&zone, "half.example", Some(&["127.240.0.7", "10.0.0.1", "0.0.0.0"]));
        let found = upstream.look_up("half.example").await.unwrap();
        assert_eq!(found.addresses, addresses(&["10.0.0.1"]));
        let error = upstream.look_up("loop.example").await.unwrap_err();
        assert!(error.contains("127.240.0.7, where no server can be"), "{error}");
        say(&zone, "empty.example", Some(&[]));
        let error = upstream.look_up("empty.example").await.unwrap_err();
        assert_eq!(error, "the name has no address");
        say(&zone, "v6.example", Some(&[&Ipv6Addr::LOCALHOST.to_string()]));
        let found = upstream.look_up("v6.example").await.unwrap();
        assert_eq!(found.addresses, addresses(&["::1"]));
    });
}

#[test]
fn the_hosts_file_comes_first() {
    with_server(async |zone, upstream| {
        let hosts = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(hosts.path(), "10.9.9.9 web.example\n").unwrap();
        say(&zone, "web.example", Some(&["10.0.0.1"]));
        let upstream = Upstream { hosts: hosts.path().to_owned(), ..upstream };
        let found = upstream.look_up("web.example").await.unwrap();
        assert_eq!(found.addresses, addresses(&["10.9.9.9"]));
    });
}

#[test]
fn answers_of_before_stand_until_there_are_others() {
    with_server(async |zone, upstream| {
        say(&zone, "web.example", None);
        let known = Answers::from([
            ("web.example".to_owned(), addresses(&["10.0.0.1"])),
            ("old.example".to_owned(), addresses(&["10.0.0.2"])),
        ]);
        let mut resolver = Resolver::new(upstream, QUICK, known);
        resolver.follow(&["web.example".to_owned()]);
        until(&resolver, |status| status.failures > 1).await;
        assert!(resolver.status().unresolved.is_empty());
        assert_eq!(resolver.known().len(), 1);
        say(&zone, "web.example", Some(&["10.0.0.3"]));
        changed(&mut resolver).await;
        assert_eq!(resolver.known()["web.example"], addresses(&["10.0.0.3"]));
    });
}
