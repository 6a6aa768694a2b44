//! `splitter detach`: ours goes, and what is others' stays.

use std::fs;

use anyhow::{Result, ensure};
use splitter_tests::daemon::{Daemon, Site};
use splitter_tests::empty::{EmptyProgram, attached};

use crate::{ExactClient, SHOP, port_of, shop};

/// A daemon beside a program and a pin directory of somebody else.
struct Fixture {
    daemon: Daemon,
    site: Site,
    _other: EmptyProgram,
}

impl Fixture {
    fn new() -> Result<Self> {
        let site = Site::new()?;
        let other = EmptyProgram::attach(site.place().cgroup())?;
        let policy = site.write("policy.yaml", shop(20_000))?;
        let daemon = site.run(&["--policy", &policy])?;
        ExactClient::new(SHOP, 20_000)?.connect_times(7)?;
        assert_eq!(attached(site.place().cgroup())?, 2);
        let hook = &site.status()?["hooks"][0];
        ensure!(hook["before"] == 1 && hook["state"] == "attached", "{hook}");
        Ok(Self { daemon, site, _other: other })
    }

    /// Detaches and finds nothing of ours.
    fn detach(&self, out: &str) -> Result<()> {
        let cgroup = self.site.place().cgroup();
        assert_eq!(attached(cgroup)?, 1, "the other program stays");
        assert_eq!(port_of(SHOP)?, 8080, "no connection is split");
        let pins = self.site.place().pins();
        ensure!(!pins.exists(), "pins were left");
        for pinned in ["links/connect4", "links/connect6", "maps-"] {
            let path = pins.join(pinned);
            ensure!(out.contains(&*path.to_string_lossy()), "it does not tell of {pinned}: {out}");
        }
        Ok(())
    }
}

#[test]
fn a_daemon_detaches_and_ends() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let beside = fixture.site.place().more_pins("other");
    fs::create_dir(&beside)?;
    let out = fixture.site.splitter(&["detach"])?.success()?;
    let stayed = fs::remove_dir(&beside);
    fixture.detach(&out)?;
    stayed?;
    let status = fixture.daemon.wait()?;
    ensure!(status.success(), "{status}: {}", fixture.daemon.log());
    ensure!(!fixture.site.path("socket").exists(), "the socket was left");
    Ok(())
}

#[test]
fn what_a_killed_daemon_left_is_detached() -> Result<()> {
    let mut fixture = Fixture::new()?;
    fixture.daemon.signal(rustix::process::Signal::KILL)?;
    fixture.daemon.wait()?;
    ensure!((20_000..=20_001).contains(&port_of(SHOP)?), "the split goes on");
    // Which pins were of the socket's daemon is not known, and the default ones may be another's.
    let refusal = fixture.site.splitter(&["detach"])?.refusal()?;
    let named = ["no daemon listens at", "--pin-dir"].iter().all(|word| refusal.contains(word));
    ensure!(named, "{refusal}");
    ensure!(fixture.site.place().pins().exists(), "nothing was removed");
    let pins = fixture.site.place().pins().to_string_lossy().into_owned();
    let detach = ["detach", "--pin-dir", &pins];
    let out = fixture.site.splitter(&detach)?.success()?;
    fixture.detach(&out)?;
    let again = fixture.site.splitter(&detach)?.success()?;
    ensure!(again.contains("nothing is pinned"), "{again}");
    Ok(())
}
