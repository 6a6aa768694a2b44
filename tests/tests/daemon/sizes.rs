//! Policies that do not fit.

use anyhow::{Result, ensure};
use serde_json::json;
use splitter_tests::daemon::Site;

use crate::{ExactClient, SHOP, service, shop};

fn many(n: u16) -> String {
    (0..n)
        .map(|i| service(&format!("s{i}"), &format!("127.11.{}.{}:1", i / 256, i % 256), 21_000))
        .collect()
}

/// Applies too much, and finds every record as it was.
fn refuse(options: &[&str], services: u16, words: &[&str]) -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let options = [&["--policy", policy.as_str()], options].concat();
    let _daemon = site.run(&options)?;
    let mut client = ExactClient::new(SHOP, 20_000)?;
    client.connect_times(7)?;
    let dump = site.ask(&json!({"verb": "dump"}))?;
    let status = site.status()?;
    let large = site.write("large.yaml", many(services))?;
    let refusal = site.splitter(&["apply", &large])?.refusal()?;
    ensure!(words.iter().all(|word| refusal.contains(word)), "{refusal}");
    ensure!(site.ask(&json!({"verb": "dump"}))? == dump, "the tables changed");
    let after = site.status()?;
    for field in ["generation", "maps", "overrides", "services", "problems"] {
        ensure!(
            after[field] == status[field],
            "{field}: {} instead of {}",
            after[field],
            status[field]
        );
    }
    client.connect_times(7)?;
    // What fits is still taken.
    let small = site.write("small.yaml", many(1))?;
    site.splitter(&["apply", &small])?.success()?;
    client.connect_times(7)
}

#[test]
fn a_full_map_is_named_before_anything_is_written() -> Result<()> {
    refuse(&["--max-frontends", "3"], 3, &["FRONTENDS", "--max-frontends", "--max-services"])?;
    refuse(&["--max-backends", "4"], 2, &["BACKENDS", "--max-backends"])?;
    refuse(&["--max-routes", "4"], 5, &["ROUTES", "--max-routes"])?;
    refuse(&["--max-counters", "16"], 5, &["COUNTERS", "--max-counters"])?;
    refuse(&["--max-services", "1"], 200, &["--max-services"])
}

#[test]
fn a_daemon_whose_policy_does_not_fit_says_so_and_leaves_nothing() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", many(8))?;
    let log = site.spawn(&["--policy", &policy, "--max-frontends", "3"])?.failure()?;
    ensure!(log.contains("FRONTENDS") && log.contains("--max-frontends"), "{log}");
    ensure!(!site.path("socket").exists(), "a socket was left");
    let _daemon = site.run(&["--policy", &policy])?;
    ensure!(site.problems()?.is_empty(), "{:?}", site.problems()?);
    Ok(())
}
