//! Waiting for the portal and asking it about its nodes.

use std::{sync::Arc, time::Duration};

use anyhow::bail;
use serde_json::Value;

use crate::{child::Supervisor, layout::Layout, node::Installed, seed};

/// Asks again and again until there is an answer or the patience ends.
pub(crate) async fn until<T, F>(patience: Duration, mut ask: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        if tokio::time::Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the portal says that it is ready.
pub(crate) async fn ready(layout: &Layout) -> Option<()> {
    let client = reqwest::Client::new();
    let url = format!("{}/readyz", layout.portal_url());
    until(Duration::from_secs(60), || async {
        let answer = client.get(&url).timeout(Duration::from_secs(2)).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await
}

/// Waits until every node is online and has at least one image ready.
pub(crate) async fn nodes_online(
    layout: &Layout,
    supervisor: &Arc<Supervisor>,
    nodes: &[Installed],
) -> anyhow::Result<()> {
    let list = seed::command(layout, &["node", "list", "--json"]);
    let online = until(Duration::from_secs(60), || async {
        let text = supervisor.run_once(&list, None).await.ok()?;
        let known: Value = serde_json::from_str(&text).ok()?;
        let ready = |node: &Installed| {
            known["nodes"].as_array().is_some_and(|list| {
                let of_node = list.iter().find(|n| n["id"] == node.id);
                of_node.is_some_and(|n| n["presence"] == "online" && n["images_ready"].as_u64() > Some(0))
            })
        };
        nodes.iter().all(ready).then_some(())
    })
    .await;
    if online.is_none() {
        let name = nodes.first().map(|n| format!("agent-{}", n.plan.name)).unwrap_or_default();
        bail!("the nodes do not come online; the first agent says:\n{}", supervisor.tail(&name));
    }
    Ok(())
}
