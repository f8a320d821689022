//! The invariant checker: the twelve promises of the whole as one program.
//!
//! It reads the control plane's database, every agent's journal, every simulated Proxmox VE and the
//! simulated Stripe into one [`World`], and asks each invariant what contradicts it. It runs on a
//! living system: whatever may still be on its way gets a grace before it counts, [`World::GRACE_MS`] unless told otherwise.
//!
//! The invariants are pure functions of the world, so each of them is shown a planted violation in
//! its tests.

mod invariants;
mod load;
mod world;

use std::{fmt, path::Path};

pub use invariants::{ALL, Invariant};
pub use load::LoadError;
pub use world::*;

/// Something that contradicts an invariant.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// Which one: `I1` to `I12`.
    pub invariant: &'static str,
    /// What it is about, such as `instance 0193…`.
    pub subject: String,
    /// What was found.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.invariant, self.subject, self.detail)
    }
}

/// What the checker found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// How much was looked at, by name.
    pub looked_at: Vec<(&'static str, usize)>,
    /// What contradicts the invariants; empty is good.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Asks every invariant about a world.
    pub fn of(world: &World) -> Self {
        let violations = ALL.iter().flat_map(|i| (i.check)(world)).collect();
        Self { looked_at: world.counts(), violations }
    }
}

/// Looks at a running demo.
///
/// # Errors
/// A part of the system that cannot be read.
pub async fn run(state_dir: &Path, now_ms: i64, grace_ms: i64) -> Result<Report, LoadError> {
    let world = load::world(state_dir, now_ms, grace_ms).await?;
    Ok(Report::of(&world))
}
