//! Values that foreign forms have in common: labels, durations, percentages, address ranges, hosts.

use std::net::IpAddr;

use super::resource::{At, Cidr, Export, Labels};
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Span};
use crate::policy::reader::Reader;
use crate::policy::words::quote;
use crate::policy::yaml::{NodeId, Value};

/// Longest name of an object in Kubernetes (RFC 1123 subdomain).
const MAX_NAME: usize = 253;

impl<'a> Reader<'a> {
    /// Says that a key is missing.
    pub(in crate::policy) fn missing(&mut self, at: Span, what: &str, name: &str, help: &str) {
        self.push(
            Diagnostic::new(&code::MISSING_KEY, at, format!("{what} has no `{name}`"))
                .with_label(format!("`{name}` is missing here"))
                .with_help(help),
        );
    }

    /// The items of a list; none where it is not one.
    pub(in crate::policy) fn items(&mut self, node: NodeId, what: &str) -> &'a [NodeId] {
        self.list(node, what, "begin each entry with `- `").unwrap_or_default()
    }

    /// A list of strings with their places; wrong ones are left out.
    pub(in crate::policy) fn strings(&mut self, node: NodeId, what: &str) -> Vec<At<String>> {
        let items = self.items(node, what);
        let read = |item: &NodeId| {
            let value = self.string(*item, &format!("an entry of {what}"))?.to_owned();
            Some(At { value, at: self.span(*item) })
        };
        items.iter().filter_map(read).collect()
    }

    /// The name of an object in Kubernetes: up to 253 characters of `a-z`, `0-9`, `-` and `.`.
    pub(in crate::policy) fn kube_name(&mut self, node: NodeId, what: &str) -> Option<&'a str> {
        let name = self.string(node, &format!("the name of {what}"))?;
        let is_edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = name.as_bytes();
        let is_good = bytes.len() <= MAX_NAME
            && bytes.first().is_some_and(is_edge)
            && bytes.last().is_some_and(is_edge)
            && bytes.iter().all(|byte| is_edge(byte) || matches!(byte, b'-' | b'.'));
        if !is_good {
            let message = format!("{} is not a name for {what}", quote(name));
            let help = "a name is up to 253 characters of a-z, 0-9, `-` and `.`, and begins and \
                        ends with a letter or digit";
            let at = self.span(node);
            self.push(Diagnostic::new(&code::BAD_NAME, at, message).with_help(help));
        }
        is_good.then_some(name)
    }

    /// A mapping of strings.
    pub(in crate::policy) fn labels(&mut self, node: NodeId, what: &str) -> Labels {
        if self.is_null(node) {
            return Labels::new();
        }
        let entries = self.entries(node, &format!("`{what}`")).unwrap_or_default();
        let read = |entry: &crate::policy::reader::Entry<'a>| {
            let value = self.string(entry.value, &format!("the value of `{}`", entry.name))?;
            Some((entry.name.to_owned(), value.to_owned()))
        };
        entries.iter().filter_map(read).collect()
    }

    /// A host name as Istio has it: a DNS name, lower case, which may begin with `*.` or be `*`.
    /// A dot at its end is dropped.
    pub(in crate::policy) fn host(&mut self, node: NodeId, what: &str) -> Option<At<String>> {
        let text = self.string(node, what)?;
        self.host_text(text, self.span(node))
    }

    /// A host name as [`Self::host`] reads it, of text that is a part of a value.
    pub(in crate::policy) fn host_text(&mut self, text: &str, at: Span) -> Option<At<String>> {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        if is_host(name) {
            return Some(At { value: name.to_owned(), at });
        }
        let message = format!("{} is not a host name", quote(text));
        let help = "write a DNS name such as `reviews`, `reviews.prod.svc.cluster.local` or \
                    `*.example.com`";
        self.push(Diagnostic::new(&code::BAD_HOST, at, message).with_help(help));
        None
    }

    /// A port from 1 to 65535.
    pub(in crate::policy) fn port_at(&mut self, node: NodeId) -> Option<At<u16>> {
        Some(At { value: self.port(node)?, at: self.span(node) })
    }

    /// A duration of at least one millisecond as protobuf and Go write it: `0.5s`, `3m`, `1h2m3s`.
    pub(in crate::policy) fn duration_ms(&mut self, node: NodeId, what: &str) -> Option<u32> {
        let text = match self.value(node) {
            Value::Scalar(scalar) => scalar.text.as_ref(),
            _ => return self.wrong_type(node, what, "a duration", "write `10s`"),
        };
        let help = match parse_duration_ms(text) {
            Some(0) => "write at least `1ms`",
            Some(ms) => match u32::try_from(ms) {
                Ok(ms) => return Some(ms),
                Err(_) => "write at most 1193 hours",
            },
            None => {
                "write numbers with units, down to milliseconds: `10s`, `0.5s`, `1m30s`, `100ms`"
            }
        };
        let at = self.span(node);
        let message = format!("{} is not a duration for {what}", quote(text));
        self.push(Diagnostic::new(&code::BAD_DURATION, at, message).with_help(help));
        None
    }

    /// A percentage from 0 to 100 with any fraction, in parts per million.
    pub(in crate::policy) fn percentage_ppm(&mut self, node: NodeId, what: &str) -> Option<u32> {
        let text = match self.value(node) {
            Value::Scalar(scalar) if !scalar.quoted => scalar.text.as_ref(),
            _ => return self.wrong_type(node, what, "a number", "write `50` or `0.1`"),
        };
        let ppm = parse_percentage_ppm(text);
        if ppm.is_none() {
            let message = format!("{} is not a percentage for {what}", quote(text));
            let help = "write a number from 0 to 100 with at most four decimals";
            let at = self.span(node);
            self.push(Diagnostic::new(&code::BAD_PERCENTAGE, at, message).with_help(help));
        }
        ppm
    }

    /// An address or a range of them.
    pub(in crate::policy) fn cidr(&mut self, node: NodeId, what: &str) -> Option<At<Cidr>> {
        let text = self.string(node, what)?;
        let at = self.span(node);
        let value = parse_cidr(text);
        if value.is_none() {
            let message = format!("{} is not an address range for {what}", quote(text));
            let help = "write an address, or a range such as 10.0.0.0/8";
            self.push(Diagnostic::new(&code::BAD_RANGE, at, message).with_help(help));
        }
        Some(At { value: value?, at })
    }

    /// `exportTo`: `*`, `.`, `~` or namespaces. `own` is the document's namespace.
    pub(in crate::policy) fn export(&mut self, node: NodeId, own: &str) -> Export {
        let mut namespaces = Vec::new();
        let mut all = false;
        let given = self.strings(node, "`exportTo`");
        for (index, At { value, at }) in given.iter().enumerate() {
            if given.iter().take(index).any(|earlier| earlier.value == *value) {
                let message = format!("{} is given twice in `exportTo`", quote(value));
                self.push(
                    Diagnostic::new(&code::DUPLICATE_ENTRY, *at, message).with_help("delete one"),
                );
            }
            match value.as_str() {
                "*" => all = true,
                "." => namespaces.push(own.to_owned()),
                "~" => {}
                name => {
                    if self.check_name(name, *at, "a namespace") {
                        namespaces.push(name.to_owned());
                    }
                }
            }
        }
        if all && given.len() > 1 {
            let message = "`*` in `exportTo` stands beside other entries";
            let at = self.span(node);
            self.push(
                Diagnostic::new(&code::EXCLUSIVE_KEYS, at, message)
                    .with_help("keep `*` alone, or name the namespaces"),
            );
        }
        if all || given.is_empty() { Export::All } else { Export::Namespaces(namespaces) }
    }
}

/// Whether text is a DNS name, perhaps with a wildcard in front.
pub(in crate::policy) fn is_host(name: &str) -> bool {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    if name == "*" {
        return true;
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= MAX_NAME && rest.split('.').all(is_label)
}

/// Milliseconds of a Go duration. `None` where it is none, or finer than a millisecond.
pub(crate) fn parse_duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut micros = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(letters)?;
        let unit = match unit {
            "h" => 3_600_000_000,
            "m" => 60_000_000,
            "s" => 1_000_000,
            "ms" => 1_000,
            _ => return None,
        };
        micros = micros.checked_add(scale(number, unit)?)?;
        rest = next;
    }
    (!text.is_empty() && micros.is_multiple_of(1_000)).then_some(micros / 1_000)
}

/// A decimal number times a unit, where that is whole.
fn scale(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 =
        if whole.is_empty() && !fraction.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = fraction.trim_end_matches('0');
    let power = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let part = part.checked_mul(unit)?;
    part.is_multiple_of(power).then_some(())?;
    whole.checked_mul(unit)?.checked_add(part / power)
}

/// Parts per million of a percentage.
fn parse_percentage_ppm(text: &str) -> Option<u32> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let ppm = is_plain.then(|| scale(text, 10_000)).flatten()?;
    u32::try_from(ppm).ok().filter(|ppm| *ppm <= 1_000_000)
}

fn parse_cidr(text: &str) -> Option<Cidr> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let ip: IpAddr = address.parse().ok()?;
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.unwrap_or(bits);
    (prefix <= bits).then(|| Cidr::new(ip, prefix))
}

impl Cidr {
    /// The range that an address is in; its host bits are dropped.
    pub(in crate::policy) fn new(ip: IpAddr, prefix: u8) -> Self {
        let ip = match ip {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
        };
        Self { ip, prefix }
    }

    /// Whether an address is in the range.
    pub(in crate::policy) fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ip.is_ipv4() && Self::new(ip, self.prefix).ip == self.ip
    }

    /// The address of a range that has only one.
    pub(in crate::policy) fn single(&self) -> Option<IpAddr> {
        (self.prefix == if self.ip.is_ipv4() { 32 } else { 128 }).then_some(self.ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let good = [("10s", 10_000), ("0.5s", 500), ("3m", 180_000), ("1h2m3s", 3_723_000)];
        for (text, ms) in good.into_iter().chain([("180.000s", 180_000), ("1ms", 1), (".5s", 500)])
        {
            assert_eq!(parse_duration_ms(text), Some(ms), "{text}");
        }
        for text in ["", "10", "s", "1d", "-1s", "0.0001s", "1.s.", "1 s", "99999999999999h"] {
            assert_eq!(parse_duration_ms(text), None, "{text}");
        }
    }

    #[test]
    fn percentages() {
        for (text, ppm) in [("0", 0), ("100", 1_000_000), ("0.1", 1_000), ("12.5", 125_000)] {
            assert_eq!(parse_percentage_ppm(text), Some(ppm), "{text}");
        }
        for text in ["", "101", "-1", "1e1", "0.00001", "100.1"] {
            assert_eq!(parse_percentage_ppm(text), None, "{text}");
        }
    }

    #[test]
    fn ranges() {
        let range = |text| parse_cidr(text).expect(text);
        let ip = |text: &str| text.parse::<IpAddr>().expect(text);
        assert!(range("10.1.2.3/8").contains(ip("10.9.9.9")));
        assert!(!range("10.0.0.0/8").contains(ip("11.0.0.0")));
        assert!(!range("0.0.0.0/0").contains(ip("::1")));
        assert!(range("::/0").contains(ip("::1")));
        assert_eq!(range("10.0.0.1").single(), Some(ip("10.0.0.1")));
        assert_eq!(range("10.0.0.0/31").single(), None);
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "x"] {
            assert_eq!(parse_cidr(text), None, "{text}");
        }
    }

    #[test]
    fn hosts() {
        for good in ["a", "reviews.prod", "*.example.com", "*", "a-b.c_d"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", "a..b", "*a", "a.*", "-a", "a/b", "a b"] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
