//! Where a console of a VM is to be found, for ten seconds.

use std::fmt;

use super::{
    PveError,
    raw::{self, Row},
};

/// A worker of Proxmox that waits on the loopback for one client.
#[derive(Clone, PartialEq, Eq)]
pub struct ConsoleDoor {
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Who asked, as the terminal proxy wants to hear it.
    pub user: String,
    /// The ticket for the terminal proxy.
    pub ticket: String,
    /// The password of a screen; empty for a serial line.
    pub password: String,
}

impl fmt::Debug for ConsoleDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConsoleDoor(port {})", self.port)
    }
}

impl ConsoleDoor {
    /// Reads Proxmox's answer, whose port may be a number or a text.
    pub(super) fn read(call: &str, row: &Row) -> Result<Self, PveError> {
        let missing =
            |what: &str| PveError::Decode { call: call.to_owned(), reason: format!("it says no {what}") };
        let port = raw::text(row, "port").and_then(|port| port.parse().ok()).filter(|port| *port != 0);
        let ticket = raw::text(row, "ticket").ok_or_else(|| missing("ticket"))?;
        // Before the password came by itself it was the ticket's first part.
        let before = ticket.split_once(":PVEVNC:").map(|(password, _)| password.to_owned());
        Ok(Self {
            port: port.ok_or_else(|| missing("port"))?,
            user: raw::text(row, "user").ok_or_else(|| missing("user"))?,
            password: raw::text(row, "password").or(before).unwrap_or_default(),
            ticket,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Result<ConsoleDoor, PveError> {
        ConsoleDoor::read("POST vncproxy", json.as_object().unwrap())
    }

    #[test]
    fn a_port_is_read_however_it_is_written_and_nothing_secret_is_shown() {
        for port in [serde_json::json!("5903"), serde_json::json!(5903)] {
            let door = read(serde_json::json!({
                "port": port, "user": "ez-agent@pve!agent", "ticket": "secretly:PVEVNC:66::abc", "password": "secretly",
            }))
            .unwrap();
            assert_eq!((door.port, door.password.as_str()), (5903, "secretly"));
            assert!(!format!("{door:?}").contains("secret"));
        }
        assert!(read(serde_json::json!({ "port": "x", "user": "u", "ticket": "t" })).is_err());
        assert!(read(serde_json::json!({ "port": 5900, "user": "u" })).is_err());
    }
}
