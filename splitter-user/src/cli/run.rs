//! `splitter run`: the daemon.

use std::path::PathBuf;

use clap::Args;
use nix::unistd::Gid;

use super::Exit;
use super::reading::{ReadingOptions, VipOptions};
use crate::daemon::access::{Access, find_group};
use crate::daemon::{self, DEFAULT_PIN_DIR, DEFAULT_SOCKET, DEFAULT_STATE_DIR, OnExit, Settings};
use crate::tables::Sizes;
use crate::telemetry::{LogFormat, start_log};

/// Options of `run`.
#[derive(Args)]
pub(crate) struct Options {
    /// Policy file, or directory of *.yaml and *.yml files; changes take effect at once.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    policy: Vec<PathBuf>,
    /// Cgroup v2 directory whose connections are split [default: the root of the hierarchy].
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Directory on bpffs for maps and links, which outlive the daemon.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PIN_DIR)]
    pin_dir: PathBuf,
    /// Control socket.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, env = "SPLITTER_SOCKET")]
    socket: PathBuf,
    /// Directory in which changes by command are kept over restarts.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Wait for a policy where there is none yet, or a wrong one, instead of ending.
    #[arg(long)]
    wait: bool,
    /// Cgroup, as a path from the cgroup v2 root, whose clients reach nothing until a policy is
    /// committed; this waits for one too.
    #[arg(long, value_name = "PATH", value_parser = super::dial::parse_cgroup)]
    hold: Vec<String>,
    /// What becomes of the split when the daemon ends.
    #[arg(long, value_enum, default_value_t)]
    on_exit: OnExit,
    /// Log every connection to a frontend, at debug level.
    #[arg(long)]
    log_connections: bool,
    /// Form of the log, which goes to standard error; `SPLITTER_LOG` filters it.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// Group, by number or name, whose members may change the policy: by the user database, or by the
    /// effective group of the caller, and not by groups that a process was only given.
    #[arg(long, value_name = "GROUP", value_parser = find_group)]
    admin_group: Option<Gid>,
    /// Group, by number or name, whose members may read policy and state; the same holds for it.
    #[arg(long, value_name = "GROUP", value_parser = find_group)]
    read_group: Option<Gid>,
    #[command(flatten)]
    reading: ReadingOptions,
    #[command(flatten)]
    vips: VipOptions,
    #[command(flatten)]
    sizes: SizeOptions,
}

/// Sizes of the maps. Kernel memory is taken for all of it at once.
#[derive(Args)]
#[expect(clippy::struct_field_names, reason = "the fields are named as the options are")]
#[command(next_help_heading = "Sizes of the maps")]
struct SizeOptions {
    /// Most services of ordinary shape: one frontend, two subsets, four backends, weights that
    /// sum to 100. The sizes below follow from it.
    #[arg(long, value_name = "N", default_value_t = Sizes::DEFAULT_SERVICES, value_parser = size_parser(1_000_000))]
    max_services: u32,
    /// Most frontends.
    #[arg(long, value_name = "N", value_parser = size_parser(MAX_RECORDS))]
    max_frontends: Option<u32>,
    /// Most plans: one per service, and one more per service that is changing.
    #[arg(long, value_name = "N", value_parser = size_parser(MAX_RECORDS))]
    max_plans: Option<u32>,
    /// Most routes.
    #[arg(long, value_name = "N", value_parser = size_parser(MAX_RECORDS))]
    max_routes: Option<u32>,
    /// Most client matches.
    #[arg(long, value_name = "N", value_parser = size_parser(MAX_RECORDS))]
    max_matches: Option<u32>,
    /// Most wheels.
    #[arg(long, value_name = "N", value_parser = size_parser(MAX_RECORDS))]
    max_wheels: Option<u32>,
    /// Most cells: slots of long wheels, four each, and affinity thresholds.
    #[arg(long, value_name = "N", value_parser = size_parser(MAX_RECORDS))]
    max_cells: Option<u32>,
    /// Most subsets.
    #[arg(long, value_name = "N", value_parser = size_parser(MAX_RECORDS))]
    max_subsets: Option<u32>,
    /// Most backends.
    #[arg(long, value_name = "N", value_parser = size_parser(MAX_RECORDS))]
    max_backends: Option<u32>,
    /// Most counters.
    #[arg(long, value_name = "N", value_parser = size_parser(MAX_RECORDS))]
    max_counters: Option<u32>,
    /// Most subsets whose connections are followed.
    #[arg(long, value_name = "N", value_parser = size_parser(MAX_RECORDS))]
    max_conducts: Option<u32>,
    /// Most routes that fail connections on purpose.
    #[arg(long, value_name = "N", value_parser = size_parser(MAX_RECORDS))]
    max_faults: Option<u32>,
    /// Most followed subsets, backends and routes together.
    #[arg(long, value_name = "N", value_parser = size_parser(MAX_RECORDS))]
    max_states: Option<u32>,
}

/// Maps larger than this fail in the kernel with messages that help nobody.
const MAX_RECORDS: u32 = 100_000_000;

/// Record 0 of every map is reserved, and one more is the least that is of use.
fn size_parser(most: u32) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(most))
}

impl SizeOptions {
    fn sizes(&self) -> Sizes {
        let derived = Sizes::for_services(self.max_services);
        let or = |wanted: Option<u32>, derived: u32| wanted.map_or(derived, |wanted| wanted + 1);
        Sizes {
            frontends: or(self.max_frontends, derived.frontends),
            plans: or(self.max_plans, derived.plans),
            routes: or(self.max_routes, derived.routes),
            matches: or(self.max_matches, derived.matches),
            wheels: or(self.max_wheels, derived.wheels),
            cells: or(self.max_cells, derived.cells),
            subsets: or(self.max_subsets, derived.subsets),
            backends: or(self.max_backends, derived.backends),
            counters: or(self.max_counters, derived.counters)
                .saturating_add(splitter_common::abi::FIRST_COUNTER),
            conducts: or(self.max_conducts, derived.conducts),
            faults: or(self.max_faults, derived.faults),
            states: or(self.max_states, derived.states),
        }
    }
}

/// Runs the daemon until a signal ends it.
pub(crate) fn run(options: Options) -> anyhow::Result<Exit> {
    // `splitter` is where the hooks log and the beginning of this crate's name; libraries are
    // heard where something is wrong.
    let filter = if options.log_connections { "warn,splitter=debug" } else { "warn,splitter=info" };
    start_log(options.log_format, filter)?;
    daemon::run(Settings {
        sizes: options.sizes.sizes(),
        vip_ranges: options.vips.ranges(),
        reading: options.reading.reading(),
        policy: options.policy,
        cgroup: options.cgroup,
        pin_dir: options.pin_dir,
        socket: options.socket,
        state_dir: options.state_dir,
        on_exit: options.on_exit,
        log_connections: options.log_connections,
        wait: options.wait,
        hold: options.hold,
        access: Access { admin_group: options.admin_group, read_group: options.read_group },
    })?;
    Ok(Exit::Success)
}
