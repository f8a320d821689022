//! One purchase as a node agent carries it out.

use reqwest::Method;
use serde_json::json;

use super::world::World;

pub(super) const KEY: &str = "ssh-ed25519%20AAAAC3NzaC1lZDI1NTE5AAAAIOhUcGBzNG5t3UXoGORUdaokN9Jdn2MgicDJRHb7mUNY%20a%40example.test%0A";

/// clone → config → resize → firewall → start → usable.
pub(super) async fn buy(w: &World, vmid: u32) {
    let q = format!("/nodes/pve1/qemu/{vmid}");
    let id = vmid.to_string();
    let marker = format!("ez:v1 inst {vmid} order 1\nmanaged\n");
    assert_eq!(
        w.task(
            Method::POST,
            "/nodes/pve1/qemu/9000/clone",
            &[("newid", &id), ("full", "1"), ("pool", "ez"), ("name", "vps-1"), ("description", &marker)]
        )
        .await,
        "OK"
    );
    w.snippet(&format!("ez-{vmid}-vendor.yaml"), "#cloud-config\npackages:\n- qemu-guest-agent\n");
    w.snippet(&format!("ez-{vmid}-meta.yaml"), "instance-id: ez-1\n");
    let custom =
        format!("meta=local:snippets/ez-{vmid}-meta.yaml,vendor=local:snippets/ez-{vmid}-vendor.yaml");
    let set = [
        ("cores", "2"),
        ("memory", "2048"),
        ("net0", "virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,firewall=1,tag=12"),
        ("ipconfig0", "ip=10.0.0.5/24,gw=10.0.0.1"),
        ("sshkeys", KEY),
        ("ciuser", "admin"),
        ("cicustom", &custom),
        ("tags", "ez;c-12"),
        ("ciupgrade", "0"),
        ("nameserver", "1.1.1.1 9.9.9.9"),
        ("agent", "enabled=1"),
        ("onboot", "1"),
    ];
    assert!(w.put(&format!("{q}/config"), &set).await.data().is_null());
    assert_eq!(
        w.task(Method::PUT, &format!("{q}/resize"), &[("disk", "scsi0"), ("size", "20G")]).await,
        "OK"
    );
    let options = [
        ("enable", "1"),
        ("ipfilter", "1"),
        ("macfilter", "1"),
        ("dhcp", "0"),
        ("ndp", "1"),
        ("policy_in", "ACCEPT"),
    ];
    assert!(w.put(&format!("{q}/firewall/options"), &options).await.data().is_null());
    assert!(w.post(&format!("{q}/firewall/ipset"), &[("name", "ipfilter-net0")]).await.data().is_null());
    assert!(
        w.post(&format!("{q}/firewall/ipset/ipfilter-net0"), &[("cidr", "10.0.0.5")]).await.data().is_null()
    );
    assert_eq!(w.task(Method::POST, &format!("{q}/status/start"), &[]).await, "OK");
    let mut answered = false;
    for _ in 0..500 {
        let ping = w.post(&format!("{q}/agent/ping"), &[]).await;
        if ping.status == 200 {
            assert_eq!(ping.body, json!({"data": {"result": {}}}));
            answered = true;
            break;
        }
        assert_eq!(ping.message(), "QEMU guest agent is not running");
    }
    assert!(answered, "the guest agent never answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_ends_with_a_usable_server() {
    for version in ["8.4", "9.2"] {
        let w = World::new(version).await;
        w.post("/pools", &[("poolid", "ez")]).await.data();
        buy(&w, 101).await;
        let q = "/nodes/pve1/qemu/101";
        let config = w.get(&format!("{q}/config")).await.data().clone();
        assert_eq!(config["memory"], "2048");
        assert_eq!(config["cores"], 2);
        assert_eq!(config["scsi0"], "local-lvm:vm-101-disk-0,discard=on,iothread=1,size=20G");
        assert_eq!(config["description"], "ez:v1 inst 101 order 1\nmanaged");
        let current = w.get(&format!("{q}/status/current")).await.data().clone();
        assert_eq!(
            (current["status"].as_str(), current["qmpstatus"].as_str()),
            (Some("running"), Some("running"))
        );
        let addresses = w.get(&format!("{q}/agent/network-get-interfaces")).await.data().to_string();
        assert!(addresses.contains("10.0.0.5") && addresses.contains("bc:24:11:aa:bb:cc"), "{addresses}");
        let seen = w.control("/vms").await;
        let vm = seen["vms"].as_array().unwrap().iter().find(|v| v["vmid"] == 101).unwrap().clone();
        assert_eq!(vm["marker"], "ez:v1 inst 101 order 1");
        assert_eq!(vm["macs"], json!(["BC:24:11:AA:BB:CC"]));
        assert_eq!(vm["ips"], json!(["10.0.0.5/24"]));
        assert_eq!(vm["pool"], "ez");
        assert_eq!(vm["cloudinit"]["instance_id"], "ez-1");
        assert!(vm["cloudinit"]["vendor"].as_str().unwrap().contains("qemu-guest-agent"));
        assert_eq!(seen["clones"].as_array().unwrap().len(), 1);
        assert_eq!(w.task(Method::POST, &format!("{q}/status/stop"), &[]).await, "OK");
        assert_eq!(
            w.task(Method::DELETE, &format!("{q}?purge=1&destroy-unreferenced-disks=1"), &[]).await,
            "OK"
        );
        assert_eq!(
            w.get(&format!("{q}/config")).await.message(),
            "Configuration file 'nodes/pve1/qemu-server/101.conf' does not exist"
        );
    }
}
