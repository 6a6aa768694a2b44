//! TCP and UDP sockets of the node that a connect rewrote: finding them and closing them, in every network
//! namespace.
//!
//! The kernel is asked over netlink (`sock_diag(7)`). That a socket is ours is not guessed from its
//! addresses: the kernel is asked for what the hooks stored on each socket, and a socket without any
//! is none of ours. Of UDP, netlink does not tell that, so it comes from another list, by cookies. Closing names a socket by its cookie, which the kernel gives once and never
//! again, so another socket of the same addresses cannot be hit.
//!
//! - `diag` asks within one namespace: [`SockDiag`].
//! - `stored` reads what is stored on UDP sockets.
//! - `namespaces` has one [`SockDiag`] after the other for all of them: [`Namespaces`].
//! - `opener` is the process that enters the namespaces, which the daemon itself may not.
//!
//! Which sockets are to be closed, and when, is not decided here. No call here is asynchronous, and
//! a list of many sockets takes its time: do not call from the event loop.

mod diag;
mod namespaces;
mod opener;
mod stored;
mod wire;

pub use diag::{Destroyed, DiagError, Followed, Protocol, SockDiag, SocketId, State};
pub use namespaces::{NamespaceId, Namespaces, Visited};
pub use opener::{Opener, OpenerError, serve};
