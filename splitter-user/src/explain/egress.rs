//! What an egress document says of a connection to what is no service.

use serde::{Deserialize, Serialize};
use splitter_common::abi::{FrontendKey, egress_flag};
use splitter_common::decide::egress::{
    EgressWorld, Ground, dialled, find_ground, find_rule, judge, root_in_force,
};

use super::{Names, Word, errno_name};
use crate::policy::native::reach_value;

/// Whether a connection may go on, and which document says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Name of the document; `None` where none takes the client.
    pub document: Option<String>,
    /// Key of the document that decides: `refuse`, `allow`, `loopback` or `mode`.
    pub by: Option<Word>,
    /// What is written there, as far as the text is known.
    pub value: Option<String>,
    /// `allowed`, `refused`, or `audited` where it goes on and is told of.
    pub verdict: Word,
    /// What the call fails with.
    pub errno: Option<String>,
}

/// Tells how the world judges. `None` where there are no documents at all.
pub(super) fn tell<W: EgressWorld>(world: &W, names: &Names, key: &FrontendKey) -> Option<Judged> {
    let root = root_in_force(world)?;
    let Some(rule) = find_rule(world, &root) else {
        let verdict = "allowed".into();
        return Some(Judged { document: None, by: None, value: None, verdict, errno: None });
    };
    let ground = find_ground(world, root.set, rule.rule, rule.flags, key);
    let (by, value) = match ground {
        Ground::Range(range) => {
            let reach = names.reach(rule.rule, dialled(key.addr), &range);
            (if range.refused != 0 { "refuse" } else { "allow" }, reach.map(reach_value))
        }
        Ground::Loopback => ("loopback", Some("true".to_owned())),
        Ground::Mode => {
            let refuses = rule.flags & egress_flag::REFUSES != 0;
            ("mode", Some(if refuses { "registryOnly" } else { "allowAny" }.to_owned()))
        }
    };
    let judgement = judge(world, key);
    let errno = judgement.map(|judgement| judgement.errno);
    let verdict = match errno {
        None => "allowed",
        Some(0) => "audited",
        Some(_) => "refused",
    };
    Some(Judged {
        document: Some(names.egress(rule.rule)),
        by: Some(by.into()),
        value,
        verdict: verdict.into(),
        errno: errno.filter(|errno| *errno != 0).map(errno_name),
    })
}
