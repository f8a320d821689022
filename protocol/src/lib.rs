//! What the control plane and the node agent say to each other.
//!
//! Pure by rule (architecture invariant A1): no sockets, no clock, no database. Time and
//! randomness are arguments, bytes come in and go out.

mod ids;
mod time;

pub use ids::*;
pub use time::UnixMillis;
