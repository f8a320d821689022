//! Mails of the fleet.

use serde::Serialize;

use crate::notify::Letter;

/// Tells operators that a node went silent.
#[derive(Clone, Debug, Serialize)]
pub struct NodeOffline {
    /// Name of the node.
    pub node: String,
    /// The node's page.
    pub link: String,
}

impl Letter for NodeOffline {
    const TEMPLATE: &'static str = "node-offline";
    fn sample() -> Self {
        Self { node: "fsn-1".into(), link: "https://servers.example/operator/nodes/fsn-1".into() }
    }
}
