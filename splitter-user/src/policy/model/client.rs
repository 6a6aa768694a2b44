//! Which clients a route takes.
//!
//! Names of cgroups and network namespaces are the policy's; what they are on a node, the daemon
//! finds out. Which directory a cgroup's name is for is decided here, so that it is the same
//! wherever one is looked for.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

/// A client fits when every given field is equal. At least one is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientMatch {
    /// Effective user id.
    pub uid: Option<u32>,
    /// Effective group id.
    pub gid: Option<u32>,
    /// Command name of the connecting thread, 1 to 15 bytes (`TASK_COMM_LEN` less the zero).
    pub command: Option<String>,
    /// Cgroup v2 directory whose subtree the client's task is in.
    pub cgroup: Option<CgroupName>,
    /// Network namespace of the socket.
    pub netns: Option<NetnsName>,
    /// `SO_MARK` of the socket.
    pub mark: Option<Mark>,
    /// `IP_TOS` of the socket, `IPV6_TCLASS` of one of IPv6; a multiple of 4.
    pub tos: Option<u8>,
}

/// What a cgroup v2 directory is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CgroupName {
    /// Its path from the root of the hierarchy (`/system.slice/web.service`): starts with `/`, does
    /// not end with one unless it is the root itself, has no `.` or `..`.
    Path(String),
    /// The systemd unit that it is of: `web.service` of the system's manager, and of a user's
    /// `user@1000.service/web.service`.
    Unit(String),
    /// The container that it is of: the id, or its first 12 digits or more.
    Container(String),
    /// The Kubernetes pod that it is of, by its uid.
    Pod(String),
}

/// What a network namespace is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NetnsName {
    /// A file that stands for it, by its absolute path.
    Path(String),
    /// Its inode number, as `readlink /proc/PID/ns/net` shows it.
    Inode(u64),
}

/// A value of `SO_MARK`, and which of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The value, without bits that do not count.
    pub value: u32,
    /// The bits that count; at least one.
    pub mask: u32,
}

/// Where `ip netns` has the names of network namespaces.
pub const NETNS_NAMES: &str = "/run/netns/";

impl CgroupName {
    /// The key of a `match` that it is written at.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Path(_) => "cgroup",
            Self::Unit(_) => "unit",
            Self::Container(_) => "container",
            Self::Pod(_) => "pod",
        }
    }

    /// The value at that key.
    pub fn value(&self) -> &str {
        match self {
            Self::Path(value) | Self::Unit(value) | Self::Container(value) | Self::Pod(value) => {
                value
            }
        }
    }

    /// Its path, where that is what it is known by.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Path(path) => Some(path),
            _ => None,
        }
    }

    /// Whether it is the name of the directory at a path from the root of the hierarchy.
    pub fn is_at(&self, path: &str) -> bool {
        let (above, last) = path.rsplit_once('/').unwrap_or(("", path));
        match self {
            Self::Path(own) => own == path,
            Self::Unit(unit) => match unit.split_once('/') {
                None => is_of_unit(last, unit) && names(above).all(is_slice),
                Some((manager, unit)) => is_of_unit(last, unit) && is_managed(above, manager),
            },
            Self::Container(id) => {
                container_id(last).is_some_and(|own| own.starts_with(id.as_str()))
                    && !holds_container(above)
            }
            Self::Pod(uid) => is_of_pod(last, uid) && !holds_container(above),
        }
    }

    /// Whether a directory that it is the name of may be below the one at a path. What is below
    /// containers is theirs: they may give it any name.
    pub fn may_be_below(&self, path: &str) -> bool {
        match self {
            Self::Path(_) => false,
            Self::Unit(unit) => match unit.split_once('/') {
                None => names(path).all(is_slice),
                Some((manager, _)) => names(path).all(is_slice) || is_managed(path, manager),
            },
            Self::Container(_) => !holds_container(path),
            Self::Pod(uid) => {
                let last = path.rsplit('/').next().unwrap_or(path);
                !holds_container(path) && !is_of_pod(last, uid)
            }
        }
    }

    /// Whether a directory that another name is of may be inside of one that this is the name of. What
    /// is known by its path is inside of what its path says alone.
    pub fn may_hold(&self, inner: &Self) -> bool {
        match (self, inner) {
            (_, Self::Path(_))
            | (Self::Container(_), _)
            | (Self::Pod(_), Self::Pod(_) | Self::Unit(_)) => false,
            // The kubelet makes slices, or directories in one that no unit has.
            (Self::Unit(unit), Self::Pod(_)) => is_slice(unit),
            (Self::Path(path), Self::Pod(_)) => {
                inner.may_be_below(path) && !names(path).any(is_unit_of_processes)
            }
            (Self::Unit(_), Self::Unit(_)) | (Self::Pod(_) | Self::Unit(_), Self::Container(_)) => {
                true
            }
            (Self::Path(path), Self::Unit(_) | Self::Container(_)) => inner.may_be_below(path),
        }
    }

    /// A path at which it would be, for clients that are made up.
    pub fn usual_path(&self) -> String {
        match self {
            Self::Path(path) => path.clone(),
            Self::Unit(unit) => match unit.split_once('/') {
                None if unit.ends_with(SLICE) => format!("/{unit}"),
                None => format!("/system.slice/{unit}"),
                Some((manager, unit)) => format!("/user.slice/{manager}/app.slice/{unit}"),
            },
            Self::Container(id) => format!("/system.slice/docker-{id:0<64}.scope"),
            Self::Pod(uid) => format!("/kubepods/pod{uid}"),
        }
    }
}

impl Display for CgroupName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key(), self.value())
    }
}

const SLICE: &str = ".slice";
/// Digits of a container's id.
const ID_DIGITS: usize = 64;
/// What begins the names of the processes that watch over containers, from the last `-` on cut off.
const WATCHERS: &str = "conmon";

/// The names on a path.
fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

fn is_slice(name: &str) -> bool {
    name.ends_with(SLICE)
}

/// Whether it is the directory of a unit that has processes itself.
fn is_unit_of_processes(name: &str) -> bool {
    [".service", ".scope"].iter().any(|kind| name.ends_with(kind))
}

/// systemd puts `_` before what cgroup files could be called, and before `_`, `.` and names of
/// controllers. It gives no other unit such a directory.
fn is_of_unit(name: &str, unit: &str) -> bool {
    name == unit || name.strip_prefix('_') == Some(unit)
}

/// Whether a path leads through slices to a user's manager, and on through slices of that one.
fn is_managed(path: &str, manager: &str) -> bool {
    let mut own = names(path).skip_while(|name| is_slice(name));
    own.next() == Some(manager) && own.all(is_slice)
}

/// The id in a container's directory: the name without what container runtimes put around it,
/// `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`.
fn container_id(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let (runtime, id) = name.rsplit_once('-').unwrap_or(("", name));
    let is_id = id.len() == ID_DIGITS && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    (is_id && !runtime.ends_with(WATCHERS)).then_some(id)
}

fn holds_container(path: &str) -> bool {
    names(path).any(|name| container_id(name).is_some())
}

/// `podUID`, or `kubepods-burstable-podUID.slice` with `_` for `-`, which would be a deeper slice.
fn is_of_pod(name: &str, uid: &str) -> bool {
    if name.strip_prefix("pod") == Some(uid) {
        return true;
    }
    let slice = name.strip_suffix(SLICE).and_then(|name| name.rsplit_once("-pod"));
    slice.is_some_and(|(_, own)| own.len() == uid.len() && own.replace('_', "-") == uid)
}

impl Display for NetnsName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => {
                let name = path.strip_prefix(NETNS_NAMES).filter(|name| !name.contains('/'));
                f.write_str(name.unwrap_or(path))
            }
            Self::Inode(inode) => write!(f, "net:[{inode}]"),
        }
    }
}

impl Display for Mark {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.mask {
            u32::MAX => write!(f, "{:#x}", self.value),
            mask => write!(f, "{:#x}/{mask:#x}", self.value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4eb4a1c9d2e87065aa4f1be0c7d9833f4eb4a1c9d2e87065aa4f1be0c7d983";
    const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";

    #[test]
    fn units_are_below_slices_only() {
        let unit = |name: &str| CgroupName::Unit(name.to_owned());
        let web = unit("web.service");
        for path in ["/system.slice/web.service", "/web.service", "/a.slice/a-b.slice/web.service"]
        {
            assert!(web.is_at(path), "{path}");
        }
        for path in [
            "/system.slice/web.service/x",
            "/system.slice/docker.service/web.service",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service",
            "/system.slice/xweb.service",
        ] {
            assert!(!web.is_at(path), "{path}");
        }
        assert!(unit("memory.service").is_at("/system.slice/_memory.service"));
        assert!(unit(r"a\x2db.service").is_at(r"/system.slice/a\x2db.service"));
        assert!(unit("a-b.slice").is_at("/a.slice/a-b.slice"));
        assert!(web.may_be_below("/") && web.may_be_below("/a.slice"));
        assert!(!web.may_be_below("/a.slice/b.service"));
    }

    #[test]
    fn units_of_users_are_below_their_manager() {
        let web = CgroupName::Unit("user@1000.service/web.service".to_owned());
        let manager = "/user.slice/user-1000.slice/user@1000.service";
        assert!(web.is_at(&format!("{manager}/app.slice/web.service")));
        assert!(web.is_at(&format!("{manager}/web.service")));
        assert!(!web.is_at(&format!("{manager}/x.service/web.service")));
        assert!(!web.is_at("/user.slice/user-1001.slice/user@1001.service/app.slice/web.service"));
        assert!(web.may_be_below("/user.slice") && web.may_be_below(manager));
        assert!(!web.may_be_below("/user.slice/user-1001.slice/user@1001.service"));
    }

    #[test]
    fn containers_are_found_by_any_runtimes_names() {
        for id in [ID, &ID[..12]] {
            let name = CgroupName::Container(id.to_owned());
            for path in [
                format!("/docker/{ID}"),
                format!("/system.slice/docker-{ID}.scope"),
                format!("/kubepods.slice/kubepods-podx.slice/cri-containerd-{ID}.scope"),
                format!("/kubepods/burstable/pod{UID}/{ID}"),
                format!("/machine.slice/libpod-{ID}.scope"),
                format!("/kubepods.slice/crio-{ID}.scope"),
            ] {
                assert!(name.is_at(&path), "{path}");
                assert!(!name.may_be_below(&path), "{path}");
                assert!(!name.is_at(&format!("{path}/{ID}")), "what is inside of {path}");
            }
            for path in [
                format!("/machine.slice/libpod-conmon-{ID}.scope"),
                format!("/kubepods.slice/crio-conmon-{ID}.scope"),
                format!("/docker/{}", &ID[1..]),
                format!("/docker/x{}", &ID[1..]),
            ] {
                assert!(!name.is_at(&path), "{path}");
            }
        }
    }

    #[test]
    fn pods_are_found_by_both_drivers_names() {
        let name = CgroupName::Pod(UID.to_owned());
        let slice = format!("kubepods-besteffort-pod{}.slice", UID.replace('-', "_"));
        for path in [
            format!("/kubepods/besteffort/pod{UID}"),
            format!("/kubepods.slice/kubepods-besteffort.slice/{slice}"),
        ] {
            assert!(name.is_at(&path), "{path}");
            assert!(!name.may_be_below(&path), "{path}");
        }
        assert!(!name.is_at(&format!("/docker/{ID}/kubepods/pod{UID}")));
        assert!(!name.is_at(&format!("/kubepods/pod{UID}0")));
        assert!(name.may_be_below("/kubepods/pod0"));
    }

    #[test]
    fn what_the_node_finds_may_be_inside_of_what_is_made_for_it() {
        let pod = CgroupName::Pod(UID.to_owned());
        let container = CgroupName::Container(ID.to_owned());
        let unit = |name: &str| CgroupName::Unit(name.to_owned());
        let path = |path: &str| CgroupName::Path(path.to_owned());
        for (outer, inner, wanted) in [
            (&pod, &container, true),
            (&container, &pod, false),
            (&pod, &pod, false),
            (&unit("kubepods.slice"), &pod, true),
            (&unit("web.service"), &pod, false),
            (&unit("web.service"), &container, true),
            (&path("/"), &pod, true),
            (&path("/kubepods/burstable"), &pod, true),
            (&path("/system.slice/web.service"), &pod, false),
            (&path("/system.slice/web.service"), &container, true),
            (&path(&format!("/docker/{ID}")), &pod, false),
            (&path("/system.slice"), &unit("web.service"), true),
            (&path("/a"), &path("/a/b"), false),
        ] {
            assert_eq!(outer.may_hold(inner), wanted, "{inner} inside of {outer}");
        }
    }

    #[test]
    fn usual_paths_are_of_their_names() {
        let names = [
            CgroupName::Path("/a/b".to_owned()),
            CgroupName::Unit("web@1.service".to_owned()),
            CgroupName::Unit("shop.slice".to_owned()),
            CgroupName::Unit("user@7.service/web.service".to_owned()),
            CgroupName::Container(ID[..12].to_owned()),
            CgroupName::Container(ID.to_owned()),
            CgroupName::Pod(UID.to_owned()),
        ];
        for name in names {
            assert!(name.is_at(&name.usual_path()), "{name}: {}", name.usual_path());
        }
    }

    #[test]
    fn names_of_networks_are_short() {
        let path = |path: &str| NetnsName::Path(path.to_owned()).to_string();
        assert_eq!(path("/run/netns/web"), "web");
        assert_eq!(path("/run/docker/netns/x"), "/run/docker/netns/x");
        assert_eq!(NetnsName::Inode(7).to_string(), "net:[7]");
    }
}
