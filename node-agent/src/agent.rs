//! What the parts of a running agent share.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use ez_protocol::{UnixMillis, order::CLOCK_TOLERANCE};
use tokio::sync::Notify;

use crate::{
    cli::StatusFile,
    clock::Clock,
    config::Config,
    console::Seats,
    contact::Contact,
    entropy::Entropy,
    executor::Actors,
    identity::{Identity, files, renew},
    journal::{Journal, Space},
    metrics::Metrics,
    policy::Policy,
    pve::Hypervisor,
};

/// A running agent.
pub struct Agent {
    /// Its configuration.
    pub config: Config,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Who it is; changes with a new trust document or certificate.
    pub identity: RwLock<Arc<Identity>>,
    /// The host's own bounds.
    pub policy: Policy,
    /// The host.
    pub pve: Arc<dyn Hypervisor>,
    /// Journal and executor; `None` if the journal is damaged: then it only reports.
    pub works: Option<Works>,
    /// Samples and traffic; `None` if their file cannot be had.
    pub metrics: Option<Arc<Metrics>>,
    /// The journal's disk.
    pub space: Space,
    /// Own clock against the control plane's.
    pub offset: ClockOffset,
    /// When the next certificate may be tried.
    pub renewed: renew::Renewals,
    /// When the control plane was last heard.
    pub contact: Arc<Contact>,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Random per process; numbers the state reports.
    pub report_epoch: String,
    /// Version of Proxmox VE, once it has answered.
    pub pve_version: OnceLock<String>,
    /// SHA-256 of the cluster's CA, hexadecimal.
    pub cluster: String,
    /// SHA-256 over the machine's identities, hexadecimal.
    pub fingerprint: String,
    /// Rung when there is a new event.
    pub told: Arc<Notify>,
    /// Rung when states are worth a look.
    pub changed: Arc<Notify>,
    /// Rung when the host itself is worth a look.
    pub host_changed: Arc<Notify>,
    /// Rung when Proxmox shows another certificate than the pinned one.
    pub other_certificate: Arc<Notify>,
    /// Rung when an image order was accepted.
    pub build: Arc<Notify>,
    /// The consoles that are open.
    pub consoles: Seats,
    /// What `status` reads.
    pub status: StatusBoard,
}

/// The parts that need a sound journal.
#[derive(Clone)]
pub struct Works {
    /// The journal.
    pub journal: Journal,
    /// The executor.
    pub actors: Actors,
}

impl Agent {
    /// Who this node is now.
    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Version of Proxmox VE; empty until it has answered.
    pub fn pve_version(&self) -> String {
        self.pve_version.get().cloned().unwrap_or_default()
    }

    /// Takes on a changed identity.
    pub fn set_identity(&self, identity: Identity) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
    }
}

/// How far the own clock is from the control plane's.
#[derive(Debug, Default)]
pub struct ClockOffset {
    millis: AtomicI64,
    known: AtomicBool,
}

impl ClockOffset {
    /// Notes the peer's time as heard at `own`.
    pub fn heard(&self, own: UnixMillis, peer: UnixMillis) {
        let before = self.suspect();
        self.millis.store(own.0.saturating_sub(peer.0), Ordering::Relaxed);
        self.known.store(true, Ordering::Relaxed);
        match (before, self.suspect()) {
            (false, true) => tracing::error!(
                offset_ms = self.millis(),
                "this host's clock and the control plane's differ by more than 300 s: new orders are refused"
            ),
            (true, false) => tracing::info!("the clock agrees with the control plane's again"),
            _ => {}
        }
    }

    /// Own clock minus the peer's, milliseconds.
    pub fn millis(&self) -> i64 {
        self.millis.load(Ordering::Relaxed)
    }

    /// What the control plane's clock shows when the own one shows this.
    pub fn theirs(&self, own: UnixMillis) -> UnixMillis {
        UnixMillis(own.0.saturating_sub(self.millis()))
    }

    /// True while the difference is too large to judge the window of an order.
    pub fn suspect(&self) -> bool {
        let tolerated = i64::try_from(CLOCK_TOLERANCE.as_millis()).unwrap_or(i64::MAX);
        self.known.load(Ordering::Relaxed) && self.millis().saturating_abs() > tolerated
    }
}

/// Writes `status.json` whenever something changes.
pub struct StatusBoard {
    path: std::path::PathBuf,
    file: Mutex<StatusFile>,
}

impl StatusBoard {
    /// A board that writes to `path`.
    pub fn new(path: std::path::PathBuf, file: StatusFile) -> Self {
        Self { path, file: Mutex::new(file) }
    }

    fn lock(&self) -> MutexGuard<'_, StatusFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the status and writes it. A status that cannot be written is only logged: the agent
    /// is not less alive for it.
    pub fn update(&self, at: UnixMillis, change: impl FnOnce(&mut StatusFile)) {
        let mut file = self.lock();
        let link = file.link.clone();
        change(&mut file);
        file.at = at.0;
        if file.link != link {
            file.since = at.0;
        }
        let Ok(json) = serde_json::to_vec_pretty(&*file) else { return };
        if let Err(error) = files::write_whole(&self.path, &json, 0o644) {
            tracing::warn!(%error, path = %self.path.display(), "the status could not be written");
        }
    }

    /// The present status.
    pub fn get(&self) -> StatusFile {
        self.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_suspect_beyond_the_tolerance_and_recovers() {
        let offset = ClockOffset::default();
        assert!(!offset.suspect());
        offset.heard(UnixMillis(1_000_000), UnixMillis(1_000_000 - 300_001));
        assert!(offset.suspect());
        offset.heard(UnixMillis(1_000_000), UnixMillis(1_000_000 + 300_000));
        assert!(!offset.suspect());
    }

    #[test]
    fn a_host_a_week_ahead_still_knows_what_time_the_control_plane_has() {
        let offset = ClockOffset::default();
        let (week, now) = (7 * 86_400_000, UnixMillis(1_000_000_000_000));
        assert_eq!(offset.theirs(now), now, "nothing was heard yet");
        offset.heard(UnixMillis(now.0 + week), now);
        assert_eq!(offset.theirs(UnixMillis(now.0 + week + 5)), UnixMillis(now.0 + 5));
    }
}
