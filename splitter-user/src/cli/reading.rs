//! Options that say how policy files are read, and the loads that they are for.

use std::path::PathBuf;

use clap::Args;
use clap::error::ErrorKind;

use super::{complain_of, read_sources};
use crate::policy::diagnostic::Diagnostic;
use crate::policy::{
    DEFAULT_NAMESPACE, Loaded, NAME_RULE, Reading, Source, Surroundings, VipRange, VipRanges, Vips,
    is_name, load_in,
};

/// How policy files are read.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Documents of Istio, Kubernetes and the Gateway API")]
pub(crate) struct ReadingOptions {
    /// Namespace of documents that name none [default: default]
    #[arg(short, long, value_name = "NS", value_parser = parse_namespace)]
    namespace: Option<String>,
    /// Warn, instead of failing, of policies that mean nothing for a connection or are not
    /// enforced yet
    #[arg(long)]
    degrade: bool,
}

/// Where hosts get addresses that have none.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Documents of Istio, Kubernetes and the Gateway API")]
pub(crate) struct VipOptions {
    /// Where hosts get addresses whose documents have none. The defaults are named here because
    /// each is replaced by itself.
    #[arg(long, value_name = "CIDR", help = "Addresses for hosts whose documents have none; once \
for IPv4, once for IPv6 [default: 127.240.0.0/16 and 100::/64]", long_help = None::<&str>)]
    vip_range: Vec<VipRange>,
}

fn parse_namespace(text: &str) -> Result<String, &'static str> {
    if is_name(text) { Ok(text.to_owned()) } else { Err(NAME_RULE) }
}

impl ReadingOptions {
    /// What sources are read with.
    pub(crate) fn reading(&self) -> Reading {
        let namespace = self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE).to_owned();
        Reading { namespace, degrade: self.degrade, ..Reading::default() }
    }

    /// The namespace, and whether to degrade, as requests have them.
    pub(crate) fn into_parts(self) -> (String, bool) {
        let Reading { namespace, degrade, .. } = self.reading();
        (namespace, degrade)
    }

    /// Ends with wrong usage where an option is given and there is nothing to read.
    pub(crate) fn refuse_without_files(&self) {
        refuse(self.namespace.is_some(), "--namespace");
        refuse(self.degrade, "--degrade");
    }
}

impl VipOptions {
    /// The ranges. Ends with wrong usage where a family has more than one.
    pub(crate) fn ranges(&self) -> VipRanges {
        let mut ranges = VipRanges::default();
        for v4 in [true, false] {
            let of_family = || self.vip_range.iter().filter(|range| range.is_ipv4() == v4);
            if of_family().count() > 1 {
                let family = if v4 { "IPv4" } else { "IPv6" };
                let text = format!("--vip-range may be given once for {family}\n");
                clap::Error::raw(ErrorKind::ValueValidation, text).exit();
            }
            if let Some(range) = of_family().next() {
                *(if v4 { &mut ranges.v4 } else { &mut ranges.v6 }) = *range;
            }
        }
        ranges
    }

    /// Ends with wrong usage where an option is given and there is nothing to load.
    pub(crate) fn refuse_without_files(&self) {
        refuse(!self.vip_range.is_empty(), "--vip-range");
    }
}

fn refuse(is_given: bool, option: &str) {
    if is_given {
        let text = format!("{option} says how files are loaded, and the daemon loaded its own\n");
        clap::Error::raw(ErrorKind::ArgumentConflict, text).exit();
    }
}

/// Loads sources as a node would that knows no other, and has no answers of a resolver yet.
pub(crate) fn load_alone(sources: &[Source], vips: &VipOptions) -> Result<Loaded, Vec<Diagnostic>> {
    let vips = Vips { ranges: vips.ranges(), ..Vips::default() };
    load_in(sources, &Surroundings { vips, ..Surroundings::default() })
}

/// Reads and loads policy files, or says what is wrong with them. What is rarely meant is said too.
pub(crate) fn load_files(
    paths: &[PathBuf],
    reading: &ReadingOptions,
    vips: &VipOptions,
) -> anyhow::Result<Option<(Loaded, Vec<Source>)>> {
    let sources = read_sources(paths, &reading.reading())?;
    match load_alone(&sources, vips) {
        Ok(loaded) => {
            complain_of(&loaded.warnings, &sources)?;
            Ok(Some((loaded, sources)))
        }
        Err(diagnostics) => {
            complain_of(&diagnostics, &sources)?;
            Ok(None)
        }
    }
}
