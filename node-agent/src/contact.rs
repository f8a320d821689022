//! When the control plane was last heard, and whether it has let go of this node.
//!
//! A create that was accepted goes on without the control plane, but not for ever: after fifteen minutes of
//! silence an operator may revoke the node and build the server elsewhere. So a new server is *started* only
//! within [`LEASE`] of the last word; an agent that slept through its revocation (a frozen host, a long
//! partition) holds the half-built server until it is told that it is still wanted, or takes it back.
//!
//! The other half of this is [`crate::journal::Confirmation`]: what the control plane never heard of is started
//! within no time at all.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    time::Duration,
};

use ez_protocol::UnixMillis;

/// How old the last word may be when a new server is started. The control plane calls a node silent after
/// fifteen minutes; the difference is room for clocks.
pub const LEASE: Duration = Duration::from_secs(10 * 60);

/// Nothing was heard since this process began.
const NEVER: i64 = i64::MIN;
/// Heard at every time, for tests of what comes after.
#[cfg(test)]
const ALWAYS: i64 = i64::MAX;

/// The last word of the control plane.
#[derive(Debug)]
pub struct Contact {
    heard: AtomicI64,
    revoked: AtomicBool,
}

impl Default for Contact {
    fn default() -> Self {
        Self { heard: AtomicI64::new(NEVER), revoked: AtomicBool::new(false) }
    }
}

impl Contact {
    /// One that never ends.
    #[cfg(test)]
    pub(crate) fn always() -> Self {
        Self { heard: AtomicI64::new(ALWAYS), revoked: AtomicBool::new(false) }
    }

    /// Notes a word of the control plane, on a connection it let this node into.
    pub fn heard(&self, at: UnixMillis) {
        self.heard.store(at.0, Ordering::Relaxed);
        self.revoked.store(false, Ordering::Relaxed);
    }

    /// Notes that the control plane has revoked this node.
    pub fn revoke(&self) {
        self.revoked.store(true, Ordering::Relaxed);
    }

    /// Whether the last thing heard was that this node is revoked.
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Relaxed)
    }

    /// Whether the last word is young enough to start a new server on. A clock that went back does not count.
    pub fn is_fresh(&self, now: UnixMillis) -> bool {
        let heard = self.heard.load(Ordering::Relaxed);
        #[cfg(test)]
        if heard == ALWAYS {
            return true;
        }
        heard != NEVER && heard <= now.0 && now.since(UnixMillis(heard)) <= LEASE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_for_ten_minutes_and_not_from_the_future() {
        let contact = Contact::default();
        let at = |secs: i64| UnixMillis(1_000_000 + secs * 1_000);
        assert!(!contact.is_fresh(at(0)), "nothing was heard yet");
        contact.heard(at(0));
        assert!(contact.is_fresh(at(0)) && contact.is_fresh(at(600)));
        assert!(!contact.is_fresh(at(601)) && !contact.is_fresh(at(-1)));
        contact.revoke();
        assert!(contact.is_revoked());
        contact.heard(at(700));
        assert!(!contact.is_revoked(), "let in again");
    }
}
