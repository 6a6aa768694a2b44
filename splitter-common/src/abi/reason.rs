//! Why connections were not rewritten.

/// Why a connection to a known frontend was not rewritten. The number is the counter's index.
///
/// Rewritten connections are counted at their route, subset and backend.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No route of the service takes this client; the connection passes through untouched.
    NoRoute = 1,
    /// The route passes the connection through untouched.
    Passed = 2,
    /// The route rejects the connection with its errno.
    Rejected = 3,
    /// The chosen subset has no backend; its share fails with `ECONNREFUSED`.
    EmptySubset = 4,
    /// A record refers to nothing; the connection fails with `EHOSTUNREACH`. Never seen unless the
    /// maps were changed by something other than the daemon.
    Broken = 5,
    /// The route fails the connection on purpose.
    Aborted = 6,
    /// The subset has as many connections as it may have.
    OverLimit = 7,
    /// No backend of the chosen subset may be chosen: all are down or ejected.
    NoneUsable = 8,
    /// The socket cannot be bound to the subset's source address; the connection fails with
    /// `EADDRNOTAVAIL`. Told by the hook: a decision knows no socket.
    NoSource = 9,
    /// The client is assigned a subset that the service does not have (any more); the connection
    /// fails with `ECONNREFUSED`.
    NoSubset = 10,
}

impl Reason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::NoRoute,
        Self::Passed,
        Self::Rejected,
        Self::EmptySubset,
        Self::Broken,
        Self::Aborted,
        Self::OverLimit,
        Self::NoneUsable,
        Self::NoSource,
        Self::NoSubset,
    ];

    /// The word for it in metrics, JSON and `docs/operations.md`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRoute => "no-route",
            Self::Passed => "passed",
            Self::Rejected => "rejected",
            Self::EmptySubset => "empty-subset",
            Self::Broken => "broken",
            Self::Aborted => "aborted",
            Self::OverLimit => "over-limit",
            Self::NoneUsable => "none-usable",
            Self::NoSource => "no-source",
            Self::NoSubset => "no-subset",
        }
    }
}
