//! `status`: what the running agent last wrote about itself, and what its journal says.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::{alone, message, print, print_json};
use crate::config::Config;

/// What a running agent writes to `status.json`, whole, whenever something changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatusFile {
    /// Process id of the agent.
    pub pid: u32,
    /// Version of the agent.
    pub version: String,
    /// When it was written, unix milliseconds.
    pub at: i64,
    /// Name in the portal, once joined.
    pub node_name: String,
    /// Node id.
    pub node: String,
    /// Epoch.
    pub epoch: u64,
    /// `connected`, `connecting`, or why it is neither.
    pub link: String,
    /// The control plane that was dialled last.
    pub peer: String,
    /// Since when `link` is so, unix milliseconds.
    pub since: i64,
    /// Version of Proxmox VE.
    pub pve_version: String,
    /// The kernel's boot id as the agent read it; empty if it could not.
    #[serde(default)]
    pub boot_id: String,
    /// End of the certificate, unix milliseconds.
    pub certificate_until: i64,
    /// Own clock minus the control plane's, milliseconds.
    pub clock_offset_ms: i64,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// Whether the agent that wrote this is the one that runs. Its number alone says nothing: after a boot another process
/// has it.
pub(super) fn is_alive(file: &StatusFile, runs: bool, boot_id: &str) -> bool {
    runs && (file.boot_id.is_empty() || file.boot_id == boot_id)
}

pub(super) async fn status(config: &Config, as_json: bool) -> anyhow::Result<ExitCode> {
    let path = config.status_file();
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            message(&format!("{} is not there: the agent has not run here yet", path.display()));
            return Ok(ExitCode::from(3));
        }
        Err(error) => {
            let hint = match error.kind() {
                std::io::ErrorKind::PermissionDenied => ": run this as root",
                _ => "",
            };
            message(&format!("{} cannot be read ({error}){hint}", path.display()));
            return Ok(ExitCode::FAILURE);
        }
    };
    let file: StatusFile = serde_json::from_slice(&text)?;
    let alive = is_alive(&file, alone::runs(&config.lock_file()), &super::run::boot_id());
    // A journal that cannot be read is one thing to tell among the others.
    let opened = match crate::journal::Journal::open_read_only(&config.journal_file()).await {
        Ok(pool) => crate::journal::lists::open_orders(&pool).await,
        Err(error) => Err(error),
    };
    let (resources, unread) = match opened {
        Ok(open) => (Some(open), None),
        Err(error) => (None, Some(error.to_string())),
    };
    if as_json {
        let mut value = serde_json::to_value(&file)?;
        value["running"] = serde_json::Value::Bool(alive);
        value["open_orders"] = serde_json::json!(resources.as_ref().map(Vec::len));
        print_json(&value);
        return Ok(if alive { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let running = if alive { format!("running (pid {})", file.pid) } else { "not running".to_owned() };
    print(&format!("agent        {running}, version {}", file.version));
    print(&format!("node         {} ({}), epoch {}", file.node_name, file.node, file.epoch));
    let since = super::journal::time(ez_protocol::UnixMillis(file.since));
    print(&format!("link         {} {} since {since}", file.link, file.peer));
    print(&format!("Proxmox VE   {}", file.pve_version));
    let until = super::journal::time(ez_protocol::UnixMillis(file.certificate_until));
    print(&format!("certificate  until {until}"));
    if let Some(open) = &resources {
        print(&format!("orders       {} at work", open.len()));
        for row in open {
            print(&format!("             {} {} VM {} {}", row.order_id, row.verb, row.vmid, row.state));
        }
    }
    if let Some(why) = unread {
        print(&format!("orders       the journal cannot be read: {why}"));
    }
    for warning in &file.warnings {
        print(&format!("warning      {warning}"));
    }
    Ok(if alive { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_wrote_before_the_host_booted_is_no_sign_of_life() {
        // This test's own process has the number.
        let file = StatusFile { pid: std::process::id(), boot_id: "a".to_owned(), ..StatusFile::default() };
        assert!(is_alive(&file, true, "a"));
        assert!(!is_alive(&file, false, "a"), "nobody holds the lock");
        assert!(!is_alive(&file, true, "b"), "the one that runs has not written anything yet");
        assert!(is_alive(&StatusFile { boot_id: String::new(), ..file }, true, "b"));
    }
}
