//! The only module that names aya or makes a bpf(2) call: programs, maps, links, pins.
//!
//! It decides nothing about policy. Everything it makes is pinned in one directory on bpffs, which
//! is why traffic goes on when the daemon does not.

mod assignments;
mod attach;
mod btf;
mod egress;
mod heap;
mod load;
mod log;
mod maps;
mod object;
mod pins;
mod stored;
mod sys;

pub use assignments::AssignmentMap;
pub use attach::{Attachment, Hook, HookState};
pub use egress::{EgressMaps, EventRing};
pub use heap::give_back_memory;
pub use load::{LoadError, Loaded, LogLevel, ProgramSize, load};
pub use log::HookLog;
pub use maps::KernelMaps;
pub use object::embedded;
pub use pins::{PinDir, PinError};
pub use stored::{OPENING, open_socket_list};
pub(crate) use sys::netns_cookie;
