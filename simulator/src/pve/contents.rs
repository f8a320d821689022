//! What is on a disk, as far as one needs it to tell disks apart, and what a backup keeps.
//!
//! No bytes are kept. A disk knows from which image it was made and what was written to it since; both
//! travel with clones, snapshots, backups and their way back, as the bytes of a real disk would.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::state::{Firewall, Options, State, Vm, sha256_hex};

/// What a disk holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contents {
    /// Which image it was made from; a disk that was made empty is an image of its own.
    pub(crate) image: String,
    /// What was written through the control API since, in its order.
    #[serde(default)]
    pub(crate) writes: Vec<String>,
    /// Users whose password the guest agent has set.
    #[serde(default)]
    pub(crate) passwords: BTreeMap<String, Password>,
}

/// A password that was set in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Password {
    /// SHA-256 in hex of what the guest agent was given.
    pub(crate) sha256: String,
    /// That was a crypt(3) hash already.
    pub(crate) crypted: bool,
}

impl Password {
    /// Keeps only the hash of what was given.
    pub(crate) fn of(given: &str, crypted: bool) -> Password {
        Password { sha256: sha256_hex(given.as_bytes()), crypted }
    }
}

/// What a snapshot keeps of a disk, or a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedDisk {
    /// Storage it was on.
    pub(crate) storage: String,
    /// Its format.
    pub(crate) format: String,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// What it held.
    pub(crate) holds: Contents,
}

/// What is in a backup's archive.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Archive {
    /// The configuration, without lock, parent and unused disks.
    pub(crate) config: Options,
    /// The firewall file, if the VM had one.
    pub(crate) firewall: Option<Firewall>,
    /// The disks by drive.
    pub(crate) disks: BTreeMap<String, SavedDisk>,
    /// Traits of the guest that come with its disks.
    pub(crate) guest_agent: bool,
    /// See [`Vm::bare_guest`].
    pub(crate) bare_guest: bool,
    /// Notes beside the archive.
    pub(crate) notes: Option<String>,
    /// Neither pruned nor deleted.
    pub(crate) protected: bool,
}

impl State {
    /// The contents of a disk that is made empty, or of an image that somebody brings.
    pub(crate) fn new_image(&mut self) -> Contents {
        Contents { image: format!("image-{}", self.count("image", 1)), ..Contents::default() }
    }

    /// What a VM's disks hold now, by volume: what a snapshot keeps.
    pub(crate) fn saved_disks(&self, vm: &Vm) -> BTreeMap<String, SavedDisk> {
        let files = vm.disks().into_iter().map(|(_, drive)| drive.file);
        files.filter_map(|file| Some((file.clone(), self.saved_disk(&vm.node, &file)?))).collect()
    }

    /// What a volume holds now.
    pub(crate) fn saved_disk(&self, node: &str, volid: &str) -> Option<SavedDisk> {
        let volume = self.volume(node, volid)?;
        Some(SavedDisk {
            storage: volume.storage.clone(),
            format: volume.format.clone(),
            size: volume.size,
            holds: volume.holds.clone(),
        })
    }

    /// The drive a VM boots from, by its configuration, and the volume behind it.
    pub(crate) fn boots_from(&self, vm: &Vm) -> Option<(String, String)> {
        let drive = super::boot::first(&vm.config)?;
        let file = super::drive::Drive::parse(vm.config.get(&drive)?).file;
        Some((drive, file))
    }

    /// A drive with what is on it, for the control API.
    pub(crate) fn picture_of_disk(&self, node: &str, drive: &str, volid: &str) -> Value {
        let holds = self.volume(node, volid).map(|v| &v.holds);
        json!({"drive": drive, "volid": volid, "holds": holds})
    }
}
