//! The messages inside frames: protobuf by prost's derive on hand-written structs.
//!
//! Fields are added, never renumbered. Ids travel in canonical text form, times as UTC unix
//! milliseconds. A message is a claim of its sender: receivers check it against what they know.

mod challenge;
mod console;
mod control;
mod event;
mod metrics;
mod state;

pub use challenge::*;
pub use console::*;
pub use control::*;
pub use event::*;
pub use metrics::*;
pub use state::*;
