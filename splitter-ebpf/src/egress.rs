//! Connections and datagrams to what is no service: the rules' view of the maps, and what is told.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_pid_tgid,
        bpf_get_netns_cookie,
    },
    maps::lpm_trie::Key,
};
use splitter_common::{
    abi::{
        EgressClient, EgressCounts, EgressEvent, EgressNetwork, EgressRoot, EgressRule,
        FrontendKey, NETWORK_BITS, PortRanges,
    },
    decide::egress::{EgressWorld, Judgement, judge},
};

use crate::{
    atomic, follow, maps,
    sock_addr::{Dialled, Family, dialled},
    tables,
};

/// Bits of an address.
const ADDR_BITS: u32 = 128;

struct Rules;

impl EgressWorld for Rules {
    type Ranges = &'static PortRanges;

    #[inline(always)]
    fn root(&self, index: u32) -> Option<EgressRoot> {
        maps::EGRESS_ROOTS.get(index).copied()
    }

    #[inline(always)]
    fn generation(&self) -> u64 {
        // SAFETY: a live array element; one aligned word, written whole. Volatile keeps the load
        // behind those of the roots.
        maps::COMMIT
            .get_ptr(0)
            .map_or(0, |commit| unsafe { (&raw const (*commit).generation).read_volatile() })
    }

    #[inline(always)]
    fn rule(&self, client: &EgressClient) -> Option<EgressRule> {
        // SAFETY: a live element of one word, which never changes.
        maps::EGRESS_CLIENTS.get_ptr(client).map(|rule| unsafe { *rule })
    }

    #[inline(always)]
    fn ranges(&self, network: &EgressNetwork) -> Option<&'static PortRanges> {
        maps::EGRESS_NETWORKS.get(Key::new(NETWORK_BITS + ADDR_BITS, *network))
    }

    #[inline(always)]
    fn ancestor_cgroup(&self, level: u32) -> u64 {
        // SAFETY: the helper answers 0 for a level that does not exist.
        unsafe { bpf_get_current_ancestor_cgroup_id(level.cast_signed()) }
    }
}

/// The errno that a call fails with, 0 for none, with everything counted and told.
#[inline(always)]
pub(crate) fn refuse<F: Family>(ctx: *mut bpf_sock_addr) -> u32 {
    let Dialled { key } = &dialled::<F>(ctx);
    let Some(judgement) = judge(&Rules, key) else { return 0 };
    let is_told = tell(ctx, key, &judgement);
    if let Some(counts) = maps::EGRESS_COUNTS.get_ptr_mut(judgement.rule) {
        count(counts, judgement.errno == 0, is_told);
    }
    u32::from(judgement.errno)
}

/// Tells of one call, unless the buffer is full.
#[inline(always)]
fn tell(ctx: *mut bpf_sock_addr, key: &FrontendKey, judgement: &Judgement) -> bool {
    let Some(mut entry) = maps::EGRESS_EVENTS.reserve::<EgressEvent>(0) else { return false };
    write_event(entry.as_mut_ptr(), ctx, key, judgement);
    entry.submit(0);
    true
}

#[inline(always)]
fn count(counts: *mut EgressCounts, is_audited: bool, is_told: bool) {
    // SAFETY: a live, aligned map value.
    unsafe {
        let what = if is_audited { &raw mut (*counts).audited } else { &raw mut (*counts).refused };
        atomic::fetch_add(what, 1);
        if !is_told {
            atomic::fetch_add(&raw mut (*counts).untold, 1);
        }
    }
}

/// Field by field: the stack has no room for an event, which is what a struct literal is made on.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "halves of words are taken on purpose")]
fn write_event(
    event: *mut EgressEvent,
    ctx: *mut bpf_sock_addr,
    key: &FrontendKey,
    judgement: &Judgement,
) {
    let ids = tables::uid_gid();
    // SAFETY: a reserved record of the buffer, aligned to eight bytes and ours until it is
    // submitted; every field is written. The helpers take nothing, or the running hook's context.
    unsafe {
        let process = bpf_get_current_pid_tgid();
        (&raw mut (*event).at_ns).write(follow::now_ns());
        (&raw mut (*event).cgroup).write(bpf_get_current_cgroup_id());
        (&raw mut (*event).netns).write(bpf_get_netns_cookie(ctx.cast()));
        (&raw mut (*event).process).write((process >> 32) as u32);
        (&raw mut (*event).uid).write(ids as u32);
        (&raw mut (*event).gid).write((ids >> 32) as u32);
        (&raw mut (*event).set).write(judgement.set);
        (&raw mut (*event).rule).write(judgement.rule);
        (&raw mut (*event).port_be).write(key.port_be);
        (&raw mut (*event).protocol).write(key.protocol);
        (&raw mut (*event).audited).write(u8::from(judgement.errno == 0));
        (&raw mut (*event).addr).write(key.addr);
        (&raw mut (*event).command).write(tables::command());
    }
}
