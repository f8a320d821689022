//! What is done to an instance at most once: power buttons, snapshots, backups, a new password.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    PayloadError,
    spec::{InvalidText, PasswordHash, checked_text},
};
use crate::ProvisioningOrderId;

/// Most backups of one instance that are kept.
pub const MAX_BACKUPS: u32 = 100;

/// An action that is done at most once. It travels as `{"verb": "…"}` with the verb's own parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    // Braces, not units: serde lets unknown fields pass beside a unit.
    /// Power on.
    Start {},
    /// Ask the guest to shut down, power off after a while.
    Shutdown {},
    /// Ask the guest to restart.
    Reboot {},
    /// Power off at once.
    Stop {},
    /// Press the reset button.
    Reset {},
    /// Keep the disk as it is now under a name.
    SnapshotCreate {
        /// Its name, unique within the instance.
        name: SnapshotName,
    },
    /// Make the disk be as it was; what was written since is lost.
    SnapshotRollback {
        /// The snapshot.
        name: SnapshotName,
    },
    /// Forget a snapshot.
    SnapshotDelete {
        /// The snapshot.
        name: SnapshotName,
    },
    /// Copy the whole server to the host's backup storage. The backup is known by this order's id.
    BackupCreate {
        /// How many backups there may be afterwards, 1–100; the oldest go.
        keep: u32,
    },
    /// Make the server be as in a backup; what was written since is lost.
    BackupRestore {
        /// The order that made the backup.
        backup: ProvisioningOrderId,
    },
    /// Remove a backup.
    BackupDelete {
        /// The order that made the backup.
        backup: ProvisioningOrderId,
    },
    /// Give root another password.
    SetPassword {
        /// Its crypt hash.
        hash: PasswordHash,
    },
}

/// The power buttons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PowerVerb {
    /// Power on.
    Start,
    /// Ask the guest to shut down, power off after a while.
    Shutdown,
    /// Ask the guest to restart.
    Reboot,
    /// Power off at once.
    Stop,
    /// Press the reset button.
    Reset,
}

impl PowerVerb {
    /// Every button there is.
    pub const ALL: [Self; 5] = [Self::Start, Self::Shutdown, Self::Reboot, Self::Stop, Self::Reset];

    /// The word as it travels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Shutdown => "shutdown",
            Self::Reboot => "reboot",
            Self::Stop => "stop",
            Self::Reset => "reset",
        }
    }
}

impl FromStr for PowerVerb {
    type Err = PayloadError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|v| v.as_str() == text);
        found.ok_or_else(|| PayloadError::Unreadable(format!("unknown power action {text:?}")))
    }
}

impl From<PowerVerb> for Action {
    fn from(verb: PowerVerb) -> Self {
        match verb {
            PowerVerb::Start => Self::Start {},
            PowerVerb::Shutdown => Self::Shutdown {},
            PowerVerb::Reboot => Self::Reboot {},
            PowerVerb::Stop => Self::Stop {},
            PowerVerb::Reset => Self::Reset {},
        }
    }
}

impl Action {
    /// The verb as it travels and is shown.
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Start {} => "start",
            Self::Shutdown {} => "shutdown",
            Self::Reboot {} => "reboot",
            Self::Stop {} => "stop",
            Self::Reset {} => "reset",
            Self::SnapshotCreate { .. } => "snapshot_create",
            Self::SnapshotRollback { .. } => "snapshot_rollback",
            Self::SnapshotDelete { .. } => "snapshot_delete",
            Self::BackupCreate { .. } => "backup_create",
            Self::BackupRestore { .. } => "backup_restore",
            Self::BackupDelete { .. } => "backup_delete",
            Self::SetPassword { .. } => "set_password",
        }
    }

    /// The power button it is, if it is one.
    pub const fn power(&self) -> Option<PowerVerb> {
        Some(match self {
            Self::Start {} => PowerVerb::Start,
            Self::Shutdown {} => PowerVerb::Shutdown,
            Self::Reboot {} => PowerVerb::Reboot,
            Self::Stop {} => PowerVerb::Stop,
            Self::Reset {} => PowerVerb::Reset,
            _ => return None,
        })
    }

    pub(super) fn check(&self) -> Result<(), PayloadError> {
        match self {
            Self::BackupCreate { keep } if !(1..=MAX_BACKUPS).contains(keep) => {
                Err(PayloadError::OutOfRange("op.action.keep"))
            }
            _ => Ok(()),
        }
    }
}

/// Name of a snapshot: a lower-case letter, then up to 39 letters, digits, `-` and `_`. Proxmox keeps
/// `current` and `pending` for itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName(String);

checked_text!(SnapshotName, "a snapshot's name: 2 to 40 lower-case letters, digits, - and _", |text| {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    (2..=40).contains(&text.len())
        && text.bytes().all(plain)
        && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && !matches!(text, "current" | "pending")
});
