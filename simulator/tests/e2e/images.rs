//! Images from end to end: an operator orders one, the node loads it from a web server, makes a template,
//! and a customer's server is cloned from it.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    process::Command,
};

use crate::{
    judging,
    purchase::{PATIENCE, order_is, server_is},
    support::{Database, Demo, SSH_KEY, program, until},
};

/// A disk image as far as Proxmox looks: a qcow2 header that says 3 GiB.
fn image(word: &str) -> Vec<u8> {
    let mut bytes = vec![0_u8; 4096];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    bytes[7] = 3;
    bytes[24..32].copy_from_slice(&(3_u64 << 30).to_be_bytes());
    bytes[64..64 + word.len()].copy_from_slice(word.as_bytes());
    bytes
}

/// A web server that has a file for every path below `/images/`: the image of that name.
async fn web() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                let mut request = vec![0_u8; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let line = String::from_utf8_lossy(&request[..read]).into_owned();
                let name = line.split([' ', '?']).nth(1).and_then(|path| path.strip_prefix("/images/"));
                let answer = match name.and_then(|name| name.strip_suffix(".qcow2")) {
                    Some(name) => {
                        let body = image(name);
                        let head = format!(
                            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                            body.len()
                        );
                        [head.into_bytes(), body].concat()
                    }
                    None => {
                        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()
                    }
                };
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    base
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(bytes)))
}

/// What the catalogue says of an image.
fn entry(code: &str, url: &str, digest: &str) -> String {
    format!(
        "[[images]]\ncode = \"{code}\"\nname = \"{code}\"\nversion = \"1\"\nfamily = \"debian\"\nurl = \"{url}\"\n\
         digest = \"{digest}\"\nrecipes = [\"docker\"]\n\n"
    )
}

async fn apply(demo: &Demo, text: &str) {
    let file = demo.path("more-images.toml");
    std::fs::write(&file, text).unwrap();
    let output = demo.control_plane(&["apply", &file.display().to_string()]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The owner of a host allows images to be built there from `source`, as the policy file tells them to.
async fn allow_builds(demo: &Demo, index: usize, source: &str) {
    let node = demo.state()["nodes"][index].clone();
    let name = node["name"].as_str().unwrap();
    let policy = demo.path(&format!("nodes/{name}/policy.toml"));
    let text = std::fs::read_to_string(&policy).unwrap();
    let more = format!(
        "build = true\nsources = [\"{source}\"]\nvmid_first = 9100\nvmid_last = 9119\nimport_storage = \"local\"\n"
    );
    assert!(text.contains("build = false\n"), "{text}");
    std::fs::write(&policy, text.replace("build = false\n", &more)).unwrap();
    let layout: Value =
        serde_json::from_str(&std::fs::read_to_string(demo.path("demo.json")).unwrap()).unwrap();
    let token = demo.path("admin-token");
    std::fs::write(&token, format!("root@pam!demo={}\n", layout["secrets"]["pve_root"].as_str().unwrap()))
        .unwrap();
    let output = Command::new(program("ez-node-agent"))
        .args(["setup", "--yes", "--config", node["config"].as_str().unwrap(), "--admin-token-file"])
        .arg(&token)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("EzImageBuilder") && said.contains("all the rights"), "{said}");
    demo.kill(&format!("/pids/agents/{index}")).await;
    demo.nodes_online().await;
}

async fn images(demo: &Demo) -> Value {
    let output = demo.control_plane(&["image", "list", "--json"]).await;
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn image_row(demo: &Demo, code: &str) -> Value {
    let all = images(demo).await;
    all["images"].as_array().unwrap().iter().find(|image| image["code"] == code).cloned().unwrap()
}

/// The newest order for an image once it has ended.
async fn ended(demo: &Demo, code: &str) -> Value {
    until("the image order to end", PATIENCE, || async {
        let all = images(demo).await;
        let order = all["orders"].as_array()?.iter().find(|order| order["image"] == code)?.clone();
        ["ready", "failed", "refused"].contains(&order["state"].as_str()?).then_some(order)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_image_becomes_a_template_that_servers_are_made_from() {
    let Some(demo) = Demo::start("an image", Database::Sqlite, 1).await else { return };
    let base = web().await;
    let url = format!("{base}images/own-1.qcow2");
    apply(&demo, &entry("own-1", &url, &digest(&image("own-1")))).await;

    // Until the host's owner says so, nothing is built there.
    demo.control_plane(&["image", "build", "own-1", "--node", "fsn-1"]).await;
    let refused = ended(&demo, "own-1").await;
    assert_eq!(refused["state"], "refused");
    assert!(refused["detail"].as_str().unwrap().contains("images.build"), "{refused}");

    allow_builds(&demo, 0, &format!("{base}images/")).await;
    let output = demo.control_plane(&["image", "build", "own-1", "--node", "fsn-1", "--wait"]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    until("the image to be ready on 1 of 1 nodes", PATIENCE, || async {
        let row = image_row(&demo, "own-1").await;
        (row["ready"] == 1 && row["nodes"] == 1).then_some(())
    })
    .await;
    // Again: it is there, and nothing is built a second time.
    let output = demo.control_plane(&["image", "build", "own-1"]).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("ready on every node"));
    let vms = demo.host(0).get("/vms").await;
    let templates = vms["vms"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|vm| (9_100..9_120).contains(&vm["vmid"].as_i64().unwrap()));
    assert_eq!(templates.count(), 1, "{vms}");

    // A customer buys a server with it.
    let api = demo.api("customer");
    let wish = json!({
        "location": "fsn", "image": "own-1", "plan": "s", "interval": "month", "hostname": "web-1",
        "ssh_keys": [SSH_KEY], "accept_terms": true, "recipes": ["docker"], "timezone": "Europe/Berlin",
    });
    let (status, order) = api.post("/orders", wish).await;
    assert_eq!(status, 201, "{order}");
    demo.stripe().pay(order["checkout_url"].as_str().unwrap()).await;
    let order = order_is(&api, order["id"].as_str().unwrap(), "fulfilled").await;
    server_is(&api, order["server_id"].as_str().unwrap(), "running").await;
    let vms = demo.host(0).get("/vms").await;
    let server = vms["vms"].as_array().unwrap().iter().find(|vm| vm["name"] == "web-1").unwrap();
    let told = server["cloudinit"].to_string();
    assert!(told.contains("docker.io") && told.contains("Europe/Berlin"), "{told}");
    judging::proxmox(&demo, "an image build").await;
    demo.check().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_what_was_ordered_becomes_no_template() {
    let Some(demo) = Demo::start("a wrong image", Database::Sqlite, 1).await else { return };
    let base = web().await;
    allow_builds(&demo, 0, &format!("{base}images/")).await;
    let other = digest(b"another file");
    let catalogue = entry("forged", &format!("{base}images/forged.qcow2"), &other)
        + &entry("missing", &format!("{base}images/missing.raw"), &other)
        + &entry("elsewhere", &format!("{base}other/elsewhere.qcow2"), &other);
    apply(&demo, &catalogue).await;
    for (code, state, why) in [
        ("forged", "failed", "checksum"),
        ("missing", "failed", "404"),
        ("elsewhere", "refused", "images.sources"),
    ] {
        let output = demo.control_plane(&["image", "build", code, "--node", "fsn-1", "--wait"]).await;
        assert!(!output.status.success(), "{code}");
        let order = ended(&demo, code).await;
        assert_eq!(order["state"], state, "{order}");
        assert!(order["detail"].as_str().unwrap().contains(why), "{code}: {order}");
        assert_eq!(image_row(&demo, code).await["ready"], 0);
    }
    let vms = demo.host(0).get("/vms").await;
    let made = vms["vms"]
        .as_array()
        .unwrap()
        .iter()
        .any(|vm| (9_100..9_120).contains(&vm["vmid"].as_i64().unwrap()));
    assert!(!made, "{vms}");
    demo.check().await;
    demo.stop().await;
}

/// Whether a step is the wanted one, or one after it: a fast build may be past it when it is looked at.
fn reached(step: &str, wanted: &str) -> bool {
    let order = ["download", "create", "convert", "lint", "mark"];
    let place = |word: &str| order.iter().position(|known| *known == word);
    place(step) >= place(wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_while_it_builds_makes_one_template() {
    let Some(demo) = Demo::start("killed building", Database::Sqlite, 1).await else { return };
    let base = web().await;
    allow_builds(&demo, 0, &format!("{base}images/")).await;
    let codes: Vec<String> = (1..=4).map(|n| format!("image-{n}")).collect();
    let catalogue: String = codes
        .iter()
        .map(|code| entry(code, &format!("{base}images/{code}.qcow2"), &digest(&image(code))))
        .collect();
    apply(&demo, &catalogue).await;
    demo.host(0).control("/speed", json!({"clone_ms": 100, "start_ms": 50, "other_ms": 300})).await;
    for (code, at) in codes.iter().zip(["download", "create", "convert", "mark"]) {
        demo.control_plane(&["image", "build", code, "--node", "fsn-1"]).await;
        until(&format!("{at} to have begun"), PATIENCE, || async {
            let rows = demo.journal_rows(0, "SELECT name, COALESCE(step, '') FROM image_builds").await;
            rows.iter().any(|(name, step)| name == code && reached(step, at)).then_some(())
        })
        .await;
        demo.kill("/pids/agents/0").await;
        let order = ended(&demo, code).await;
        assert_eq!(order["state"], "ready", "{order}");
    }
    let vms = demo.host(0).get("/vms").await;
    let made = vms["vms"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|vm| (9_100..9_120).contains(&vm["vmid"].as_i64().unwrap()));
    assert_eq!(made.count(), codes.len(), "{vms}");
    demo.check().await;
    demo.stop().await;
}
