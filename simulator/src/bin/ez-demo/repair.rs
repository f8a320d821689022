//! Root's repair of a simulated host.
//!
//! On a real host a systemd path unit starts `ez-node-agent repair` as root when the agent asks for
//! it. Here neither systemd nor root's `qm` exist, so the demo plays both: it sees the request, looks
//! for itself at everything that makes destroying right, and destroys through the simulator's control.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ez_simulator::wall::{SystemWall, WallClock as _};
use serde_json::{Value, json};

use crate::{layout::NodePlan, node::Installed};

/// How often the directory of requests is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A clone counts as crashed when it has been locked for so long, as on a real host.
const CRASHED_AFTER: Duration = Duration::from_secs(20);

/// The requests of one host and what they are checked against.
pub(crate) struct RepairUnit {
    requests: PathBuf,
    control: String,
    plan: NodePlan,
    client: reqwest::Client,
}

impl RepairUnit {
    /// Installs the unit of a node: from now on its agent finds somebody to ask.
    pub(crate) fn install(node: &Installed, node_dir: &Path) -> anyhow::Result<Self> {
        let requests = node_dir.join("state/repair");
        std::fs::create_dir_all(&requests)?;
        let control = node.host.control_url.trim_end_matches('/').to_owned();
        Ok(Self { requests, control, plan: node.plan.clone(), client: reqwest::Client::new() })
    }

    /// Serves requests until dropped.
    pub(crate) async fn run(self) {
        loop {
            for (vmid, request) in self.asked() {
                // A simulator that is away or a clone that is too young: the request stays for the next look.
                if self.serve(vmid).await.unwrap_or(false) {
                    let _gone_already = std::fs::remove_file(request);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Requests by the VMID in their name; nothing inside them is believed.
    fn asked(&self) -> Vec<(u32, PathBuf)> {
        let Ok(entries) = std::fs::read_dir(&self.requests) else { return Vec::new() };
        let request = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let vmid: u32 = name.strip_prefix("clean-clone-")?.strip_suffix(".json")?.parse().ok()?;
            Some((vmid, entry.path()))
        };
        entries.filter_map(request).collect()
    }

    /// Cleans up after one clone if everything says so; true when the request is done with.
    async fn serve(&self, vmid: u32) -> Result<bool, reqwest::Error> {
        if !(self.plan.vmid_first..self.plan.vmid_first + 1_000).contains(&vmid) {
            return Ok(false);
        }
        let vm = self.client.get(format!("{}/vms/{vmid}", self.control)).send().await?;
        if vm.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(true);
        }
        let vm: Value = vm.error_for_status()?.json().await?;
        if vm["lock"] != "clone" {
            return Ok(true);
        }
        let tasks: Value = self.client.get(format!("{}/tasks", self.control)).send().await?.json().await?;
        let at_work = |task: &Value| task["type"] == "qmclone" && task["running"] == true;
        if tasks["tasks"].as_array().is_some_and(|all| all.iter().any(at_work)) || !is_old(&vm) {
            return Ok(false);
        }
        let url = format!("{}/vms/{vmid}/unlock-destroy", self.control);
        Ok(self.client.post(url).json(&json!({})).send().await?.status().is_success())
    }
}

fn is_old(vm: &Value) -> bool {
    let age = vm["created_at"].as_i64().map_or(0, |at| SystemWall.now_ms() - at);
    u128::try_from(age).is_ok_and(|age| age >= CRASHED_AFTER.as_millis())
}
