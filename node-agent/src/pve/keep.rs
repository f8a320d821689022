//! What is kept of a VM beside the VM: snapshots and backups.

use super::Vmid;

/// A snapshot of a VM; the pseudo-entry `current` is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name, unique within the VM.
    pub name: String,
    /// What was said when it was taken.
    pub description: String,
    /// When it was taken, unix seconds; 0 while it is being taken.
    pub taken_secs: i64,
}

/// A backup on a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The volume: `<storage>:backup/vzdump-qemu-101-….vma.zst`.
    pub volume: String,
    /// The VM it was made of.
    pub vmid: Vmid,
    /// What was said when it was made; empty until it is whole.
    pub notes: String,
    /// Bytes.
    pub size: u64,
    /// When it was begun, unix seconds.
    pub made_secs: i64,
}
