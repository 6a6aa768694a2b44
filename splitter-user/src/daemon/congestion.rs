//! Congestion controls that services ask for and the kernel does not have.
//!
//! Only the node can tell: a policy is right whatever modules a kernel has loaded.

use std::fs;

use crate::policy::model::Service;

const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// What the kernel has, by names with spaces between them; `None` where it does not say.
pub(super) struct Algorithms(Option<String>);

impl Algorithms {
    /// Asks the kernel.
    pub(super) fn read() -> Self {
        Self(fs::read_to_string(AVAILABLE).ok())
    }

    /// What a service asks for in vain.
    pub(super) fn notes<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = String> + 'a {
        let known = |text: &str, name: &str| text.split_whitespace().any(|known| known == name);
        service.subsets.iter().filter_map(move |subset| {
            let name = subset.connection.congestion_control?.to_string();
            let is_missing = self.0.as_ref().is_some_and(|text| !known(text, &name));
            is_missing.then(|| {
                format!(
                    "the subset `{}` asks for the congestion control {name}, which this kernel \
                     does not have now: its connections keep the default; `modprobe tcp_{name}` \
                     may load it",
                    subset.name
                )
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Source, load};

    #[test]
    fn what_the_kernel_does_not_have_is_told() {
        let text = "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {name: web}\nspec:\n  \
                    frontends: [\"127.10.0.1:80\"]\n  subsets:\n    \
                    v1: {backends: [\"127.0.0.1:80\"], congestionControl: reno}\n    \
                    v2: {backends: [\"127.0.0.2:80\"], congestionControl: bb}\n  \
                    split: {v1: 1, v2: 1}\n";
        let policy = load(&[Source::new("-", text)]).expect("valid").policy;
        let notes = |available: Option<&str>| {
            let algorithms = Algorithms(available.map(str::to_owned));
            algorithms.notes(&policy.services[0]).collect::<Vec<_>>()
        };
        assert_eq!(notes(None), Vec::<String>::new());
        assert_eq!(notes(Some("reno bb\n")), Vec::<String>::new());
        let told = notes(Some("reno bbr\n"));
        assert!(told.len() == 1 && told[0].contains("the subset `v2`"), "{told:?}");
    }
}
