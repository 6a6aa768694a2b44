//! A load client or server, told what to do by lines of JSON. See `splitter_bench::load`.

use std::io::{self, BufRead as _, Write as _};
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use splitter_bench::load::protocol::{Command, Reply};
use splitter_bench::load::{pin, serve, work};

/// Connects and serves on loopback, as benches ask for it.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Reads commands, one JSON object per line, and answers each with its outcome.
    Client {
        /// The CPU to run on.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// Answers requests with the address that they came to, until standard input ends.
    Serve {
        /// The CPU to run on.
        #[arg(long)]
        cpu: Option<usize>,
        /// Accepts now and then, and closes.
        #[arg(long)]
        drain: bool,
        /// Answers datagrams.
        #[arg(long, conflicts_with = "drain")]
        datagrams: bool,
        /// Where to listen.
        #[arg(required = true)]
        addrs: Vec<SocketAddr>,
    },
}

fn main() -> Result<()> {
    match Options::parse().role {
        Role::Client { cpu } => {
            cpu.map_or(Ok(()), pin)?;
            follow_commands()
        }
        Role::Serve { cpu, drain, datagrams, addrs } => {
            cpu.map_or(Ok(()), pin)?;
            let serve: fn(SocketAddr) -> Result<()> = match (drain, datagrams) {
                (true, _) => |addr| serve::drain(serve::listen_on(addr)?),
                (_, true) => |addr| serve::serve_datagrams(addr).map(drop),
                _ => |addr| serve::serve_requests(&serve::listen_on(addr)?),
            };
            addrs.into_iter().try_for_each(serve)?;
            wait_for_the_end()
        }
    }
}

fn follow_commands() -> Result<()> {
    reply(&Reply::Ready)?;
    for line in io::stdin().lock().lines() {
        let line = line.context("read a command")?;
        let command = serde_json::from_str::<Command>(&line).context("read a command");
        let done = command.and_then(|command| work::follow(&command));
        let answer = done.map_or_else(|why| Reply::Refused(format!("{why:#}")), Reply::Done);
        if reply(&answer).is_err() {
            // Whoever asked is gone.
            return Ok(());
        }
    }
    Ok(())
}

fn wait_for_the_end() -> Result<()> {
    reply(&Reply::Ready)?;
    io::copy(&mut io::stdin().lock(), &mut io::sink()).context("wait for the end")?;
    Ok(())
}

fn reply(reply: &Reply) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, reply).context("answer")?;
    out.write_all(b"\n").and_then(|()| out.flush()).context("answer")
}
