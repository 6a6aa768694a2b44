//! Which services' health checks are looked at anew.

use super::*;

/// A service of one checked backend.
fn checked(name: &str, host: u8, health: &str) -> String {
    format!(
        "---\napiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: {name}}}\nspec:\n  \
         frontends: ['127.10.0.{host}:80']\n  subsets:\n    \
         v1: {{backends: ['127.0.0.{host}:9001'], health: {health}}}\n    v2: {{backends: []}}\n  \
         routes: [{{name: all, split: {{v1: 1, v2: 1}}}}]\n"
    )
}

impl Bench {
    fn reload_degraded(&mut self, text: &str) {
        let sources = [Source::new("a.yaml", text).degraded()];
        let loaded = load(&sources).unwrap_or_else(|error| panic!("{error:#?}"));
        self.engine.replace_files(loaded, &sources).unwrap();
    }

    /// Names of the services that are to be looked at, with `-` where they are gone.
    fn changed(&mut self) -> Vec<String> {
        let changed = self.engine.take_changed_checks().into_iter();
        let sign = |service: &Option<Arc<Service>>| if service.is_some() { "" } else { "-" };
        changed.map(|(name, service)| format!("{}{name}", sign(&service))).collect()
    }
}

const NONE: [&str; 0] = [];

#[test]
fn checks_are_looked_at_where_they_may_be_others() {
    let mut bench = bench();
    let a = checked("a", 1, "{tcp: {}}");
    let b = checked("b", 2, "{tcp: {}}");
    let plain = service("c", 3, "v1: 1");
    bench.reload_degraded(&format!("{plain}{a}{b}"));
    assert_eq!(bench.changed(), ["a", "b"]);
    assert_eq!(bench.changed(), NONE);
    bench.weight("a", &[("v1", 5)]).unwrap();
    assert_eq!(bench.changed(), NONE, "weights are no checks");
    let b = checked("b", 2, "{tcp: {}, port: 1}");
    bench.reload_degraded(&format!("{plain}{a}{b}"));
    assert_eq!(bench.changed(), ["b"]);
    bench.reload_degraded(&format!("{a}{b}"));
    assert_eq!(bench.changed(), ["a", "b"], "an address is a frontend no more");
    bench.reload_degraded(&a);
    assert_eq!(bench.changed(), ["a", "-b"]);
}

#[test]
fn addresses_of_the_policy_are_frontends() {
    let mut bench = bench();
    bench.reload_degraded(&checked("a", 1, "{tcp: {}}"));
    let is_frontend = |text: &str| bench.engine.is_frontend(&text.parse().unwrap());
    assert!(is_frontend("127.10.0.1:80"));
    assert!(!is_frontend("127.10.0.1:80/udp"));
    assert!(!is_frontend("127.0.0.1:9001"));
}
