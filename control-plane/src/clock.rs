//! Where the time comes from: the one place that may ask the operating system (A7).

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ez_protocol::UnixMillis;

/// A source of the current time. A parameter everywhere, so that expiry, dunning and replay can be tested.
pub trait Clock: Send + Sync + 'static {
    /// The current UTC time.
    fn now(&self) -> UnixMillis;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock (A7)")]
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that stands still until it is moved; for tests.
///
/// ```
/// use std::time::Duration;
/// use ez_control_plane::clock::{Clock, ManualClock};
/// use ez_protocol::UnixMillis;
///
/// let clock = ManualClock::at(UnixMillis(1_000));
/// clock.advance(Duration::from_secs(2));
/// assert_eq!(clock.now(), UnixMillis(3_000));
/// ```
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `at`.
    pub fn at(at: UnixMillis) -> Self {
        Self(AtomicI64::new(at.0))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }

    /// Puts the clock to a time, forward or back.
    pub fn set(&self, at: UnixMillis) {
        self.0.store(at.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.0.load(Ordering::SeqCst))
    }
}
