//! Every diagnostic code, once.
//!
//! A code names one rule for good: it is searched for, suppressed and tested by its number, so
//! numbers are never reused and never change their meaning. `docs/policy.md` lists the same table,
//! and a test keeps the two equal.

use super::diagnostic::Severity;

/// A rule that policy text can break.
#[derive(Debug)]
pub struct Code {
    /// `SP` and four digits; the first two are the group.
    pub id: &'static str,
    /// Whether the policy can still be loaded.
    pub severity: Severity,
    /// The rule that was broken, in one line.
    pub title: &'static str,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $id:literal $severity:ident $title:literal;)+) => {
        $($(#[$doc])* pub(super) static $name: Code =
            Code { id: $id, severity: Severity::$severity, title: $title };)+

        /// All codes, sorted by [`Code::id`].
        pub static ALL: &[&Code] = &[$(&$name),+];
    };
}

codes! {
    // Text and YAML.
    NOT_UTF8 = "SP0101" Error "the text is not UTF-8";
    UTF16 = "SP0102" Error "the text is UTF-16";
    CONTROL_CHARACTER = "SP0103" Error "the text holds a NUL or another control character";
    SOURCE_TOO_LARGE = "SP0104" Error "the file is larger than 64 MiB";
    SYNTAX = "SP0105" Error "the text is not YAML";
    TAB = "SP0106" Error "a tab is used for indentation";
    TOO_DEEP = "SP0107" Error "the document is nested deeper than 64 levels";
    SCALAR_TOO_LONG = "SP0108" Error "a value is longer than 64 KiB";
    DOCUMENT_TOO_LARGE = "SP0109" Error "the document has more than 500,000 nodes, or aliases repeat more than 100,000";
    DUPLICATE_KEY = "SP0110" Error "a key appears twice in one mapping";
    MERGE_KEY = "SP0111" Error "a merge key (`<<`) is used";
    TAG = "SP0112" Error "a tag (`!!binary`) is used";
    KEY_NOT_STRING = "SP0113" Error "a key is not a string";
    TOO_MANY_PROBLEMS = "SP0114" Error "more problems were found than are shown";
    EMPTY_STREAM = "SP0115" Warning "there is no document at all";
    BAD_ALIAS = "SP0116" Error "an alias refers to no anchor, or to itself";
    TOO_MANY_WARNINGS = "SP0117" Warning "more warnings were found than are shown";

    // Shape.
    UNKNOWN_KEY = "SP0201" Error "a key is not known at this place";
    MISSING_KEY = "SP0202" Error "a required key is missing";
    WRONG_TYPE = "SP0203" Error "a value has the wrong type";
    UNKNOWN_API_VERSION = "SP0204" Error "the `apiVersion` is not known";
    UNKNOWN_KIND = "SP0205" Error "the `kind` is not known";
    UNLOADED_KIND = "SP0206" Error "the `kind` is known, but this version does not load it";
    BAD_NAME = "SP0207" Error "a name breaks the rule for names";
    UNKNOWN_WORD = "SP0208" Error "a value is none of the words allowed here";
    EXCLUSIVE_KEYS = "SP0209" Error "two keys exclude each other";
    NO_ACTION = "SP0210" Error "a route does not say what becomes of the connection";
    ONLY_WITH_SPLIT = "SP0211" Error "a key makes sense only beside `split`";
    PASS_FALSE = "SP0212" Error "`pass` is not `true`";
    EMPTY = "SP0213" Error "a list or mapping is empty that needs an entry";

    // Addresses.
    NOT_AN_ADDRESS = "SP0301" Error "a host name stands where an IP address is needed";
    OCTAL_ADDRESS = "SP0302" Error "an IPv4 address has a part with a leading zero";
    NO_PORT = "SP0303" Error "an address has no port";
    BAD_PORT = "SP0304" Error "a port is not a number from 1 to 65535";
    UNSPECIFIED = "SP0305" Error "the address is unspecified (`0.0.0.0`, `[::]`)";
    MULTICAST = "SP0306" Error "the address is multicast or broadcast";
    SCOPE_ID = "SP0307" Error "the address has a scope id";
    BAD_PROTOCOL = "SP0308" Error "a protocol is neither `tcp` nor `udp`";
    BACKEND_PROTOCOL = "SP0309" Error "a backend names a protocol";
    MALFORMED_ADDRESS = "SP0310" Error "an address is malformed";

    // Numbers.
    FLOAT = "SP0401" Error "a number has a fraction or an exponent";
    NEGATIVE = "SP0402" Error "a number is negative";
    PERCENT = "SP0403" Error "a number is written as a percentage";
    QUOTED_NUMBER = "SP0404" Error "a number is quoted";
    NUMBER_TOO_LARGE = "SP0405" Error "a number is larger than 4294967295";
    NUMBER_FORM = "SP0406" Error "a number is not plain decimal";
    ZERO_SUM = "SP0407" Error "the weights of a split are all 0";
    SUM_OVERFLOW = "SP0408" Error "weights sum to more than 4294967295";

    // Clients and errnos.
    EMPTY_MATCH = "SP0501" Error "a match has no field";
    BAD_COMMAND = "SP0502" Error "a command is empty, longer than 15 bytes, or has control characters";
    BAD_CGROUP = "SP0503" Error "a cgroup is not a clean path from the root of the cgroup2 hierarchy";
    UNKNOWN_ERRNO = "SP0504" Error "an errno is not one that a route may answer";
    EPERM = "SP0505" Error "the errno is EPERM";

    // Whole services and the whole policy.
    DUPLICATE_SERVICE = "SP0601" Error "two services have one name";
    DUPLICATE_FRONTEND = "SP0602" Error "a frontend is given twice";
    DUPLICATE_BACKEND = "SP0603" Error "a backend is given twice in one subset";
    BACKEND_IS_FRONTEND = "SP0604" Error "a backend is also a frontend";
    MIXED_FAMILIES = "SP0605" Error "a service mixes IPv4 and IPv6";
    UNKNOWN_SUBSET = "SP0606" Error "a split names a subset that the service does not have";
    DUPLICATE_ROUTE = "SP0607" Error "two routes of a service have one name";
    TOO_MANY_ROUTES = "SP0608" Error "a service has more than 16 routes, counting one per match";
    TOO_MANY_SUBSETS = "SP0609" Error "a service has more than 255 subsets";
    TOO_MANY_BACKENDS = "SP0610" Error "a subset has more than 4096 backends";
    SPLIT_TOO_WIDE = "SP0611" Error "a split has more than 16 subsets";

    // Warnings: the policy loads, but says something that is rarely meant.
    SUBSET_EMPTY = "SP0701" Warning "a subset has no backends";
    SUBSET_WEIGHTLESS = "SP0702" Warning "all backends of a subset have weight 0";
    ROUTE_UNREACHABLE = "SP0703" Warning "a route comes after one that takes every client";
    MATCH_REPEATED = "SP0704" Warning "a match is the same as an earlier one";
    NO_CATCH_ALL = "SP0705" Warning "no route takes the clients that fit no match";
    SUBSET_UNUSED = "SP0706" Warning "no route splits to a subset";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_and_unique() {
        assert!(ALL.windows(2).all(|pair| pair[0].id < pair[1].id));
    }

    #[test]
    fn warnings_are_one_group_and_two_of_the_text() {
        for code in ALL {
            let warns = code.id.starts_with("SP07") || ["SP0115", "SP0117"].contains(&code.id);
            assert_eq!(code.severity == Severity::Warning, warns, "{}", code.id);
        }
    }
}
