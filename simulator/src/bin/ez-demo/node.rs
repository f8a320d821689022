//! Installs one agent as an operator would: setup, join, run.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use serde_json::Value;

use crate::{
    child::{Program, Supervisor},
    layout::{Layout, NodePlan},
    seed::{self, Host},
};

/// A node with its agent running.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    /// Its id in the portal.
    pub(crate) id: String,
    /// What was planned.
    pub(crate) plan: NodePlan,
    /// Its simulated host.
    pub(crate) host: Host,
}

impl Installed {
    /// The agent's name in logs and lists.
    pub(crate) fn process(&self) -> String {
        format!("agent-{}", self.plan.name)
    }
}

/// Sets a host up, joins it and starts its agent. Every part is skipped if it was done before.
pub(crate) async fn install(
    layout: &Layout,
    supervisor: &Arc<Supervisor>,
    plan: &NodePlan,
    host: Host,
) -> anyhow::Result<Installed> {
    let dir = layout.node_dir(&plan.name);
    std::fs::create_dir_all(&dir)?;
    let config = dir.join("agent.toml");
    let agent = |arguments: &[&str]| Program {
        name: format!("agent-{}", plan.name),
        binary: "ez-node-agent",
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        environment: environment(&dir, plan, &host),
    };
    let config_path = config.display().to_string();
    if !dir.join("setup.done").exists() {
        let token = dir.join("admin-token");
        std::fs::write(&token, format!("root@pam!demo={}\n", layout.secrets.pve_root))?;
        write_policy(&dir, plan)?;
        let token_path = token.display().to_string();
        let arguments = ["setup", "--yes", "--config", &config_path, "--admin-token-file", &token_path];
        supervisor.run_once(&agent(&arguments), None).await?;
        std::fs::remove_file(&token)?;
        std::fs::write(dir.join("setup.done"), "")?;
    }
    if !dir.join("state/identity/node.json").exists() {
        let add = seed::command(layout, &["node", "add", &plan.name, "--location", &plan.location, "--json"]);
        let answer: Value = serde_json::from_str(&supervisor.run_once(&add, None).await?)?;
        let join_token = answer["join_token"].as_str().context("node add printed no join_token")?;
        let url = format!("https://127.0.0.1:{}", layout.ports.link);
        supervisor.run_once(&agent(&["join", "--config", &config_path, &url]), Some(join_token)).await?;
    }
    let identity = std::fs::read_to_string(dir.join("state/identity/node.json"))?;
    let identity: Value = serde_json::from_str(&identity)?;
    let id = identity["node"].as_str().context("node.json has no node")?.to_owned();
    supervisor.keep_alive(agent(&["run", "--config", &config_path]))?;
    Ok(Installed { id, plan: plan.clone(), host })
}

/// Paths and addresses: everything that differs between hosts on one machine.
fn environment(dir: &Path, plan: &NodePlan, host: &Host) -> Vec<(String, String)> {
    let path = |name: &str| dir.join(name).display().to_string();
    let pairs = [
        ("EZ_AGENT_PVE_URL", host.api_url.clone()),
        ("EZ_AGENT_PVE_FINGERPRINT", host.fingerprint.clone()),
        ("EZ_AGENT_PVE_TOKEN_FILE", path("pve-token")),
        ("EZ_AGENT_PVE_NODE", plan.name.clone()),
        ("EZ_AGENT_STATE_DIR", path("state")),
        ("EZ_AGENT_POLICY_FILE", path("policy.toml")),
        ("EZ_AGENT_SNIPPET_DIR", path("snippets")),
        ("EZ_AGENT_SNIPPET_STORAGE", format!("ez-ci-{}", plan.name)),
        ("EZ_AGENT_CLUSTER_CA_FILE", host.ca_pem_file.display().to_string()),
        ("EZ_AGENT_LOG_FORMAT", "json".to_owned()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The policy an operator would write for this host: the shipped example with its own VMID range.
fn write_policy(dir: &Path, plan: &NodePlan) -> anyhow::Result<()> {
    const EXAMPLE: &str = include_str!("../../../../packaging/node-agent/policy.toml");
    let path = dir.join("policy.toml");
    if path.exists() {
        return Ok(());
    }
    let last = plan.vmid_first + 999;
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let key = line.split('=').next().unwrap_or_default().trim();
        match key {
            "vmid_first" => text.push_str(&format!("vmid_first = {}", plan.vmid_first)),
            "vmid_last" => text.push_str(&format!("vmid_last = {last}")),
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    std::fs::write(path, text).context("policy.toml")
}
