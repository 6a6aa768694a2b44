//! From the embedded object to loaded programs on pinned maps.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::{Iter, Program, ProgramError};
use aya::{Btf, Ebpf, EbpfError, EbpfLoader};
use rustix::time::{ClockId, clock_getres};
use splitter_common::abi::{
    Assignment, AssignmentKey, EgressClient, EgressRule, FrontendKey, MAX_EGRESS_NETWORKS,
    PortRanges, map,
};

use super::assignments::AssignmentMap;
use super::attach::Hook;
use super::egress::{EgressMaps, NetworkKey};
use super::maps::n_counters;
use super::pins::{PinDir, PinError};
use super::{KernelMaps, btf, object, sys};
use crate::tables::{Arena, Sizes};

/// The kernel did not take the programs or maps.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The binary has no kernel programs in it.
    #[error("this binary was built without the kernel programs; build it with: cargo xtask build")]
    NoObject,
    /// The pin directory.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The maps.
    #[error(
        "make the maps (needs CAP_BPF, and CAP_NET_ADMIN and CAP_PERFMON for the programs: run as root)"
    )]
    Maps(#[source] EbpfError),
    /// A pin holds something else.
    #[error("{} is not the map that belongs there ({what}); remove it, or choose another --pin-dir", path.display())]
    ForeignPin {
        /// The pin.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
    /// A program.
    #[error(
        "load the program {name} (needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, which the daemon drops once they are loaded, and Linux 6.1 or newer)"
    )]
    Program {
        /// Name of the program.
        name: &'static str,
        /// The verifier's last words are in here.
        #[source]
        error: ProgramError,
    },
    /// The kernel does not describe its types, or not those that are needed.
    #[error(
        "find out where the kernel keeps why a connection failed (needs CONFIG_DEBUG_INFO_BTF)"
    )]
    Types(#[source] io::Error),
    /// The program that lists sockets.
    #[error("link the program that lists UDP sockets (needs CAP_BPF and CAP_PERFMON)")]
    List(#[source] io::Error),
    /// A map could not be used.
    #[error("use the map {name}")]
    Map {
        /// Name of the map.
        name: &'static str,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// Clients and subsets of which it is remembered where the last connection failed; beyond that, the
/// one that was used least is forgotten.
const MOST_PREVIOUS: u32 = 8_192;
/// Assignments that there may be at once.
const MOST_ASSIGNMENTS: u32 = 16_384;
/// Cgroups that have rules of their own about what is no service.
const MOST_EGRESS_CLIENTS: u32 = 16_384;
/// Networks of all such rules together, in two sets.
const MOST_EGRESS_NETWORKS: u32 = 2 * MAX_EGRESS_NETWORKS;
/// Room for some 3,000 events that nobody has taken yet: whole pages, a power of two.
const EGRESS_EVENTS_BYTES: u32 = 1 << 18;

/// Whether the hooks log every connection. Off, the verifier removes the code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// They do not.
    #[default]
    Off,
    /// One line per connection to a frontend.
    Debug,
}

impl LogLevel {
    /// As `aya_log_common::Level` counts.
    fn number(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Debug => 4,
        }
    }
}

/// What the verifier and the JIT made of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramSize {
    /// Name of the program.
    pub name: &'static str,
    /// Instructions that the verifier walked, on all paths together.
    pub verified_instructions: u32,
    /// Bytes of BPF instructions, 8 each.
    pub translated_bytes: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
}

/// Loaded programs, not attached by this alone.
pub struct Loaded {
    ebpf: Ebpf,
    sizes: Sizes,
    hooks: Vec<Hook>,
    maps_dir: PathBuf,
}

/// Loads the programs of some hooks onto the pinned maps of this layout, which are made if they are
/// missing. The programs of others can neither be attached nor asked for.
pub fn load(
    pins: &PinDir,
    sizes: Sizes,
    hooks: &[Hook],
    log: LogLevel,
) -> Result<Loaded, LoadError> {
    let object = object::embedded().ok_or(LoadError::NoObject)?;
    let maps_dir = pins.maps(&sizes)?;
    let level = log.number();
    let sk_err = btf::member_offset("sock", "sk_err").map_err(LoadError::Types)?;
    // Not every kernel has MPTCP.
    let first_path = btf::member_offset("mptcp_sock", "first").unwrap_or(0);
    let ticks = ticks_per_second();
    let paths: Vec<(&str, PathBuf)> =
        pinned_maps().map(|name| (name, maps_dir.join(name))).collect();
    let mut loader = EbpfLoader::new();
    loader.override_global("AYA_LOG_LEVEL", &level, true);
    if log == LogLevel::Off {
        loader.map_max_entries("AYA_LOGS", 4_096);
    }
    loader.override_global("COUNTERS_PER_CPU", &sizes.counters, true);
    loader.override_global("SK_ERR_OFFSET", &sk_err, true);
    loader.override_global("MPTCP_FIRST_OFFSET", &first_path, true);
    loader.override_global("TICKS_PER_SECOND", &ticks, true);
    for (name, entries) in map_sizes(&sizes)? {
        loader.map_max_entries(name, entries);
    }
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    let mut ebpf = loader.load(object).map_err(LoadError::Maps)?;
    for &hook in hooks {
        let result = load_program(program(&mut ebpf, hook));
        result.map_err(|error| LoadError::Program { name: hook.program(), error })?;
    }
    Ok(Loaded { ebpf, sizes, hooks: hooks.to_vec(), maps_dir })
}

fn map_sizes(sizes: &Sizes) -> Result<HashMap<&'static str, u32>, LoadError> {
    let error = |error| LoadError::Map { name: map::COUNTERS, error };
    let arenas = Arena::ALL.map(|arena| (arena.map_name(), sizes.records(arena)));
    let n_counters = n_counters(sizes).map_err(error)?;
    let others = [
        (map::FRONTENDS, sizes.frontends),
        (map::COUNTERS, n_counters),
        (map::PREVIOUS, MOST_PREVIOUS),
        (map::ASSIGNMENTS, MOST_ASSIGNMENTS),
        (map::EGRESS_CLIENTS, MOST_EGRESS_CLIENTS),
        (map::EGRESS_NETWORKS, MOST_EGRESS_NETWORKS),
        (map::EGRESS_EVENTS, EGRESS_EVENTS_BYTES),
    ];
    Ok(arenas.into_iter().chain(others).collect())
}

fn pinned_maps() -> impl Iterator<Item = &'static str> {
    let others = [
        map::FRONTENDS,
        map::COUNTERS,
        map::SOCKETS,
        map::DATAGRAMS,
        map::PREVIOUS,
        map::ASSIGNMENTS,
        map::EGRESS_CLIENTS,
        map::EGRESS_NETWORKS,
        map::EGRESS_EVENTS,
    ];
    Arena::ALL.map(Arena::map_name).into_iter().chain(others)
}

fn program(ebpf: &mut Ebpf, hook: Hook) -> &mut Program {
    ebpf.program_mut(hook.program()).expect("the object has a program per hook")
}

fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Ticks of the kernel's timer per second, which the coarse clocks advance by (`CONFIG_HZ`).
fn ticks_per_second() -> u32 {
    let tick = clock_getres(ClockId::MonotonicCoarse);
    u32::try_from(1_000_000_000 / tick.tv_nsec.max(1)).unwrap_or(u32::MAX)
}

impl Loaded {
    /// Opens the maps for writing and reading.
    pub fn maps(&self) -> Result<KernelMaps, LoadError> {
        let arenas = Arena::ALL
            .map(|arena| self.open(arena.map_name(), (4, bytes(arena))))
            .into_iter()
            .collect::<Result<Vec<OwnedFd>, _>>()?;
        let frontends = self.open(map::FRONTENDS, (size::<FrontendKey>(), 4))?;
        let counters = self.open(map::COUNTERS, (4, 8))?;
        KernelMaps::new(self.sizes, &arenas, frontends, &counters)
            .map_err(|error| LoadError::Map { name: map::COMMIT, error })
    }

    /// Opens the map of assignments.
    pub fn assignments(&self) -> Result<AssignmentMap, LoadError> {
        let record = (size::<AssignmentKey>(), size::<Assignment>());
        self.open(map::ASSIGNMENTS, record).map(AssignmentMap::new)
    }

    /// Opens the maps of what clients may reach.
    pub fn egress(&self) -> Result<EgressMaps, LoadError> {
        let clients = (size::<EgressClient>(), size::<EgressRule>());
        let networks = (size::<NetworkKey>(), size::<PortRanges>());
        let clients = self.open(map::EGRESS_CLIENTS, clients)?;
        Ok(EgressMaps::new(clients, self.open(map::EGRESS_NETWORKS, networks)?))
    }

    /// Opens a pinned map with keys and values of these sizes.
    fn open(&self, name: &'static str, record: (u32, u32)) -> Result<OwnedFd, LoadError> {
        let entries = map_sizes(&self.sizes)?.get(name).copied().unwrap_or(0);
        open_map(&self.maps_dir.join(name), name, record, entries)
    }

    /// The map of what hooks store on sockets.
    pub fn socket_storage(&self) -> Result<OwnedFd, LoadError> {
        let error = |error| LoadError::Map { name: map::SOCKETS, error };
        sys::open_pinned(&self.maps_dir.join(map::SOCKETS)).map_err(error)
    }

    /// Loads the program that lists connected UDP sockets, and answers the link by which a list of them
    /// is opened. Needs what loading needs.
    pub fn socket_list(&mut self) -> Result<OwnedFd, LoadError> {
        const NAME: &str = "list_sockets";
        let failed = |error| LoadError::Program { name: NAME, error };
        let types = Btf::from_sys_fs().map_err(|error| failed(error.into()))?;
        let program = self.ebpf.program_mut(NAME).expect("the object has it");
        let program: &mut Iter = program.try_into().map_err(failed)?;
        program.load("udp", &types).map_err(failed)?;
        let link = sys::link_iteration(program.fd().map_err(failed)?);
        link.map_err(LoadError::List)
    }

    /// The descriptor of a hook's program.
    pub(super) fn with_program<T>(
        &mut self,
        hook: Hook,
        use_it: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let fd = program(&mut self.ebpf, hook).fd().map_err(io::Error::other)?;
        use_it(fd.as_fd())
    }

    /// Sizes of the loaded programs.
    pub fn program_sizes(&mut self) -> Result<Vec<ProgramSize>, LoadError> {
        self.hooks.iter().map(|hook| program_size(&mut self.ebpf, *hook)).collect()
    }

    /// The loaded object, for the reader of the hooks' log lines.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

fn program_size(ebpf: &mut Ebpf, hook: Hook) -> Result<ProgramSize, LoadError> {
    let name = hook.program();
    let info = program(ebpf, hook).info().map_err(|error| LoadError::Program { name, error })?;
    Ok(ProgramSize {
        name,
        verified_instructions: info.verified_instruction_count().unwrap_or(0),
        translated_bytes: info.size_translated().unwrap_or(0),
        jited_bytes: info.size_jitted(),
    })
}

fn bytes(arena: Arena) -> u32 {
    u32::try_from(arena.record_words() * size_of::<u64>()).expect("records are small")
}

fn size<T>() -> u32 {
    u32::try_from(size_of::<T>()).expect("records are small")
}

/// Opens a pinned map and makes sure that it is the one that belongs there.
fn open_map(
    path: &Path,
    name: &'static str,
    record: (u32, u32),
    entries: u32,
) -> Result<OwnedFd, LoadError> {
    let fd = sys::open_pinned(path).map_err(|error| LoadError::Map { name, error })?;
    let foreign = |what| LoadError::ForeignPin { path: path.to_owned(), what };
    let info = sys::map_info(&fd).map_err(|_| foreign("not a map"))?;
    if (info.key_size, info.value_size) != record {
        return Err(foreign("other key or value size"));
    }
    if info.max_entries != entries {
        return Err(foreign("other number of entries"));
    }
    Ok(fd)
}
