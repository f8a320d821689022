//! What is disturbed: a purchase, and everything that is done to a server afterwards.

use std::time::Duration;

use serde_json::{Value, json};

use super::Kill;
use crate::{
    purchase::{PATIENCE, order_is, place, server_is},
    support::{Demo, until},
};

/// What is disturbed.
#[derive(Clone, Copy, Debug)]
pub enum Flow {
    /// From the webhook to a running server.
    Buy,
    /// Something that is done to a running server, after what it needs was made.
    Later(Later),
}

/// What can be done to a server.
#[derive(Clone, Copy, Debug)]
pub enum Later {
    Reboot,
    Rebuild,
    Snapshot,
    RollBack,
    DropSnapshot,
    Backup,
    Restore,
    DropBackup,
    RescueOn,
    RescueOff,
    Password,
    Medium,
    Rules,
    /// Suspended and resumed.
    Suspension,
    /// From the wish to delete to a retired server.
    Delete,
}

impl Later {
    pub const ALL: [Self; 15] = [
        Self::Reboot,
        Self::Rebuild,
        Self::Snapshot,
        Self::RollBack,
        Self::DropSnapshot,
        Self::Backup,
        Self::Restore,
        Self::DropBackup,
        Self::RescueOn,
        Self::RescueOff,
        Self::Password,
        Self::Medium,
        Self::Rules,
        Self::Suspension,
        Self::Delete,
    ];

    /// All of them in an order in which one server can take them.
    pub const ON_ONE_SERVER: [Self; 12] = [
        Self::Reboot,
        Self::RollBack,
        Self::RescueOff,
        Self::Password,
        Self::Medium,
        Self::Rules,
        Self::Backup,
        Self::Restore,
        Self::DropBackup,
        Self::Suspension,
        Self::Rebuild,
        Self::Delete,
    ];

    /// Makes what has to be there before, and gives what is asked for then.
    pub async fn prepare(self, demo: &Demo, server: &str) -> Value {
        match self {
            Self::RollBack | Self::DropSnapshot => {
                press(demo, server, json!({"action": "snapshot_create", "name": "clean"})).await;
            }
            Self::Restore | Self::DropBackup => press(demo, server, json!({"action": "backup_create"})).await,
            Self::RescueOff => press(demo, server, json!({"action": "rescue_on"})).await,
            _ => {}
        }
        let kept = async || {
            let made = demo.api("customer").get(&format!("/servers/{server}/backups")).await;
            made["data"][0]["id"].clone()
        };
        match self {
            Self::Reboot => json!({"action": "reboot"}),
            Self::Rebuild => json!({"action": "rebuild", "image": "debian-12"}),
            Self::Snapshot => json!({"action": "snapshot_create", "name": "clean"}),
            Self::RollBack => json!({"action": "snapshot_rollback", "name": "clean"}),
            Self::DropSnapshot => json!({"action": "snapshot_delete", "name": "clean"}),
            Self::Backup => json!({"action": "backup_create"}),
            Self::Restore => json!({"action": "backup_restore", "backup": kept().await}),
            Self::DropBackup => json!({"action": "backup_delete", "backup": kept().await}),
            Self::RescueOn => json!({"action": "rescue_on"}),
            Self::RescueOff => json!({"action": "rescue_off"}),
            Self::Password => json!({"action": "set_password"}),
            Self::Medium => {
                let isos = demo.api("customer").get("/isos").await;
                json!({"action": "iso_attach", "iso": isos["data"][0]["file"]})
            }
            Self::Rules => json!({"inbound": "drop", "rules": [
                {"direction": "in", "verdict": "accept", "protocol": "tcp", "ports": "22"},
            ]}),
            Self::Suspension | Self::Delete => Value::Null,
        }
    }

    /// Has it done, and waits for its end.
    pub async fn carry_out(self, demo: &Demo, server: &str, wish: Value) {
        match self {
            Self::Delete => delete(demo, server).await,
            Self::Suspension => suspend_and_resume(demo, server).await,
            Self::Reboot => reboot(demo, server, wish).await,
            _ => press(demo, server, wish).await,
        }
    }
}

/// Buys a server and disturbs what comes after the payment; the order.
pub async fn buy(demo: &Demo, name: &str, kill: Option<&mut Kill<'_>>) -> String {
    let (api, stripe) = (demo.api("customer"), demo.stripe());
    stripe.post("/webhooks/pause", json!({})).await;
    let order = place(&api, name, "fsn").await;
    let id = order["id"].as_str().unwrap().to_owned();
    stripe.pay(order["checkout_url"].as_str().unwrap()).await;
    if let Some(kill) = kill {
        kill.set().await;
    }
    stripe.post("/webhooks/resume", json!({})).await;
    let order = order_is(&api, &id, "fulfilled").await;
    server_is(&api, order["server_id"].as_str().unwrap(), "running").await;
    id
}

/// Begins an action, or sets rules, until it is done; one whose answer is lost counts if it is there. What cannot be seen and
/// must not be repeated by itself ends as an error, and the customer presses again: what they wished has to be so in the end.
async fn press(demo: &Demo, server: &str, body: Value) {
    for _ in 0..3 {
        match press_once(demo, server, &body).await {
            None => return,
            Some(error) => println!("{body} ended as an error, it is pressed again: {error}"),
        }
    }
    panic!("{body} of server {server} was pressed three times and never done");
}

/// Begins an action, or sets rules, and waits for its end: what went wrong.
async fn press_once(demo: &Demo, server: &str, body: &Value) -> Option<Value> {
    let api = demo.api("customer");
    let path = format!("/servers/{server}/actions");
    let ask = async || {
        if body["action"].is_string() {
            api.post(&path, body.clone()).await;
        } else {
            api.put(&format!("/servers/{server}/firewall"), body.clone()).await;
        }
    };
    let ids = |list: &Value| {
        let actions = list["data"].as_array().into_iter().flatten();
        actions.filter_map(|action| action["id"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let before = until("the list of actions", PATIENCE, || async {
        Some(ids(&api.try_get(&path).await.1)).filter(|ids| !ids.is_empty())
    })
    .await;
    ask().await;
    let ended = until("the action to end", PATIENCE, || async {
        let (status, list) = api.try_get(&path).await;
        let actions = list["data"].as_array()?;
        let mut new = actions.iter().filter(|a| !before.iter().any(|id| a["id"] == id.as_str())).peekable();
        if status == 200 && new.peek().is_none() {
            // Nothing was noted: the customer presses again.
            ask().await;
            return None;
        }
        let new: Vec<Value> = new.cloned().collect();
        new.iter().all(|action| action["status"] != "running").then_some(new)
    })
    .await;
    server_is(&api, server, "running").await;
    let done = ended.iter().any(|action| action["status"] == "success");
    (!done).then(|| ended.iter().map(|action| action["error"].clone()).collect())
}

/// Reboots a server, and looks whether it was.
async fn reboot(demo: &Demo, server: &str, wish: Value) {
    let since = async || {
        let vms = demo.host(0).get("/vms").await;
        let ours = |vm: &&Value| vm["description"].as_str().is_some_and(|text| text.contains(server));
        vms["vms"].as_array().unwrap().iter().find(ours).map(|vm| vm["started_at"].clone())
    };
    let before = since().await;
    press(demo, server, wish).await;
    assert_ne!(since().await, before, "server {server} was not rebooted");
}

/// Deletes a server and never asks twice, unless nothing at all came of the first time.
async fn delete(demo: &Demo, server: &str) {
    let api = demo.api("customer");
    let accepted = api.delete(&format!("/servers/{server}")).await == 202;
    if !accepted {
        until("a consistent system", PATIENCE, || async {
            demo.run_check().await.status.success().then_some(())
        })
        .await;
        // The checker reads the books, and may be content before the killed program is back.
        let body = until("the server to be told of", PATIENCE, || async {
            let (status, body) = api.try_get(&format!("/servers/{server}")).await;
            (status == 200).then_some(body)
        })
        .await;
        if body["state"] == "running" {
            assert_eq!(api.delete(&format!("/servers/{server}")).await, 202);
        }
    }
    server_is(&api, server, "retired").await;
}

/// An operator suspends a server and, once it is off, resumes it.
async fn suspend_and_resume(demo: &Demo, server: &str) {
    let api = demo.api("customer");
    for (command, state) in [
        (&["server", "suspend", server, "--reason", "Invoice 117 is unpaid."][..], "stopped"),
        (&["server", "resume", server][..], "running"),
    ] {
        let told = demo.control_plane(command).await;
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        until(&format!("the server to be {state}"), Duration::from_secs(200), || async {
            let (status, body) = api.try_get(&format!("/servers/{server}")).await;
            (status == 200 && body["state"] == state && body["action"].is_null()).then_some(())
        })
        .await;
    }
}
