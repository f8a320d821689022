//! What a server's first boot is told, read where its VM reads it.

use std::sync::Arc;

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::{
    caring::Care,
    purchase::{PATIENCE, order_is, server_is},
    support::{Database, Demo, SSH_KEY, until},
};

/// It tries to take over what is ours, to end its part, and to say what YAML would read otherwise.
const OWN: &str = "#cloud-config\nhostname: theirs\nruncmd:\n  - [touch, /root/mine]\n--=_ez_x--\nmotd: \"gr\u{fc}\u{df}e: 'x'\"\n";

/// Buys a server of one name, with a part of its customer's own or without.
async fn buy_with(demo: &Arc<Demo>, own: Option<&str>) -> Care {
    let api = demo.api("customer");
    let mut order = json!({
        "location": "fsn", "image": "debian-13", "plan": "s", "interval": "month",
        "hostname": "web-1", "ssh_keys": [SSH_KEY], "accept_terms": true,
    });
    if let Some(own) = own {
        order["user_data"] = json!(own);
    }
    let (status, placed) = api.post("/orders", order).await;
    assert_eq!(status, 201, "{placed}");
    demo.stripe().pay(placed["checkout_url"].as_str().unwrap()).await;
    let order = order_is(&api, placed["id"].as_str().unwrap(), "fulfilled").await;
    let server = order["server_id"].as_str().unwrap().to_owned();
    server_is(&api, &server, "running").await;
    Care::known(Arc::clone(demo), 0, &server).await
}

impl Care {
    /// The user-data that the VM was started with.
    async fn user_data(&self) -> String {
        self.vm().await["cloudinit"]["user"].as_str().unwrap().to_owned()
    }

    /// The files that its configuration names, and those of its number that are there.
    async fn snippets(&self) -> (Vec<String>, Vec<String>) {
        let named = self.proxmox("/config").await["cicustom"].as_str().unwrap_or_default().to_owned();
        let mut named: Vec<String> =
            named.split(',').filter_map(|part| Some(part.split_once('=')?.1.to_owned())).collect();
        named.sort();
        let storage = named[0].split(':').next().unwrap().to_owned();
        (named, self.snippets_of(&storage).await)
    }

    async fn snippets_of(&self, storage: &str) -> Vec<String> {
        let all = self.demo.host(self.node).read(&format!("/storage/{storage}/content")).await;
        let mine = format!("{storage}:snippets/ez-{}-", self.vmid);
        let volumes = all.as_array().unwrap().iter().filter_map(|row: &Value| row["volid"].as_str());
        let mut found: Vec<String> =
            volumes.filter(|volume| volume.starts_with(&mine)).map(str::to_owned).collect();
        found.sort();
        found
    }
}

/// Head and text of each part of a MIME message.
fn parts(message: &str) -> Vec<(String, String)> {
    let boundary =
        message.split('"').nth(1).unwrap_or_else(|| panic!("no message of several parts: {message}"));
    let mut parts = message.split(&format!("--{boundary}")).skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(parts.pop().as_deref(), Some("--\n"), "it is ended: {message}");
    let part = |part: String| {
        let (head, body) = part.split_once("\n\n").unwrap();
        let bytes = BASE64.decode(body.replace('\n', "").as_bytes()).unwrap();
        (head.trim().to_owned(), String::from_utf8(bytes).unwrap())
    };
    parts.into_iter().map(part).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customers_own_part_boots_beside_ours_and_goes_with_the_server() {
    let story = "a customer's own user-data";
    let Some((demo, clock)) = Demo::start_with_clock(story, Database::Sqlite, 1, &[]).await else { return };
    let demo = Arc::new(demo);
    let (plain, own) = (buy_with(&demo, None).await, buy_with(&demo, Some(OWN)).await);
    let found = parts(&own.user_data().await);
    assert_eq!(found.len(), 2, "ours and theirs");
    assert!(
        found[0].0.contains("text/cloud-config") && !found[0].0.contains("X-Merge-Type"),
        "{}",
        found[0].0
    );
    assert_eq!(found[0].1, plain.user_data().await, "ours is as without theirs");
    assert!(found[1].0.contains("no_replace"), "theirs adds and does not replace: {}", found[1].0);
    assert_eq!(found[1].1, OWN);
    // Another disk is told the same.
    own.act(json!({"action": "rebuild"})).await;
    server_is(&own.api, &own.server, "running").await;
    assert_eq!(parts(&own.user_data().await)[1].1, OWN);
    let (named, there) = own.snippets().await;
    assert_eq!(named, there, "the files that it boots with, and none of before");
    let (others, _) = plain.snippets().await;

    let storage = named[0].split(':').next().unwrap().to_owned();
    assert_eq!(own.api.delete(&own.path("")).await, 202);
    server_is(&own.api, &own.server, "retired").await;
    assert_eq!(own.snippets_of(&storage).await.len(), there.len(), "kept as long as its disk");
    clock.pass(72);
    demo.nodes_online().await;
    server_is(&own.api, &own.server, "purged").await;
    assert_eq!(own.snippets_of(&storage).await, Vec::<String>::new());
    assert_eq!(plain.snippets_of(&storage).await, others, "the other server's stay");
    drop((plain, own));
    // What came due in the days that passed at once is late for a moment.
    until("the invariants to hold", PATIENCE, || async {
        demo.run_check().await.status.success().then_some(())
    })
    .await;
    Arc::into_inner(demo).unwrap().stop().await;
}
