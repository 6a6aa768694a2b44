//! The story must be that of the decision.

use proptest::prelude::*;
use splitter_common::abi::Backend;
use splitter_common::decide::{Decision, Verdict, decide};

use super::*;
use crate::compile::frontend_key;
use crate::policy::arbitrary::{all_frontends, policy};
use crate::policy::model::{CgroupName, NetnsName};
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

fn assert_same_story(told: &Explanation, decision: &Decision<Backend>) {
    let backend = decision.backend.map(|b| socket_addr(b.addr, b.port_be).to_string());
    assert_eq!(told.backend.as_ref().map(|chosen| chosen.name.clone()), backend);
    assert_eq!(told.errno, (decision.errno > 0).then(|| errno_name(decision.errno)));
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
        let names = Names::new(&policy.services, &ids);
        let rehearsal = Rehearsal::new(&policy, ids.clone()).unwrap();
        for key in all_frontends().iter().map(frontend_key) {
            for client in roles().iter().map(|role| role.client(0, &ids)) {
                let world = |tickets| HostWorld::new(rehearsal.maps(), client.clone(), tickets, 0);
                for _ in 0..connections {
                    decide(&world(Tickets::Take), &key);
                }
                let told = explain(rehearsal.maps(), &names, &key, client.clone());
                // Told again it is the same, because no ticket was taken.
                prop_assert_eq!(&told, &explain(rehearsal.maps(), &names, &key, client.clone()));
                assert_same_story(&told, &decide(&world(Tickets::Take), &key));
                let service = policy.services.iter().find(|s| s.frontends.iter().any(|f| frontend_key(f) == key));
                let named = told.plans.first().and_then(|plan| plan.service.clone());
                prop_assert_eq!(named, service.map(|service| service.name.clone()));
            }
        }
    }
}
