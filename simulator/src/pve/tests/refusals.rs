//! What bad requests get.

use reqwest::Method;
use serde_json::json;

use super::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_valid_token_there_is_an_empty_401_after_a_delay() {
    let w = World::new("9.2").await;
    for (header, what) in [
        (None, "none"),
        (Some("Bearer abc"), "another scheme"),
        (Some("PVEAPIToken=root@pam!agent=wrong"), "wrong secret"),
        (Some("PVEAPIToken=nobody@pve!x=11111111-2222-4333-8444-555555555555"), "unknown"),
    ] {
        let mut request = w.client().get(w.url("/version"));
        if let Some(header) = header {
            request = request.header("Authorization", header);
        }
        let before = tokio::time::Instant::now();
        let reply = World::read(request).await;
        assert_eq!((reply.status, reply.text.as_str()), (401, ""), "{what}");
        assert!(before.elapsed().as_millis() >= 30, "{what}: it is held back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transport_layer_refuses_in_plain_text() {
    let w = World::new("9.2").await;
    let ask = |method: Method, path: &str, kind: Option<&str>, body: String| {
        let mut request = w
            .client()
            .request(method, w.url(path))
            .header("Authorization", format!("PVEAPIToken={}", w.token));
        if let Some(kind) = kind {
            request = request.header("Content-Type", kind);
        }
        World::read(request.body(body))
    };
    let form = Some("application/x-www-form-urlencoded");
    let config = "/nodes/pve1/qemu/9000/config";
    assert_eq!(
        ask(Method::PUT, config, form, format!("description={}", "x".repeat(600_000))).await.status,
        501
    );
    assert_eq!(ask(Method::PUT, config, Some("text/plain"), "x".into()).await.status, 506);
    assert_eq!(ask(Method::PUT, config, Some("application/json"), "{bad".into()).await.status, 500);
    assert_eq!(ask(Method::GET, config, form, "a=b".into()).await.status, 501);
    let patch = ask(Method::PATCH, "/version", None, String::new()).await;
    assert_eq!((patch.status, patch.text.as_str()), (501, ""));
    let json =
        ask(Method::PUT, config, Some("application/json"), json!({"onboot": true, "cores": 3}).to_string())
            .await;
    assert!(json.data().is_null());
    assert_eq!(w.get(config).await.data()["cores"], 3);
    let other = w.put("/nodes/pve1/qemu/9000/config", &[("vmid", "9001"), ("onboot", "1")]).await;
    assert_eq!(
        other.body["errors"]["vmid"],
        "duplicate parameter (already defined in URI) with conflicting values!"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmid_is_a_fence_across_the_cluster() {
    let w = World::new("9.2").await;
    let clone = |vmid: &'static str| {
        let w = &w;
        async move { w.post("/nodes/pve1/qemu/9000/clone", &[("newid", vmid), ("full", "0")]).await.status }
    };
    let (a, b) = tokio::join!(clone("140"), clone("140"));
    let mut both = [a, b];
    both.sort_unstable();
    assert_eq!(both, [200, 500], "one wins");
    w.post("/nodes/pve2/qemu", &[("vmid", "150"), ("name", "there")]).await.data();
    let taken = w.post("/nodes/pve1/qemu", &[("vmid", "150")]).await;
    assert_eq!(taken.message(), "unable to create VM 150 - VM 150 already exists on node 'pve2'");
    assert_eq!(clone("150").await, 500);
    assert_eq!(w.get("/cluster/nextid?vmid=150").await.body["errors"]["vmid"], "VM 150 already exists");
    assert_eq!(w.get("/cluster/nextid?vmid=151").await.data(), "151");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_version_has_its_own_privileges() {
    for (version, good, bad) in
        [("9.2", "VM.GuestAgent.Audit", "VM.Monitor"), ("8.4", "VM.Monitor", "VM.GuestAgent.Audit")]
    {
        let w = World::new(version).await;
        w.post("/access/roles", &[("roleid", "EzAgent"), ("privs", good)]).await.data();
        let refused = w.post("/access/roles", &[("roleid", "Other"), ("privs", bad)]).await;
        assert_eq!(refused.body["errors"]["privs"], format!("invalid format - invalid privilege '{bad}'\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_snippet_fails_the_start_and_nothing_before() {
    let w = World::new("9.2").await;
    w.task(Method::POST, "/nodes/pve1/qemu/9000/clone", &[("newid", "101"), ("full", "0")]).await;
    let q = "/nodes/pve1/qemu/101";
    assert!(
        w.put(&format!("{q}/config"), &[("cicustom", "user=local:snippets/none.yaml")])
            .await
            .data()
            .is_null()
    );
    let start = format!("{q}/status/start");
    assert_eq!(w.task(Method::POST, &start, &[]).await, "volume 'local:snippets/none.yaml' does not exist");
    w.snippet("none.yaml", "#cloud-config\nhostname: x\n");
    assert_eq!(w.task(Method::POST, &start, &[]).await, "OK");
    let drive = w.control("/vms/101").await["cloudinit"].clone();
    assert_eq!(drive["user"], "#cloud-config\nhostname: x\n");
    assert_eq!(drive["instance_id"].as_str().unwrap().len(), 40);
}
