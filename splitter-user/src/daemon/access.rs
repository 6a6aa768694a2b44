//! Who may ask the daemon for what.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// Who may read and who may change, besides root and the daemon's own user.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    /// Members may change and read.
    pub(crate) admin_group: Option<Gid>,
    /// Members may read.
    pub(crate) read_group: Option<Gid>,
}

/// What one caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    /// See policy and state.
    pub(crate) read: bool,
    /// Change the policy.
    pub(crate) change: bool,
}

impl Access {
    /// The rights of a caller where the groups of the caller do not matter.
    pub(crate) fn plain_rights(&self, uid: Uid) -> Option<Rights> {
        if uid.is_root() || uid == Uid::effective() {
            return Some(Rights { read: true, change: true });
        }
        let no_groups = self.admin_group.or(self.read_group).is_none();
        no_groups.then_some(Rights { read: false, change: false })
    }

    /// The rights of a caller. Groups are those of the user database at this moment, and the
    /// caller's effective group.
    pub(crate) fn rights(&self, uid: Uid, gid: Gid) -> Rights {
        if let Some(rights) = self.plain_rights(uid) {
            return rights;
        }
        let wanted = [self.admin_group, self.read_group];
        let groups = groups(uid, gid);
        let [change, read] = wanted.map(|group| group.is_some_and(|g| groups.contains(&g)));
        Rights { read: read || change, change }
    }

    /// Says what a caller may not do and how they could.
    pub(crate) fn refusal(&self, uid: Uid, change: bool) -> String {
        let (what, group, option) = if change {
            ("change the policy", self.admin_group, "--admin-group")
        } else {
            ("read the policy and state", self.read_group.or(self.admin_group), "--read-group")
        };
        let way = match group {
            Some(group) => format!("become a member of the group {}", group_name(group)),
            None => format!("start the daemon with {option} and a group that you are a member of"),
        };
        format!("user {uid} may not {what}: run this as root, or {way}")
    }
}

fn groups(uid: Uid, gid: Gid) -> Vec<Gid> {
    let mut groups = vec![gid];
    if let Ok(Some(user)) = User::from_uid(uid)
        && let Ok(name) = CString::new(user.name)
    {
        groups.extend(getgrouplist(&name, user.gid).unwrap_or_default());
    }
    groups
}

fn group_name(gid: Gid) -> String {
    match Group::from_gid(gid) {
        Ok(Some(group)) => format!("`{}`", group.name),
        _ => gid.to_string(),
    }
}

/// A group by number or name.
pub(crate) fn find_group(word: &str) -> Result<Gid, String> {
    if let Ok(number) = word.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(word) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(format!("no group is named `{word}`")),
        Err(error) => Err(format!("look up the group `{word}`: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_follow_user_and_group() {
        let stranger = Uid::from_raw(4_000_000_000);
        let (admins, readers) = (Gid::from_raw(4_000_000_001), Gid::from_raw(4_000_000_002));
        let access = Access { admin_group: Some(admins), read_group: Some(readers) };
        let rights = |uid, gid| access.rights(uid, gid);
        let all = Rights { read: true, change: true };
        assert_eq!(rights(Uid::from_raw(0), Gid::from_raw(0)), all);
        assert_eq!(rights(stranger, admins), all);
        assert_eq!(rights(stranger, readers), Rights { read: true, change: false });
        let none = Rights { read: false, change: false };
        assert_eq!(rights(stranger, Gid::from_raw(4_000_000_003)), none);
        assert_eq!(Access::default().rights(stranger, admins), none);
    }

    #[test]
    fn a_refusal_names_the_way() {
        let refusal = Access::default().refusal(Uid::from_raw(1000), true);
        assert!(refusal.contains("--admin-group"), "{refusal}");
    }
}
