//! What the kernel makes of the programs: they load, and stay within their budgets.

use anyhow::{Result, ensure};
use splitter_tests::node::Node;

/// Instructions that the verifier walks on all paths of a program together, as counted on Linux
/// 6.18; other versions prune differently. Raise a budget only with the reason in the commit.
const BUDGETS: [(&str, u32); 4] = [
    ("split_connect4", 7_000),
    ("split_connect6", 7_000),
    ("split_peername4", 100),
    ("split_peername6", 100),
];

#[test]
fn programs_stay_within_their_budgets() -> Result<()> {
    let mut node = Node::new()?;
    let sizes = node.loaded.program_sizes()?;
    assert_eq!(sizes.len(), BUDGETS.len());
    for (size, (name, budget)) in sizes.iter().zip(BUDGETS) {
        println!("{size:?}");
        assert_eq!(size.name, name);
        ensure!(size.verified_instructions > 0, "{name}: the kernel does not say");
        ensure!(size.verified_instructions <= budget, "{size:?} is over {budget}");
    }
    Ok(())
}
