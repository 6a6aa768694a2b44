//! Policy files that are replaced, broken, lost and swapped under a running daemon.

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use splitter_tests::daemon::{Site, eventually};

use crate::{SHOP, port_of, service, shop};

/// Waits until connections go to a service's ports from `port` on.
fn runs(frontend: &str, port: u16) -> Result<()> {
    eventually(&format!("{frontend} is split to {port}"), || {
        Ok((port..=port + 1).contains(&port_of(frontend)?))
    })
}

/// Waits until the daemon has noticed that its files are wrong. Until then and from then on, what
/// ran goes on.
fn kept(site: &Site, port: u16, word: &str) -> Result<()> {
    let still_runs = || -> Result<()> {
        let seen = port_of(SHOP)?;
        ensure!((port..=port + 1).contains(&seen), "port {seen} instead of {port}");
        Ok(())
    };
    eventually(&format!("the daemon complains of `{word}`"), || {
        still_runs()?;
        let problems = site.problems()?;
        Ok(problems.iter().filter_map(|p| p.as_str()).any(|problem| problem.contains(word)))
    })?;
    let status = site.splitter(&["status"])?;
    ensure!(status.code == Some(1) && status.out.contains("PROBLEM"), "{status:?}");
    still_runs()
}

/// Waits until nothing is wrong any more.
fn mended(site: &Site) -> Result<()> {
    eventually("the problem is gone", || Ok(site.problems()?.is_empty()))?;
    site.splitter(&["status"])?.success().map(drop)
}

#[test]
fn a_file_is_followed_while_it_is_good() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let _daemon = site.run(&["--policy", &policy])?;
    runs(SHOP, 20_000)?;
    site.replace("policy.yaml", shop(20_100))?;
    runs(SHOP, 20_100)?;
    site.write("policy.yaml", shop(20_200))?;
    runs(SHOP, 20_200)?;
    File::options().write(true).open(&policy)?.set_len(0)?;
    kept(&site, 20_200, "is empty now")?;
    site.write("policy.yaml", shop(20_300))?;
    runs(SHOP, 20_300)?;
    mended(&site)?;
    site.write("policy.yaml", shop(20_400).replace("backends", "backend"))?;
    kept(&site, 20_300, "policy.yaml:8:")?;
    site.write("policy.yaml", "spec: [")?;
    kept(&site, 20_300, "not YAML")?;
    fs::remove_file(&policy)?;
    kept(&site, 20_300, "No such file")?;
    site.replace("policy.yaml", shop(20_500))?;
    runs(SHOP, 20_500)?;
    mended(&site)
}

#[test]
fn a_directory_is_one_policy() -> Result<()> {
    let (site, second) = (Site::new()?, "127.10.0.2:8080");
    let dir = site.path("policies");
    fs::create_dir(&dir)?;
    site.write("policies/a.yaml", shop(20_000))?;
    let _daemon = site.run(&["--policy", &dir.to_string_lossy()])?;
    runs(SHOP, 20_000)?;
    site.write("policies/b.yml", service("second", second, 21_000))?;
    runs(second, 21_000)?;
    site.write("policies/.hidden.yaml", "nonsense: [")?;
    site.write("policies/notes.txt", "nonsense: [")?;
    site.replace("policies/a.yaml", shop(20_100))?;
    runs(SHOP, 20_100)?;
    // One broken file holds the good changes of others back.
    site.write("policies/c.yaml", "nonsense: [")?;
    kept(&site, 20_100, "c.yaml:1:")?;
    site.replace("policies/a.yaml", shop(20_200))?;
    kept(&site, 20_100, "c.yaml:1:")?;
    fs::remove_file(site.path("policies/c.yaml"))?;
    runs(SHOP, 20_200)?;
    mended(&site)?;
    fs::remove_file(site.path("policies/b.yml"))?;
    eventually("the service is gone", || Ok(port_of(second)? == 8080))?;
    site.write("policies/b.yaml", shop(21_000))?;
    kept(&site, 20_200, "shop")?;
    site.replace("policies/b.yaml", service("second", second, 21_100))?;
    runs(second, 21_100)?;
    mended(&site)
}

/// Orchestrators mount files below a link to a directory of a version, and swap the link.
#[test]
fn a_swapped_link_swaps_the_policy() -> Result<()> {
    let site = Site::new()?;
    for (version, port) in [("one", 20_000), ("two", 20_100), ("three", 20_200)] {
        fs::create_dir(site.path(version))?;
        site.write(&format!("{version}/policy.yaml"), shop(port))?;
    }
    let swap = |version: &str| -> Result<()> {
        symlink(version, site.path("next"))?;
        Ok(fs::rename(site.path("next"), site.path("data"))?)
    };
    swap("one")?;
    symlink("data/policy.yaml", site.path("policy.yaml"))?;
    let _daemon = site.run(&["--policy", &site.path("policy.yaml").to_string_lossy()])?;
    runs(SHOP, 20_000)?;
    swap("two")?;
    fs::remove_dir_all(site.path("one"))?;
    runs(SHOP, 20_100)?;
    swap("three")?;
    runs(SHOP, 20_200)?;
    // The version that is linked to now is followed as well.
    site.replace("three/policy.yaml", shop(20_300))?;
    runs(SHOP, 20_300)?;
    swap("nowhere")?;
    kept(&site, 20_300, "No such file")?;
    swap("two")?;
    runs(SHOP, 20_100)?;
    mended(&site)
}

#[test]
fn sighup_loads_the_files_again() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let daemon = site.run(&["--policy", &policy])?;
    let generation = site.generation()?;
    daemon.signal(Signal::HUP)?;
    eventually("the daemon hears SIGHUP", || Ok(daemon.log().contains("SIGHUP: reloading")))?;
    site.status()?;
    assert_eq!(site.generation()?, generation, "the same files are the same policy");
    site.replace("policy.yaml", shop(20_100))?;
    daemon.signal(Signal::HUP)?;
    runs(SHOP, 20_100)?;
    site.replace("policy.yaml", "nonsense: [")?;
    daemon.signal(Signal::HUP)?;
    kept(&site, 20_100, "not YAML")
}

#[test]
fn a_command_overrides_a_file_until_the_file_changes() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let _daemon = site.run(&["--policy", &policy])?;
    let applied = site.write("applied.yaml", shop(20_100))?;
    site.splitter(&["apply", &applied])?.success()?;
    runs(SHOP, 20_100)?;
    site.splitter(&["apply", "--remove", "shop"])?.success()?;
    runs(SHOP, 20_000)?;
    site.splitter(&["apply", &applied])?.success()?;
    site.replace("policy.yaml", shop(20_200))?;
    runs(SHOP, 20_200)?;
    let refusal = site.splitter(&["apply", "--remove", "shop"])?.refusal()?;
    ensure!(refusal.contains("policy.yaml"), "{refusal}");
    Ok(())
}
