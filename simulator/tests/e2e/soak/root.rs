//! Root of the hosts, who reads what a stuck order says and does just that: nothing else gets it going again.

use std::{collections::HashSet, convert::Infallible, time::Duration};

use serde_json::json;

use super::diary::Diary;
use crate::{host_commands::agent_of, support::Demo};

/// What an agent says about the orders that only root can help.
const STUCK: &str = "SELECT order_id, COALESCE(result, '') FROM orders WHERE state = 'stuck'";

/// Looks after every host, for ever.
pub async fn watch_over(demo: &Demo, nodes: u16, diary: &Diary) -> Infallible {
    let mut over = HashSet::new();
    loop {
        for node in 0..usize::from(nodes) {
            for (order, said) in demo.journal_rows(node, STUCK).await {
                if !over.contains(&order) && help(demo, node, &order, &said, diary).await {
                    over.insert(order);
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Exit code of `order resume` where it makes no sense any more.
const TOO_LATE: i32 = 5;

/// Does the commands that the message names, in its order, unless the host is away; whether something later has taken the
/// order's place, so that it is left as it is.
async fn help(demo: &Demo, node: usize, order: &str, said: &str, diary: &Diary) -> bool {
    let Some(host) = demo.try_host(node) else { return false };
    let after = |command: &str| -> Option<u32> {
        let rest = &said[said.find(command)? + command.len()..];
        rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    diary.note(&format!("root of host {node} reads of order {order}: {said}"));
    // Root looks before it touches: what is not locked is whole, and only `lock: clone` is the rest of one.
    if let Some(vmid) = after("qm unlock ")
        && let Some(lock) = host.get(&format!("/vms/{vmid}")).await["lock"].as_str()
    {
        let destroy = said.contains("qm destroy ");
        if !destroy || lock == "clone" {
            host.try_control(&format!("/vms/{vmid}/lock"), json!({ "lock": null })).await;
        }
        if destroy && lock == "clone" {
            host.try_control(&format!("/vms/{vmid}/unlock-destroy"), json!({})).await;
        }
    }
    // There may be several of them, of more than one order.
    for rest in said.split("pvesm free ").skip(1) {
        host.free_volume(rest.split('`').next().unwrap_or_default()).await;
    }
    let (code, _, said) = agent_of(demo, node, &["order", "resume", order, "--reason", "as it says"]).await;
    diary.note(&format!("root of host {node}: order resume {order} ended with {code} {}", said.trim()));
    diary.count_up("root");
    code == TOO_LATE
}
