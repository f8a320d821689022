//! Root of the hosts, who reads what a stuck order says and does just that: nothing else gets it going again.

use std::{convert::Infallible, time::Duration};

use serde_json::json;

use super::diary::Diary;
use crate::{host_commands::agent_of, support::Demo};

/// What an agent says about the orders that only root can help.
const STUCK: &str = "SELECT order_id, COALESCE(result, '') FROM orders WHERE state = 'stuck'";

/// Looks after every host, for ever.
pub async fn watch_over(demo: &Demo, nodes: u16, diary: &Diary) -> Infallible {
    loop {
        for node in 0..usize::from(nodes) {
            for (order, said) in demo.journal_rows(node, STUCK).await {
                help(demo, node, &order, &said, diary).await;
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Does the commands that the message names, in its order.
async fn help(demo: &Demo, node: usize, order: &str, said: &str, diary: &Diary) {
    let after = |command: &str| -> Option<u32> {
        let rest = &said[said.find(command)? + command.len()..];
        rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    diary.note(&format!("root of host {node} reads of order {order}: {said}"));
    let host = demo.host(node);
    // Root looks before it touches: what is not locked is whole, and may be somebody else's.
    if let Some(vmid) = after("qm unlock ")
        && host.get(&format!("/vms/{vmid}")).await["lock"].is_string()
    {
        host.try_control(&format!("/vms/{vmid}/lock"), json!({ "lock": null })).await;
        if said.contains("qm destroy ") {
            host.try_control(&format!("/vms/{vmid}/unlock-destroy"), json!({})).await;
        }
    }
    let (code, _, said) = agent_of(demo, node, &["order", "resume", order, "--reason", "as it says"]).await;
    diary.note(&format!("root of host {node}: order resume {order} ended with {code} {}", said.trim()));
    diary.count_up("root");
}
