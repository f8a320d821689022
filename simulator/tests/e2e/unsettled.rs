//! What is done to a server in its later life, while the world around it is not as it should be: the clocks jump, the
//! agent's disk is full for a while. The stories of every single saga are the agent's own (`executor/tests/unsettled.rs`);
//! these show the same on the real programs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    crash_points::LARGE_AND_FAST,
    purchase::{PATIENCE, buy, server_is},
    strace::{self, Tracer},
    support::{Api, Database, Demo, until},
};

/// A server's own API.
struct Server {
    api: Api,
    id: String,
}

impl Server {
    async fn bought(demo: &Demo) -> Self {
        let (_, server) = buy(demo, "web-1", "fsn").await;
        let this = Self { api: demo.api("customer"), id: server["id"].as_str().unwrap().to_owned() };
        this.settled().await;
        this
    }

    /// Waits until nothing is under way.
    async fn settled(&self) -> Value {
        until("the server's action to end", PATIENCE, || async {
            let (status, server) = self.api.try_get(&format!("/servers/{}", self.id)).await;
            (status == 200 && server["action"].is_null()).then_some(server)
        })
        .await
    }

    async fn begin(&self, action: Value) -> String {
        let (status, begun) = self.api.post(&format!("/servers/{}/actions", self.id), action.clone()).await;
        assert_eq!(status, 202, "{action}: {begun}");
        begun["id"].as_str().unwrap().to_owned()
    }

    async fn try_action(&self, id: &str) -> Option<Value> {
        let (status, action) = self.api.try_get(&format!("/servers/{}/actions/{id}", self.id)).await;
        (status == 200).then_some(action)
    }

    /// Waits until a step of the action is at work.
    async fn is_at(&self, id: &str, step: &str) {
        until(&format!("the step {step}"), PATIENCE, || async {
            let action = self.try_action(id).await?;
            let at_work = |s: &Value| s["name"] == step && s["status"] == "running";
            action["steps"].as_array()?.iter().any(at_work).then_some(())
        })
        .await;
    }

    async fn succeeds(&self, id: &str) {
        let ended = until("the action to end", PATIENCE, || async {
            self.try_action(id).await.filter(|action| action["status"] != "running")
        })
        .await;
        assert_eq!(ended["status"], "success", "{ended}");
    }

    /// The id of the newest backup.
    async fn newest_backup(&self) -> String {
        let list = self.api.get(&format!("/servers/{}/backups", self.id)).await;
        list["data"][0]["id"].as_str().unwrap().to_owned()
    }
}

/// An hour, and then a day, passes at once while a backup, a restore and a rebuild are at work.
#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_jump_while_a_server_is_looked_after_change_nothing() {
    let Some((demo, clock)) = Demo::start_with_clock("clocks that jump", Database::Sqlite, 1, &[]).await
    else {
        return;
    };
    demo.allow_many_creates(0).await;
    let server = Server::bought(&demo).await;
    for hours in [1, 24] {
        let slow = json!({"clone_ms": 3_000, "start_ms": 10, "other_ms": 300});
        demo.host(0).control("/speed", slow).await;
        let backup = server.begin(json!({"action": "backup_create"})).await;
        server.is_at(&backup, "backup").await;
        clock.pass(hours);
        server.succeeds(&backup).await;
        demo.nodes_online().await;
        let from = server.newest_backup().await;
        let restore = server.begin(json!({"action": "backup_restore", "backup": from})).await;
        server.is_at(&restore, "restore").await;
        clock.pass(hours);
        server.succeeds(&restore).await;
        demo.nodes_online().await;
        let rebuild = server.begin(json!({"action": "rebuild"})).await;
        server.is_at(&rebuild, "clone").await;
        clock.pass(hours);
        server.succeeds(&rebuild).await;
        demo.nodes_online().await;
        server_is(&server.api, &server.id, "running").await;
    }
    until("the invariants to hold", Duration::from_secs(90), || async {
        demo.run_check().await.status.success().then_some(())
    })
    .await;
    demo.stop().await;
}

/// From some write on the agent's disk is full, while each of these is at work; then there is room again.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_agent_delays_what_is_done_to_a_server_and_no_more() {
    let story = "full disk of the agent, a server's later life";
    if !strace::available(story) {
        return;
    }
    let demo = Demo::start_with(story, Database::Sqlite, 1, &LARGE_AND_FAST).await.unwrap();
    demo.allow_many_creates(0).await;
    let server = Server::bought(&demo).await;
    let mut refused = 0;
    for (n, action) in [
        (3, json!({"action": "snapshot_create", "name": "clean"})),
        (7, json!({"action": "snapshot_rollback", "name": "clean"})),
        (4, json!({"action": "backup_create"})),
        (9, json!({"action": "rebuild"})),
        (5, json!({"action": "rescue_on"})),
        (2, json!({"action": "rescue_off"})),
        (3, json!({"action": "set_password"})),
    ] {
        let injection = format!("error=ENOSPC:when={n}+");
        let tracer = Tracer::attach(demo.pid("/pids/agents/0"), "pwrite64", &injection).await;
        let begun = server.begin(action.clone()).await;
        until("the disk to refuse a write", PATIENCE, || async { (tracer.injected() > 0).then_some(()) })
            .await;
        refused += tracer.injected();
        tracer.detach().await;
        server.succeeds(&begun).await;
        server.settled().await;
        demo.check().await;
    }
    println!("{story}: {refused} writes refused; each action ended as always");
    demo.stop().await;
}
