//! Installs one agent as an operator would: setup, join, run.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{
    child::{Program, Supervisor},
    layout::{Layout, NodePlan},
    network::Network,
    seed::{self, Host},
};

/// The control plane counts the attempts of an address in windows of ten seconds.
const JOIN_AGAIN: Duration = Duration::from_secs(4);
/// More than a window's worth.
const JOIN_TRIES: u32 = 5;
/// The medium of the catalogue.
const MEDIUM: &str = "debian-13-netinst.iso";

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
    network: Option<&Network>,
) -> anyhow::Result<Installed> {
    let dir = layout.node_dir(&plan.name);
    std::fs::create_dir_all(&dir)?;
    let path = |name: &str| dir.join(name).display().to_string();
    let config_path = path("agent.toml");
    let dials = network.map(|_| Network::address(plan));
    let mut environment = vec![
        ("EZ_AGENT_LOG_FORMAT".to_owned(), "json".to_owned()),
        // As its unit has it.
        ("MALLOC_ARENA_MAX".to_owned(), "1".to_owned()),
    ];
    environment.extend(dials.clone().map(|address| ("EZ_AGENT_LINK_ADDRESS".to_owned(), address)));
    let agent = |arguments: &[&str]| Program {
        name: format!("agent-{}", plan.name),
        binary: "ez-node-agent",
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        environment: environment.clone(),
    };
    if !dir.join("setup.done").exists() {
        let token = dir.join("admin-token");
        std::fs::write(&token, format!("root@pam!demo={}\n", layout.secrets.pve_root))?;
        let arguments = [
            "setup",
            "--yes",
            "--config",
            &config_path,
            "--admin-token-file",
            &token.display().to_string(),
            "--pve-url",
            &host.api_url,
            "--pve-fingerprint",
            &host.fingerprint,
            "--pve-node",
            &plan.name,
            "--pve-token-file",
            &path("pve-token"),
            "--state-dir",
            &path("state"),
            "--policy-file",
            &path("policy.toml"),
            "--cluster-ca",
            &host.ca_pem_file.display().to_string(),
            "--vmids",
            &format!("{}-{}", plan.vmid_first, plan.vmid_first + 999),
            "--storage",
            "local-lvm",
            "--backup-storage",
            "local",
            "--iso-storage",
            "local",
            "--guest-passwords",
        ];
        supervisor.run_once(&agent(&arguments), None).await?;
        insert_medium(&host).await?;
        std::fs::remove_file(&token)?;
        std::fs::write(dir.join("setup.done"), "")?;
    }
    if !dir.join("state/identity/node.json").exists() {
        let add = seed::command(layout, &["node", "add", &plan.name, "--location", &plan.location, "--json"]);
        let answer: Value = serde_json::from_str(&supervisor.run_once(&add, None).await?)?;
        let join_token = answer["token"].as_str().context("node add printed no token")?;
        let url = format!("https://{}", dials.unwrap_or_else(|| format!("127.0.0.1:{}", layout.ports.link)));
        let join = agent(&["join", "--config", &config_path, &url]);
        // All of the demo's hosts have one address, which may not join as fast as they come; the token stays good.
        let mut tries = 1;
        while let Err(error) = supervisor.run_once(&join, Some(join_token)).await {
            let too_fast = error.to_string().contains("(429)");
            if !too_fast || tries == JOIN_TRIES {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(JOIN_AGAIN).await;
        }
    }
    let identity = std::fs::read_to_string(dir.join("state/identity/node.json"))?;
    let identity: Value = serde_json::from_str(&identity)?;
    let id = identity["node"].as_str().context("node.json has no node")?.to_owned();
    supervisor.keep_alive(agent(&["run", "--config", &config_path]))?;
    Ok(Installed { id, plan: plan.clone(), host })
}

/// A medium that customers may insert, on the storage the policy names.
async fn insert_medium(host: &Host) -> anyhow::Result<()> {
    let file = json!({"storage": "local", "name": format!("iso/{MEDIUM}"), "content": "iso", "size": 65_536});
    let url = format!("{}/volumes", host.control_url.trim_end_matches('/'));
    reqwest::Client::new().post(url).json(&file).send().await?.error_for_status()?;
    Ok(())
}
