//! Bytes both ways: as fast as the slower side takes them, and no faster than the limit; until a side leaves
//! or a limit ends it.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ez_protocol::console::{ConsoleKind, LONGEST_CONSOLE};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Ending, ear::Ear};

/// Bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// What a console may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Ended after so long without a key or the mouse.
    pub idle: Duration,
    /// Ended after so long in any case.
    pub longest: Duration,
    /// Bytes a second, each way.
    pub rate: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { idle: Duration::from_secs(15 * 60), longest: LONGEST_CONSOLE, rate: 1_000_000 }
    }
}

/// Time since the console was opened, and how often the limits are looked at.
pub struct Timer {
    elapsed: Box<dyn Fn() -> Duration + Send + Sync>,
    tick: Duration,
}

impl Timer {
    /// The machine's own time from now on; a clock that is set does not move it.
    pub fn start() -> Self {
        let begun = tokio::time::Instant::now();
        Self { elapsed: Box::new(move || begun.elapsed()), tick: Duration::from_secs(1) }
    }

    /// A time of one's own.
    pub fn with(elapsed: impl Fn() -> Duration + Send + Sync + 'static, tick: Duration) -> Self {
        Self { elapsed: Box::new(elapsed), tick }
    }

    fn millis(&self) -> u64 {
        u64::try_from((self.elapsed)().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A second's worth of bytes that fills up again as time goes by; what was taken beyond is waited for.
#[derive(Debug)]
struct Bucket {
    rate: i64,
    level: i64,
    at_ms: u64,
}

impl Bucket {
    fn new(rate: u32) -> Self {
        Self { rate: i64::from(rate.max(1)), level: i64::from(rate.max(1)), at_ms: 0 }
    }

    /// Takes bytes; how long to wait before the next.
    fn take(&mut self, bytes: usize, now_ms: u64) -> Duration {
        let passed = i64::try_from(now_ms.saturating_sub(self.at_ms)).unwrap_or(i64::MAX);
        self.at_ms = self.at_ms.max(now_ms);
        let filled = self.rate.saturating_mul(passed) / 1_000;
        self.level = self.level.saturating_add(filled).min(self.rate);
        self.level = self.level.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        let owed = u64::try_from(self.level.saturating_neg()).unwrap_or(0);
        Duration::from_millis(owed.saturating_mul(1_000) / self.rate.unsigned_abs())
    }
}

/// Copies one way until a side ends. `true`: the reading side ended.
async fn copy<R, W>(
    from: &mut R,
    to: &mut W,
    bucket: &Mutex<Bucket>,
    timer: &Timer,
    mut heard: impl FnMut(&[u8]),
) -> bool
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut piece = vec![0; PIECE];
    loop {
        let read = match from.read(&mut piece).await {
            Ok(0) | Err(_) => return true,
            Ok(read) => read,
        };
        heard(&piece[..read]);
        let wait = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(read, timer.millis());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        // No new piece is read before this one is taken: the slower side sets the pace.
        if to.write_all(&piece[..read]).await.is_err() || to.flush().await.is_err() {
            return false;
        }
    }
}

/// Relays until the console ends. [`Ending::Gone`] means that the host's end closed.
pub(super) async fn run<R, W, H>(
    kind: ConsoleKind,
    (from, to): (&mut R, &mut W),
    host: &mut H,
    limits: &Limits,
    timer: &Timer,
) -> Ending
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    H: AsyncRead + AsyncWrite + Unpin,
{
    let (mut host_reads, mut host_writes) = tokio::io::split(host);
    let (down, up) = (Mutex::new(Bucket::new(limits.rate)), Mutex::new(Bucket::new(limits.rate)));
    let acted_at = AtomicU64::new(timer.millis());
    let mut ear = Ear::new(kind);
    let listen = |bytes: &[u8]| {
        if ear.hears(bytes) {
            acted_at.store(timer.millis(), Ordering::Relaxed);
        }
    };
    tokio::select! {
        host_ended = copy(&mut host_reads, to, &down, timer, |_| {}) => {
            if host_ended { Ending::Gone } else { Ending::Left }
        }
        other_ended = copy(from, &mut host_writes, &up, timer, listen) => {
            if other_ended { Ending::Left } else { Ending::Gone }
        }
        ending = watch(limits, timer, &acted_at) => ending,
    }
}

/// Waits for a limit.
async fn watch(limits: &Limits, timer: &Timer, acted_at: &AtomicU64) -> Ending {
    loop {
        let now = timer.millis();
        let since = Duration::from_millis(now.saturating_sub(acted_at.load(Ordering::Relaxed)));
        if Duration::from_millis(now) >= limits.longest {
            return Ending::Over;
        }
        if since >= limits.idle {
            return Ending::Idle;
        }
        tokio::time::sleep(timer.tick).await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_more_than_the_rate_goes_through_and_a_second_at_once(
            rate in 1_000_u32..2_000_000, pieces in proptest::collection::vec(1_usize..PIECE, 1..200),
        ) {
            let mut bucket = Bucket::new(rate);
            let (mut now_ms, mut sent) = (0_u64, 0_u64);
            for piece in pieces {
                let wait = bucket.take(piece, now_ms);
                now_ms += u64::try_from(wait.as_millis()).unwrap();
                sent += piece as u64;
                // What was taken may go once the wait is over: never more than the time and one second allow.
                let allowed = u64::from(rate) * (now_ms + 1_000) / 1_000 + u64::from(rate) / 500 + 1;
                prop_assert!(sent <= allowed, "{sent} in {now_ms} ms at {rate}");
            }
        }
    }
}
