//! The real clock, as a parameter: the simulator's own clocks are offsets on it, and tests turn it by hand.

use std::sync::atomic::{AtomicI64, Ordering};

/// Tells the time of day in UTC milliseconds since 1970.
pub trait WallClock: Send + Sync + 'static {
    /// Now, in milliseconds since 1970.
    fn now_ms(&self) -> i64;
}

/// The computer's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemWall;

impl WallClock for SystemWall {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place in this crate that asks the computer for the time"
    )]
    fn now_ms(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// A clock that stands still until it is set.
#[derive(Debug, Default)]
pub struct ManualWall(AtomicI64);

impl ManualWall {
    /// A clock standing at `ms`.
    pub fn new(ms: i64) -> Self {
        Self(AtomicI64::new(ms))
    }

    /// Moves the clock on by `ms`.
    pub fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl WallClock for ManualWall {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}
