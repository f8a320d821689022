//! What tells one machine from a copy of its disk: SHA-256 over machine id, hardware UUID and the
//! sorted hardware addresses of its network cards. A part that cannot be read counts as empty.

use std::{fs, path::Path};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

/// The fingerprint of this machine; `root` is `/`.
pub fn fingerprint(root: &Path) -> String {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default().trim().to_owned();
    let mut hash = Sha256::new();
    hash.update(read("etc/machine-id"));
    hash.update([0]);
    hash.update(read("sys/class/dmi/id/product_uuid"));
    for mac in macs(&root.join("sys/class/net")) {
        hash.update([0]);
        hash.update(mac);
    }
    HEXLOWER.encode(&hash.finalize())
}

/// Addresses of real cards only: bridges and taps come and go.
fn macs(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut macs: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| fs::read_to_string(entry.path().join("address")).ok())
        .map(|text| text.trim().to_lowercase())
        .collect();
    macs.sort();
    macs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridges_do_not_count_and_cards_do() {
        let dir = tempfile::tempdir().unwrap();
        let net = dir.path().join("sys/class/net");
        let bare = fingerprint(dir.path());
        fs::create_dir_all(net.join("vmbr0")).unwrap();
        fs::write(net.join("vmbr0/address"), "aa:bb:cc:dd:ee:01\n").unwrap();
        assert_eq!(fingerprint(dir.path()), bare);
        fs::create_dir_all(net.join("eno1/device")).unwrap();
        fs::write(net.join("eno1/address"), "AA:BB:CC:DD:EE:02\n").unwrap();
        assert_ne!(fingerprint(dir.path()), bare);
        assert_eq!(bare.len(), 64);
    }
}
