//! Link: the QUIC server that node agents dial.
//!
//! It moves signed bytes and knows nothing of money, accounts or keys (A5): orders come out of `dispatch`
//! as stored bytes, answers and events go back there, what agents see of their hosts goes to `fleet`.
//!
//! A connection lives through these steps, each with a deadline:
//! 1. TLS 1.3 with a certificate of the agents' authority; no tickets, no early data, so every connection
//!    shows its certificate. The one URI name in it says which node this is.
//! 2. The database decides whether this certificate of this node is let in: before a byte is exchanged, at
//!    the greeting, and again before each dispatch.
//! 3. Hello and Welcome on the control stream. Only now the node is connected: its session row names this
//!    process, and a newer connection of the same node replaces this one; one that still lives is asked first
//!    whether both are the same agent (`challenge`).
//! 4. Versions of the trust document that the agent does not have go out (`trust`), and orders once it believes their key.
//! 5. Orders go out oldest first, at most eight in flight; events are acknowledged after their commit.
//!    A console's grant opens a stream of its own, which then carries raw bytes (`console`).
//! 6. It ends when the certificate ends, after a day at the latest, on revocation, when a part of it panics (`part`), or when
//!    either side leaves.

mod again;
mod challenge;
mod connection;
mod console;
mod endpoint;
mod events;
mod identity;
mod metrics;
mod orders;
mod part;
mod registry;
mod reset;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod trust;

pub use console::{ConsoleEnd, ConsoleFault, ConsoleInput, ConsoleOutput};
pub use endpoint::{LinkError, Serving, bind};
pub use identity::{Identity, IdentityError};
pub use registry::Registry;
pub use trust::Trust;
