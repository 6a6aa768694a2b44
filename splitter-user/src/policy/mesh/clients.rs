//! Who connects: workloads, and everybody else.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use super::resource::{Export, Labels, Resources, Workload, selects};
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report};
use crate::policy::model::{CgroupName, Errno};
use crate::rehearsal::lineage;

/// The root of the hierarchy, which every client is in.
pub(super) const ROOT: &str = "/";

/// Clients that no rule tells apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'r> {
    /// `None` for everybody that no workload describes.
    pub(super) workload: Option<&'r Workload>,
    /// Ordinal of its class: clients of one class are alike to every document.
    pub(super) class: usize,
    /// Position of the client whose cgroup is around this one's; `None` for the last.
    pub(super) around: Option<usize>,
    /// Whether the cgroup of another client is inside.
    pub(super) encloses: bool,
}

/// Every client: workloads, those in deeper cgroups first, then everybody else, unless a workload
/// of the root cgroup is everybody else.
#[derive(Debug, Default)]
pub(super) struct Clients<'r> {
    pub(super) all: Vec<Client<'r>>,
    /// One client of each class.
    pub(super) classes: Vec<Client<'r>>,
    /// Position of the first client behind containers and pods.
    after_pods: usize,
}

impl<'r> Client<'r> {
    /// Everybody that no workload describes: no labels, no namespace.
    pub(super) const ANYBODY: Self =
        Self { workload: None, class: 0, around: None, encloses: false };

    pub(super) fn namespace(&self) -> Option<&'r str> {
        self.workload.map(|workload| workload.meta.namespace.as_str())
    }

    /// Whether the client has all of these labels.
    pub(super) fn has(&self, labels: &Labels) -> bool {
        match self.workload {
            Some(workload) => selects(labels, &workload.labels),
            None => labels.is_empty(),
        }
    }

    /// Whether the client has all of these labels, and is of this namespace where one is asked for.
    pub(super) fn is_selected(&self, labels: &Labels, namespace: Option<&str>) -> bool {
        self.has(labels) && namespace.is_none_or(|name| self.namespace() == Some(name))
    }

    /// What its connections to services fail with, whatever rules say.
    pub(super) fn reject(&self) -> Option<Errno> {
        self.workload.and_then(|workload| workload.reject)
    }

    /// Whether the client sees what is exported so.
    pub(super) fn sees(&self, export: &Export) -> bool {
        match export {
            Export::All => true,
            Export::Namespaces(names) => {
                self.namespace().is_some_and(|own| names.iter().any(|name| name == own))
            }
        }
    }

    pub(super) fn cgroup(&self) -> Option<&'r CgroupName> {
        self.workload.map(|workload| &workload.cgroup.value)
    }

    fn path(&self) -> Option<&'r str> {
        self.cgroup()?.path()
    }

    /// Whether it is known which other clients are around: not of what the node will find.
    pub(super) fn is_placed(&self) -> bool {
        self.cgroup().is_none_or(|name| name.path().is_some())
    }

    /// Whether a cgroup that the node will find may be inside of the client's.
    fn may_hold(&self, inner: &CgroupName) -> bool {
        self.cgroup().is_none_or(|own| own.may_hold(inner))
    }

    /// Where it stands in the order: what may be inside of another comes first. Of what the node will
    /// find, a container is inside of a pod, and both are inside of units and paths.
    fn rank(&self) -> (Reverse<usize>, Option<&'r CgroupName>) {
        let depth = match self.cgroup() {
            Some(CgroupName::Container(_)) => usize::MAX,
            Some(CgroupName::Pod(_)) => usize::MAX - 1,
            Some(CgroupName::Unit(_)) => usize::MAX - 2,
            Some(CgroupName::Path(path)) => lineage(path).len(),
            None => 0,
        };
        (Reverse(depth), self.cgroup())
    }
}

impl<'r> Clients<'r> {
    /// Everybody, without a difference.
    pub(super) fn anybody() -> Self {
        Self { all: vec![Client::ANYBODY], classes: vec![Client::ANYBODY], after_pods: 0 }
    }

    /// Clients that one may be inside of, which come after it.
    pub(super) fn around<'a>(
        &'a self,
        index: usize,
        client: &'a Client<'_>,
    ) -> impl Iterator<Item = &'a Client<'r>> {
        let known = client.around.filter(|_| client.is_placed());
        // No pod is inside of another one: thousands of them are passed at once.
        let first = match client.cgroup() {
            Some(CgroupName::Pod(_)) => self.after_pods,
            _ => index + 1,
        };
        let later = self.all.iter().skip(if known.is_some() { self.all.len() } else { first });
        let later = later.filter(|outer| client.cgroup().is_some_and(|own| outer.may_hold(own)));
        known.and_then(|index| self.all.get(index)).into_iter().chain(later)
    }

    /// Whether any workload is described.
    pub(super) fn are_known(&self) -> bool {
        self.all.iter().any(|client| client.workload.is_some())
    }
}

/// Finds every client.
pub(super) fn find<'r>(resources: &'r Resources, report: &mut Report) -> Clients<'r> {
    let mut seen: HashMap<&CgroupName, &Workload> = HashMap::new();
    let mut all = Vec::new();
    for workload in &resources.workloads {
        let cgroup = &workload.cgroup;
        if let Some(first) = seen.get(&cgroup.value) {
            repeated(first, workload, report);
        } else {
            seen.insert(&cgroup.value, workload);
            all.push(Client { workload: Some(workload), ..Client::ANYBODY });
        }
    }
    for workload in resources.pods.iter().filter_map(|pod| pod.client.as_ref()) {
        // What a workload says of a pod counts; of pods with one uid, the first.
        if let Entry::Vacant(free) = seen.entry(&workload.cgroup.value) {
            free.insert(workload);
            all.push(Client { workload: Some(workload), ..Client::ANYBODY });
        }
    }
    all.sort_by_key(Client::rank);
    if !all.iter().any(|client| client.path() == Some(ROOT)) {
        all.push(Client::ANYBODY);
    }
    nest(&mut all);
    let classes = classify(&mut all, resources);
    let is_of_pods = |client: &Client<'_>| {
        matches!(client.cgroup(), Some(CgroupName::Container(_) | CgroupName::Pod(_)))
    };
    let after_pods = all.iter().take_while(|client| is_of_pods(client)).count();
    Clients { all, classes, after_pods }
}

/// Finds the client around each. Where one is not known to be, everything that comes later may be.
fn nest(all: &mut [Client<'_>]) {
    let last = all.len() - 1;
    let cgroups = all.iter().zip(0..).filter_map(|(client, n)| Some((client.path()?, n)));
    let positions: HashMap<&str, usize> = cgroups.collect();
    let around = |client: &Client<'_>| {
        let lineage = lineage(client.path().unwrap_or(ROOT));
        let mut above = lineage.iter().rev().skip(1);
        above.find_map(|path| positions.get(path.as_str())).copied().unwrap_or(last)
    };
    let outer: Vec<usize> = all.iter().take(last).map(around).collect();
    mark_enclosing(all);
    for (index, around) in outer.into_iter().enumerate() {
        if let Some(client) = all.get_mut(index) {
            client.around = Some(around);
        }
        if let Some(client) = all.get_mut(around) {
            client.encloses = true;
        }
    }
}

/// Marks the clients that may have others inside which the node will find.
fn mark_enclosing(all: &mut [Client<'_>]) {
    // Each name once for all that are alike where they may be: there may be thousands of pods.
    let found: Vec<CgroupName> = all
        .iter()
        .filter(|client| !client.is_placed())
        .filter_map(Client::cgroup)
        .cloned()
        .collect();
    let pods = found.iter().filter(|name| matches!(name, CgroupName::Pod(_))).take(1);
    let others = found.iter().filter(|name| !matches!(name, CgroupName::Pod(_)));
    let inner: Vec<&CgroupName> = pods.chain(others).collect();
    for client in all {
        let own = client.cgroup();
        let is_other = |name: &&&CgroupName| own != Some(**name);
        client.encloses = inner.iter().filter(is_other).any(|name| client.may_hold(name));
    }
}

/// Numbers the classes, and answers one client of each. Documents ask for nothing of a client but
/// its namespace, whether selectors take its labels, and whether it is rejected.
fn classify<'r>(all: &mut [Client<'r>], resources: &'r Resources) -> Vec<Client<'r>> {
    let selectors = selectors(resources);
    let mut known = HashMap::new();
    let mut classes = Vec::new();
    for client in all {
        let taken: Vec<bool> = selectors.iter().map(|labels| client.has(labels)).collect();
        let next = classes.len();
        let reject = client.reject().map(|errno| errno.number);
        client.class = *known.entry((client.namespace(), taken, reject)).or_insert(next);
        if client.class == next {
            classes.push(*client);
        }
    }
    classes
}

/// Every selector of clients, each once.
fn selectors(resources: &Resources) -> BTreeSet<&Labels> {
    let services = resources.virtual_services.iter();
    let rules = services.flat_map(|it| it.http.iter().chain(&it.tcp).chain(&it.tls));
    let matches = rules.flat_map(|rule| &rule.matches).map(|wanted| &wanted.source_labels);
    let rules = resources.destination_rules.iter();
    let sidecars = resources.sidecars.iter();
    matches
        .chain(rules.filter_map(|rule| rule.workload_selector.as_ref()))
        .chain(sidecars.filter_map(|sidecar| sidecar.workload_selector.as_ref()))
        .filter(|labels| !labels.is_empty())
        .collect()
}

fn repeated(first: &Workload, second: &Workload, report: &mut Report) {
    let message = format!("the {} has two workloads", second.cgroup.value);
    report.push(
        Diagnostic::new(&code::WORKLOAD_REPEATED, second.cgroup.at, message)
            .with_label("again here")
            .with_secondary(first.cgroup.at, "first here")
            .with_help("give one of them another cgroup; one inside the other is fine"),
    );
}
