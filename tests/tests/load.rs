//! What the kernel makes of the programs: they load, and stay within their budgets.

use anyhow::{Result, ensure};
use splitter_tests::node::Node;

/// Instructions that the verifier walks on all paths of a program together: on Linux 6.12 and
/// newer, and on older ones, which prune less. Raise a budget only with the reason in the commit.
const BUDGETS: [(&str, u32, u32); 11] = [
    ("split_connect4", 45_000, 200_000),
    ("split_connect6", 45_000, 200_000),
    ("split_peername4", 100, 100),
    ("split_peername6", 100, 100),
    ("split_sendmsg4", 50_000, 200_000),
    ("split_sendmsg6", 50_000, 200_000),
    ("answer_recvmsg4", 1_500, 3_000),
    ("answer_recvmsg6", 1_500, 3_000),
    ("follow_sockets", 10_000, 10_000),
    ("release_sockets", 500, 500),
    ("drop_packets", 300, 300),
];

/// Whether the kernel is older than 6.12.
fn is_old() -> Result<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map_while(|part| part.parse::<u32>().ok());
    Ok((numbers.next(), numbers.next()) < (Some(6), Some(12)))
}

#[test]
fn programs_stay_within_their_budgets() -> Result<()> {
    let mut node = Node::whole()?;
    let sizes = node.loaded.program_sizes()?;
    assert_eq!(sizes.len(), BUDGETS.len());
    let old = is_old()?;
    for (size, (name, new_budget, old_budget)) in sizes.iter().zip(BUDGETS) {
        let budget = if old { old_budget } else { new_budget };
        assert_eq!(size.name, name);
        ensure!(size.verified_instructions > 0, "{name}: the kernel does not say");
        ensure!(size.verified_instructions <= budget, "{size:?} is over {budget}");
    }
    Ok(())
}
