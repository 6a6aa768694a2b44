//! Resolvers that every machine of the tests has, and a name service that is split: no answer is
//! lost or taken for a stranger's, and each look-up's socket is one in the split.

use std::net::ToSocketAddrs as _;

use anyhow::Result;
use splitter_tests::etc::{resolving_by, with_etc};
use splitter_tests::names::{Datagrams, asked, count_versions, with_split_names};
use splitter_tests::programs::{output, program, static_client};

const LOOK_UPS: u32 = 100;

/// What this program's own C library finds, with some options in `resolv.conf`.
fn look_up(options: &str) -> Result<String> {
    let config = format!("nameserver 127.10.0.1\n{options}");
    with_etc(&[("resolv.conf", &config)], || {
        let mut found = String::new();
        for _ in 0..LOOK_UPS {
            let addrs = ("shop.example", 80).to_socket_addrs()?;
            found.extend(addrs.map(|addr| format!("{addr}\n")));
        }
        Ok(found)
    })
}

/// It asks for addresses of both families by one socket, which it connects.
#[test]
fn the_c_library_resolves_names_in_exact_shares() -> Result<()> {
    with_split_names(Datagrams::Whole, |servers| {
        assert_eq!(count_versions(&look_up("")?), [80, 20]);
        assert_eq!(asked(servers), [[160, 0], [40, 0]]);
        Ok(())
    })
}

#[test]
fn the_c_library_resolves_names_over_tcp_in_exact_shares() -> Result<()> {
    with_split_names(Datagrams::Whole, |servers| {
        assert_eq!(count_versions(&look_up("options use-vc\n")?), [80, 20]);
        assert_eq!(asked(servers), [[0, 160], [0, 40]]);
        Ok(())
    })
}

/// A static program that looks names up finds each server as often as it should.
fn ensure_exact(client: &str, arguments: &[&str]) -> Result<()> {
    with_split_names(Datagrams::Whole, |servers| {
        let look_ups = LOOK_UPS.to_string();
        let arguments = [arguments, &["shop.example", &look_ups]].concat();
        let mut resolve = program(static_client(client)?, &arguments)?;
        let said = resolving_by("127.10.0.1", || output(&mut resolve))?;
        assert_eq!(count_versions(&said), [80, 20], "{said}");
        assert_eq!(asked(servers), [[80, 0], [20, 0]]);
        Ok(())
    })
}

/// It never connects, and throws away what comes from another address than it asked.
#[test]
fn the_resolver_of_musl_resolves_names_in_exact_shares() -> Result<()> {
    ensure_exact("resolve", &[])
}

/// It connects a socket for each question.
#[test]
fn the_resolver_of_go_resolves_names_in_exact_shares() -> Result<()> {
    ensure_exact("ask", &["resolve"])
}
