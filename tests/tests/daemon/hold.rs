//! Clients that start before there is a policy.

use std::{fs, io};

use anyhow::{Result, ensure};
use splitter_tests::daemon::{Site, eventually};
use splitter_tests::peers::{PortServer, ask_port};

const SHOP: &str = "127.10.0.1:8080";
const BACKEND: &str = "127.0.0.1:19001";

fn policy() -> String {
    format!(
        "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: shop}}\nspec:\n  frontends: \
         ['{SHOP}']\n  subsets: {{v1: {{backends: ['{BACKEND}']}}}}\n  routes: [{{name: all, \
         split: {{v1: 1}}}}]\n"
    )
}

fn is_refused(result: &io::Result<u16>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[test]
fn held_clients_reach_nothing_before_there_is_a_policy() -> Result<()> {
    let site = Site::new()?;
    let _server = PortServer::start(BACKEND)?;
    let inside = site.place().enter_child("early")?;
    let held = format!("{}/early", site.place().cgroup_path());
    let file = site.write("policy.yaml", "spec: wrong\n")?;
    let daemon = site.run(&["--policy", &file, "--hold", &held])?;
    // Where somebody listens, so that only the hook can refuse.
    ensure!(is_refused(&ask_port(BACKEND)), "a held client");
    ensure!(is_refused(&ask_port(SHOP)), "a held client at a frontend");
    let problems = site.problems()?;
    ensure!(problems.iter().any(|it| it.to_string().contains("no policy is in force yet")));

    // Held without a daemon, and by the next ones, whether they are told of it or not.
    daemon.kill()?;
    ensure!(is_refused(&ask_port(BACKEND)), "without a daemon");
    let daemon = site.run(&["--policy", &file, "--wait"])?;
    ensure!(is_refused(&ask_port(BACKEND)), "by the next daemon");
    let problems = site.problems()?;
    ensure!(problems.iter().any(|it| it.to_string().contains("are held until")), "{problems:?}");
    daemon.kill()?;
    let _daemon = site.run(&["--policy", &file, "--hold", &held])?;
    drop(inside);
    assert_eq!(ask_port(BACKEND)?, 19_001, "another client");

    // The cgroup is another one under the same path, and a file that is being written is no policy.
    let _inside = site.place().enter_child("early")?;
    eventually("the new cgroup is held", || Ok(is_refused(&ask_port(BACKEND))))?;
    let before = site.generation()?;
    site.replace("policy.yaml", "")?;
    eventually("the empty file is read", || {
        Ok(!site.problems()?.iter().any(|it| it.to_string().contains("wrong")))
    })?;
    ensure!(is_refused(&ask_port(BACKEND)), "an empty file, generation {before}");
    site.replace("policy.yaml", policy())?;
    eventually("the policy is in force", || Ok(ask_port(SHOP).is_ok()))?;
    assert_eq!(ask_port(BACKEND)?, 19_001, "held no more");
    ensure!(site.problems()?.is_empty(), "{:?}", site.problems()?);
    Ok(())
}

#[test]
fn a_policy_is_awaited_whose_directory_does_not_exist_yet() -> Result<()> {
    let site = Site::new()?;
    let _server = PortServer::start(BACKEND)?;
    let directory = site.path("late/later");
    let file = directory.join("policy.yaml");
    let daemon = site.run(&["--policy", &file.display().to_string(), "--wait"])?;
    let missing = format!("there is no directory {}", site.path("late").display());
    let problems = site.problems()?;
    ensure!(problems.iter().any(|it| it.to_string().contains(&missing)), "{problems:?}");
    // First the one, so that it is in the other that the next appears.
    fs::create_dir(site.path("late"))?;
    let missing = format!("there is no directory {}", directory.display());
    daemon.signal(rustix::process::Signal::HUP)?;
    eventually("the first directory is seen", || {
        Ok(site.problems()?.iter().any(|it| it.to_string().contains(&missing)))
    })?;
    fs::create_dir(&directory)?;
    fs::write(&file, policy())?;
    eventually("the policy is in force", || Ok(ask_port(SHOP).is_ok()))?;
    Ok(())
}
