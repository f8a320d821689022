//! Asking for a console.

use ez_protocol::console::ConsoleKind;
use proxmox_api::client::Client as _;
use serde_json::{Value, json};

use super::ProxmoxHypervisor;
use crate::pve::{ConsoleDoor, PveError, Vmid, raw::Row};

impl ProxmoxHypervisor {
    pub(super) async fn post_console(&self, vmid: Vmid, kind: ConsoleKind) -> Result<ConsoleDoor, PveError> {
        let (call, body) = match kind {
            // Without `websocket` the port of older versions is one for the whole network; without
            // `generate-password` they keep the password to themselves.
            ConsoleKind::Vnc => ("/vncproxy", json!({ "websocket": 1, "generate-password": 1 })),
            ConsoleKind::Serial => ("/termproxy", json!({ "serial": "serial0" })),
        };
        let path = self.guest_path(vmid, call)?;
        // The crate's types take the port as one of the two ways it is written.
        let row: Row = self.http.post::<Value, Row>(&path, &body).await?;
        ConsoleDoor::read(call, &row)
    }
}
