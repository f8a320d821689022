//! `state.json`: what a script needs to know of a running demo, and the same for people.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    layout::Layout,
    network::{self, Network},
    node::Installed,
    seed::{CUSTOMER, OPERATOR, People},
};

/// The file and what stands in it besides process ids.
pub(crate) struct StateFile {
    path: PathBuf,
    layout: Layout,
    people: People,
    nodes: Vec<Installed>,
    network: Option<Network>,
}

impl StateFile {
    /// Collects what does not change while the demo runs.
    pub(crate) fn new(
        layout: &Layout,
        people: &People,
        nodes: &[Installed],
        network: Option<Network>,
    ) -> Self {
        Self {
            path: layout.state_dir.join("state.json"),
            layout: layout.clone(),
            people: people.clone(),
            nodes: nodes.to_vec(),
            network,
        }
    }

    /// Removes the file: nothing is ready.
    pub(crate) fn remove(state_dir: &Path) -> std::io::Result<()> {
        match std::fs::remove_file(state_dir.join("state.json")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes the file so that a reader sees the old or the new one, never a part.
    pub(crate) fn write(&self, pids: &BTreeMap<String, u32>) -> anyhow::Result<()> {
        let temporary = self.path.with_extension("json.tmp");
        std::fs::write(&temporary, serde_json::to_string_pretty(&self.value(pids))?)?;
        std::fs::rename(&temporary, &self.path)?;
        Ok(())
    }

    fn value(&self, pids: &BTreeMap<String, u32>) -> Value {
        let layout = &self.layout;
        let ports = &layout.ports;
        let portal = layout.portal_url();
        let pid = |name: &str| pids.get(name).copied();
        let nodes = self.nodes.iter().map(|node| {
            json!({
                "id": node.id,
                "name": node.plan.name,
                "location": node.plan.location,
                "pve_url": node.host.api_url,
                "pve_token_id": "root@pam!demo",
                "pve_token_secret": layout.secrets.pve_root,
                "control_url": node.host.control_url,
                "link_control_url": self.network.as_ref().map(|n| n.control_of(&node.plan.name)),
                "config": layout.node_dir(&node.plan.name).join("agent.toml"),
                "journal": layout.node_dir(&node.plan.name).join("state/journal.sqlite"),
                "pid": pid(&node.process()),
            })
        });
        json!({
            "portal_url": portal,
            "api_url": format!("{portal}/api/v1"),
            "database_url": layout.database_url,
            "pids": {
                "control_plane": pid("control-plane"),
                "simulator": pid("simulator"),
                "link_proxy": pid(network::PROCESS),
                "agents": self.nodes.iter().map(|n| pid(&n.process())).collect::<Vec<_>>(),
            },
            "operator": {
                "email": OPERATOR,
                "password": layout.secrets.operator_password,
                "api_token": self.people.operator_token,
            },
            "customer": {
                "email": CUSTOMER,
                "password": layout.secrets.customer_password,
                "api_token": self.people.customer_token,
            },
            "stripe": {
                "url": format!("http://127.0.0.1:{}", ports.stripe),
                "control_url": format!("http://127.0.0.1:{}", ports.stripe_control),
                "secret_key": layout.secrets.stripe_key,
                "webhook_secret": layout.secrets.webhook_secret,
            },
            "mail": {
                "url": format!("http://localhost:{}", ports.mail),
                "list_url": format!("http://localhost:{}/messages.json", ports.mail),
            },
            "link_proxy": self.network.as_ref().map(|n| json!({ "control_url": n.control_url })),
            "nodes": nodes.collect::<Vec<_>>(),
        })
    }

    /// What a person wants to know.
    pub(crate) fn summary(&self) -> String {
        let layout = &self.layout;
        let nodes: Vec<&str> = self.nodes.iter().map(|n| n.plan.name.as_str()).collect();
        format!(
            "\nEverything runs. Nothing here costs money or touches a real host.\n\n  \
             Portal     {portal}\n  \
             Mail       http://localhost:{mail}   (every letter the system sends)\n  \
             Customer   {CUSTOMER}   {customer}\n  \
             Operator   {OPERATOR}   {operator}   (log in, then Fleet)\n  \
             Card       4242 4242 4242 4242 pays; 4000 0000 0000 0002 is declined\n  \
             Code       WELCOME20 takes 20 % off an account's first purchase\n  \
             Nodes      {nodes}\n  \
             Logs       {logs}\n  \
             For scripts {state}\n\n\
             Ctrl-C stops everything; the next start goes on where this one stops.",
            portal = layout.portal_url(),
            mail = layout.ports.mail,
            customer = layout.secrets.customer_password,
            operator = layout.secrets.operator_password,
            nodes = nodes.join(", "),
            logs = layout.state_dir.join("logs").display(),
            state = self.path.display(),
        )
    }
}
