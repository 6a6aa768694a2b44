//! Policies in memory, and what a client sees of them.

use std::collections::BTreeMap;

use splitter_common::abi::{Backend, FrontendKey, Reason};
use splitter_common::decide::{Decision, Verdict, decide};

use crate::compile::image::{ServiceId, ServiceImage};
use crate::compile::{Cgroup, Compiler, Ids, command_bytes, frontend_key};
use crate::policy::arbitrary::all_frontends;
use crate::policy::model::{CgroupName, ClientMatch, NetnsName, Policy};
use crate::publish::{Change, Publisher};
use crate::tables::memory::MemoryMaps;
use crate::tables::world::{Client, HostWorld, Tickets};
use crate::tables::{Arena, Maps, Sizes};

/// Room for any two of the policies, and not much more.
pub(super) const SIZES: Sizes = Sizes {
    frontends: 32,
    plans: 24,
    routes: 100,
    matches: 100,
    wheels: 100,
    cells: 16_000,
    subsets: 64,
    backends: 256,
    counters: 400,
    conducts: 64,
    faults: 100,
    states: 400,
};

/// The cgroups and the network namespace that exist: no other of `arbitrary` does.
pub(super) fn ids() -> Ids {
    let paths = ["/", "/app", "/app/x"].into_iter().map(|path| CgroupName::Path(path.to_owned()));
    let cgroup = |level| Cgroup { id: 1 + u64::from(level), level };
    let cgroups = paths.zip(0..).map(|(path, level)| (path, cgroup(level))).collect();
    let web = NetnsName::Path("/run/netns/web".to_owned());
    Ids { cgroups, networks: [(web, 7)].into(), ..Ids::default() }
}

/// Clients that differ in everything that a match can ask for.
pub(super) fn clients() -> Vec<Client> {
    let client = |uid, gid, command, depth: u64| Client {
        uid,
        gid,
        command: command_bytes(command),
        cgroups: (1..=depth).collect(),
        process: uid + 100,
        netns: u64::from(gid),
        mark: uid * 7,
        tos: uid * 40,
        now_ns: 0,
    };
    vec![
        client(0, 0, "", 1),
        client(0, 7, "curl", 3),
        client(1, 0, "curl", 2),
        client(1, 7, "nc", 3),
        client(2, 7, "curls", 1),
    ]
}

/// Whether a client fits a match, by the words of the model.
pub(super) fn fits(client: &Client, wanted: &ClientMatch) -> bool {
    let cgroup = |name: &CgroupName| {
        ids().cgroups.get(name).is_some_and(|cgroup| client.cgroups.contains(&cgroup.id))
    };
    let network = |name: &NetnsName| ids().networks.get(name) == Some(&client.netns);
    wanted.uid.is_none_or(|uid| uid == client.uid)
        && wanted.gid.is_none_or(|gid| gid == client.gid)
        && wanted.command.as_ref().is_none_or(|name| command_bytes(name) == client.command)
        && wanted.cgroup.as_ref().is_none_or(cgroup)
        && wanted.netns.as_ref().is_none_or(network)
        && wanted.mark.is_none_or(|mark| mark.value == client.mark & mark.mask)
        && wanted.tos.is_none_or(|tos| u32::from(tos) == client.tos)
}

pub(super) fn keys() -> Vec<FrontendKey> {
    all_frontends().iter().map(frontend_key).collect()
}

pub(super) fn images(policy: &Policy) -> BTreeMap<ServiceId, ServiceImage> {
    let mut compiler = Compiler::new(ids());
    let images = policy.services.iter().map(|service| compiler.compile(service).0);
    images.map(|image| (image.id, image)).collect()
}

/// What turns the policy in force into `policy`.
pub(super) fn changes<M: Maps>(publisher: &Publisher<M>, policy: &Policy) -> Vec<Change> {
    let images = images(policy);
    let mut gone: Vec<_> = publisher.services().filter(|id| !images.contains_key(id)).collect();
    gone.sort_unstable();
    let puts = images.into_values().map(|image| Change::Put(image.into()));
    puts.chain(gone.into_iter().map(Change::Remove)).collect()
}

pub(super) fn put<M: Maps>(publisher: &mut Publisher<M>, policy: &Policy) {
    let changes = changes(publisher, policy);
    publisher.publish(changes).expect("there is room and the maps work");
}

pub(super) fn fresh(policy: &Policy) -> Publisher<MemoryMaps> {
    let mut publisher = Publisher::adopt(MemoryMaps::new(SIZES)).expect("empty maps");
    put(&mut publisher, policy);
    publisher
}

/// The images in force.
pub(super) fn in_force<M: Maps>(publisher: &Publisher<M>) -> BTreeMap<ServiceId, ServiceImage> {
    let image = |id| (id, publisher.image(id).expect("in force").clone());
    publisher.services().map(image).collect()
}

/// Every word of every arena.
pub(super) fn words<M: Maps>(maps: &M) -> Vec<(Arena, Vec<u64>)> {
    let load = |arena| {
        let words = maps.words(arena).iter();
        words.map(|word| word.load(std::sync::atomic::Ordering::SeqCst)).collect()
    };
    Arena::ALL.map(|arena| (arena, load(arena))).into()
}

/// What a client sees of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) verdict: Verdict,
    pub(super) errno: u16,
    pub(super) answer_frontend: bool,
    pub(super) backend: Option<([u8; 16], u16)>,
    pub(super) reason: u32,
}

pub(super) fn seen(decision: &Decision<Backend>) -> Seen {
    assert_ne!(decision.tally.reason, Reason::Broken as u32);
    Seen {
        verdict: decision.verdict,
        errno: decision.errno,
        answer_frontend: decision.answer_frontend,
        backend: decision.backend.map(|b| (b.addr.0, b.port_be.to_host())),
        reason: decision.tally.reason,
    }
}

/// What all clients see at all frontends. Takes no tickets.
pub(super) fn observe<M: Maps>(maps: &M) -> Vec<Seen> {
    let clients = clients();
    let at = |key| {
        clients.iter().map(move |client| {
            seen(&decide(&HostWorld::new(maps, client.clone(), Tickets::Peek, 1), &key))
        })
    };
    keys().into_iter().flat_map(at).collect()
}

/// Lets connections be made, so that tickets stand somewhere.
pub(super) fn connect<M: Maps>(maps: &M, n: u64) {
    for i in 0..n {
        for key in keys() {
            for client in clients() {
                decide(&HostWorld::new(maps, client, Tickets::Take, i), &key);
            }
        }
    }
}
