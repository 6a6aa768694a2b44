//! Who may ask for what, and what the daemon itself may do.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use anyhow::{Result, ensure};
use splitter_tests::daemon::{Answer, Daemon, Site};

use crate::{SHOP, port_of, shop};

const STRANGER: u32 = 4_242;
const READERS: u32 = 4_343;
const ADMINS: u32 = 4_344;

/// A daemon and the means to be somebody else.
struct Fixture {
    daemon: Daemon,
    site: Site,
}

impl Fixture {
    fn new(options: &[&str]) -> Result<Self> {
        let site = Site::new()?;
        let policy = site.write("policy.yaml", shop(20_000))?;
        let options = [&["--policy", policy.as_str()], options].concat();
        Ok(Self { daemon: site.run(&options)?, site })
    }

    fn ask_as(&self, binary: &Path, gid: u32, arguments: &[&str]) -> Result<Answer> {
        Answer::of(self.site.command_of(binary, arguments).uid(STRANGER).gid(gid))
    }
}

#[test]
fn strangers_are_refused_and_told_how() -> Result<()> {
    let fixture = Fixture::new(&[])?;
    let binary = fixture.site.public_binary()?;
    let words = ["user 4242 may not read the policy and state", "root", "--read-group"];
    for verb in [&["get"][..], &["status"], &["dump"], &["weight", "shop", "v1=0"], &["detach"]] {
        let refusal = fixture.ask_as(&binary, READERS, verb)?.refusal()?;
        ensure!(words.iter().all(|word| refusal.contains(word)), "{verb:?}: {refusal}");
    }
    ensure!((20_000..=20_001).contains(&port_of(SHOP)?), "the split goes on");
    Ok(())
}

#[test]
fn groups_may_read_and_change() -> Result<()> {
    let (readers, admins) = (READERS.to_string(), ADMINS.to_string());
    let fixture = Fixture::new(&["--read-group", &readers, "--admin-group", &admins])?;
    let binary = fixture.site.public_binary()?;
    let weigh = ["weight", "shop", "v1=0"];
    for verb in ["get", "status", "dump"] {
        fixture.ask_as(&binary, READERS, &[verb])?.success()?;
        fixture.ask_as(&binary, ADMINS, &[verb])?.success()?;
    }
    for verb in [&weigh[..], &["apply", "--remove", "shop"], &["detach"]] {
        let refusal = fixture.ask_as(&binary, READERS, verb)?.refusal()?;
        let named = refusal.contains("user 4242 may not change the policy")
            && refusal.contains("become a member of the group 4344");
        ensure!(named, "{verb:?}: {refusal}");
    }
    fixture.ask_as(&binary, ADMINS, &weigh)?.success()?;
    assert_eq!(port_of(SHOP)?, 20_001);
    let refusal = fixture.ask_as(&binary, 1, &["get"])?.refusal()?;
    ensure!(refusal.contains("become a member of the group 4343"), "{refusal}");
    Ok(())
}

/// `CAP_NET_ADMIN` and `CAP_BPF` of `include/uapi/linux/capability.h`.
const NEEDED: u64 = 1 << 12 | 1 << 39;

#[test]
fn the_daemon_keeps_two_capabilities() -> Result<()> {
    let fixture = Fixture::new(&[])?;
    let tasks = format!("/proc/{}/task", fixture.daemon.pid());
    for task in fs::read_dir(tasks)? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            value.unwrap_or_default().trim_start_matches(':').trim()
        };
        for (set, wanted) in [("CapEff", NEEDED), ("CapPrm", NEEDED), ("CapInh", 0), ("CapAmb", 0)]
        {
            assert_eq!(u64::from_str_radix(field(set), 16)?, wanted, "{set}");
        }
        assert_eq!(field("NoNewPrivs"), "1");
    }
    // They are enough for every kind of change.
    fixture.site.splitter(&["weight", "shop", "v1=0"])?.success()?;
    let told = shop(20_100).replace("spec:\n", "spec:\n  getpeername: frontend\n");
    let policy = fixture.site.write("told.yaml", told)?;
    fixture.site.splitter(&["apply", &policy])?.success()?;
    assert_eq!(port_of(SHOP)?, 8080, "the hooks that this needs are attached");
    fixture.site.splitter(&["detach"])?.success()?;
    Ok(())
}
