//! What `status` says of hooks that only some services need, and of what a kernel does not have.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use splitter_tests::daemon::{Site, eventually};

/// Two services: one with more keys of its subset, one whose route makes a fault.
fn policy(keys: &str, fault: &str) -> String {
    let service = |name: &str, keys: &str, fault: &str, n: u8| {
        format!(
            "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: {name}}}\nspec:\n  \
             frontends: ['127.10.0.{n}:80']\n  subsets: {{v1: {{backends: \
             ['127.0.0.1:19001']{keys}}}}}\n  routes: [{{split: {{v1: 1}}{fault}}}]\n"
        )
    };
    format!("{}---\n{}", service("shop", keys, "", 1), service("web", "", fault, 2))
}

/// What `status` says of the egress hook.
fn egress(status: &Value) -> Result<Value> {
    let mut hooks = status["hooks"].as_array().context("hooks")?.iter();
    Ok(hooks.find(|hook| hook["hook"] == "egress").context("the hook")?.clone())
}

#[test]
fn the_egress_hook_is_there_while_a_fault_needs_it() -> Result<()> {
    let site = Site::new()?;
    let policy_file = site.write("policy.yaml", policy("", ""))?;
    let _daemon = site.run(&["--policy", &policy_file])?;
    assert_eq!(egress(&site.status()?)?["state"], "detached");
    // None of these drops a packet.
    let other = "bandwidth: {percent: 1, rate: 1kB/s}, abort: {percent: 1, errno: EACCES}";
    for (fault, needed) in [
        ("blackhole: {percent: 1}", true),
        (other, false),
        ("stall: {percent: 1, after: 0}", true),
        ("delay: {percent: 1, time: 1s}", true),
        (other, false),
    ] {
        site.replace("policy.yaml", policy("", &format!(", fault: {{{fault}}}")))?;
        let (state, who) = if needed { ("attached", "web") } else { ("detached", "") };
        eventually("it is as needed", || {
            let hook = egress(&site.status()?)?;
            let is_told = hook["needed_by"][0].as_str().unwrap_or_default() == who;
            Ok(hook["state"] == state && is_told)
        })
        .with_context(|| fault.to_owned())?;
        let text = site.splitter(&["status"])?.success()?;
        let line = text.lines().find(|line| line.contains("egress")).context("a line")?;
        let told = if needed { "attached, for web" } else { "not needed" };
        ensure!(line.ends_with(told), "{line}");
    }
    Ok(())
}

#[test]
fn a_congestion_control_that_the_kernel_does_not_have_is_noted() -> Result<()> {
    let site = Site::new()?;
    let keys = ", congestionControl: nobody-has-it";
    let policy_file = site.write("policy.yaml", policy(keys, ""))?;
    let _daemon = site.run(&["--policy", &policy_file])?;
    let text = site.splitter(&["status"])?.success()?;
    ensure!(text.contains("asks for the congestion control nobody-has-it"), "{text}");
    site.replace("policy.yaml", policy(", congestionControl: reno", ""))?;
    eventually("nothing is noted", || {
        Ok(!site.splitter(&["status"])?.success()?.contains("congestion control"))
    })
}
