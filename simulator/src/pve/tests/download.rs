//! A host loads an image, and a template is made from it.

use axum::{Router, http::StatusCode, routing::get};
use data_encoding::HEXLOWER;
use reqwest::Method;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{
    logged::passes_the_checker,
    world::{World, config},
};

/// A qcow2 header that says 3 GiB.
fn image() -> Vec<u8> {
    let mut bytes = vec![0_u8; 512];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    bytes[24..32].copy_from_slice(&(3_u64 << 30).to_be_bytes());
    bytes
}

async fn web() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new()
        .route("/x.qcow2", get(|| async { image() }))
        .route("/gone.qcow2", get(|| async { StatusCode::NOT_FOUND }));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    base
}

const LOAD: &str = "/nodes/pve1/storage/local/download-url";

#[tokio::test(flavor = "multi_thread")]
async fn a_loaded_image_becomes_a_template_and_the_checker_is_content() {
    for (version, schema) in [("8.4", "schema-8.4.json"), ("9.2", "schema-9.json")] {
        let w = World::new(version).await;
        let url = format!("{}/x.qcow2", web().await);
        let sum = HEXLOWER.encode(&Sha256::digest(image()));
        let load = [
            ("content", "import"),
            ("filename", "ez-x.qcow2"),
            ("url", url.as_str()),
            ("checksum-algorithm", "sha256"),
            ("checksum", sum.as_str()),
        ];
        assert_eq!(w.task(Method::POST, LOAD, &load).await, "OK");
        let list = w.get("/nodes/pve1/storage/local/content?content=import").await;
        assert_eq!(list.data()[0]["volid"], "local:import/ez-x.qcow2", "{list:?}");
        // Once more: the file is looked at and kept.
        assert_eq!(w.task(Method::POST, LOAD, &load).await, "OK");
        let create = [
            ("vmid", "9100"),
            ("name", "ez-image-x"),
            ("pool", "ez-templates"),
            ("scsihw", "virtio-scsi-single"),
            ("scsi0", "local-lvm:0,import-from=local:import/ez-x.qcow2,discard=on"),
            ("ide2", "local-lvm:cloudinit"),
            ("serial0", "socket"),
            ("cpu", "x86-64-v2-AES"),
            ("boot", "order=scsi0"),
            ("agent", "enabled=1"),
            ("net0", "virtio,bridge=vmbr0,firewall=1"),
        ];
        assert_eq!(w.task(Method::POST, "/nodes/pve1/qemu", &create).await, "OK");
        assert_eq!(w.task(Method::POST, "/nodes/pve1/qemu/9100/template", &[]).await, "OK");
        let config = w.get("/nodes/pve1/qemu/9100/config").await;
        assert_eq!(config.data()["template"], json!(1), "{config:?}");
        let disk = config.data()["scsi0"].as_str().unwrap();
        assert!(disk.contains("base-9100-disk") && disk.contains("size=3G"), "{disk}");
        let feature = w.get("/nodes/pve1/qemu/9100/feature?feature=clone").await;
        assert_eq!(feature.data()["hasFeature"], json!(1));
        passes_the_checker(&w, schema);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_on_thick_lvm_is_copied_and_never_linked() {
    let mut thick = config("9.2");
    let storage = json!({"id": "lvm", "type": "lvm", "content": ["images"]});
    thick.clusters[0].nodes[0].storages.push(serde_json::from_value(storage).unwrap());
    let w = World::with(thick).await;
    let create = [("vmid", "9100"), ("scsi0", "lvm:1"), ("boot", "order=scsi0")];
    assert_eq!(w.task(Method::POST, "/nodes/pve1/qemu", &create).await, "OK");
    assert_eq!(w.task(Method::POST, "/nodes/pve1/qemu/9100/template", &[]).await, "OK");
    for (feature, has) in [("clone", 0), ("copy", 1)] {
        let said = w.get(&format!("/nodes/pve1/qemu/9100/feature?feature={feature}")).await;
        assert_eq!(said.data()["hasFeature"], json!(has), "{feature}");
    }
    let clone = "/nodes/pve1/qemu/9100/clone";
    let linked = w.post(clone, &[("newid", "101"), ("full", "0")]).await;
    assert!(linked.message().starts_with("Linked clone feature is not supported"), "{linked:?}");
    assert_eq!(w.task(Method::POST, clone, &[("newid", "101"), ("full", "1")]).await, "OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_or_not_the_wished_file_is_not_kept() {
    let w = World::new("9.2").await;
    let base = web().await;
    let wrong = "0".repeat(64);
    for (file, sum, storage, expected) in [
        ("x.qcow2", Some(wrong.as_str()), "local", "checksum mismatch: got"),
        ("gone.qcow2", None, "local", "download failed: ERROR 404: Not Found."),
    ] {
        let url = format!("{base}/{file}");
        let mut load = vec![("content", "import"), ("filename", "ez-x.qcow2"), ("url", url.as_str())];
        if let Some(sum) = sum {
            load.extend([("checksum-algorithm", "sha256"), ("checksum", sum)]);
        }
        let path = format!("/nodes/pve1/storage/{storage}/download-url");
        let exit = w.task(Method::POST, &path, &load).await;
        assert!(exit.starts_with(expected), "{file}: {exit}");
    }
    let list = w.get("/nodes/pve1/storage/local/content?content=import").await;
    assert_eq!(list.data(), &json!([]));
    let url = format!("{base}/x.qcow2");
    let named = |name| [("content", "import"), ("filename", name), ("url", url.as_str())];
    assert_eq!(w.post(LOAD, &named("x.exe")).await.status, 400);
    let no_files = w.post("/nodes/pve1/storage/local-lvm/download-url", &named("x.qcow2")).await;
    assert_eq!(no_files.status, 400, "{no_files:?}");
}
