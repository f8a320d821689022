//! The certificate that is accepted, followed from the host's own file: Proxmox renews it by itself.

use std::path::Path;

use super::{
    SetupError, files,
    wanted::{host_fingerprint, read_if_there},
};
use crate::{config, pve::Fingerprint};

/// The key that names it.
const KEY: &str = "pve_fingerprint";

/// What the certificate file of this host says now, if this is a Proxmox host.
pub fn shown() -> Option<Fingerprint> {
    host_fingerprint()
}

/// Writes into `setup.toml` the certificate that the host shows now, as `setup` would; what was written, if something was.
///
/// Only root can read the host's certificate and write there, so the unit does it before each start of the agent. It is as
/// trustworthy as at setup: the file is the host's own, nothing comes from the network.
///
/// # Errors
/// `setup.toml` cannot be read or written.
pub fn follow(config_file: &Path, shown: Option<Fingerprint>) -> Result<Option<Fingerprint>, SetupError> {
    let Some(shown) = shown else { return Ok(None) };
    let file = config::setup_file(config_file);
    let Some(text) = read_if_there(&file)? else { return Ok(None) };
    // Without the line the owner says it in agent.toml, and without the mark somebody gave it to setup: then it is theirs to
    // follow. What was given may be the certificate of something that stands before Proxmox. What an earlier version wrote has
    // no mark, and is the host's own if it is what the host shows.
    let own = format!("{KEY} = \"{shown}\"");
    let line = |line: &str| match is_marked(line) || line.trim_end() == own {
        true => format!("{own}{}\n", files::OF_HOST),
        false => format!("{line}\n"),
    };
    let followed: String = text.lines().map(line).collect();
    if followed == text {
        return Ok(None);
    }
    files::write(&file, &followed, 0o644, false)?;
    Ok((!text.contains(&own)).then_some(shown))
}

/// Whether a line of `setup.toml` names the certificate of the host's own file.
pub(super) fn is_marked(line: &str) -> bool {
    line.split_once('=').is_some_and(|(key, value)| key.trim() == KEY && value.ends_with(files::OF_HOST))
}
