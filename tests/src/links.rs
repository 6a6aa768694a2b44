//! Another network beside the test's own, on the other end of a wire.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::net::{Inhabitant, in_own_network};

/// The device on this side of the wire, and the one on the other.
const NEAR: (&str, &str) = ("near", "10.99.0.1/24");
const FAR: (&str, &str) = ("far", "10.99.0.2/24");
/// No device has it.
const NOBODY: &str = "02:00:00:00:00:99";

/// A network namespace that a pair of devices joins to the one of the calling thread, which must be
/// the test's own.
pub struct Neighbour {
    inhabitant: Inhabitant,
}

impl Neighbour {
    /// The address of the other side.
    pub const ADDR: &str = "10.99.0.2";

    /// Makes it.
    pub fn new() -> Result<Self> {
        let inhabitant = in_own_network(Inhabitant::new)?;
        let of = inhabitant.pid().to_string();
        let pair = ["link", "add", NEAR.0, "type", "veth", "peer", "name", FAR.0, "netns", &of];
        ip(&pair)?;
        raise(NEAR)?;
        let neighbour = Self { inhabitant };
        neighbour.within(|| raise(FAR))?;
        // Whoever has an address is asked for three times, by default a second apart.
        let apart = format!("/proc/sys/net/ipv4/neigh/{}/retrans_time_ms", NEAR.0);
        fs::write(&apart, "50").with_context(|| format!("write {apart}"))?;
        Ok(neighbour)
    }

    /// Runs in a thread that is there.
    pub fn within<T: Send>(&self, run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || {
            let path = format!("/proc/{}/ns/net", self.inhabitant.pid());
            let namespace = File::open(&path).with_context(|| format!("open {path}"))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("enter a network namespace")?;
            run()
        };
        thread::scope(|threads| threads.spawn(inside).join().expect("it does not panic"))
    }

    /// From here on, what is sent to an address of this network is lost without a word.
    pub fn lose(&self, addr: &str) -> Result<()> {
        ip(&["neigh", "replace", addr, "lladdr", NOBODY, "dev", NEAR.0, "nud", "permanent"])
    }

    /// From here on, nobody answers to the other side's address, and this side forgets who did.
    pub fn leave(&self) -> Result<()> {
        self.within(|| ip(&["address", "flush", "dev", FAR.0]))?;
        ip(&["neigh", "flush", "dev", NEAR.0])
    }

    /// Takes the other side's device down.
    pub fn lower(&self) -> Result<()> {
        self.within(|| ip(&["link", "set", FAR.0, "down"]))
    }

    /// Removes the wire, with both devices and their addresses.
    pub fn cut(&self) -> Result<()> {
        ip(&["link", "delete", NEAR.0])
    }
}

fn raise((device, addr): (&str, &str)) -> Result<()> {
    ip(&["address", "add", addr, "dev", device])?;
    ip(&["link", "set", device, "up"])
}

/// Runs `ip`, in this thread's network namespace.
pub fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {said}", arguments.join(" "));
    Ok(())
}
