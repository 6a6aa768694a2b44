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
    /// Whether an error is only a warning where a load was asked to degrade.
    pub degradable: bool,
    /// What Istio's own analysis calls the same problem, such as `IST0101`.
    pub istio: Option<&'static str>,
    /// The rule that was broken, in one line.
    pub title: &'static str,
}

macro_rules! severity {
    (Warning) => {
        Severity::Warning
    };
    ($other:ident) => {
        Severity::Error
    };
}

macro_rules! degradable {
    (Degradable) => {
        true
    };
    ($other:ident) => {
        false
    };
}

macro_rules! codes {
    ($($name:ident = $id:literal $($istio:literal)? $kind:ident $title:literal;)+) => {
        $(pub(super) static $name: Code = Code {
            id: $id,
            severity: severity!($kind),
            degradable: degradable!($kind),
            istio: [$(Some($istio),)? None][0],
            title: $title,
        };)+

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
    BAD_NAME = "SP0207" Error "a name breaks the rule for names";
    UNKNOWN_WORD = "SP0208" Error "a value is none of the words allowed here";
    EXCLUSIVE_KEYS = "SP0209" Error "two keys exclude each other";
    NO_ACTION = "SP0210" Error "a route does not say what becomes of the connection";
    ONLY_WITH_SPLIT = "SP0211" Error "a key makes sense only beside `split`";
    PASS_FALSE = "SP0212" Error "`pass` is not `true`";
    EMPTY = "SP0213" Error "a list or mapping is empty that needs an entry";
    ONLY_WITH_LIMIT = "SP0214" Error "`overLimit` stands without a limit";

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
    UNKNOWN_ERRNO = "SP0504" Error "an errno is not one that a connection may fail with";
    EPERM = "SP0505" Error "the errno is EPERM";
    BAD_UNIT = "SP0506" Error "a unit is not the name of one that systemd gives a cgroup";
    BAD_CONTAINER = "SP0507" Error "a container or pod is not given by its id";
    BAD_NETNS = "SP0508" Error "a network namespace is not a name, an absolute path or `net:[INODE]`";
    BAD_MARK = "SP0509" Error "a mark is not a number, or has bits that its mask leaves out";
    BAD_TOS = "SP0510" Error "a type of service is not a multiple of 4 from 0 to 252";

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
    SPILL_NOWHERE = "SP0707" Warning "connections are to spill, and there is no other subset";
    DATAGRAMS_UNUSED = "SP0708" Warning "`datagrams` stands without a frontend of UDP";

    // What a connection cannot have.
    L7_MATCH = "SP0801" Error "a match is on what is not known when a connection is made";
    L7_ACTION = "SP0802" Error "an action needs a proxy";
    L7_POLICY = "SP0803" Degradable "a field has no meaning for a connection";
    NOT_ENFORCED = "SP0804" Degradable "a field is understood and not enforced yet";
    ENCRYPTION = "SP0805" Error "a field asks for bytes to be added or encrypted";
    ENCRYPTION_ASSUMED = "SP0806" Degradable "a field asks for encryption by a proxy";
    SERVER_SIDE = "SP0807" Error "a field is about connections that come in";
    NOT_AN_ENDPOINT = "SP0808" Error "an endpoint cannot be connected to";
    IGNORED_BY_ISTIO = "SP0809" Error "a field that Istio declares and ignores";
    NO_RANGES = "SP0810" Error "an address range stands where single addresses are needed";
    DYNAMIC = "SP0811" Error "a host is resolved by a proxy for each request";
    MIXED_PASSTHROUGH = "SP0812" Error "a split has a share that would be left alone";

    // Names and references between documents.
    DUPLICATE_DOCUMENT = "SP0901" Error "two documents have one kind, namespace and name";
    HOST_UNKNOWN = "SP0902" "IST0101" Error "a host is in no registry";
    SUBSET_UNDEFINED = "SP0903" "IST0101" Error "a subset is not defined by the rule in force for its host";
    PORT_UNKNOWN = "SP0904" "IST0101" Error "a host does not have the port";
    PORT_AMBIGUOUS = "SP0905" "IST0112" Error "a host has several ports and none is named";
    HOST_CONFLICT = "SP0906" "IST0109" Error "two virtual services route one host";
    NO_ADDRESS = "SP0907" Error "there is no address at which clients could dial a host";
    UNKNOWN_CLIENT = "SP0908" Error "clients are selected that no workload describes";
    WORKLOAD_REPEATED = "SP0909" Error "two workloads describe one cgroup";
    BAD_HOST = "SP0910" Error "a host name is malformed";
    BAD_LABEL = "SP0911" Error "labels are malformed";
    BAD_DURATION = "SP0912" Error "a duration is malformed or out of range";
    BAD_RANGE = "SP0913" Error "an address range is malformed";
    BAD_PERCENTAGE = "SP0914" Error "a percentage is not between 0 and 100";
    OUT_OF_RANGE = "SP0915" Error "a number is out of its range";
    DUPLICATE_ENTRY = "SP0916" Error "an entry of a list is given twice";
    SIDECAR_CONFLICT = "SP0917" "IST0110" Error "two sidecars select one workload";
    SIDECAR_DEFAULT_CONFLICT = "SP0918" "IST0111" Error "two sidecars without a selector are in one namespace";
    PROTOCOL_UNCLEAR = "SP0919" Error "a port could be meant by http and by tcp rules";
    DELEGATE = "SP0920" Error "a delegate is missing or cannot be one";
    ROUTE_CONFLICT = "SP0921" Error "two forms of route claim one port of a service";
    SNI_UNDECIDABLE = "SP0922" Error "a split by server name cannot be decided when a connection is made";
    NO_ROOM_FOR_VIPS = "SP0923" Error "the range for addresses of hosts is full";
    MESH_WILDCARD = "SP0924" Error "the host `*` is bound to the mesh";
    EGRESS_CONFLICT = "SP0925" Error "two egress documents take the same clients";
    HOSTS_ALIKE = "SP0926" Error "several hosts share a port at which nothing tells them apart";
    SNI_NOT_A_HOST = "SP0927" Error "a server name is none of the document's hosts";
    NOT_RESOLVABLE = "SP0928" Error "a `host` is not the full name of one host";
    EGRESS_PORTS = "SP0930" Error "an egress document says more than 16 things of the ports of one range";
    EGRESS_DEPTH = "SP0931" Error "a cgroup of an egress document is more than 15 levels below the root";
    EGRESS_DOCUMENTS = "SP0932" Error "more than 256 documents say what clients may reach";

    // Warnings about the same.
    RULE_UNREACHABLE = "SP1001" "IST0130" Warning "a rule comes after one that takes every connection";
    RULE_REPEATED = "SP1002" "IST0131" Warning "a rule matches what an earlier one takes";
    SUBSET_SELECTS_NONE = "SP1003" "IST0173" Warning "the labels of a subset select no endpoint";
    GATEWAY_UNBOUND = "SP1004" Warning "a document is about a gateway that has no addresses here";
    BACKEND_NOT_FOUND = "SP1005" Warning "a reference names nothing: its share is rejected";
    REF_NOT_PERMITTED = "SP1006" Warning "a reference crosses namespaces without a grant: its share is rejected";
    INVALID_KIND = "SP1007" Warning "a reference names what cannot be a backend: its share is rejected";
    PER_CONNECTION = "SP1008" Warning "http rules are applied to connections, not to requests";
    KIND_NOT_ENFORCED = "SP1009" Warning "a kind of document is skipped, and what it asks for is not enforced";
    ROUTE_SHADOWED = "SP1010" Warning "another route has the port already";
    NO_ENDPOINTS = "SP1011" "IST0173" Warning "no endpoint of a service is known";
    OTHER_NETWORK = "SP1012" Warning "an endpoint of another network is left out";
    WRONG_PROTOCOL = "SP1013" Warning "a rule is for another protocol than the port's";
    DEPRECATED = "SP1014" Warning "a field is deprecated";
    ROUNDED = "SP1015" Warning "a value is rounded to what the kernel has";
    RULE_INEFFECTIVE = "SP1016" Warning "a rule takes no connection";
    SNI_ASSUMED = "SP1017" Warning "the server name is taken to be the host that was looked up";
    SELECTOR_IGNORED = "SP1018" Warning "a selector is ignored beside another, as in Istio";
    KIND_SKIPPED = "SP1019" Warning "a document of a group that is not known is skipped";
    ANSWER_SHARED = "SP1020" Warning "a host resolves to an address at which another one is dialled";
    LABELS_TAKE_INNER = "SP1021" Warning "labels take clients inside of those that bear them";

    // Health checks.
    BAD_PATH = "SP1101" Error "a path of a request is malformed";
    BAD_STATUS = "SP1102" Error "a status is not a number from 200 to 599, or a range of them";
    BAD_PROGRAM = "SP1103" Error "a program is not given by its absolute path";
    BAD_ARGUMENT = "SP1104" Error "an argument of a program has a control character";
    NO_PROBE = "SP1105" Error "a health check does not say what is probed";

    // Options of sockets.
    BAD_RATE = "SP1201" Error "a rate is malformed or out of range";
    BAD_CONGESTION = "SP1202" Error "a congestion control is not a name that the kernel may know";
}

/// Whether a code's errors can be degraded to warnings.
pub(super) fn is_degradable(id: &str) -> bool {
    find(id).is_some_and(|code| code.degradable)
}

/// A code by its number.
pub fn find(id: &str) -> Option<&'static Code> {
    let index = ALL.binary_search_by(|code| code.id.cmp(id)).ok()?;
    ALL.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_and_unique() {
        assert!(ALL.windows(2).all(|pair| pair[0].id < pair[1].id));
    }

    #[test]
    fn warnings_are_two_groups_and_two_of_the_text() {
        for code in ALL {
            let is_group = code.id.starts_with("SP07") || code.id.starts_with("SP10");
            let warns = is_group || ["SP0115", "SP0117"].contains(&code.id);
            assert_eq!(code.severity == Severity::Warning, warns, "{}", code.id);
        }
    }
}
