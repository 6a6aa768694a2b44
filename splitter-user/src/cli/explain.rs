//! `splitter explain`: why a connection goes where it goes.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::client::{Answer, LiveAddress, unexpected};
use super::dial::Dial;
use super::reading::{ReadingOptions, VipOptions, load_files};
use super::{Exit, Output, print, print_json};
use crate::compile::egress::HostAddresses;
use crate::compile::frontend_key;
use crate::daemon::control::{Request, Response};
use crate::daemon::engine::LiveExplanation;
use crate::explain::{Explanation, Names, explain};
use crate::policy::model::Policy;
use crate::rehearsal::{Rehearsal, RehearsalError, imagine_ids};

/// Options of `explain`.
#[derive(Args, Debug)]
#[command(after_help = "\
The connection is decided by the very code that runs in the kernel: nothing is dialled, and no ticket \
is taken. Of an address that no service has, it is told which egress document judges it. What is not \
said about the client is 0, its command empty and its cgroup the root. With files, the policy is in \
memory, and neither privilege nor a daemon is needed; cgroups and network namespaces that it names are \
taken to exist. Without files, the daemon is asked about the policy that runs, on the cgroups and \
namespaces of this node.")]
#[command(mut_arg("socket", |socket| socket.conflicts_with("offline")))]
pub(crate) struct Options {
    /// Policy files, directories of them, or - for standard input; the running policy where none
    /// is named
    #[arg(value_name = "FILE", group = "offline")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    dial: Dial,
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

/// Runs `explain`.
pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    if options.files.is_empty() {
        options.reading.refuse_without_files();
        options.vips.refuse_without_files();
        return explain_live(options);
    }
    let loaded = load_files(&options.files, &options.reading, &options.vips)?;
    let Some((loaded, _)) = loaded else { return Ok(Exit::Failure) };
    let explanation =
        explain_offline(&loaded.policy, &options.dial).context("put the policy into memory")?;
    match options.output {
        Output::Text => print(&explanation.to_string())?,
        Output::Json => print_json(&explanation)?,
    }
    Ok(Exit::Success)
}

fn explain_offline(policy: &Policy, dial: &Dial) -> Result<Explanation, RehearsalError> {
    let role = dial.role();
    let ids = imagine_ids(policy, std::slice::from_ref(&role));
    // What host names stand for is known on the node only.
    let hosts = HostAddresses::new();
    let names = Names::new(&policy.services, &ids).with_egress(&policy.outbound, hosts);
    let client = role.client(0, &ids);
    let rehearsal = Rehearsal::new(policy, ids)?;
    let (maps, egress) = (rehearsal.maps(), rehearsal.egress());
    Ok(explain(maps, egress, &names, &frontend_key(&dial.to), client))
}

fn explain_live(options: &Options) -> anyhow::Result<Exit> {
    let Options { dial, output, daemon, .. } = options;
    match daemon.find().ask(&Request::Explain { to: dial.to.to_string(), role: dial.role() })? {
        Answer::Done(Response::Explained(told)) => {
            match output {
                Output::Text => print(&text(&told))?,
                Output::Json => print_json(&told)?,
            }
            Ok(Exit::Success)
        }
        Answer::Done(_) => Err(unexpected()),
        Answer::Refused => Ok(Exit::Failure),
    }
}

fn text(told: &LiveExplanation) -> String {
    let LiveExplanation { committed, next_ticket, explanation } = told;
    let ticket = next_ticket.map_or(String::new(), |ticket| format!(", next ticket {ticket}"));
    format!("live policy, generation {committed}{ticket}\n{explanation}")
}
