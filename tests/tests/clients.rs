//! Who a route takes: what the kernel tells of clients and their sockets, and clients that a running
//! daemon finds in the cgroup tree.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::net::{AddressFamily, SocketType, connect, getpeername, socket};
use splitter_tests::daemon::Site;
use splitter_tests::datagrams::{DatagramServer, datagram_socket, exchange};
use splitter_tests::net::{
    Inhabitant, NumberOption, in_own_network, network_cookie, set_number_option,
};
use splitter_tests::node::Node;
use splitter_tests::peers::UdpClient;
use splitter_user::policy::model::NetnsName;

const V4: &str = "127.10.0.1:8080";
const V6: &str = "[::1]:8080";
/// Where clients that fit go, and all others.
const FITS: u16 = 19_001;
const OTHERS: u16 = 19_002;

/// Nothing that is waited for takes so long unless it never comes.
const LONGEST_WAIT: Duration = Duration::from_mins(3);

const MARK: NumberOption = (libc::SOL_SOCKET, libc::SO_MARK);
const TOS: NumberOption = (libc::IPPROTO_IP, libc::IP_TOS);
const TCLASS: NumberOption = (libc::IPPROTO_IPV6, libc::IPV6_TCLASS);

/// Two services, one of each family, whose clients that fit go elsewhere than all others.
fn policy(wanted: &str) -> String {
    let service = |name, frontend, host| {
        format!(
            "---
apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: {name}}}
spec:
  frontends: ['{frontend}', '{frontend}/udp']
  subsets:
    fits: {{backends: ['{host}:{FITS}']}}
    others: {{backends: ['{host}:{OTHERS}']}}
  routes:
    - {{match: {wanted}, split: {{fits: 1}}}}
    - {{split: {{others: 1}}}}
"
        )
    };
    service("four", V4, "127.0.0.1") + &service("six", V6, "[::1]")
}

/// How a client gets at a service.
#[derive(Clone, Copy, Debug)]
enum Way {
    Tcp,
    ConnectedUdp,
    Udp,
}

/// Where a socket goes that something was done to before.
fn port(way: Way, to: &str, prepare: &dyn Fn(BorrowedFd<'_>) -> Result<()>) -> Result<u16> {
    let to: SocketAddr = to.parse()?;
    let any = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    match way {
        Way::Tcp => {
            let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = socket(family, SocketType::STREAM, None)?;
            prepare(socket.as_fd())?;
            connect(&socket, &to)?;
            Ok(SocketAddr::try_from(getpeername(&socket)?.context("a peer")?)?.port())
        }
        Way::ConnectedUdp => {
            let socket = UdpSocket::bind(any)?;
            prepare(socket.as_fd())?;
            socket.connect(to)?;
            Ok(socket.peer_addr()?.port())
        }
        Way::Udp => {
            let socket = datagram_socket(any)?;
            prepare(socket.as_fd())?;
            Ok(exchange(&socket, to)?.1)
        }
    }
}

/// Servers of both families at both ports.
struct Servers {
    _tcp: Vec<TcpListener>,
    _udp: Vec<DatagramServer>,
}

impl Servers {
    fn start() -> Result<Self> {
        let addresses = ["127.0.0.1", "[::1]"]
            .into_iter()
            .flat_map(|host| [FITS, OTHERS].into_iter().map(move |port| format!("{host}:{port}")));
        let addresses: Vec<String> = addresses.collect();
        let tcp = addresses.iter().map(TcpListener::bind).collect::<Result<_, _>>()?;
        let udp = addresses.iter().map(|it| DatagramServer::echo(it)).collect::<Result<_>>()?;
        Ok(Self { _tcp: tcp, _udp: udp })
    }
}

/// Every way over both families must lead to this port.
fn assert_port(what: &str, port_of: impl Fn(Way, &str) -> Result<u16>, wanted: u16) -> Result<()> {
    for way in [Way::Tcp, Way::ConnectedUdp, Way::Udp] {
        for to in [V4, V6] {
            let port = port_of(way, to).with_context(|| format!("{what}: {way:?} to {to}"))?;
            ensure!(port == wanted, "{what}: {way:?} to {to} went to {port}, not {wanted}");
        }
    }
    Ok(())
}

/// Whether sockets with an option go where they should.
fn assert_option(
    what: &str,
    option: fn(&str) -> NumberOption,
    value: u32,
    wanted: u16,
) -> Result<()> {
    let port_of = |way, to: &str| {
        let option = option(to);
        port(way, to, &|socket| Ok(set_number_option(socket, option, value)?))
    };
    assert_port(what, port_of, wanted)
}

fn type_of_service(to: &str) -> NumberOption {
    if to == V4 { TOS } else { TCLASS }
}

/// All that a socket is known by: one load for all of them, which takes an emulated machine long.
#[test]
fn sockets_are_told_apart_by_mark_type_of_service_and_network() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::whole()?;
        let _servers = Servers::start()?;
        let plain = |way, to: &str| port(way, to, &|_| Ok(()));
        let mark = |_: &str| MARK;

        node.apply(&policy("{mark: 0x2a}"))?;
        assert_option("its mark", mark, 0x2a, FITS)?;
        assert_option("another mark", mark, 0x12a, OTHERS)?;
        assert_port("no mark", plain, OTHERS)?;
        node.apply(&policy("{mark: 0x2a/0xff}"))?;
        assert_option("bits beside the mask", mark, 0x12a, FITS)?;
        assert_option("bits of the mask", mark, 0x2b, OTHERS)?;
        node.apply(&policy("{mark: 0}"))?;
        assert_port("no mark is 0", plain, FITS)?;
        assert_option("a mark is not 0", mark, 1, OTHERS)?;

        node.apply(&policy("{tos: 0x28}"))?;
        assert_option("its type of service", type_of_service, 0x28, FITS)?;
        assert_option("another type of service", type_of_service, 0x2c, OTHERS)?;
        assert_port("no type of service", plain, OTHERS)?;
        // TCP keeps the low two bits for itself, and of UDP they are not looked at.
        assert_option("with bits for congestion", type_of_service, 0x29, FITS)?;

        let here = NetnsName::Path("/run/netns/here".to_owned());
        let networks = BTreeMap::from([(here, network_cookie()?)]);
        node.apply_with(&policy("{netns: here}"), &networks)?;
        assert_port("in the network", plain, FITS)?;
        in_own_network(|| {
            let _servers = Servers::start()?;
            assert_port("in another network", plain, OTHERS)
        })?;
        // Fields of one match are all needed.
        node.apply_with(&policy("{netns: here, mark: 7, tos: 8, uid: 0}"), &networks)?;
        assert_option("without the type of service", mark, 7, OTHERS)?;
        let all = |way, to: &str| {
            let option = type_of_service(to);
            port(way, to, &|socket| {
                set_number_option(socket, MARK, 7)?;
                Ok(set_number_option(socket, option, 8)?)
            })
        };
        assert_port("with all", all, FITS)
    })
}

const POD: &str = "2c48913c-b29f-11e7-9350-020968147796";

/// A container's id that begins like this.
fn id(digits: &str) -> String {
    format!("{digits:0<64}")
}

/// A route to a backend of its own for each of some matches. Who is in the node's pods and is not
/// known is rejected; all others go elsewhere.
fn policy_of(place: &str, matches: &[String]) -> String {
    let (mut routes, mut subsets) = (String::new(), String::new());
    for (port, wanted) in (20_001..).zip(matches) {
        let _ = writeln!(subsets, "    at-{port}: {{backends: ['127.0.0.1:{port}']}}");
        let _ = writeln!(routes, "    - {{match: {{{wanted}}}, split: {{at-{port}: 1}}}}");
    }
    format!(
        "apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: shop}}
spec:
  frontends: ['{V4}/udp']
  subsets:
    at-20000: {{backends: ['127.0.0.1:20000']}}
{subsets}
  routes:
{routes}
    - {{match: {{cgroup: {place}/kubepods.slice}}, reject: ECONNREFUSED}}
    - {{split: {{at-20000: 1}}}}
"
    )
}

/// How often each kind of client comes. Figures are printed where `SPLITTER_TEST_TIMES` says how
/// often; nothing is asserted about them.
fn rounds() -> u32 {
    env::var("SPLITTER_TEST_TIMES").ok().and_then(|n| n.parse().ok()).unwrap_or(2)
}

/// A running daemon and the only client of its only service.
struct Stage {
    site: Site,
    client: UdpClient,
    /// Microseconds from the making of a cgroup to its effect.
    times: BTreeMap<&'static str, Vec<u128>>,
}

impl Stage {
    /// Where the next connection goes; 0 where it is rejected.
    fn port(&self) -> Result<u16> {
        match self.client.connect_port() {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(0),
            port => Ok(port?),
        }
    }

    fn expect(&self, port: u16) -> Result<()> {
        let found = self.port()?;
        ensure!(found == port, "{found}, not {port}");
        Ok(())
    }

    /// Enters a cgroup that is made now. Until the daemon knows it, connections go to `before`, and
    /// then to `after`; never anywhere else.
    fn enter(&mut self, what: &'static str, path: &str, ports: [u16; 2]) -> Result<()> {
        let [before, after] = ports;
        let start = Instant::now();
        self.site.place().enter_path(path)?;
        loop {
            match self.port()? {
                port if port == after => break,
                port if port == before && start.elapsed() < LONGEST_WAIT => {}
                port => bail!("{port} in {path}, and not {after}"),
            }
            thread::sleep(Duration::from_micros(100));
        }
        self.times.entry(what).or_default().push(start.elapsed().as_micros());
        Ok(())
    }

    fn print_times(&mut self) -> Result<()> {
        let mut out = io::stdout().lock();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        for (what, times) in &mut self.times {
            times.sort_unstable();
            let part = |part: usize| times[(times.len() - 1) * part / 2];
            let (low, middle, high) = (part(0), part(1), part(2));
            let kernel = kernel.trim();
            writeln!(out, "{kernel} | {what} | {low} us | {middle} us | {high} us")?;
        }
        Ok(())
    }

    fn notes(&self) -> Result<String> {
        Ok(self.site.splitter(&["status"])?.out)
    }
}

/// One daemon for all of it, whose start takes an emulated machine long.
#[test]
fn clients_are_found_when_they_come_and_never_taken_for_others() -> Result<()> {
    let site = Site::new()?;
    let place = site.place().cgroup_path();
    fs::create_dir(site.place().cgroup().join("kubepods.slice"))?;
    let matches = [
        "unit: web@1.service".to_owned(),
        format!("container: {}", id("3f4eb4a1c9d2")),
        format!("pod: {POD}"),
        format!("cgroup: {place}/late/later"),
        "container: 77aa77aa77aa".to_owned(),
    ];
    let policy = site.write("policy.yaml", policy_of(&place, &matches))?;
    let daemon = site.run(&["--policy", &policy])?;
    let mut stage = Stage { site, client: UdpClient::new(V4)?, times: BTreeMap::new() };
    stage.expect(20_000)?;
    ensure!(stage.notes()?.contains("the unit web@1.service does not exist"));

    assert_units(&mut stage)?;
    assert_containers_and_pods(&mut stage)?;
    assert_paths_and_short_ids(&mut stage)?;
    assert_networks(&stage, &place)?;
    if env::var_os("SPLITTER_TEST_TIMES").is_some() {
        stage.print_times()?;
    }
    drop(daemon);
    Ok(())
}

/// A unit, and again after restarts of it, which have other ids.
fn assert_units(stage: &mut Stage) -> Result<()> {
    for _ in 0..rounds() {
        stage.enter("a unit", "web@1.service", [20_000, 20_001])?;
        stage.enter("inside of it", "web@1.service/inside", [20_001, 20_001])?;
        ensure!(!stage.notes()?.contains("the unit web@1.service does not exist"));
        stage.site.place().remove_path("web@1.service")?;
        stage.expect(20_000)?;
    }
    // A unit's name below a service is not that unit.
    stage.site.place().enter_path("other.service/web@1.service")?;
    stage.expect(20_000)?;
    stage.site.place().remove_path("other.service")?;
    Ok(())
}

/// Containers and pods, in directories that are new too: rejected until they are known.
fn assert_containers_and_pods(stage: &mut Stage) -> Result<()> {
    let slice = "kubepods.slice/kubepods-burstable.slice";
    let pod = |uid: &str| format!("{slice}/kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
    let container = |id: &str| format!("cri-containerd-{id}.scope");
    let (first, second) = (container(&id("3f4eb4a1c9d2")), container(&id("aaaaaaaaaaaa")));
    for _ in 0..rounds() {
        // What is named by its container is not in the pod that is named: it would be taken for that
        // pod until it is known, as what is inside always is.
        let path = format!("{}/{first}", pod("0"));
        stage.enter("a container in a new pod", &path, [0, 20_002])?;
        stage.enter("a pod", &format!("{}/{second}", pod(POD)), [0, 20_003])?;
        let nobodys = format!("kubepods.slice/crio-{}.scope", id("bbbbbbbbbbbb"));
        stage.site.place().enter_path(&nobodys)?;
        stage.expect(0)?;
        stage.site.place().remove_path(&nobodys)?;
        stage.site.place().remove_path(slice)?;
    }
    Ok(())
}

/// A path of which nothing existed, and the first digits of an id.
fn assert_paths_and_short_ids(stage: &mut Stage) -> Result<()> {
    // A path of which nothing existed.
    for _ in 0..rounds() {
        stage.enter("a path", "late/later", [20_000, 20_004])?;
        stage.site.place().remove_path("late")?;
    }
    // The first digits of an id, until two containers have them.
    let (first, second) = (id("77aa77aa77aa1"), id("77aa77aa77aa2"));
    stage.enter("a container", &format!("docker/{first}"), [20_000, 20_005])?;
    stage.enter("one too many", &format!("docker/{second}"), [20_000, 20_000])?;
    stage.enter("one of two", &format!("docker/{first}"), [20_005, 20_000])?;
    ensure!(stage.notes()?.contains("2 cgroups are the container 77aa77aa77aa"));
    stage.site.place().remove_path("docker")?;
    Ok(())
}

/// Labels of a pod and of a workload, which a native route names without a cgroup.
#[test]
fn labels_are_the_clients_that_documents_give_them() -> Result<()> {
    let site = Site::new()?;
    let place = site.place().cgroup_path();
    fs::create_dir(site.place().cgroup().join("kubepods.slice"))?;
    let wanted = ["labels: {app: web}, namespace: prod".to_owned()];
    let documents = format!(
        "{}---
apiVersion: v1
kind: Pod
metadata: {{name: web-1, namespace: prod, uid: {POD}, labels: {{app: web}}}}
---
apiVersion: splitter.dev/v1
kind: Workload
metadata: {{name: web, namespace: prod}}
spec: {{cgroup: {place}/web, labels: {{app: web}}}}
",
        policy_of(&place, &wanted)
    );
    let policy = site.write("policy.yaml", documents.clone())?;
    let daemon = site.run(&["--policy", &policy])?;
    let mut stage = Stage { site, client: UdpClient::new(V4)?, times: BTreeMap::new() };
    stage.expect(20_000)?;
    let pod = format!("kubepods.slice/kubepods-pod{}.slice", POD.replace('-', "_"));
    stage.enter("a pod by its labels", &format!("{pod}/x"), [0, 20_001])?;
    stage.enter("a workload by its labels", "web", [20_000, 20_001])?;
    // Without the labels, the same clients are anybody.
    let bare = documents.replace("labels: {app: web}}\n", "labels: {app: other}}\n");
    stage.site.replace("policy.yaml", bare)?;
    let start = Instant::now();
    while stage.port()? != 20_000 {
        ensure!(start.elapsed() < LONGEST_WAIT, "{}", daemon.log());
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Clients in network namespaces that the policy names by a file, and by the inode number.
fn assert_networks(stage: &Stage, place: &str) -> Result<()> {
    in_own_network(|| {
        let inhabitant = Inhabitant::new()?;
        let of_process = format!("/proc/{}/ns/net", inhabitant.pid());
        let inode = fs::metadata(&of_process)?.ino();
        let file = stage.site.write("network", "")?;
        let _named = Mounted::new(&of_process, &file)?;
        let inside = UdpClient::new(V4)?;
        for (n, name) in [file, format!("net:[{inode}]")].into_iter().enumerate() {
            // Another place among the routes, so that it is another backend.
            let others = vec!["uid: 12345".to_owned(); n];
            let matches = [others, vec![format!("netns: '{name}'")]].concat();
            let applied = stage.site.write("networks.yaml", policy_of(place, &matches))?;
            stage.site.splitter(&["apply", &applied])?.success()?;
            let wanted = 20_001 + u16::try_from(n)?;
            let found = inside.connect_port()?;
            ensure!(found == wanted, "{found}, not {wanted}, in {name}");
            stage.expect(20_000)?;
            let dial =
                ["explain", "--to", &format!("{V4}/udp"), "--netns", &name].map(str::to_owned);
            let dial: Vec<&str> = dial.iter().map(String::as_str).collect();
            let told = stage.site.splitter(&dial)?.success()?;
            ensure!(told.contains(&format!("127.0.0.1:{wanted}")), "{told}");
        }
        Ok(())
    })
}

/// A file that stands for something else, until this is dropped.
struct Mounted(String);

impl Mounted {
    fn new(from: &str, to: &str) -> Result<Self> {
        let status = Command::new("mount").args(["--bind", from, to]).status()?;
        ensure!(status.success(), "mount {from} at {to}");
        Ok(Self(to.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
