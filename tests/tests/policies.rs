//! Every policy of the repository loads, and means what its native form means.

use anyhow::{Context as _, Result, anyhow, ensure};
use splitter_tests::files::{PolicySet, policy_sets};
use splitter_user::compile::Compiler;
use splitter_user::compile::image::ServiceImage;
use splitter_user::policy::diagnostic::render;
use splitter_user::policy::model::Policy;
use splitter_user::policy::native::policy_to_yaml;
use splitter_user::policy::{Source, load};
use splitter_user::rehearsal::imagine_ids;

fn read(sources: &[Source]) -> Result<Policy> {
    let loaded = load(sources).map_err(|wrong| anyhow!(render(&wrong, sources, false)))?;
    Ok(loaded.policy)
}

fn images(policy: &Policy) -> Vec<ServiceImage> {
    let mut compiler = Compiler::new(imagine_ids(policy, &[]));
    policy.services.iter().map(|service| compiler.compile(service).0).collect()
}

fn round_trip(set: &PolicySet) -> Result<()> {
    let policy = read(&set.sources())?;
    ensure!(!policy.services.is_empty(), "no service");
    let text = policy_to_yaml(&policy);
    let native = read(&[Source::new("native.yaml", text.as_str()).degraded()]).context(text)?;
    ensure!(native == policy, "another policy");
    ensure!(images(&native) == images(&policy), "another image");
    Ok(())
}

#[test]
fn every_policy_is_its_native_form() -> Result<()> {
    let sets = policy_sets()?;
    ensure!(sets.len() >= 29, "only {} sets", sets.len());
    sets.iter().try_for_each(|set| round_trip(set).with_context(|| set.name.clone()))
}

/// What needs no degrading must not be asked to.
#[test]
fn only_what_says_so_needs_to_be_degraded() -> Result<()> {
    for set in policy_sets()?.into_iter().filter(|set| set.degrade) {
        let strict = PolicySet { degrade: false, ..set };
        ensure!(read(&strict.sources()).is_err(), "{} loads without", strict.name);
    }
    Ok(())
}
