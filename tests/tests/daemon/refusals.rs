//! What the daemon refuses: wrong policies, and places that are not its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use splitter_tests::daemon::Site;
use splitter_tests::files::{PolicyFile, bad_policies};
use splitter_tests::scale;

use crate::{ExactClient, SHOP, shop};

/// Fewer files than this mean that the folder lost its contents.
const FEWEST: usize = 100;

#[test]
fn no_bad_policy_changes_anything() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let _daemon = site.run(&["--policy", &policy])?;
    let (generation, mut client) = (site.generation()?, ExactClient::new(SHOP, 20_000)?);
    let mut bad = bad_policies()?;
    bad.retain(|file| !file.name.starts_with("warn-"));
    ensure!(bad.len() >= FEWEST, "only {} files", bad.len());
    // A command is a process, which is what takes long on an emulated machine.
    let every = usize::try_from(scale().min(4))?;
    for (n, file) in bad.iter().enumerate() {
        if n.is_multiple_of(every) {
            refused_by_command(&site, file).with_context(|| file.name.clone())?;
        }
        refused_by_daemon(&site, file).with_context(|| file.name.clone())?;
        client.connect_times(3)?;
        ensure!(site.generation()? == generation, "{} changed the generation", file.name);
    }
    ensure!(site.problems()?.is_empty(), "{:?}", site.problems()?);
    Ok(())
}

fn refused_by_command(site: &Site, file: &PolicyFile) -> Result<()> {
    let path = site.write(&file.name, &file.text)?;
    let refusal = site.splitter(&["apply", &path])?.refusal()?;
    ensure!(refusal.contains("error[SP"), "no code: {refusal}");
    let place = refusal
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--> "))
        .filter_map(|place| place.strip_prefix(path.as_str()))
        .find_map(|position| position.strip_prefix(':')?.split_once(':'));
    let (line, column) = place.with_context(|| format!("no line and column: {refusal}"))?;
    let numbers: (u32, u32) = (line.parse()?, column.parse()?);
    ensure!(numbers.0 > 0 && numbers.1 > 0, "{refusal}");
    ensure!(refusal.contains("nothing was changed"), "{refusal}");
    Ok(())
}

/// The command does not even send what it finds to be wrong. Whoever does gets the same answer.
fn refused_by_daemon(site: &Site, file: &PolicyFile) -> Result<()> {
    let request = json!({"verb": "apply", "sources": [{"name": file.name, "text": file.text}]});
    let answer = site.ask(&request)?;
    ensure!(answer["answer"] == "invalid", "{answer}");
    let problems = answer["problems"].as_array().context("no problems")?;
    let is_error = |problem: &Value| problem["is_error"] == true && problem["primary"]["line"] != 0;
    ensure!(problems.iter().any(is_error), "{answer}");
    Ok(())
}

#[test]
fn two_daemons_do_not_share_a_place() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let _daemon = site.run(&["--policy", &policy])?;
    let mut client = ExactClient::new(SHOP, 20_000)?;
    let (socket, state) = (site.path("socket2"), site.path("state2"));
    let (socket, state) = (socket.to_string_lossy(), state.to_string_lossy());
    let same_pins = ["--policy", &policy, "--socket", &socket, "--state-dir", &state];
    let log = site.spawn(&same_pins)?.failure()?;
    ensure!(log.contains("another splitter daemon runs with the pins in"), "{log}");
    let pins = site.place().more_pins("second");
    let same_socket =
        ["--policy", &policy, "--pin-dir", &pins.to_string_lossy(), "--state-dir", &state];
    let result = site.spawn(&same_socket)?.failure();
    fs::remove_dir_all(&pins)?;
    let log = result?;
    ensure!(log.contains("another daemon listens there"), "{log}");
    client.connect_times(10)?;
    ensure!(site.problems()?.is_empty(), "{:?}", site.problems()?);
    Ok(())
}

#[test]
fn pins_of_others_are_not_touched() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let options = ["--policy", &policy];
    let pins = site.place().pins();
    fs::create_dir(pins)?;
    for (owner, mode, words) in
        [(4242, 0o700, "belongs to user 4242"), (0, 0o755, "mode 755"), (0, 0o720, "mode 720")]
    {
        chown(pins, Some(owner), None)?;
        fs::set_permissions(pins, Permissions::from_mode(mode))?;
        let log = site.spawn(&options)?.failure()?;
        ensure!(log.contains(words) && log.contains("move it away"), "{log}");
        ensure!(fs::read_dir(pins)?.next().is_none(), "something was pinned");
    }
    Ok(())
}

#[test]
fn places_of_the_wrong_kind_are_named() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let (dir, nowhere) = (site.path(""), site.path("nowhere"));
    let (dir, nowhere) = (dir.to_string_lossy(), nowhere.to_string_lossy());
    let pins = site.path("pins");
    for (option, path, words) in [
        ("--cgroup", &*dir, "not a cgroup2 directory"),
        ("--cgroup", &*nowhere, "No such file"),
        ("--pin-dir", &*pins.to_string_lossy(), "is not on a BPF file system; mount one"),
        ("--pin-dir", "/sys/fs/bpf/splitter.test", "has a dot in its name"),
        ("--policy", &*nowhere, "read the policy"),
    ] {
        let mut options = vec![option, path];
        if option != "--policy" {
            options.extend(["--policy", &policy]);
        }
        let log = site.spawn(&options)?.failure()?;
        ensure!(log.contains(words) && log.contains(path.trim_end_matches('/')), "{log}");
    }
    let nobody = site.splitter(&["status"])?.refusal()?;
    ensure!(nobody.contains("no daemon listens at"), "{nobody}");
    Ok(())
}
