//! Resolvers and forwarders of names that are too large for a guest, on this machine's kernel, and a
//! name service that is split: none takes an answer for a stranger's. `compat::names` has those that
//! run everywhere.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use splitter_tests::etc::with_etc;
use splitter_tests::names::{Datagrams, ask_name, asked, count_versions, with_split_names};
use splitter_tests::programs::{Running, output, program};
use tempfile::TempDir;

const QUESTIONS: usize = 100;
/// Where a forwarder listens.
const FORWARDER: [&str; 2] = ["127.0.0.5", "5300"];
/// Where systemd-resolved does.
const STUB: &str = "127.0.0.53:53";

/// Asks a forwarder, which has to have asked somebody. Answers how often each version was found.
fn ask(forwarder: &str) -> Result<[usize; 2]> {
    let forwarder = forwarder.parse()?;
    let ask = |_| Ok(ask_name(forwarder)?.to_string());
    Ok(count_versions(&(0..QUESTIONS).map(ask).collect::<Result<Vec<_>>>()?.join("\n")))
}

/// What the resolver of Node.js finds, which is c-ares.
fn ask_by_c_ares(script: &str) -> Result<String> {
    let resolver = "const { Resolver } = require('dns').promises;\n\
                    const resolver = new Resolver();\n\
                    resolver.setServers(['127.10.0.1']);\n\
                    const ask = async () => console.log((await resolver.resolve4('shop.example'))[0]);\n";
    let script = format!("{resolver}(async () => {{ {script} }})();");
    output(&mut program("node", &["-e", &script])?)
}

/// It connects its sockets, and has one for as long as some question is open.
#[test]
fn c_ares_resolves_names_in_exact_shares() -> Result<()> {
    with_split_names(Datagrams::Whole, |servers| {
        let said = ask_by_c_ares("for (let left = 100; left > 0; left--) await ask();")?;
        assert_eq!(count_versions(&said), [80, 20], "{said}");
        assert_eq!(asked(servers), [[80, 0], [20, 0]]);
        Ok(())
    })
}

#[test]
fn questions_of_c_ares_that_share_a_socket_share_a_server() -> Result<()> {
    with_split_names(Datagrams::Whole, |servers| {
        let said = ask_by_c_ares("await Promise.all(Array.from({ length: 100 }, ask));")?;
        let [v1, v2] = count_versions(&said);
        ensure!([v1, v2] == [100, 0] || [v1, v2] == [0, 100], "{v1} and {v2}");
        let [by_datagram, over_tcp] = [0, 1].map(|at| asked(servers).map(|asked| asked[at]));
        assert_eq!(by_datagram.map(usize::try_from), [Ok(v1), Ok(v2)]);
        assert_eq!(over_tcp, [0, 0]);
        Ok(())
    })
}

/// Each question is asked twice, by sockets of UDP and of TCP, each of which is one in the split.
#[test]
fn c_ares_asks_again_over_tcp_where_an_answer_is_truncated() -> Result<()> {
    with_split_names(Datagrams::Truncated, |servers| {
        let said = ask_by_c_ares("for (let left = 100; left > 0; left--) await ask();")?;
        assert_eq!(count_versions(&said).iter().sum::<usize>(), QUESTIONS, "{said}");
        let [v1, v2] = asked(servers);
        assert_eq!([v1[0] + v2[0], v1[1] + v2[1]], [100, 100]);
        assert_eq!([v1[0] + v1[1], v2[0] + v2[1]], [160, 40]);
        Ok(())
    })
}

/// unbound as a library, in a program that asks one question.
#[test]
fn unbound_resolves_names_in_exact_shares() -> Result<()> {
    with_split_names(Datagrams::Whole, |servers| {
        let folder = TempDir::new()?;
        let path = folder.path().join("unbound.conf");
        let config = "server:\n  do-not-query-localhost: no\n  do-ip6: no\n  \
                      module-config: iterator\nforward-zone:\n  name: .\n  \
                      forward-addr: 127.10.0.1\n";
        fs::write(&path, config)?;
        let mut said = String::new();
        for _ in 0..20 {
            let arguments = ["-C", &path.to_string_lossy(), "-t", "A", "shop.example"];
            said.push_str(&output(&mut program("unbound-host", &arguments)?)?);
        }
        assert_eq!(count_versions(&said), [16, 4], "{said}");
        assert_eq!(asked(servers), [[16, 0], [4, 0]]);
        Ok(())
    })
}

/// A forwarder that remembers nothing.
fn dnsmasq(more: &[&str]) -> Result<Running> {
    let [host, port] = FORWARDER;
    let options = [
        "--conf-file=/dev/null",
        "--keep-in-foreground",
        "--user=root",
        "--pid-file=",
        "--no-resolv",
        "--no-hosts",
        "--cache-size=0",
        "--bind-interfaces",
        "--server=127.10.0.1",
        &format!("--listen-address={host}"),
        &format!("--port={port}"),
    ];
    let mut command = program("dnsmasq", &[&options, more].concat())?;
    Running::start_listening(&mut command, &FORWARDER.join(":"))
}

/// It has a socket for each question that is open, and connects none.
#[test]
fn dnsmasq_forwards_in_exact_shares() -> Result<()> {
    with_split_names(Datagrams::Whole, |servers| {
        let _forwarder = dnsmasq(&[])?;
        assert_eq!(ask(&FORWARDER.join(":"))?, [80, 20]);
        assert_eq!(asked(servers), [[80, 0], [20, 0]]);
        Ok(())
    })
}

#[test]
fn a_forwarder_with_one_socket_stays_with_its_server() -> Result<()> {
    with_split_names(Datagrams::Whole, |servers| {
        let _forwarder = dnsmasq(&["--query-port=5301"])?;
        let [v1, v2] = ask(&FORWARDER.join(":"))?;
        ensure!([v1, v2] == [100, 0] || [v1, v2] == [0, 100], "{v1} and {v2}");
        let by_datagram = asked(servers).map(|asked| asked[0]);
        assert_eq!(by_datagram.map(usize::try_from), [Ok(v1), Ok(v2)]);
        Ok(())
    })
}

/// What it reads, and whom it becomes.
const RESOLVED_ETC: [(&str, &str); 3] = [
    ("passwd", "root:x:0:0::/:/bin/sh\nsystemd-resolve:x:997:997::/:/bin/false\n"),
    ("group", "root:x:0:\nsystemd-resolve:x:997:\n"),
    (
        "systemd/resolved.conf",
        "[Resolve]\nDNS=127.10.0.1\nFallbackDNS=\nCache=no\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\n",
    ),
];

/// Its program, which setup unpacks with its libraries.
fn resolved() -> Result<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/unpacked/systemd-resolved");
    let missing = || format!("there is no {}: `cargo xtask setup`", root.display());
    // Debian moves it from one to the other.
    let places = ["usr/lib/systemd", "lib/systemd"];
    let mut programs = places.iter().map(|place| root.join(place).join("systemd-resolved"));
    let found = programs.find(|path| path.is_file()).with_context(missing)?;
    // The folder of the machine's libraries, and the one in it that is systemd's own.
    let folders = fs::read_dir(root.join("usr/lib")).with_context(missing)?.flatten();
    let mut folders = folders.map(|folder| folder.path());
    let folder = folders.find(|path| path.join("systemd").is_dir()).with_context(missing)?;
    let mut command = program(found, &[])?;
    command.env("LD_LIBRARY_PATH", env::join_paths([&folder, &folder.join("systemd")])?);
    command.env("SYSTEMD_LOG_LEVEL", "warning");
    Ok(command)
}

/// It asks nobody while no device but loopback has an address.
fn make_device() -> Result<()> {
    let commands = [
        "link add up0 type veth peer name up1",
        "address add 192.0.2.1/24 dev up0",
        "link set up0 up",
        "link set up1 up",
    ];
    for command in commands {
        output(&mut program("ip", &command.split(' ').collect::<Vec<_>>())?)?;
    }
    Ok(())
}

/// It connects a socket for each question.
#[test]
fn systemd_resolved_forwards_in_exact_shares() -> Result<()> {
    with_split_names(Datagrams::Whole, |servers| {
        make_device()?;
        with_etc(&RESOLVED_ETC, || {
            // It makes the folder of its own below.
            fs::create_dir("/run/systemd")?;
            let _resolved = Running::start_listening(&mut resolved()?, STUB)?;
            assert_eq!(ask(STUB)?, [80, 20]);
            assert_eq!(asked(servers), [[80, 0], [20, 0]]);
            Ok(())
        })
    })
}
