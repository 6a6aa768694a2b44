//! File systems that the daemon and its tests work in.
//!
//! They are looked for and never mounted: that is for the owner of the machine to say. A missing
//! one is told but is no failure here, because only some commands need it.

use std::fs;

/// Says where cgroup2 and bpffs are mounted.
pub(super) fn look() {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for (kind, usual_place) in [("cgroup2", "/sys/fs/cgroup"), ("bpf", "/sys/fs/bpf")] {
        match mount_point(&table, kind) {
            Some(place) => println!("{kind} mount: found: {place}"),
            None => println!(
                "{kind} mount: none (needed for the daemon and `cargo xtask test kernel`; as root: \
                 `mount -t {kind} {kind} {usual_place}`)"
            ),
        }
    }
}

/// Lines are `device place kind options 0 0`.
fn mount_point<'a>(table: &'a str, kind: &str) -> Option<&'a str> {
    table.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next()?;
        (fields.next()? == kind).then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_kind_not_by_its_name() {
        let table = "cgroup2 /a tmpfs rw 0 0\nx /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_point(table, "cgroup2"), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount_point(table, "bpf"), None);
    }
}
