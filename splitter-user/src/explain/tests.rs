//! The story must be that of the decision.

use proptest::prelude::*;
use splitter_common::abi::Backend;
use splitter_common::decide::egress::{Judgement, judge};
use splitter_common::decide::{Decision, Verdict, decide};

use super::*;
use crate::compile::egress::HostAddresses;
use crate::compile::frontend_key;
use crate::policy::arbitrary::{all_frontends, policy};
use crate::policy::model::{CgroupName, Frontend, NetnsName};
use crate::rehearsal::{Rehearsal, Role, imagine_ids};

fn roles() -> Vec<Role> {
    let role = |uid, command: &str, cgroup: &str| Role {
        uid: Some(uid),
        command: (!command.is_empty()).then(|| command.to_owned()),
        cgroup: Some(CgroupName::Path(cgroup.to_owned())),
        ..Role::default()
    };
    let network = Some(NetnsName::Path("/run/netns/web".to_owned()));
    let marked = Role { mark: Some(7), tos: Some(40), netns_name: network, ..role(1, "", "/") };
    let unit = Some(CgroupName::Unit("web.service".to_owned()));
    let unit = Role { cgroup: unit, ..role(0, "", "/") };
    let paths = [role(1, "curl", "/app"), role(2, "nc", "/app/x/y"), role(1, "", "/b")];
    [role(0, "", "/"), marked, unit].into_iter().chain(paths).collect()
}

/// A judgement is told where it was asked for, and is the kernel's.
fn assert_same_judgement(
    told: &Explanation,
    decision: &Decision<Backend>,
    judgement: Option<Judgement>,
) {
    let judgement = judgement.filter(|_| decision.verdict == Verdict::Miss);
    let errno = judgement.map_or(0, |judgement| judgement.errno).max(decision.errno);
    assert_eq!(told.errno, (errno > 0).then(|| errno_name(errno)));
    let verdict = judgement.map(|it| if it.errno == 0 { "audited" } else { "refused" });
    let told = told.egress.as_ref();
    let of_verdict = told.map(|told| told.verdict.as_ref()).filter(|it| *it != "allowed");
    assert_eq!(of_verdict, verdict);
    // Which entry it was is known where one was.
    assert!(told.is_none_or(|told| told.by.is_some() == told.value.is_some()), "{told:?}");
}

fn assert_same_story(told: &Explanation, decision: &Decision<Backend>) {
    let backend = decision.backend.map(|b| socket_addr(b.addr, b.port_be).to_string());
    assert_eq!(told.backend.as_ref().map(|chosen| chosen.name.clone()), backend);
    assert_eq!(told.plans.is_empty(), decision.verdict == Verdict::Miss);
    assert_eq!(told.subset.is_some(), decision.tally.subset > 0);
    let choices = told.subset.iter().chain(&told.backend).map(|chosen| &chosen.choice);
    assert!(choices.clone().all(|choice| *choice != How::Broken), "{told:?}");
    for choice in choices {
        if let How::Threshold { hash, threshold, .. } = choice {
            assert!(u64::from(*hash) < *threshold);
        }
    }
    let taken = told.routes.iter().filter(|route| route.taken).count();
    assert_eq!(taken, usize::from(decision.tally.route > 0));
    for route in &told.routes {
        assert_eq!(route.mismatches.is_empty(), route.taken, "{route:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_story_is_that_of_the_decision(policy in policy(), connections in 0_u32..7) {
        let ids = imagine_ids(&policy, &roles());
        let names = Names::new(&policy.services, &ids).with_egress(&policy.outbound, HostAddresses::new());
        let rehearsal = Rehearsal::new(&policy, ids.clone()).unwrap();
        let elsewhere = ["10.1.2.3:5", "10.9.9.9:300/udp", "[fd00::1]:5", "192.0.2.1:7"];
        let elsewhere = elsewhere.iter().map(|to| to.parse::<Frontend>().unwrap());
        for key in all_frontends().into_iter().chain(elsewhere).map(|to| frontend_key(&to)) {
            for client in roles().iter().map(|role| role.client(0, &ids)) {
                let world = |tickets| HostWorld::new(rehearsal.maps(), client.clone(), tickets, 0);
                for _ in 0..connections {
                    decide(&world(Tickets::Take), &key);
                }
                let told = explain(rehearsal.maps(), rehearsal.egress(), &names, &key, client.clone());
                // Told again it is the same, because no ticket was taken.
                prop_assert_eq!(&told, &explain(rehearsal.maps(), rehearsal.egress(), &names, &key, client.clone()));
                let decision = decide(&world(Tickets::Take), &key);
                assert_same_story(&told, &decision);
                let rules = HostRules::new(rehearsal.maps(), rehearsal.egress(), &client);
                assert_same_judgement(&told, &decision, judge(&rules, &key));
                let service = policy.services.iter().find(|s| s.frontends.iter().any(|f| frontend_key(f) == key));
                let named = told.plans.first().and_then(|plan| plan.service.clone());
                prop_assert_eq!(named, service.map(|service| service.name.clone()));
            }
        }
    }
}
