//! `status`: what the running agent last wrote about itself, and what its journal says.

use std::{path::Path, process::ExitCode};

use ez_protocol::UnixMillis;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{alone, message, print, print_json};
use crate::{
    clock::{Clock as _, SystemClock},
    config::Config,
    doctor::span,
    journal::{Journal, JournalError, OrderRow, lists},
};

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
    let orders = orders(&config.journal_file()).await;
    if as_json {
        let mut value = serde_json::to_value(&file)?;
        value["running"] = serde_json::Value::Bool(alive);
        value["open_orders"] = json!(orders.as_ref().ok().map(|orders| orders.open.len()));
        value["stuck_orders"] = json!(orders.as_ref().ok().map(Orders::stuck_json));
        print_json(&value);
        return Ok(if alive { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let running = if alive { format!("running (pid {})", file.pid) } else { "not running".to_owned() };
    print(&format!("agent        {running}, version {}", file.version));
    print(&format!("node         {} ({}), epoch {}", file.node_name, file.node, file.epoch));
    let since = super::journal::time(UnixMillis(file.since));
    print(&format!("link         {} {} since {since}", file.link, file.peer));
    print(&format!("Proxmox VE   {}", file.pve_version));
    let until = super::journal::time(UnixMillis(file.certificate_until));
    print(&format!("certificate  until {until}"));
    match &orders {
        Ok(orders) => orders.lines(SystemClock.now()).iter().for_each(|line| print(line)),
        Err(why) => print(&format!("orders       the journal cannot be read: {why}")),
    }
    for warning in &file.warnings {
        print(&format!("warning      {warning}"));
    }
    Ok(if alive { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Orders that somebody may want to know of.
struct Orders {
    /// At work or waiting.
    open: Vec<OrderRow>,
    /// Stuck until root of this host has decided.
    stuck: Vec<OrderRow>,
}

async fn orders(journal: &Path) -> Result<Orders, JournalError> {
    let pool = Journal::open_read_only(journal).await?;
    let open = lists::open_orders(&pool).await?;
    let mut stuck = lists::waiting_for_a_person(&pool).await?;
    stuck.retain(|row| row.stuck_since().is_some());
    Ok(Orders { open, stuck })
}

impl Orders {
    fn lines(&self, now: UnixMillis) -> Vec<String> {
        let mut lines = vec![format!("orders       {} at work", self.open.len())];
        lines.extend(
            self.open.iter().map(|row| {
                format!("             {} {} VM {} {}", row.order_id, row.verb, row.vmid, row.state)
            }),
        );
        if !self.stuck.is_empty() {
            lines.push(format!("stuck        {} until root of this host decides", self.stuck.len()));
        }
        for row in &self.stuck {
            let since = row.stuck_since().map(|at| span(now.since(at))).unwrap_or_default();
            lines.push(format!("             {} {} VM {}, for {since}", row.order_id, row.asks(), row.vmid));
            lines.push(format!("             {}", row.way_out()));
        }
        lines
    }

    fn stuck_json(&self) -> serde_json::Value {
        let one = |row: &OrderRow| json!({ "order_id": row.order_id, "vmid": row.vmid, "since": row.stuck_since() });
        self.stuck.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        executor::testkit::Host,
        journal::OrderState,
        pve::fake::Fault,
        testing::{NOW, ensure},
    };

    #[tokio::test]
    async fn what_is_stuck_is_told_with_its_age_and_what_ends_it() {
        let host = Host::new().await;
        host.pve.fail_next("clone_template", Fault::TaskKilled);
        assert_eq!(host.carry_out(&ensure(1, 1)).await.state, OrderState::Stuck);
        let orders = orders(&host.books.dir.path().join("journal.sqlite")).await.unwrap();
        let later = NOW.plus(std::time::Duration::from_secs(5 * 86_400));
        let (id, lines) = (ensure(1, 1).order_id, orders.lines(later));
        assert_eq!(lines[..2], ["orders       0 at work", "stuck        1 until root of this host decides"]);
        assert!(lines[2].contains(&format!("{id} ensure VM 1000, for 5 days")), "{lines:?}");
        assert!(lines[3].contains(&format!("ez-node-agent order abandon {id} ends it")), "{lines:?}");
        assert_eq!(orders.stuck_json()[0]["since"], json!(NOW));
    }

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
