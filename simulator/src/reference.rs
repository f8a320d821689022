//! Where the makers' reference files are: schemas and recordings of the real Proxmox VE and Stripe.
//!
//! They belong to others and are not part of this repository. Tests that judge the simulator by them run
//! where `EZ_SHARED` names them or where they lie beside the checkout.

use std::path::{Path, PathBuf};

/// The directory of the reference files, if they are here. A relative `EZ_SHARED` counts from the
/// workspace's root.
///
/// # Panics
/// If `EZ_SHARED` is set and names nothing: whoever sets it wants these tests to run.
pub fn shared(what: &str) -> Option<PathBuf> {
    let crate_root = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let workspace = crate_root.parent().unwrap_or(Path::new("..")).to_owned();
    let named = std::env::var_os("EZ_SHARED");
    let path = workspace.join(named.as_deref().unwrap_or("../shared".as_ref()));
    if path.join("pve/check.py").is_file() {
        return Some(path);
    }
    assert!(named.is_none(), "EZ_SHARED names {}, and the reference files are not there", path.display());
    eprint_not_run(what, &path);
    None
}

#[expect(clippy::print_stderr, reason = "a test says what it did not do")]
fn eprint_not_run(what: &str, path: &Path) {
    eprintln!("not run: {what}: no reference files at {} (EZ_SHARED)", path.display());
}
