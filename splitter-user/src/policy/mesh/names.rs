//! Host names as Istio resolves them.

use std::collections::HashMap;

/// The domain of a cluster's services.
pub(super) const DOMAIN: &str = "svc.cluster.local";

/// The full name of a Kubernetes service.
pub(super) fn service_host(name: &str, namespace: &str) -> String {
    format!("{name}.{namespace}.{DOMAIN}")
}

/// The full name of a host that a document of a namespace names: one without a dot is a service of
/// that namespace, every other is full already (`ResolveShortnameToFQDN` of Istio).
pub(super) fn full_host(host: &str, namespace: &str) -> String {
    if host.contains('.') || host == "*" || host.contains(':') {
        host.to_owned()
    } else {
        service_host(host, namespace)
    }
}

/// Name and namespace of a full name of a Kubernetes service.
pub(super) fn split_service_host(host: &str) -> Option<(&str, &str)> {
    let (rest, name) = (host.strip_suffix(DOMAIN)?.strip_suffix('.')?, host.split('.').next()?);
    let namespace = rest.strip_prefix(name)?.strip_prefix('.')?;
    (!namespace.is_empty() && !namespace.contains('.')).then_some((name, namespace))
}

/// Whether a pattern, a name or a wildcard such as `*.example.com`, takes a host.
pub(super) fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix) || pattern == host,
        None => pattern == host,
    }
}

/// What follows the asterisk in the wildcards that take a host, the longest first.
pub(super) fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    let parents = host.match_indices('.').filter_map(|(dot, _)| host.get(dot..));
    parents.chain([""])
}

/// Things by the hosts that they are for: names, and wildcards such as `*.example.com`.
#[derive(Debug)]
pub(super) struct ByHost<T> {
    names: HashMap<String, Vec<T>>,
    /// By what follows the asterisk.
    wildcards: HashMap<String, Vec<T>>,
}

impl<T> Default for ByHost<T> {
    fn default() -> Self {
        Self { names: HashMap::new(), wildcards: HashMap::new() }
    }
}

impl<T> ByHost<T> {
    /// Adds a thing after those of the same pattern.
    pub(super) fn add(&mut self, pattern: &str, thing: T) {
        let (map, key) = match pattern.strip_prefix('*') {
            Some(suffix) => (&mut self.wildcards, suffix),
            None => (&mut self.names, pattern),
        };
        map.entry(key.to_owned()).or_default().push(thing);
    }

    /// The things of each pattern that takes a host: of its own name first, then of the longest
    /// wildcard.
    pub(super) fn of<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a [T]> {
        let named = self.names.get(host);
        let has_wildcards = !self.wildcards.is_empty();
        let wide = suffixes(host).take_while(move |_| has_wildcards);
        let wide = wide.filter_map(|suffix| self.wildcards.get(suffix));
        named.into_iter().chain(wide).map(Vec::as_slice)
    }

    /// Every pattern and its things, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = (String, &[T])> {
        let names = self.names.iter().map(|(name, things)| (name.clone(), things.as_slice()));
        let wide = self.wildcards.iter();
        names.chain(wide.map(|(suffix, things)| (format!("*{suffix}"), things.as_slice())))
    }
}

/// A name that keeps the rule for names of services, subsets and routes, and is like `text`. Two
/// texts that do not fit may come out alike.
pub(super) fn clean_name(text: &str) -> String {
    let keep =
        |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().map(keep).take(63).collect();
    let trimmed = name.trim_matches(['-', '.']);
    if trimmed.is_empty() { "x".to_owned() } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_of_the_namespace_and_others_are_full() {
        assert_eq!(full_host("reviews", "shop"), "reviews.shop.svc.cluster.local");
        assert_eq!(full_host("reviews.prod", "shop"), "reviews.prod");
        assert_eq!(full_host("*", "shop"), "*");
        assert_eq!(split_service_host("a.b.svc.cluster.local"), Some(("a", "b")));
        assert_eq!(split_service_host("a.b.c.svc.cluster.local"), None);
        assert_eq!(split_service_host("example.com"), None);
    }

    #[test]
    fn wildcards_take_what_is_below_and_the_most_specific_is_first() {
        assert!(covers("*.example.com", "a.example.com"));
        assert!(covers("*.example.com", "a.b.example.com"));
        assert!(!covers("*.example.com", "example.com"));
        assert!(covers("*", "example.com"));
        let mut by_host = ByHost::default();
        for pattern in ["*", "*.example.com", "a.example.com", "*.com", "*.b.example.com"] {
            by_host.add(pattern, pattern);
        }
        let of = |host| by_host.of(host).flatten().copied().collect::<Vec<_>>();
        assert_eq!(of("a.example.com"), ["a.example.com", "*.example.com", "*.com", "*"]);
        assert_eq!(of("example.com"), ["*.com", "*"]);
        assert_eq!(of("*.example.com"), ["*.example.com", "*.com", "*"]);
    }

    #[test]
    fn names_are_made_clean() {
        assert_eq!(clean_name("A_b.c"), "a-b.c");
        assert_eq!(clean_name("*.x"), "x");
        assert_eq!(clean_name(&"a".repeat(99)).len(), 63);
    }
}
