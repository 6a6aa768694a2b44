//! `filters` of an `HTTPRoute`: none can be applied to a connection. Those that change or copy
//! requests leave the choice of the backend alone; others are a part of it.

use crate::policy::fields::{Field, meaningless, proxied, read};
use crate::policy::reader::Reader;
use crate::policy::yaml::NodeId;

const HEADERS_HELP: &str = "change headers in the client or in the server";
const PROXY_HELP: &str = "keep this rule in a proxy; only rules without it are about connections";

/// `HTTPRouteFilter`.
const FILTER: &[Field] = &[
    read("type"),
    meaningless("requestHeaderModifier", HEADERS_HELP),
    meaningless("responseHeaderModifier", HEADERS_HELP),
    meaningless("requestMirror", "a connection cannot be copied; record and replay in a client"),
    proxied("requestRedirect", "let the server answer the redirect"),
    proxied("urlRewrite", "let the server know the other path or host"),
    proxied("cors", "let the server answer for other origins"),
    proxied("externalAuth", "let the server ask"),
    proxied("extensionRef", PROXY_HELP),
];

/// Each `type` and the key that goes with it.
const TYPES: [(&str, &str); 8] = [
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
    ("CORS", "cors"),
    ("ExternalAuth", "externalAuth"),
    ("ExtensionRef", "extensionRef"),
];

/// Reports every filter of a list.
pub(super) fn check_all(reader: &mut Reader<'_>, node: NodeId) {
    for item in reader.items(node, "`filters`") {
        check(reader, *item);
    }
}

fn check(reader: &mut Reader<'_>, node: NodeId) -> Option<()> {
    let fields = reader.object(node, "a filter", FILTER)?;
    let kind = reader.required(&fields, "type", "write `type: RequestMirror`")?;
    let key = reader.word(kind, "a type of filter", &TYPES)?;
    let has_key = reader.peek(node, key).is_some_and(|value| !reader.is_null(value));
    if !has_key && !fields.has_unknown() {
        reader.missing(fields.span(), "a filter of this type", key, "describe it, or delete it");
    }
    Some(())
}
