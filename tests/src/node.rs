//! A data path on the running kernel, without a daemon: what most tests need.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use splitter_common::abi::{Reason, State};
use splitter_user::compile::image::{Need, ServiceId, ServiceImage};
use splitter_user::compile::{Cgroup, ClientNames, Compiler, Ids, service_id};
use splitter_user::kernel::{Attachment, Hook, KernelMaps, Loaded, LogLevel, PinDir, load};
use splitter_user::policy::model::{NetnsName, Policy};
use splitter_user::policy::{self, Source};
use splitter_user::publish::{Change, CounterOwner, Published, Publisher};
use splitter_user::tables::{Arena, Maps as _, Sizes, read};

use crate::place::{Place, cgroup2_mount};

/// Loaded programs, adopted maps, and a place that they are attached to.
pub struct Node {
    /// The policy's only writer.
    pub publisher: Publisher<KernelMaps>,
    /// The links.
    pub attachment: Attachment,
    /// The programs.
    pub loaded: Loaded,
    /// The lock on the pins.
    pub pins: PinDir,
    /// What [`Self::socket_list`] answers, once it was asked for.
    list: Option<OwnedFd>,
    /// The cgroup; dropped last.
    pub place: Place,
    /// The counters when the policy was last taken away: those of reasons are never cleared.
    before: Vec<u64>,
}

impl Node {
    /// A node of ordinary size with all hooks attached but those of datagrams, which few tests are
    /// about, and which take an emulated machine as long to verify as all others together.
    pub fn new() -> Result<Self> {
        Self::with_sizes(Sizes::for_services(64))
    }

    /// The same of a given size.
    pub fn with_sizes(sizes: Sizes) -> Result<Self> {
        let hooks = Hook::ALL.into_iter().filter(|hook| !Hook::DATAGRAMS.contains(hook));
        Self::with_hooks(sizes, &hooks.collect::<Vec<_>>())
    }

    /// A node of ordinary size with all hooks attached.
    pub fn whole() -> Result<Self> {
        Self::whole_with_sizes(Sizes::for_services(64))
    }

    /// The same of a given size.
    pub fn whole_with_sizes(sizes: Sizes) -> Result<Self> {
        Self::with_hooks(sizes, &Hook::ALL)
    }

    fn with_hooks(sizes: Sizes, hooks: &[Hook]) -> Result<Self> {
        let place = Place::new()?;
        let pins = PinDir::open(place.pins())?;
        let mut loaded = load(&pins, sizes, hooks, LogLevel::Off)?;
        let publisher = Publisher::adopt(loaded.maps()?)?;
        let attachment = Attachment::new(&pins, place.cgroup())?;
        attachment.attach(&mut loaded, hooks)?;
        Ok(Self { publisher, attachment, loaded, pins, list: None, place, before: Vec::new() })
    }

    /// The link by which connected UDP sockets are listed, whose program is loaded once.
    pub fn socket_list(&mut self) -> Result<OwnedFd> {
        let list = match self.list.take() {
            Some(list) => list,
            None => self.loaded.socket_list()?,
        };
        Ok(self.list.insert(list).try_clone()?)
    }

    /// Detaches the hooks that no service in force needs, which a daemon would not attach.
    pub fn detach_unneeded(&self) -> Result<()> {
        let images = || self.publisher.services().filter_map(|id| self.publisher.image(id));
        for need in Need::ALL {
            if !images().any(|image| image.needs(need)) {
                self.attachment.detach(Hook::of(need)).context("detach what is not needed")?;
            }
        }
        Ok(())
    }

    /// Makes a policy the whole policy.
    pub fn apply(&mut self, yaml: &str) -> Result<Published> {
        let changes = self.changes(yaml)?;
        Ok(self.publisher.publish(changes)?)
    }

    /// Takes the whole policy away, and with it what was counted.
    pub fn clear(&mut self) -> Result<Published> {
        let all = self.publisher.services().map(Change::Remove).collect();
        let published = self.publisher.publish(all)?;
        self.before = self.publisher.maps().counters()?;
        Ok(published)
    }

    /// Makes a policy the whole policy that names network namespaces with these cookies.
    pub fn apply_with(
        &mut self,
        yaml: &str,
        networks: &BTreeMap<NetnsName, u64>,
    ) -> Result<Published> {
        let policy = parse(yaml)?;
        let ids = Ids { networks: networks.clone(), ..find_cgroups(&policy)? };
        let changes = self.changes_to(compile_with(&policy, ids));
        Ok(self.publisher.publish(changes)?)
    }

    /// The changes that lead from the running policy to another.
    pub fn changes(&self, yaml: &str) -> Result<Vec<Change>> {
        Ok(self.changes_to(compile(&parse(yaml)?)?))
    }

    fn changes_to(&self, images: Vec<ServiceImage>) -> Vec<Change> {
        let kept: HashSet<ServiceId> = images.iter().map(|image| image.id).collect();
        let gone = self.publisher.services().filter(|id| !kept.contains(id));
        let puts = images.into_iter().map(|image| Change::Put(Arc::new(image)));
        gone.map(Change::Remove).chain(puts).collect()
    }

    /// What goes on at the subsets, backends and routes of a followed service.
    pub fn states(&self, service: &str) -> Result<BTreeMap<CounterOwner, State>> {
        let states = self.publisher.states(service_id(service)).context("it is not followed")?;
        let state = |(owner, index)| {
            let state = read(self.publisher.maps(), Arena::States, index);
            Ok((owner, state.context("a state out of range")?))
        };
        states.iter().map(state).collect()
    }

    /// How often a connection was not rewritten for a reason, since the policy was taken away.
    pub fn reason(&self, reason: Reason) -> Result<u64> {
        let at = reason as usize;
        let before = self.before.get(at).copied().unwrap_or(0);
        Ok(self.publisher.maps().counters()?[at] - before)
    }

    /// The counts of a service, by owner.
    pub fn counts(&self, service: &str) -> Result<BTreeMap<CounterOwner, u64>> {
        let values = self.publisher.maps().counters()?;
        let counters = self.publisher.counters(service_id(service)).context("no such service")?;
        let count = |(owner, index): (CounterOwner, u32)| (owner, values[index as usize]);
        Ok(counters.iter().map(count).collect())
    }
}

/// Reads policy text.
pub fn parse(yaml: &str) -> Result<Policy> {
    let source = Source::new("test.yaml", yaml);
    let sources = [source];
    let loaded = policy::load(&sources)
        .map_err(|errors| anyhow!("{}", policy::diagnostic::render(&errors, &sources, false)))?;
    Ok(loaded.policy)
}

/// Compiles a policy with the cgroups of this machine.
pub fn compile(policy: &Policy) -> Result<Vec<ServiceImage>> {
    Ok(compile_with(policy, find_cgroups(policy)?))
}

/// Compiles a policy with these ids.
pub fn compile_with(policy: &Policy, ids: Ids) -> Vec<ServiceImage> {
    let mut compiler = Compiler::new(ids);
    policy.services.iter().map(|service| compiler.compile(service).0).collect()
}

/// Cgroups of this machine that a policy names by their paths.
pub fn find_cgroups(policy: &Policy) -> Result<Ids> {
    let root = cgroup2_mount()?;
    let mut ids = Ids::default();
    for name in ClientNames::of(&policy.services).cgroups {
        let Some(path) = name.path() else { continue };
        let level = path.split('/').filter(|part| !part.is_empty()).count();
        if let Ok(metadata) = fs::metadata(root.join(path.trim_start_matches('/'))) {
            let level = u32::try_from(level).context("cgroup depth")?;
            ids.cgroups.insert(name, Cgroup { id: metadata.ino(), level });
        }
    }
    Ok(ids)
}

/// A policy of one service that splits between `v1` and `v2`, with one backend each.
pub fn two_versions(protocol: &str, v1: u32, v2: u32) -> String {
    format!(
        "apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: shop}}
spec:
  frontends: [\"127.10.0.1:8080/{protocol}\"]
  subsets:
    v1: {{backends: [\"127.0.0.1:19001\"]}}
    v2: {{backends: [\"127.0.0.1:19002\"]}}
  routes:
    - split: {{v1: {v1}, v2: {v2}}}
"
    )
}
