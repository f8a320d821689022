//! What root of a host does on it: asks the doctor, gives its word to the running agent, decides about a stuck order.

use serde_json::Value;
use tokio::process::Command;

use crate::{
    operating::{clean_up, stuck},
    purchase::{PATIENCE, order_is},
    support::{Database, Demo, program, until},
};

async fn agent(demo: &Demo, arguments: &[&str]) -> (i32, Value, String) {
    agent_of(demo, 0, arguments).await
}

/// A command of a node's agent; its exit code and what it printed as JSON.
pub async fn agent_of(demo: &Demo, node: usize, arguments: &[&str]) -> (i32, Value, String) {
    let name = demo.state()["nodes"][node]["name"].as_str().unwrap().to_owned();
    let output = Command::new(program("ez-node-agent"))
        .args(arguments)
        .arg("--config")
        .arg(demo.path(&format!("nodes/{name}/agent.toml")))
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
}

/// Everything but systemd, which no demo has, is well on a node that is connected, and the doctor says so.
#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_a_node_of_the_demo_well_and_says_what_is_not() {
    let Some(demo) = Demo::start("the doctor", Database::Sqlite, 1).await else { return };
    demo.nodes_online().await;
    let (code, said, stderr) = agent(&demo, &["doctor", "--json"]).await;
    let checks = said["checks"].as_array().unwrap_or_else(|| panic!("{stderr}"));
    assert!(checks.len() >= 25, "{}", checks.len());
    // The host of a demo is the developer's machine.
    let of_the_host =
        ["unit-enabled", "unit-running", "repair-unit", "agent-user", "udp-buffers", "time-sync"];
    let unwell: Vec<&Value> = checks
        .iter()
        .filter(|check| check["level"] != "OK" && !of_the_host.contains(&check["name"].as_str().unwrap()))
        .collect();
    let names: Vec<&str> = unwell.iter().map(|check| check["name"].as_str().unwrap()).collect();
    // The token has no right on the storage of the snippets, so only root of a real host sees that it is there.
    assert_eq!(names, ["snippet-storage"], "{unwell:#?}");
    for check in checks.iter().filter(|check| check["level"] != "OK") {
        assert!(check["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{check}");
    }
    let worst = if said["errors"] == 0 { 10 } else { 11 };
    assert_eq!(code, worst, "{said:#}");
    assert_eq!(agent(&demo, &["check-config"]).await.0, 0);
    demo.check().await;
    demo.stop().await;
}

/// The word of root reaches the running agent, is kept with who said it, and is refused where it makes no sense.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_agent_takes_roots_word_and_keeps_who_said_it() {
    let Some(demo) = Demo::start("root's word", Database::Sqlite, 1).await else { return };
    demo.nodes_online().await;
    let (code, said, stderr) = agent(&demo, &["unlock", "--reason", "a story", "--json"]).await;
    assert_eq!((code, said["state"].as_str()), (0, Some("done")), "{said} {stderr}");
    let unknown = "01a2b3c4-0000-7000-8000-000000000000";
    let (code, said, _) = agent(&demo, &["order", "resume", unknown, "--json"]).await;
    assert_eq!((code, said["state"].as_str()), (3, Some("refused")), "{said}");
    assert_eq!(agent(&demo, &["order", "abandon", "nonsense"]).await.0, 2);
    // Without an agent the command takes its lock and does it by itself.
    demo.signal("/pids/agents/0", rustix::process::Signal::KILL);
    let alone = until("a word without the agent", PATIENCE, || async {
        let (code, said, _) = agent(&demo, &["unlock", "--json"]).await;
        (code == 0).then_some(said)
    });
    assert_eq!(alone.await["state"], "done");
    let (_, trail, _) = agent(&demo, &["journal", "--requests", "--json"]).await;
    let trail = trail.as_array().unwrap();
    assert!(trail.len() >= 3, "{trail:#?}");
    assert_eq!(trail.last().unwrap()["reason"], "a story");
    assert!(
        trail.iter().all(|row| row["who"]["uid"].is_number() && row["ended_at"].is_number()),
        "{trail:#?}"
    );
    demo.check().await;
    demo.stop().await;
}

/// The provisioning order that is stuck on the first node.
async fn stuck_order(demo: &Demo) -> String {
    let (_, journal, stderr) = agent(demo, &["journal", "--json"]).await;
    let row =
        journal.as_array().unwrap_or_else(|| panic!("{stderr}")).iter().find(|row| row["state"] == "stuck");
    row.unwrap_or_else(|| panic!("{journal:#}"))["order_id"].as_str().unwrap().to_owned()
}

/// A worker was killed on a host without the repair unit. Root cleans up and lets the order go on: the customer gets the
/// server, once. Another time root gives it up: nothing of the host is touched, and the control plane hears who and why.
#[tokio::test(flavor = "multi_thread")]
async fn root_of_the_host_lets_a_stuck_order_go_on_or_gives_it_up() {
    let Some(demo) = Demo::start_with("root decides", Database::Sqlite, 1, &["--no-repair"]).await else {
        return;
    };
    let api = demo.api("customer");
    let bought = stuck(&demo, &api, "resumed").await;
    let id = stuck_order(&demo).await;
    clean_up(&demo).await;
    let (code, said, stderr) =
        agent(&demo, &["order", "resume", &id, "--reason", "cleaned up", "--json"]).await;
    assert_eq!((code, said["state"].as_str()), (0, Some("done")), "{said} {stderr}");
    order_is(&api, bought["id"].as_str().unwrap(), "fulfilled").await;
    let (_, shown, _) = agent(&demo, &["order", "show", &id, "--json"]).await;
    assert_eq!(
        (shown["state"].as_str(), &shown["requests"][0]["reason"]),
        (Some("succeeded"), &Value::from("cleaned up"))
    );

    stuck(&demo, &api, "given-up").await;
    let id = stuck_order(&demo).await;
    let before = demo.host(0).get("/vms").await;
    let (code, said, stderr) =
        agent(&demo, &["order", "abandon", &id, "--reason", "broken disk", "--json"]).await;
    assert_eq!((code, said["state"].as_str()), (0, Some("done")), "{said} {stderr}");
    until("the control plane to hear why", PATIENCE, || async {
        let rows = demo
            .rows("SELECT state, detail FROM provisioning_orders WHERE detail LIKE '%broken disk%'")
            .await;
        rows.into_iter()
            .find(|(state, detail)| state == "stuck" && detail.starts_with("abandoned on the host by"))
    })
    .await;
    assert_eq!(demo.host(0).get("/vms").await, before);
    assert_eq!(agent(&demo, &["order", "resume", &id]).await.0, 5, "abandoning is for good");
    clean_up(&demo).await;
    demo.check().await;
    demo.stop().await;
}
