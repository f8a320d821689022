//! What the control plane and the node agent say to each other.
//!
//! Pure by rule (architecture invariant A1): no sockets, no clock, no database. Time and
//! randomness are arguments, bytes come in and go out.
//!
//! | module | holds |
//! |---|---|
//! | [`order`] | the provisioning order and the wished state of an instance, strict JSON |
//! | [`image`] | the image order: a node shall have this image |
//! | [`console`] | the console grant: leave to open one console |
//! | [`envelope`] | DSSE envelopes: sign and verify exact bytes, roles of keys |
//! | [`trust`] | trust document, its pin, join token, enrolment messages, identities |
//! | [`frame`] | stream kinds, frame types, caps, decoder |
//! | [`message`] | the protobuf messages inside frames |
//! | [`refusal`] | why an agent did not accept an order |
//! | [`marker`] | the line that says whose a VM is |
//! | [`input`] | host names and SSH keys, validated once for all |

pub mod console;
pub mod envelope;
pub mod frame;
mod ids;
pub mod image;
pub mod input;
pub mod marker;
pub mod message;
pub mod order;
pub mod refusal;
mod time;
pub mod trust;

pub use ids::*;
pub use time::{Month, ParseMonthError, UnixMillis};
