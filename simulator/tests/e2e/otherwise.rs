//! A server in service is called otherwise, limited and taken out of the host's filter; what its host says afterwards.

use serde_json::{Value, json};

use crate::{
    caring::Care,
    purchase::{PATIENCE, server_is},
    support::until,
};

impl Care {
    /// An operator's command about the server; the action that it began, ended.
    async fn operated(&self, command: &[&str]) -> Value {
        let told = self
            .demo
            .control_plane(&[&["server", command[0], self.server.as_str()][..], &command[1..]].concat())
            .await;
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        let newest = self.api.get(&self.path("/actions")).await["data"][0].clone();
        let path = self.path(&format!("/actions/{}", newest["id"].as_str().unwrap()));
        until("the operator's change to end", PATIENCE, || async {
            let (status, action) = self.api.try_get(&path).await;
            (status == 200 && action["status"] != "running").then_some(action)
        })
        .await
    }

    /// Its card, as its host has it.
    async fn card(&self) -> String {
        self.proxmox("/config").await["net0"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_renamed_while_it_runs_and_its_next_start_reads_the_new_name() {
    let Some(care) = Care::begin("another name").await else { return };
    let before = care.vm().await;
    let (status, begun) = care.api.patch(&care.path(""), json!({"hostname": "Shop-1.example.com"})).await;
    assert_eq!((status, &begun["name"]), (202, &json!("web-1")), "{begun}");
    care.ends(&begun["action"]).await;
    assert_eq!(care.settled().await["name"], "shop-1.example.com");
    let after = care.vm().await;
    assert_eq!(care.proxmox("/config").await["name"], "shop-1.example.com");
    assert_eq!(after["started_at"], before["started_at"], "it was not restarted for it");
    let (user, meta) = (after["cloudinit"]["user"].to_string(), after["cloudinit"]["meta"].to_string());
    assert!(user.contains("shop-1.example.com") && !user.contains("web-1"), "{user}");
    assert!(
        meta.contains("shop-1") && meta.contains(&care.server),
        "the first boot is not run again: {meta}"
    );
    let (status, same) = care.api.patch(&care.path(""), json!({"hostname": "shop-1.example.com"})).await;
    assert_eq!(status, 200, "{same}");
    care.act(json!({"action": "rebuild"})).await;
    server_is(&care.api, &care.server, "running").await;
    assert_eq!(care.proxmox("/config").await["name"], "shop-1.example.com", "another disk, the same name");
    care.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_limit_and_filter_reach_the_card_and_are_taken_back() {
    let Some(care) = Care::begin("a limit and the filter").await else { return };
    let sold = care.card().await;
    assert!(sold.contains("firewall=1") && !sold.contains("rate="), "{sold}");
    assert_eq!(care.operated(&["limit", "100"]).await["status"], "success");
    assert!(care.card().await.contains("rate=12.5"), "{}", care.card().await);
    assert_eq!(care.settled().await["rate_limit_mbit"], 100);
    // A host's owner who wants the filter on keeps it on, and nothing has changed.
    let refused = care.operated(&["filter", "off"]).await;
    assert_eq!((&refused["kind"], &refused["status"]), (&json!("filter_off"), &json!("error")), "{refused}");
    assert_eq!(
        (&care.settled().await["filtered"], care.card().await.contains("firewall=1")),
        (&json!(true), true)
    );
    let lets = ("require_firewall = true".to_owned(), "require_firewall = false".to_owned());
    care.demo.change_policy(care.node, &[lets]).await;
    assert_eq!(care.operated(&["filter", "off"]).await["status"], "success");
    let card = care.card().await;
    assert!(!card.contains("firewall=1") && card.contains("rate=12.5"), "{card}");
    assert_eq!(care.settled().await["filtered"], false);
    assert_eq!(care.operated(&["filter", "on"]).await["status"], "success");
    assert_eq!(care.operated(&["limit", "off"]).await["status"], "success");
    assert_eq!(care.card().await, sold);
    let wrong = care.demo.control_plane(&["server", "limit", &care.server, "0"]).await;
    assert!(!wrong.status.success(), "that would be no network at all");
    care.end().await;
}
