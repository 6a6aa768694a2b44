//! `splitter exec`: commands that are clients of chosen subsets.

use std::fs;
use std::iter;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use splitter_common::hash::mix;
use splitter_tests::daemon::{Answer, Site, eventually};
use splitter_tests::peers::{PortServer, ask_port};
use splitter_tests::scale;

const SHOP: &str = "127.10.0.1:8080";
const SHOP6: &str = "[fd00:53::1]:8080";
/// Where curl reads what a server says by itself.
const URL: &str = "telnet://127.10.0.1:8080";
const URL6: &str = "telnet://[fd00:53::1]:8080";
/// What servers of the two versions say: the two bytes of their ports.
const PORTS: [u16; 2] = [19_001, 19_002];

const ABORT: &str = ", fault: {abort: {errno: ETIMEDOUT, percent: 100}}";

/// `shop` sends all to v1, and so would `cart` if its route did not fail every connection.
fn policy() -> String {
    let service = |name: &str, frontend: &str, ip: &str, subsets: &[&str], fault: &str| {
        let subset = |subset: &&str| {
            let port = if *subset == "v2" { PORTS[1] } else { PORTS[0] };
            format!("{subset}: {{backends: ['{ip}:{port}']}}, ")
        };
        let subsets: String = subsets.iter().map(subset).collect();
        format!(
            "---\napiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: {name}}}\nspec:\n  \
             frontends: ['{frontend}']\n  subsets: {{{subsets}}}\n  routes:\n    - {{name: all, \
             split: {{v1: 1}}{fault}}}\n"
        )
    };
    service("shop", SHOP, "127.0.0.1", &["v1", "v2"], "")
        + &service("shop6", SHOP6, "[::1]", &["v1", "v2"], "")
        + &service("cart", "127.10.0.2:8080", "127.0.0.1", &["v0", "v1", "v2"], ABORT)
}

fn servers() -> Result<Vec<PortServer>> {
    let addrs =
        PORTS.iter().flat_map(|port| [format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
    addrs.map(|addr| PortServer::start(&addr)).collect()
}

/// What one client reads, as the port that said it.
fn port(said: &str) -> Option<u16> {
    Some(u16::from_be_bytes(said.as_bytes().try_into().ok()?))
}

/// Runs a command as a client of chosen subsets.
fn exec(site: &Site, subsets: &[&str], command: &[&str]) -> Result<Answer> {
    Answer::of(&mut site.command(&[&["exec"], subsets, &["--"], command].concat()))
}

fn curl(site: &Site, subsets: &[&str], url: &str) -> Result<Option<u16>> {
    Ok(port(&exec(site, subsets, &["curl", "-s", "-m", "60", url])?.success()?))
}

/// Cgroups of commands below the test's own.
fn homes(site: &Site) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(site.place().cgroup())?.flatten();
    let is_home = |path: &PathBuf| path.display().to_string().contains("splitter-exec-");
    Ok(entries.map(|entry| entry.path()).filter(is_home).collect())
}

/// How many commands the daemon knows, of all services and subsets.
fn n_commands(site: &Site) -> Result<u64> {
    let status = site.status()?;
    let known = status["assignments"].as_array().into_iter().flatten();
    Ok(known.filter_map(|it| it["commands"].as_u64()).sum())
}

fn nothing_is_left(site: &Site) -> Result<()> {
    eventually("cgroups of commands are gone", || Ok(homes(site)?.is_empty()))?;
    eventually("the daemon knows no command", || Ok(n_commands(site)? == 0))
}

#[test]
fn a_command_is_a_client_of_its_subset_and_nobody_else_is() -> Result<()> {
    let site = Site::new()?;
    let _servers = servers()?;
    let _daemon = site.run(&["--policy", &site.write("policy.yaml", policy())?])?;
    let (v1, v2) = (Some(PORTS[0]), Some(PORTS[1]));

    assert_eq!(curl(&site, &["shop=v2"], URL)?, v2);
    assert_eq!(curl(&site, &["shop6=v2"], URL6)?, v2);
    assert_eq!(curl(&site, &["shop=v2"], URL6)?, v1, "another service");
    assert_eq!(ask_port(SHOP)?, PORTS[0], "another client");
    let other = "telnet://127.10.0.2:8080";
    assert!(ask_port("127.10.0.2:8080").is_err(), "a fault of the route");
    assert_eq!(curl(&site, &["shop=v1", "cart=v2"], other)?, v2, "two at once, and no route");

    // Whatever a command starts is part of it; a command inside adds to what holds outside.
    let binary = site.path("bin");
    fs::copy(splitter_tests::daemon::find_binary()?, &binary)?;
    let inner = format!("{} exec cart=v2 -- curl -s {URL} & wait", binary.display());
    let said = exec(&site, &["shop=v2"], &["sh", "-c", &inner])?.success()?;
    assert_eq!(port(&said), v2, "the outer choice inside");
    let inner = format!("{} exec shop=v1 -- curl -s {URL}", binary.display());
    let said = exec(&site, &["shop=v2"], &["sh", "-c", &inner])?.success()?;
    assert_eq!(port(&said), v1, "the inner choice");

    // The process is the command: its status, its signals.
    assert_eq!(exec(&site, &["shop=v2"], &["sh", "-c", "exit 7"])?.code, Some(7));
    assert_eq!(exec(&site, &["shop=v2"], &["sh", "-c", "kill -TERM $$"])?.code, None);
    assert_eq!(exec(&site, &["shop=v2"], &["no-such-command"])?.code, Some(127));
    assert_eq!(exec(&site, &["shop=v2"], &["/"])?.code, Some(126));
    nothing_is_left(&site)?;

    for (subsets, why) in [("shop=v9", "has no subset `v9`"), ("shap=v2", "no service is named")] {
        let answer = exec(&site, &[subsets], &["true"])?;
        assert_eq!(answer.code, Some(125), "{answer:?}");
        assert!(answer.err.contains(why), "{answer:?}");
    }
    let answer = site.place().outside(|| exec(&site, &["shop=v2"], &["true"]))??;
    assert!(answer.err.contains("are not split, only those below"), "{answer:?}");
    let inside = site.place().cgroup_path();
    let asked = ["exec", "--cgroup", &inside, "shop=v2", "--", "curl", "-s", URL];
    let answer = site.place().outside(|| site.splitter(&asked))??;
    assert_eq!(port(&answer.success()?), v2, "from outside");
    nothing_is_left(&site)
}

#[test]
fn a_choice_holds_through_changes_and_another_daemon() -> Result<()> {
    let site = Site::new()?;
    let _servers = servers()?;
    let file = site.write("policy.yaml", policy())?;
    let daemon = site.run(&["--policy", &file])?;
    let file_of = |what: &str, n: u32| site.path(&format!("{what}{n}"));
    let step = |n: u32| {
        let (go, done) = (file_of("go", n), file_of("done", n));
        let (go, done) = (go.display(), done.display());
        format!("until [ -e {go} ]; do sleep 0.05; done; curl -s {URL} || echo $?; : > {done}\n")
    };
    let script: String = (0..4).map(step).collect();
    let mut command = site.command(&["exec", "shop=v2", "--", "sh", "-c", &script]);
    let child = command.stdout(Stdio::piped()).spawn()?;
    let connect = |n: u32| {
        fs::write(file_of("go", n), "")?;
        eventually("the command connected", || Ok(file_of("done", n).exists()))
    };
    let load = |policy: String, is_loaded: &dyn Fn(&str) -> bool| {
        site.replace("policy.yaml", policy)?;
        eventually("the file is loaded", || {
            Ok(is_loaded(&site.splitter(&["get", "shop", "-o", "json"])?.success()?))
        })
    };
    connect(0)?;

    // Weights, and the order of subsets, which moves every ordinal.
    site.splitter(&["weight", "shop", "v1=3", "v2=1"])?.success()?;
    let moved = policy().replace("subsets: {v1", "subsets: {v0: {backends: []}, v1");
    load(moved, &|services| services.contains("v0"))?;
    connect(1)?;

    daemon.kill()?;
    let daemon = site.run(&["--policy", &file])?;
    assert_eq!(n_commands(&site)?, 1, "the next daemon knows it");
    connect(2)?;

    // Without the subset there is nowhere to go.
    let without = policy().replace("v2: {backends: ['127.0.0.1:19002']}, ", "");
    load(without, &|services| !services.contains("v2"))?;
    connect(3)?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8(output.stdout)?;
    // curl's status for a refused connection is 7.
    assert_eq!(said, "J:J:J:7\n", "{}", daemon.log());
    assert_eq!(site.status()?["reasons"]["no-subset"], 1);
    nothing_is_left(&site)
}

#[test]
fn wrong_usage_ends_as_what_did_not_run() -> Result<()> {
    let site = Site::new()?;
    let policy = policy().replace("{name: shop}", "{name: shop, namespace: prod}");
    let _daemon = site.run(&["--policy", &site.write("policy.yaml", policy)?])?;
    let shop = "shop=v2";
    for (arguments, why) in [
        (&["exec"][..], "required"),
        (&["exec", shop], "required"),
        (&["exec", "shop", "--", "true"], "SERVICE=SUBSET"),
        (&["exec", "--no-such-option", shop, "--", "true"], "--no-such-option"),
        (&["exec", shop, "shop=v1", "--", "true"], "the service `shop` is given twice"),
        (&["exec", shop, "prod/shop=v1", "--", "true"], "the service `prod/shop` is given twice"),
    ] {
        let answer = site.splitter(arguments)?;
        assert_eq!(answer.code, Some(125), "{arguments:?}: {answer:?}");
        assert!(answer.err.contains(why), "{arguments:?}: {answer:?}");
    }
    assert_eq!(site.splitter(&["exec", "--help"])?.code, Some(0));
    assert_eq!(site.splitter(&["status", "--no-such-option"])?.code, Some(2));
    nothing_is_left(&site)
}

#[test]
fn cgroups_inside_of_a_command_go_with_it_and_lost_services_keep_their_names() -> Result<()> {
    let site = Site::new()?;
    let _servers = servers()?;
    let _daemon = site.run(&["--policy", &site.write("policy.yaml", policy())?])?;
    let home = site.place().cgroup().join("splitter-exec-$$");
    let home = home.display();
    let go = site.path("go");
    let script = format!(
        "mkdir -p {home}/inner/deeper && echo 0 > {home}/inner/deeper/cgroup.procs
         until [ -e {} ]; do sleep 0.05; done; curl -s {URL6}",
        go.display()
    );
    let mut command = site.command(&["exec", "shop6=v2", "--", "sh", "-c", &script]);
    let child = command.stdout(Stdio::piped()).spawn()?;
    eventually("the command runs", || Ok(n_commands(&site)? == 1))?;

    let both = policy();
    let without: Vec<&str> = both.split("---\n").filter(|it| !it.contains("shop6")).collect();
    site.replace("policy.yaml", without.join("---\n"))?;
    eventually("the service is gone", || Ok(site.splitter(&["get", "shop6"])?.code != Some(0)))?;
    let told = site.splitter(&["status"])?.success()?;
    assert!(told.contains("shop6=(a subset that is gone): 1 command"), "{told}");
    site.replace("policy.yaml", both)?;
    eventually("the service is back", || Ok(site.splitter(&["get", "shop6"])?.code == Some(0)))?;

    fs::write(go, "")?;
    let said = String::from_utf8(child.wait_with_output()?.stdout)?;
    assert_eq!(port(&said), Some(PORTS[0]), "a process that moved is anybody");
    nothing_is_left(&site)
}

#[test]
fn killed_commands_leave_nothing() -> Result<()> {
    let site = Site::new()?;
    let _servers = servers()?;
    let _daemon = site.run(&["--policy", &site.write("policy.yaml", policy())?])?;
    let n = usize::try_from((1_000 / scale()).max(10))?;
    let mut random = (0..).map(|i| mix(7, i));
    let start = || -> Result<Child> {
        let mut command: Command = site.command(&["exec", "shop=v2", "--", "sleep", "600"]);
        Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    };
    let mut running: Vec<Child> = Vec::with_capacity(n);
    for (_, random) in iter::zip(0..n, &mut random) {
        running.push(start()?);
        // Some at once, before they are commands, some later.
        if random % 3 == 0 {
            let at = usize::try_from(random >> 32)? % running.len();
            end(running.swap_remove(at), Signal::KILL)?;
        }
    }
    eventually(
        "all that are left run",
        || Ok(n_commands(&site)? >= u64::try_from(running.len())?),
    )?;
    assert_eq!(ask_port(SHOP)?, PORTS[0], "another client");
    for (child, random) in iter::zip(running, random) {
        end(child, if random % 2 == 0 { Signal::KILL } else { Signal::TERM })?;
    }
    // What was killed between its making and the command is removed by the next.
    exec(&site, &["shop=v2"], &["true"])?.success()?;
    nothing_is_left(&site)
}

fn end(mut child: Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    kill_process(pid.expect("a process id"), signal)?;
    let status = child.wait()?;
    ensure!(!status.success(), "it was to be killed");
    Ok(())
}
