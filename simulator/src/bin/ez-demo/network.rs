//! The network between the agents and the control plane, as a program of its own: with `--link-proxy` every agent
//! dials it instead of the link, and it goes wrong on request.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::{
    child::{Program, Supervisor},
    layout::{Layout, NodePlan},
    portal,
};

/// Its name in logs and lists.
pub(crate) const PROCESS: &str = "link-proxy";

/// The running network.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// Base URL of its control API.
    pub(crate) control_url: String,
}

impl Network {
    /// Base URL of the control API of one node's lane.
    pub(crate) fn control_of(&self, node: &str) -> String {
        format!("{}/nodes/{node}", self.control_url)
    }

    /// Where the agent of a node dials.
    pub(crate) fn address(plan: &NodePlan) -> String {
        format!("127.0.0.1:{}", plan.link_port)
    }
}

fn config(layout: &Layout, state_dir: &Path) -> Value {
    let lane = |plan: &NodePlan| json!({ "name": plan.name, "listen": Network::address(plan) });
    json!({
        "state_dir": state_dir,
        "link_proxy": {
            "control_listen": format!("127.0.0.1:{}", layout.ports.link_proxy),
            "upstream": format!("127.0.0.1:{}", layout.ports.link),
            "nodes": layout.nodes.iter().map(lane).collect::<Vec<_>>(),
        },
    })
}

/// Starts it and waits until it listens.
pub(crate) async fn start(layout: &Layout, supervisor: &Arc<Supervisor>) -> anyhow::Result<Network> {
    if layout.ports.link_proxy == 0 {
        bail!("this demo was begun before there was a link proxy; use another --state-dir");
    }
    let state_dir = layout.state_dir.join(PROCESS);
    let (file, ready) = (layout.state_dir.join("link-proxy.json"), state_dir.join("ready.json"));
    std::fs::write(&file, serde_json::to_string_pretty(&config(layout, &state_dir))?)?;
    // One of an earlier run would be taken for this one's.
    let _none = std::fs::remove_file(&ready);
    supervisor.keep_alive(Program {
        name: PROCESS.into(),
        binary: "ez-simulator",
        arguments: vec!["serve".into(), "--config".into(), file.display().to_string()],
        environment: vec![("LOG".into(), "info".into())],
    })?;
    portal::until(Duration::from_secs(60), || async { ready.exists().then_some(()) })
        .await
        .with_context(|| format!("the link proxy does not start:\n{}", supervisor.tail(PROCESS)))?;
    Ok(Network { control_url: format!("http://127.0.0.1:{}", layout.ports.link_proxy) })
}
