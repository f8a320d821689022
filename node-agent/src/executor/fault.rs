//! What can go wrong in a step, sorted by what follows from it.

use std::fmt;

use ez_protocol::ProvisioningOrderId;

use crate::pve::{PveError, text};

/// Class of a final failure, as the control plane knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The same order may work later or elsewhere.
    Retryable,
    /// The host has no room.
    Capacity,
    /// The host's rules or rights forbid it.
    Policy,
    /// The template is missing or unusable.
    Template,
    /// What the customer asked for cannot be.
    User,
    /// Neither: somebody has to look.
    Bug,
}

impl Class {
    /// The word as it travels.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Retryable => "retryable",
            Self::Capacity => "capacity",
            Self::Policy => "policy",
            Self::Template => "template",
            Self::User => "user",
            Self::Bug => "bug",
        }
    }
}

impl Class {
    /// Reads a word of [`Class::as_str`]; anything else is worth another try.
    pub(super) fn parse(word: &str) -> Self {
        let all = [Self::Capacity, Self::Policy, Self::Template, Self::User, Self::Bug];
        all.into_iter().find(|class| class.as_str() == word).unwrap_or(Self::Retryable)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a step did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Look again and go on from what is seen: nothing happened, or it is not known what happened.
    Look(String),
    /// This order will not succeed.
    Fail(Class, String),
    /// Neither forward nor back by itself: root of the host has to look; the facts and the command that helps are in
    /// the text.
    Stuck(WayOut),
    /// The journal cannot be written: stop at once, as in a crash.
    Journal(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Look(text) | Self::Fail(_, text) | Self::Journal(text) => text,
            Self::Stuck(way_out) => way_out.as_str(),
        })
    }
}

impl Trouble {
    /// Whether all that is in the way is a cluster that cannot be written to. No try of ours has failed by that.
    pub(super) fn is_no_quorum(&self) -> bool {
        matches!(self, Self::Look(why) if text::is_no_quorum(why))
    }

    /// A failure of a class.
    pub(super) fn fail(class: Class, detail: impl Into<String>) -> Self {
        Self::Fail(class, detail.into())
    }
}

/// The text of a stuck order: the facts, and the commands with which root of the host helps. Nothing outside of this
/// module can make one, so none is without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WayOut(String);

impl WayOut {
    /// The whole text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The facts alone, for an order that is not stuck by them.
    pub(super) fn facts(&self) -> &str {
        self.0.split(AS_ROOT).next().unwrap_or_default()
    }
}

/// What it is, and what root of the host does about it before the order goes on.
pub(super) fn stuck(id: ProvisioningOrderId, what: impl fmt::Display, way_out: impl fmt::Display) -> Trouble {
    Trouble::Stuck(WayOut(format!("{what}{AS_ROOT}{way_out}, then {}", resume(id))))
}

/// What it is, where going on cannot help.
pub(super) fn hopeless(id: ProvisioningOrderId, what: impl fmt::Display) -> Trouble {
    Trouble::Stuck(WayOut(format!(
        "{what}{AS_ROOT}{} gives it up and leaves everything as it is",
        abandon(id)
    )))
}

/// What an order gets stuck by that was something else before: a failure that an undo met, or what the journal kept.
/// Where the text knows of no way out it is given the general one.
pub(super) fn stuck_by(id: ProvisioningOrderId, detail: String) -> WayOut {
    if detail.contains(COMMAND) {
        return WayOut(detail);
    }
    WayOut(format!(
        "{detail}{AS_ROOT}look with `ez-node-agent order show {id}`, and when the cause is gone {}; or \
         {} gives it up and leaves everything as it is",
        resume(id),
        abandon(id)
    ))
}

/// Between the facts and the commands.
const AS_ROOT: &str = ". As root on the host: ";
/// What every way out ends with.
pub(super) const COMMAND: &str = "`ez-node-agent order ";

fn resume(id: ProvisioningOrderId) -> String {
    format!("{COMMAND}resume {id}`")
}

fn abandon(id: ProvisioningOrderId) -> String {
    format!("{COMMAND}abandon {id}`")
}

impl From<crate::journal::JournalError> for Trouble {
    fn from(error: crate::journal::JournalError) -> Self {
        Self::Journal(error.to_string())
    }
}

/// What a failed call means, where the step knows nothing better. Refusals are final unless their
/// text says that somebody else was just faster.
impl From<PveError> for Trouble {
    fn from(error: PveError) -> Self {
        let detail = error.to_string();
        match &error {
            PveError::OutcomeUnknown { .. } | PveError::Unreachable { .. } => Self::Look(detail),
            // A token that was just rotated, a proxy that restarts: worth looking again.
            PveError::Unauthorized { .. } => Self::Look(detail),
            PveError::Decode { .. } => Self::Look(detail),
            PveError::Invalid(_) => Self::fail(Class::Bug, detail),
            PveError::Refused { .. } if error.is_lock_timeout() || error.is_digest_mismatch() => {
                Self::Look(detail)
            }
            PveError::Refused { .. } if error.is_locked() || error.is_no_quorum() => Self::Look(detail),
            PveError::Refused { .. } if error.is_forbidden() => Self::fail(Class::Policy, detail),
            PveError::Refused { status: 400, .. } => Self::fail(Class::Bug, detail),
            PveError::Refused { .. } => Self::fail(class_of(&detail), detail),
        }
    }
}

/// What the exit text of a failed task means.
pub(super) fn of_task(what: &str, exit: &str) -> Trouble {
    let detail = format!("{what}: {exit}");
    let passing = text::is_lock_timeout(exit) || text::is_locked(exit) || text::is_no_quorum(exit);
    if passing || exit == "unexpected status" {
        return Trouble::Look(detail);
    }
    // The VM went while the task waited for it: whether that is as it should be, looking tells. A
    // destroy whose answer was lost ends like this when it is called once more.
    if text::is_absent(exit) {
        return Trouble::Look(detail);
    }
    Trouble::fail(class_of(exit), detail)
}

fn class_of(detail: &str) -> Class {
    if text::is_no_space(detail) {
        return Class::Capacity;
    }
    let about_template = detail.contains("Linked clone feature") || detail.contains("Full clone feature");
    if about_template { Class::Template } else { Class::Retryable }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn refused(status: u16, message: &str) -> PveError {
        PveError::Refused { call: "PUT x".into(), status, message: message.into(), errors: BTreeMap::new() }
    }

    #[test]
    fn unknown_outcomes_and_busy_locks_are_looked_at_again_and_refusals_are_final() {
        let unknown = PveError::OutcomeUnknown { call: "POST x".into(), reason: "reset".into() };
        assert!(matches!(Trouble::from(unknown), Trouble::Look(_)));
        let busy = refused(500, "can't lock file '/var/lock/qemu-server/lock-1.conf' - got timeout");
        assert!(matches!(Trouble::from(busy), Trouble::Look(_)));
        let storage = "clone failed: can't lock file '/var/lock/pve-manager/pve-storage-local' - got timeout";
        assert!(matches!(of_task("clone", storage), Trouble::Look(_)));
        let split = refused(500, "cluster not ready - no quorum?");
        assert!(Trouble::from(split).is_no_quorum());
        let unwritten = "unable to open file '/etc/pve/nodes/n/qemu-server/1.conf.tmp.7' - Permission denied";
        assert!(
            of_task("resize", unwritten).is_no_quorum()
                && !of_task("resize", "unexpected status").is_no_quorum()
        );
        let denied = refused(403, "Permission check failed");
        assert!(matches!(Trouble::from(denied), Trouble::Fail(Class::Policy, _)));
        assert!(matches!(of_task("clone", "no space left on device"), Trouble::Fail(Class::Capacity, _)));
        assert!(matches!(of_task("clone", "unexpected status"), Trouble::Look(_)));
        assert!(matches!(of_task("start", "start failed: QEMU exited with code 1"), Trouble::Fail(..)));
        let gone = "Configuration file 'nodes/pve1/qemu-server/101.conf' does not exist";
        assert!(matches!(of_task("destroy", gone), Trouble::Look(_)));
    }
}
