//! What customers do with a server they have, for as long as they have it.

use serde_json::{Value, json};

use super::{customers::Customer, diary::Diary};
use crate::{dice::Dice, support::until};

/// What is pressed one after the other.
const WISHES: [&[&str]; 9] = [
    &["reboot"],
    &["stop", "start"],
    &["reset"],
    &["snapshot_create", "snapshot_rollback", "snapshot_delete"],
    &["backup_create", "backup_restore"],
    &["rebuild"],
    &["rescue_on", "rescue_off"],
    &["set_password"],
    &["firewall"],
];

/// Presses some buttons of a server and waits for what comes of each. A press may be refused or fail, as everything goes
/// wrong meanwhile; it may not be left without an answer.
pub async fn look_after(customer: &Customer, server: &str, name: &str, dice: &mut Dice, diary: &Diary) {
    let mut kept = Value::Null;
    for (number, verb) in dice.pick(&WISHES).iter().enumerate() {
        let body = match *verb {
            "snapshot_create" | "snapshot_rollback" | "snapshot_delete" => {
                json!({ "action": verb, "name": "clean" })
            }
            "backup_restore" => json!({ "action": verb, "backup": kept }),
            "rebuild" => json!({ "action": verb, "image": "debian-12" }),
            _ => json!({ "action": verb }),
        };
        let begun = match *verb {
            "firewall" => {
                let rules = json!({"inbound": "drop", "rules": [
                    {"direction": "in", "verdict": "accept", "protocol": "tcp", "ports": "22"},
                ]});
                let path = format!("/servers/{server}/firewall");
                let (status, body) = customer.ask("rules", || customer.api.put(&path, rules.clone())).await;
                (status, body["action"].clone())
            }
            _ => {
                let path = format!("/servers/{server}/actions");
                let key = format!("{name}-{number}-{verb}");
                customer.ask(verb, || customer.api.post_with_key(&path, body.clone(), &key)).await
            }
        };
        let (202, begun) = begun else {
            diary.note(&format!("{name}: {verb} answered {} {}", begun.0, begun.1["code"]));
            assert!(matches!(begun.0, 200 | 409 | 422), "{verb}: {begun:?}");
            return;
        };
        let path = format!("/servers/{server}/actions/{}", begun["id"].as_str().unwrap());
        let what = format!("{name}, {verb} of server {server}, to come to an end");
        let ended = until(&what, super::customers::PATIENCE * 2, || async {
            let (_, action) = customer.ask("an action", || customer.api.try_get(&path)).await;
            tokio::time::sleep(super::customers::LOOK).await;
            (action["status"] != "running").then_some(action)
        });
        let ended = ended.await;
        diary.note(&format!("{name}: {verb} ended in {} {}", ended["status"], ended["error"]));
        diary.count_up(if ended["status"] == "success" {
            "buttons that worked"
        } else {
            "buttons that did not"
        });
        if ended["status"] != "success" {
            return;
        }
        kept = ended["provisioning_order_id"].clone();
    }
}
