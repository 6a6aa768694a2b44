//! What `kubectl get svc,endpointslices,pods,vs,dr -o yaml` prints loads as it is.
//!
//! The files in `tests/dumps/` are invented and have what API servers add to a document: managed
//! fields, owners, status, and the many fields of pods.

use std::fs;
use std::path::Path;

use splitter_user::policy::diagnostic::{Diagnostic, render};
use splitter_user::policy::{Loaded, Source, load};

fn source(name: &str) -> Source {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dumps").join(name);
    let bytes = fs::read(&path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
    Source::new(name, bytes)
}

fn codes(diagnostics: &[Diagnostic]) -> Vec<&'static str> {
    diagnostics.iter().map(|diagnostic| diagnostic.code).collect()
}

fn loaded(sources: &[Source]) -> Loaded {
    load(sources).unwrap_or_else(|diagnostics| panic!("{}", render(&diagnostics, sources, false)))
}

#[test]
fn services_endpoints_and_pods_load() {
    let loaded = loaded(&[source("shop.yaml")]);
    assert_eq!(codes(&loaded.warnings), Vec::<&str>::new());
    let identities: Vec<&str> = loaded
        .documents
        .iter()
        .flat_map(|document| &document.identities)
        .map(String::as_str)
        .collect();
    assert_eq!(
        identities,
        [
            "Service/shop/orders",
            "Service/shop/ledger",
            "Service/shop/shop-edge",
            "EndpointSlice/shop/orders-9xk4h",
            "EndpointSlice/shop/ledger-pl7qd",
            "EndpointSlice/shop/shop-edge-4dmbr",
            "Pod/shop/orders-v1-6d5c7bd9d8-k2xpl",
            "Pod/shop/orders-v2-75b9f6c6f4-tq8zv",
            "Pod/shop/ledger-0",
            "Pod/shop/migrate-7wv8l",
        ]
    );
}

#[test]
fn rules_for_them_load() {
    let loaded = loaded(&[source("shop.yaml"), source("rules.yaml")]);
    // All there is to say: http rules split connections here, not requests.
    assert!(codes(&loaded.warnings).iter().all(|code| *code == "SP1008"), "{:?}", loaded.warnings);
}
