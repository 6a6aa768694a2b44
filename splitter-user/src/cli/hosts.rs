//! `splitter hosts`: what has to be in `/etc/hosts` for clients to dial hosts by name.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::client::{Answer, LiveAddress, unexpected};
use super::reading::{ReadingOptions, VipOptions, load_files};
use super::{Exit, Output, print, print_json};
use crate::daemon::control::{Host, Request, Response};
use crate::daemon::{HOSTS_BEGIN, HOSTS_END};

/// Options of `hosts`.
#[derive(Args, Debug)]
#[command(after_help = "\
The lines stand between two comments, so that they can be replaced:

  sed -i '/^# splitter: begin/,/^# splitter: end/d' /etc/hosts
  splitter hosts >> /etc/hosts

Nothing is written by the command itself. Addresses that were chosen here are the same in every run, \
but where two names fall on one: of those, the daemon remembers which came first, and files alone \
do not say it.")]
#[command(mut_arg("socket", |socket| socket.conflicts_with("offline")))]
pub(crate) struct Options {
    /// Policy files, directories of them, or - for standard input; the running policy where none
    /// is named
    #[arg(value_name = "FILE", group = "offline")]
    files: Vec<PathBuf>,
    /// Only hosts whose address was chosen here, because their documents have none
    #[arg(long)]
    allocated: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    daemon: LiveAddress,
    #[command(flatten)]
    reading: ReadingOptions,
    #[command(flatten)]
    vips: VipOptions,
}

/// Prints the hosts.
pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    let Some(mut hosts) = find(options)? else { return Ok(Exit::Failure) };
    hosts.retain(|host| host.allocated || !options.allocated);
    match options.output {
        Output::Text => print(&block(&hosts)?)?,
        Output::Json => print_json(&hosts)?,
    }
    Ok(Exit::Success)
}

/// `None` after saying why there is no answer.
fn find(options: &Options) -> anyhow::Result<Option<Vec<Host>>> {
    if !options.files.is_empty() {
        let loaded = load_files(&options.files, &options.reading, &options.vips)?;
        return Ok(loaded.map(|(loaded, _)| loaded.hosts.into_iter().map(Host::from).collect()));
    }
    options.reading.refuse_without_files();
    options.vips.refuse_without_files();
    match options.daemon.find().ask(&Request::Hosts)? {
        Answer::Done(Response::Hosts { hosts }) => Ok(Some(hosts)),
        Answer::Done(_) => Err(unexpected()),
        Answer::Refused => Ok(None),
    }
}

fn block(hosts: &[Host]) -> Result<String, std::fmt::Error> {
    let mut text = format!("{HOSTS_BEGIN}\n");
    for Host { address, names, .. } in hosts {
        writeln!(text, "{address} {}", names.join(" "))?;
    }
    writeln!(text, "{HOSTS_END}")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_marked_and_has_a_line_per_host() {
        let host = |address: &str, names: &[&str]| Host {
            address: address.parse().unwrap(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            allocated: false,
        };
        let hosts = [host("10.0.0.1", &["web.shop.svc", "web"]), host("100::2", &["db.example"])];
        assert_eq!(
            block(&hosts).unwrap(),
            "# splitter: begin\n10.0.0.1 web.shop.svc web\n100::2 db.example\n# splitter: end\n"
        );
        assert_eq!(block(&[]).unwrap(), "# splitter: begin\n# splitter: end\n");
    }
}
