//! Programs that every machine of the tests has: each connection of theirs is split.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use splitter_tests::etc::resolving_by;
use splitter_tests::names::{Datagrams, NameServer};
use splitter_tests::node::{Node, two_versions};
use splitter_tests::peers::PortServer;
use splitter_tests::programs::{HttpServer, Running, output, program, static_client};
use splitter_tests::shared::with_node;
use tempfile::TempDir;

use crate::{V1, V2};

const URL: &str = "http://127.10.0.1:8080/";
/// What programs listen on.
const OWN: &str = "127.0.0.1:18000";

/// Four of five connections go to `v1`, by HTTP, and one to `v2`.
fn served<T: Send>(run: impl FnOnce(&mut Node, &[HttpServer; 2]) -> Result<T> + Send) -> Result<T> {
    with_node(|node| {
        node.apply(&two_versions("tcp", 80, 20))?;
        run(node, &[HttpServer::start(V1, "v1")?, HttpServer::start(V2, "v2")?])
    })
}

/// A name server behind a frontend of UDP, which knows one name of the web service.
fn name_server(node: &mut Node) -> Result<NameServer> {
    let names = two_versions("udp", 1, 0)
        .replace("127.10.0.1:8080", "127.0.0.53:53")
        .replace("{name: shop}", "{name: names}")
        .replace("19001", "19053");
    node.apply(&format!("{}---\n{names}", two_versions("tcp", 80, 20)))?;
    NameServer::start(19_053, [127, 10, 0, 1], Datagrams::Whole)
}

fn answered(servers: &[HttpServer; 2]) -> [u64; 2] {
    [servers[0].answered(), servers[1].answered()]
}

#[test]
fn curl_is_split() -> Result<()> {
    served(|_, servers| {
        let urls = format!("{URL}[1-10]");
        let said = output(&mut program("curl", &["--silent", "--show-error", &urls])?)?;
        assert_eq!(said.matches("v1").count(), 8, "{said}");
        assert_eq!(answered(servers), [8, 2]);
        Ok(())
    })
}

/// A proxy whose upstream is the frontend.
fn nginx(folder: &Path) -> Result<Running> {
    let path = folder.join("nginx.conf");
    let config = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr error;\n\
         events {{}}\nhttp {{ access_log off; server {{ listen {OWN}; \
         location / {{ proxy_pass {URL}; }} }} }}\n"
    );
    fs::write(&path, config)?;
    let (folder, path) = (folder.to_string_lossy(), path.to_string_lossy());
    let arguments = ["-p", &folder, "-e", "stderr", "-c", &path];
    Running::start_listening(&mut program("nginx", &arguments)?, OWN)
}

#[test]
fn nginx_is_split_as_a_client() -> Result<()> {
    served(|_, servers| {
        let folder = TempDir::new()?;
        let _nginx = nginx(folder.path())?;
        let urls = format!("http://{OWN}/[1-10]");
        let said = output(&mut program("curl", &["--silent", "--show-error", &urls])?)?;
        assert_eq!(said.matches("v1").count(), 8, "{said}");
        assert_eq!(answered(servers), [8, 2]);
        Ok(())
    })
}

#[test]
fn wrk_is_split() -> Result<()> {
    served(|_, servers| {
        // Each answer ends its connection.
        output(&mut program("wrk", &["-t", "1", "-c", "10", "-d", "1s", URL])?)?;
        let [v1, v2] = answered(servers);
        ensure!(v2 > 0 && (v2 * 5).abs_diff(v1 + v2) <= 5 * 10, "{v1} and {v2}");
        Ok(())
    })
}

/// Go makes its system calls without the C library, and does not wait for what connects.
#[test]
fn a_go_program_is_split() -> Result<()> {
    served(|_, servers| {
        let said =
            output(&mut program("hey", &["-n", "10", "-c", "1", "-disable-keepalive", URL])?)?;
        ensure!(said.contains("[200]\t10 responses"), "{said}");
        assert_eq!(answered(servers), [8, 2]);
        Ok(())
    })
}

/// Go's own resolver connects a socket for each question.
#[test]
fn a_go_program_resolves_names_through_a_split_name_service() -> Result<()> {
    served(|node, servers| {
        let _names = name_server(node)?;
        let url = "http://shop.example:8080/";
        let mut hey = program("hey", &["-n", "5", "-c", "1", "-disable-keepalive", url])?;
        hey.env("GODEBUG", "netdns=go");
        let said = resolving_by("127.0.0.53", || output(&mut hey))?;
        ensure!(said.contains("[200]\t5 responses"), "{said}");
        assert_eq!(answered(servers), [4, 1]);
        Ok(())
    })
}

/// A static program that dials ten times prints the ports that answer.
fn ensure_split(client: &str, run: fn(&Path) -> Result<String>) -> Result<()> {
    with_node(|node| {
        node.apply(&two_versions("tcp", 80, 20))?;
        let _servers = (PortServer::start(V1)?, PortServer::start(V2)?);
        let said = run(&static_client(client)?)?;
        assert_eq!(said.matches("19001\n").count(), 8, "{said}");
        assert_eq!(said.matches("19002\n").count(), 2, "{said}");
        Ok(())
    })
}

#[test]
fn a_static_program_is_split() -> Result<()> {
    ensure_split("dial", |client| {
        (0..10).map(|_| output(&mut program(client, &["127.10.0.1", "8080"])?)).collect()
    })
}

/// It is all of its own making: no C library is in it.
#[test]
fn a_static_go_program_is_split() -> Result<()> {
    ensure_split("ask", |client| output(&mut program(client, &["dial", "127.10.0.1:8080", "10"])?))
}
