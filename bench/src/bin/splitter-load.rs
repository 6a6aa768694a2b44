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
        Role::Serve { cpu, drain, addrs } => {
            cpu.map_or(Ok(()), pin)?;
            serve_until_the_end(&addrs, drain)
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

fn serve_until_the_end(addrs: &[SocketAddr], drain: bool) -> Result<()> {
    for addr in addrs {
        let listener = serve::listen_on(*addr)?;
        if drain {
            serve::drain(listener)?;
        } else {
            serve::serve_requests(&listener)?;
        }
    }
    reply(&Reply::Ready)?;
    io::copy(&mut io::stdin().lock(), &mut io::sink()).context("wait for the end")?;
    Ok(())
}

fn reply(reply: &Reply) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, reply).context("answer")?;
    out.write_all(b"\n").and_then(|()| out.flush()).context("answer")
}
