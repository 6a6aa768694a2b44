//! Why a connection goes where it goes.
//!
//! The story is told from what the kernel's own decision looked at, on whatever tables it is
//! asked: a policy in memory or the running one. Nothing is decided here, and no ticket is taken.

mod egress;
mod names;
mod record;
#[cfg(test)]
mod tests;
mod text;

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use splitter_common::abi::{
    Backend, Choice, DSCP, FrontendKey, Match, Plan, Route, Subset, TCP, client_key, match_flag,
    pick,
};
use splitter_common::addr::{Addr, PortBe};
use splitter_common::decide::{Decision, Verdict, decide};
use splitter_common::hash::{bucket, scale, subset_bucket};

pub use egress::Judged;
pub use names::{Names, errno_name};

use crate::policy::model::Mark;
use crate::tables::egress::HostRules;
use crate::tables::world::{Client, HostWorld, Tickets};
use crate::tables::{EgressTables, Maps};
use names::reason_name;
use record::{Look, Recorder};

/// A fixed word; it is owned only where an explanation was read from JSON.
pub type Word = Cow<'static, str>;

/// One decision and how it came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Frontend that was dialled.
    pub dialled: String,
    /// Committed generation; 0 where the address is not in the table, which is not asked for it.
    pub generation: u64,
    /// Plans of the frontend that were looked at, the newer one first; none where the address is
    /// not in the table.
    pub plans: Vec<PlanSeen>,
    /// Routes that were tried, in order.
    pub routes: Vec<RouteTried>,
    /// The subset and how it was chosen.
    pub subset: Option<Chosen>,
    /// The backend and how it was chosen.
    pub backend: Option<Chosen>,
    /// What egress documents say of what is no service; `None` where there are none, or it is one.
    #[serde(default)]
    pub egress: Option<Judged>,
    /// `miss`, `refuse`, `pass`, `reject` or `rewrite`.
    pub verdict: Word,
    /// Why it is not a rewrite; the word is that of the metrics.
    pub reason: Option<Word>,
    /// What `connect()` fails with.
    pub errno: Option<String>,
    /// What `getpeername` answers on a rewritten socket: `frontend` or `backend`.
    pub getpeername: Option<Word>,
}

/// A plan that a frontend refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSeen {
    /// Index of the plan.
    pub index: u32,
    /// Generation from which it counts; 0 is no plan.
    pub generation: u64,
    /// Service that it is of; `None` for a plan that takes nobody.
    pub service: Option<String>,
    /// Whether it is in force.
    pub in_force: bool,
}

/// A route that was asked whether it takes the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTried {
    /// Its name.
    pub name: String,
    /// Whether it took the client.
    pub taken: bool,
    /// Whether it asks for anything.
    pub takes_all: bool,
    /// What it asked for that the client is not.
    pub mismatches: Vec<String>,
}

/// A subset or backend that was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Name of the subset, address of the backend.
    pub name: String,
    /// How it was chosen.
    pub choice: How,
}

/// How one was chosen among several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "by")]
pub enum How {
    /// There is no other with a weight.
    Only,
    /// In turn.
    Ticket {
        /// Picks so far.
        ticket: u64,
        /// Slot of the wheel.
        slot: u64,
        /// Slots of the wheel.
        slots: u32,
    },
    /// At random; another connection gets another slot.
    Random {
        /// Slot of the wheel.
        slot: u64,
        /// Slots of the wheel.
        slots: u32,
    },
    /// Of two slots at random, the one whose backend has fewer live connections.
    Least {
        /// Slots of the wheel.
        slots: u32,
    },
    /// Those whose turn it was may not be chosen now.
    SteppedOver {
        /// How many.
        others: usize,
    },
    /// The one that was chosen takes no connection now.
    Turned {
        /// That one.
        from: String,
    },
    /// By the client's hash.
    Client {
        /// What stands for the client.
        key: Word,
        /// Its value, as it is hashed.
        client: u64,
        /// Slot of the wheel.
        slot: u64,
        /// Slots of the wheel.
        slots: u32,
    },
    /// By the client's hashes, one per subset, from the last to the first.
    Threshold {
        /// What stands for the client.
        key: Word,
        /// Its value, as it is hashed.
        client: u64,
        /// The hash in front of the subset that was chosen.
        hash: u32,
        /// What it had to be below.
        threshold: u64,
        /// Subsets that were asked, this one included.
        asked: usize,
    },
    /// The records contradict each other.
    Broken,
}

/// Explains what a connection of `client` to `key` would meet now.
pub fn explain<M: Maps>(
    maps: &M,
    egress: &dyn EgressTables,
    names: &Names,
    key: &FrontendKey,
    client: Client,
) -> Explanation {
    let looks = RefCell::new(Vec::new());
    let world = HostWorld::new(maps, client.clone(), Tickets::Peek, 0);
    let decision = decide(&Recorder::new(world, &looks), key);
    let is_miss = decision.verdict == Verdict::Miss;
    let rules = HostRules::new(maps, egress, &client);
    let judged = is_miss.then(|| egress::tell(&rules, names, key)).flatten();
    let story = Story { looks: looks.into_inner(), names, client };
    story.tell(key, &decision).judged(judged)
}

impl Explanation {
    /// The same, with what egress documents say.
    fn judged(self, egress: Option<Judged>) -> Self {
        match egress.as_ref().and_then(|judged| judged.errno.clone()) {
            None => Self { egress, ..self },
            errno => Self { egress, errno, verdict: "refuse".into(), ..self },
        }
    }
}

/// What was looked at, and what it takes to read it.
struct Story<'a> {
    looks: Vec<Look>,
    names: &'a Names,
    client: Client,
}

impl Story<'_> {
    fn tell(&self, key: &FrontendKey, decision: &Decision<Backend>) -> Explanation {
        let plans = self.plans();
        let plan = self.plan_in_force().map_or_else(Plan::default, |(_, plan)| plan);
        let rewritten = decision.verdict == Verdict::Rewrite;
        let peer = if decision.answer_frontend { "frontend" } else { "backend" };
        Explanation {
            dialled: frontend_text(key),
            generation: self.generation(),
            plans,
            routes: self.routes(plan.service, decision),
            subset: self.subset(&plan, decision),
            backend: self.backend(&plan, decision),
            egress: None,
            verdict: verdict_word(decision.verdict).into(),
            reason: reason_name(decision.tally.reason).map(Word::from),
            errno: (decision.errno != 0).then(|| errno_name(decision.errno)),
            getpeername: rewritten.then_some(peer.into()),
        }
    }

    fn find<T>(&self, wanted: impl Fn(&Look) -> Option<T>) -> Option<T> {
        self.looks.iter().find_map(wanted)
    }

    fn generation(&self) -> u64 {
        let generation = |look: &Look| match look {
            Look::Generation(generation) => Some(*generation),
            _ => None,
        };
        self.find(generation).unwrap_or(0)
    }

    fn plan_looks(&self) -> impl DoubleEndedIterator<Item = (u32, Plan)> {
        self.looks.iter().filter_map(|look| match look {
            Look::Plan(index, plan) => Some((*index, *plan)),
            _ => None,
        })
    }

    /// The decision stops looking at the first plan that counts.
    fn plan_in_force(&self) -> Option<(u32, Plan)> {
        let last = self.plan_looks().next_back();
        last.filter(|(_, plan)| plan.generation != 0 && plan.generation <= self.generation())
    }

    fn plans(&self) -> Vec<PlanSeen> {
        let in_force = self.plan_in_force().map(|(index, _)| index);
        let seen = |(index, plan): (u32, Plan)| PlanSeen {
            index,
            generation: plan.generation,
            service: (plan.n_routes > 0).then(|| self.names.service(plan.service)),
            in_force: in_force == Some(index),
        };
        self.plan_looks().map(seen).collect()
    }

    /// Routes in the order of their indices. The first is looked at twice where it asks for
    /// something, and so is the one that took the client.
    fn routes(&self, service: u64, decision: &Decision<Backend>) -> Vec<RouteTried> {
        let mut tried: Vec<(u32, Route, Option<Match>)> = Vec::new();
        for look in &self.looks {
            match look {
                Look::Route(index, route) if tried.iter().all(|(i, ..)| i != index) => {
                    tried.push((*index, *route, None));
                }
                Look::Match(wanted) => {
                    let open =
                        tried.iter_mut().find(|(_, route, m)| route.client != 0 && m.is_none());
                    if let Some((.., found)) = open {
                        *found = Some(*wanted);
                    }
                }
                _ => {}
            }
        }
        let taken = self.taken().map(|(index, _)| index);
        let taken = taken.filter(|_| decision.tally.route != 0);
        tried
            .into_iter()
            .map(|(index, route, wanted)| RouteTried {
                name: self.names.route(service, route.id),
                taken: taken == Some(index),
                takes_all: route.client == 0,
                mismatches: wanted.map_or_else(Vec::new, |wanted| self.mismatches(&wanted)),
            })
            .collect()
    }

    /// The route that was looked at last is the one that took the client, if any did.
    fn taken(&self) -> Option<(u32, Route)> {
        self.looks.iter().rev().find_map(|look| match look {
            Look::Route(index, route) => Some((*index, *route)),
            _ => None,
        })
    }

    /// In words, what a match asks for that the client is not.
    fn mismatches(&self, wanted: &Match) -> Vec<String> {
        let named = |flag| wanted.flags & flag != 0;
        let client = &self.client;
        let mut found = Vec::new();
        if named(match_flag::NEVER) {
            found.push("its cgroup or network namespace does not exist".to_owned());
        }
        if named(match_flag::UID) && client.uid != wanted.uid {
            found.push(format!("uid is {}, not {}", client.uid, wanted.uid));
        }
        if named(match_flag::GID) && client.gid != wanted.gid {
            found.push(format!("gid is {}, not {}", client.gid, wanted.gid));
        }
        if named(match_flag::COMMAND) && client.command != wanted.command {
            let (is, asked) = (command_text(&client.command), command_text(&wanted.command));
            found.push(format!("command is `{is}`, not `{asked}`"));
        }
        let ancestor = client.cgroups.get(wanted.cgroup_level as usize).copied().unwrap_or(0);
        if named(match_flag::CGROUP) && ancestor != wanted.cgroup {
            found.push(format!("not in the {}", self.names.cgroup(wanted.cgroup)));
        }
        if named(match_flag::NETNS) && client.netns != wanted.netns {
            let (is, asked) = (self.names.network(client.netns), self.names.network(wanted.netns));
            found.push(format!("network namespace is {is}, not {asked}"));
        }
        if named(match_flag::MARK) && (client.mark ^ wanted.mark) & wanted.mark_mask != 0 {
            let asked = Mark { value: wanted.mark, mask: wanted.mark_mask };
            found.push(format!("mark is {:#x}, not {asked}", client.mark));
        }
        if named(match_flag::TOS) && (client.tos ^ wanted.tos) & DSCP != 0 {
            found.push(format!("tos is {:#x}, not {:#x}", client.tos, wanted.tos));
        }
        found
    }

    /// Subsets, each where it was looked at first. A followed one is looked up again for every
    /// backend that is looked at.
    fn subset_looks(&self) -> impl Iterator<Item = (usize, Subset)> {
        self.looks.iter().enumerate().filter_map(|(i, look)| match look {
            Look::Subset(subset) => Some((i, *subset)),
            _ => None,
        })
    }

    /// The subset that the connection went to, or would have gone to.
    fn served(&self, decision: &Decision<Backend>) -> Option<(usize, Subset)> {
        self.subset_looks().find(|(_, subset)| subset.counter == decision.tally.subset)
    }

    fn subset(&self, plan: &Plan, decision: &Decision<Backend>) -> Option<Chosen> {
        let (at, chosen) = self.subset_looks().next()?;
        let (_, served) = self.served(decision)?;
        let (_, route) = self.taken()?;
        let name = |subset: &Subset| self.names.subset(plan.service, subset.id);
        let choice = if served.id == chosen.id {
            how(route.choice, plan.subset_salt(), &self.looks[..at])
        } else {
            How::Turned { from: name(&chosen) }
        };
        Some(Chosen { name: name(&served), choice })
    }

    fn backend(&self, plan: &Plan, decision: &Decision<Backend>) -> Option<Chosen> {
        let (at, subset) = self.served(decision)?;
        let backend = self.find(|look| match look {
            Look::Backend(backend) if backend.counter == decision.tally.backend => Some(*backend),
            _ => None,
        })?;
        let name = socket_addr(backend.addr, backend.port_be).to_string();
        let looks = &self.looks[at..];
        let probed = looks.iter().filter(|look| matches!(look, Look::Probed)).count();
        // Two are compared, and the one that is chosen is looked at once more.
        let each = if subset.choice.pick == pick::LEAST { 3 } else { 1 };
        let choice = match probed.saturating_sub(each) / each {
            0 => how(subset.choice, plan.backend_salt(), looks),
            others => How::SteppedOver { others },
        };
        Some(Chosen { name, choice })
    }
}

/// How a choice was made, from what it looked at.
fn how(choice: Choice, salt: u64, looks: &[Look]) -> How {
    let found = |wanted: fn(&Look) -> Option<u64>| looks.iter().rev().find_map(wanted);
    let client = found(|look| if let Look::Client(client) = look { Some(*client) } else { None });
    let slots =
        found(|look| if let Look::Wheel(len) = look { Some(u64::from(*len)) } else { None });
    let slots = slots.and_then(|slots| u32::try_from(slots).ok());
    let key = Word::from(client_word(choice.client));
    let told = match choice.pick {
        pick::ONLY => Some(How::Only),
        pick::TICKET => {
            let ticket = found(|look| if let Look::Ticket(n) = look { Some(*n) } else { None });
            ticket.zip(slots).and_then(|(ticket, slots)| {
                let slot = ticket.checked_rem(u64::from(slots))?;
                Some(How::Ticket { ticket, slot, slots })
            })
        }
        pick::RANDOM => {
            let random = |look: &Look| if let Look::Random(n) = look { Some(*n) } else { None };
            let random = looks.iter().rev().find_map(random);
            random
                .zip(slots)
                .map(|(random, slots)| How::Random { slot: u64::from(scale(random, slots)), slots })
        }
        pick::LEAST => slots.map(|slots| How::Least { slots }),
        pick::CLIENT => client.zip(slots).map(|(client, slots)| {
            let slot = u64::from(scale(bucket(salt, client), slots));
            How::Client { key, client, slot, slots }
        }),
        pick::THRESHOLD => client.and_then(|client| threshold(salt, key, client, looks)),
        _ => None,
    };
    told.unwrap_or(How::Broken)
}

fn threshold(salt: u64, key: Word, client: u64, looks: &[Look]) -> Option<How> {
    let cells = looks.iter().filter_map(|look| match look {
        Look::Cell(cell) => Some(*cell),
        _ => None,
    });
    let cells: Vec<u64> = cells.collect();
    let last = cells.last()?;
    let subset = u16::try_from(last & 0xffff).ok()?;
    let hash = subset_bucket(salt, client, subset);
    Some(How::Threshold { key, client, hash, threshold: last >> 16, asked: cells.len() })
}

fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Miss => "miss",
        Verdict::Pass => "pass",
        Verdict::Reject => "reject",
        Verdict::Rewrite => "rewrite",
    }
}

fn client_word(key: u8) -> &'static str {
    match key {
        client_key::UID => "uid",
        client_key::GID => "gid",
        client_key::COMMAND => "command",
        client_key::CGROUP => "cgroup",
        client_key::PROCESS => "process",
        _ => "netns",
    }
}

fn command_text(command: &[u8]) -> String {
    let end = command.iter().position(|byte| *byte == 0).unwrap_or(command.len());
    String::from_utf8_lossy(&command[..end]).into_owned()
}

fn socket_addr(addr: Addr, port_be: PortBe) -> SocketAddr {
    let port = port_be.to_host();
    addr.to_v4().map_or_else(|| (addr.0, port).into(), |v4| (v4, port).into())
}

fn frontend_text(key: &FrontendKey) -> String {
    let protocol = if key.protocol == TCP { "tcp" } else { "udp" };
    format!("{}/{protocol}", socket_addr(key.addr, key.port_be))
}
