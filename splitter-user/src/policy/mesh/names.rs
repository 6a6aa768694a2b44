//! Host names as Istio resolves them.

use std::cmp::Reverse;

/// The domain of a cluster's services.
const DOMAIN: &str = "svc.cluster.local";

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

/// Order of patterns that take one host: exact names first, then longer wildcards.
pub(super) fn specificity(pattern: &str) -> (bool, Reverse<usize>) {
    (pattern.starts_with('*'), Reverse(pattern.len()))
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
        let mut patterns = ["*", "*.example.com", "a.example.com", "*.com"];
        patterns.sort_by_key(|pattern| specificity(pattern));
        assert_eq!(patterns, ["a.example.com", "*.example.com", "*.com", "*"]);
    }

    #[test]
    fn names_are_made_clean() {
        assert_eq!(clean_name("A_b.c"), "a-b.c");
        assert_eq!(clean_name("*.x"), "x");
        assert_eq!(clean_name(&"a".repeat(99)).len(), 63);
    }
}
