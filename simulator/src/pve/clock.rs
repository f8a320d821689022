//! Time for the simulated clusters: a parameter like everywhere else, wall-clock time in production.

use std::sync::Arc;

/// Tells the time in UTC unix milliseconds.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// A clock that asks `now` (unix milliseconds).
    pub fn new(now: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Clock(Arc::new(now))
    }

    /// The wall clock.
    pub fn system() -> Self {
        Clock::new(|| {
            #[expect(
                clippy::disallowed_methods,
                reason = "the one place where the simulated hosts read the wall clock"
            )]
            let now = std::time::SystemTime::now();
            now.duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
        })
    }

    /// Now, in unix milliseconds.
    pub fn now(&self) -> i64 {
        (self.0)()
    }

    /// Now, in unix seconds.
    pub(crate) fn seconds(&self) -> i64 {
        self.now() / 1000
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
