//! How much happens at once on this host, and at what pace it is waited for.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::queue::{CloneWish, Clones};

/// What a step costs the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Load {
    /// Nothing worth counting.
    None,
    /// Configuration, power.
    Light,
    /// Much disk traffic: resize, destroy.
    Heavy,
    /// A backup: Proxmox makes one per host at a time.
    Backup,
    /// A restore: it may take a day, in which nothing short must wait behind it.
    Restore,
    /// A clone: it waits in a queue of its own.
    Clone(CloneWish),
}

/// Room for a step, as long as it lives.
#[derive(Debug)]
pub struct Entry {
    /// `None`: there is nothing to wait for.
    _permit: Option<OwnedSemaphorePermit>,
    /// What was seen before is old: it was waited for.
    pub waited: bool,
}

/// The host's semaphores.
#[derive(Debug)]
pub struct Limits {
    light: Arc<Semaphore>,
    heavy: Arc<Semaphore>,
    backup: Arc<Semaphore>,
    restore: Arc<Semaphore>,
    /// The queue of clones.
    pub(super) clones: Arc<Clones>,
    /// When the next start may be called.
    next_start: tokio::sync::Mutex<Option<Instant>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            light: Arc::new(Semaphore::new(8)),
            heavy: Arc::new(Semaphore::new(2)),
            backup: Arc::new(Semaphore::new(1)),
            restore: Arc::new(Semaphore::new(2)),
            clones: Arc::default(),
            next_start: tokio::sync::Mutex::new(None),
        }
    }
}

impl Limits {
    /// Waits for room, if there is none at once. The semaphores are never closed.
    pub async fn enter(&self, load: &Load) -> Entry {
        let semaphore = match load {
            Load::None | Load::Clone(_) => return Entry { _permit: None, waited: false },
            Load::Light => Arc::clone(&self.light),
            Load::Heavy => Arc::clone(&self.heavy),
            Load::Backup => Arc::clone(&self.backup),
            Load::Restore => Arc::clone(&self.restore),
        };
        match Arc::clone(&semaphore).try_acquire_owned() {
            Ok(permit) => Entry { _permit: Some(permit), waited: false },
            Err(_) => Entry { _permit: semaphore.acquire_owned().await.ok(), waited: true },
        }
    }

    /// Waits for a start's turn: after a power cut a whole host must not start at once. A start that
    /// comes alone does not wait. True if it was waited for: what was seen before is old.
    pub async fn start_turn(&self, gap: Duration) -> bool {
        let asked = Instant::now();
        let mut next = self.next_start.lock().await;
        let waits = next.is_some_and(|at| at > asked);
        if let Some(at) = *next {
            tokio::time::sleep_until(at).await;
        }
        *next = Some(Instant::now() + gap);
        waits
    }
}

/// Intervals and time-outs, all in one place so that tests can shrink them.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// First wait after something that is to be looked at again.
    pub again_first: Duration,
    /// Longest such wait.
    pub again_longest: Duration,
    /// How long one task may take before the step is given up.
    pub task: Duration,
    /// The same of one that copies a whole disk over whatever the backups lie on, and may wait in Proxmox's own line
    /// before it begins.
    pub disk_copy: Duration,
    /// How long a started server may be silent before it counts as "started, not confirmed".
    pub usable: Duration,
    /// Interval between two questions to the guest agent.
    pub usable_poll: Duration,
    /// How long a rebooted guest may be off before its result says so.
    pub comes_back: Duration,
    /// Gap between two starts on this host.
    pub between_starts: Duration,
    /// How old a lock of a dead clone has to be before the repair is asked for.
    pub crashed_after: Duration,
    /// How long the repair may take.
    pub repair: Duration,
    /// How long a whole order may take.
    pub overall: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            again_first: Duration::from_secs(1),
            again_longest: Duration::from_secs(15),
            task: Duration::from_secs(30 * 60),
            disk_copy: Duration::from_secs(24 * 3600),
            usable: Duration::from_secs(90),
            usable_poll: Duration::from_millis(500),
            comes_back: Duration::from_secs(10),
            between_starts: Duration::from_millis(500),
            crashed_after: Duration::from_secs(20),
            repair: Duration::from_secs(600),
            overall: Duration::from_secs(2 * 3600),
        }
    }
}

impl Pace {
    /// Wait before look number `n` (from 0) after trouble: doubling, capped.
    pub fn again(&self, n: u32) -> Duration {
        self.again_first.saturating_mul(1 << n.min(10)).min(self.again_longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_capped() {
        let pace = Pace::default();
        assert_eq!(pace.again(0), Duration::from_secs(1));
        assert_eq!(pace.again(9), Duration::from_secs(15));
    }

    #[tokio::test]
    async fn starts_keep_their_distance_and_a_lone_one_does_not_wait() {
        let limits = Limits::default();
        let gap = Duration::from_millis(30);
        let begin = Instant::now();
        limits.start_turn(Duration::from_secs(3_600)).await;
        assert!(begin.elapsed() < Duration::from_secs(1_800));
        let other = Limits::default();
        let begin = Instant::now();
        for _ in 0..3 {
            other.start_turn(gap).await;
        }
        assert!(begin.elapsed() >= 2 * gap);
    }
}
