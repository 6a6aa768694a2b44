//! Programs that are too large for a guest, on this machine's kernel: each connection of theirs is
//! split. `compat::programs` has those that run everywhere.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use splitter_tests::node::{Node, two_versions};
use splitter_tests::programs::{HttpServer, Running, output, program};
use splitter_tests::shared::with_node;
use tempfile::TempDir;

const V1: &str = "127.0.0.1:19001";
const V2: &str = "127.0.0.1:19002";
/// Nothing that is waited for takes so long unless it never comes.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// A program that asks ten times prints the answers: four of five are those of `v1`.
fn ensure_split(program_name: &str, arguments: &[&str]) -> Result<()> {
    with_node(|node| {
        node.apply(&two_versions("tcp", 80, 20))?;
        let servers = [HttpServer::start(V1, "v1")?, HttpServer::start(V2, "v2")?];
        let said = output(&mut program(program_name, arguments)?)?;
        let lines = said.lines().filter(|line| ["v1", "v2"].contains(line));
        assert_eq!(lines.count(), 10, "{said}");
        assert_eq!(servers.each_ref().map(HttpServer::answered), [8, 2]);
        Ok(())
    })
}

#[test]
fn python_is_split() -> Result<()> {
    let script = "
import urllib.request
for _ in range(10):
    print(urllib.request.urlopen('http://127.10.0.1:8080/').read().decode().strip())
";
    ensure_split("python3", &["-c", script])
}

/// Its event loop does not wait for what connects.
#[test]
fn python_is_split_in_an_event_loop() -> Result<()> {
    let script = "
import asyncio
async def ask():
    reader, writer = await asyncio.open_connection('127.10.0.1', 8080)
    writer.write(b'GET / HTTP/1.0\\r\\n\\r\\n')
    print((await reader.read()).decode().split()[-1])
    writer.close()
async def ask_all():
    await asyncio.gather(*(ask() for _ in range(10)))
asyncio.run(ask_all())
";
    ensure_split("python3", &["-c", script])
}

#[test]
fn node_is_split() -> Result<()> {
    let script = "
const http = require('http');
const ask = (left) => left && http.get('http://127.10.0.1:8080/', { agent: false }, (answer) => {
    answer.setEncoding('utf8');
    answer.on('data', (text) => console.log(text.trim()));
    answer.on('end', () => ask(left - 1));
});
ask(10);
";
    ensure_split("node", &["-e", script])
}

/// Its sockets are of IPv6, and dial v4-mapped addresses.
#[test]
fn java_is_split() -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/Ask.java");
    ensure_split("java", &[&source.to_string_lossy(), "http://127.10.0.1:8080/"])
}

/// A server of Redis, which keeps what it has in a folder that goes with it.
struct Redis {
    _running: Running,
    _folder: TempDir,
}

/// Starts one, and waits until it listens.
fn redis(port: &str, more: &[&str]) -> Result<Redis> {
    let folder = TempDir::new()?;
    // Replicas are served at once.
    let at_once = ["--repl-diskless-sync-delay", "0", "--save", ""];
    let options = ["--port", port, "--bind", "127.0.0.1"];
    let mut server = program("redis-server", &[&options[..], &at_once, more].concat())?;
    let addr = format!("127.0.0.1:{port}");
    let running = Running::start_listening(server.current_dir(folder.path()), &addr)?;
    Ok(Redis { _running: running, _folder: folder })
}

fn ask_redis(addr: [&str; 2], words: &[&str]) -> Result<String> {
    let [host, port] = addr;
    output(&mut program("redis-cli", &[&["-h", host, "-p", port][..], words].concat())?)
}

/// Two servers of Redis behind the frontend, each of which knows its name.
fn with_redis<T: Send>(run: impl FnOnce(&mut Node) -> Result<T> + Send) -> Result<T> {
    with_node(|node| {
        node.apply(&two_versions("tcp", 80, 20))?;
        let _servers = (redis("19001", &[])?, redis("19002", &[])?);
        for (port, name) in [("19001", "v1"), ("19002", "v2")] {
            ask_redis(["127.0.0.1", port], &["set", "name", name])?;
        }
        run(node)
    })
}

#[test]
fn clients_of_redis_are_split() -> Result<()> {
    with_redis(|_| {
        let ask = |_| ask_redis(["127.10.0.1", "8080"], &["get", "name"]);
        let names = (0..10).map(ask).collect::<Result<Vec<_>>>()?;
        assert_eq!(names.iter().filter(|name| *name == "v1\n").count(), 8, "{names:?}");
        assert_eq!(names.iter().filter(|name| *name == "v2\n").count(), 2, "{names:?}");
        Ok(())
    })
}

#[test]
fn a_replica_of_redis_follows_a_frontend() -> Result<()> {
    with_redis(|node| {
        node.apply(&two_versions("tcp", 0, 1))?;
        let _replica = redis("19003", &["--replicaof", "127.10.0.1 8080"])?;
        let start = Instant::now();
        while ask_redis(["127.0.0.1", "19003"], &["get", "name"])? != "v2\n" {
            ensure!(start.elapsed() < LONGEST_WAIT, "the replica has not the data of v2");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    })
}
