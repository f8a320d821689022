//! Restores over a VM that is there: what comes back, and what is left when one fails.

use reqwest::Method;
use serde_json::{Value, json};

use super::servant::{CONFIG, MARKER, Q};
use super::world::{ROOT, World, config};

const QEMU: &str = "/nodes/pve1/qemu";

impl World {
    /// Restores VM 101 from its newest backup; gives the UPID.
    async fn restore(&self, more: &[(&str, &str)]) -> String {
        let archive = self.newest_backup().await;
        let params = [&[("vmid", "101"), ("archive", archive.as_str()), ("force", "1")], more].concat();
        self.post(QEMU, &params).await.data().as_str().unwrap().to_owned()
    }

    async fn one_backup(&self) {
        let upid = self.back_up(&[]).await;
        assert_eq!(self.ended(&upid).await, "OK");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_brings_back_exactly_what_was_backed_up() {
    for version in ["8.4", "9.2"] {
        let mut w = World::new(version).await;
        w.server().await;
        w.write("before").await;
        w.one_backup().await;
        let (before, firewall) = (w.config().await, w.picture().await["firewall"].clone());
        // Everything changes: disk, size, configuration, firewall; snapshots and a disk come.
        w.write("after").await;
        w.put(CONFIG, &[("description", "other"), ("cores", "7"), ("scsi1", "local-lvm:1")]).await.data();
        w.put(&format!("{Q}/firewall/options"), &[("ipfilter", "0")]).await.data();
        let grow = [("disk", "scsi0"), ("size", "20G")];
        assert_eq!(w.task(Method::PUT, &format!("{Q}/resize"), &grow).await, "OK");
        assert_eq!(w.task(Method::POST, &format!("{Q}/snapshot"), &[("snapname", "s1")]).await, "OK");
        w.as_agent("VM.Backup").await;
        let upid = w.restore(&[]).await;
        assert!(upid.contains(":qmrestore:101:ez@pve!agent:"), "{upid}");
        assert_eq!(w.ended(&upid).await, "OK");
        let after = w.config().await;
        for (option, value) in before.as_object().unwrap() {
            let fresh = matches!(option.as_str(), "digest" | "vmgenid");
            assert_eq!(fresh, after[option] != *value, "{option}: {value} and {}", after[option]);
        }
        assert_eq!((&after["description"], after.get("parent")), (&json!(MARKER), None));
        assert_eq!(after["unused0"], "local-lvm:vm-101-disk-1", "what the archive does not have stays");
        let picture = w.picture().await;
        assert_eq!(picture["boots"]["holds"]["writes"], json!(["before"]));
        assert_eq!((&picture["firewall"], &picture["pool"]), (&firewall, &json!("ez")));
        assert_eq!((&picture["snapshots"], &picture["lock"]), (&json!([]), &Value::Null));
        let log = w.log(&upid).await;
        assert!(log.contains(&"progress 50% (read 1610612736 bytes, duration 2 sec)".to_owned()), "{log:#?}");
        assert!(log.contains(&"new volume ID is 'local-lvm:vm-101-disk-0'".to_owned()), "{log:#?}");
        w.as_token(ROOT);
        w.start().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_vm_can_be_a_new_one_on_another_storage() {
    let w = World::new("9.2").await;
    w.server().await;
    w.write("before").await;
    w.one_backup().await;
    let archive = w.newest_backup().await;
    let new = [
        ("vmid", "102"),
        ("archive", archive.as_str()),
        ("storage", "local"),
        ("unique", "1"),
        ("pool", "ez"),
    ];
    assert_eq!(w.task(Method::POST, QEMU, &new).await, "OK");
    let made = w.control("/vms/102").await;
    assert_eq!(made["config"]["scsi0"], "local:102/vm-102-disk-0.raw,discard=on,iothread=1,size=3G");
    assert_eq!((&made["boots"]["holds"]["writes"], &made["pool"]), (&json!(["before"]), &json!("ez")));
    assert_ne!(made["macs"], w.picture().await["macs"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_refused_before_anything_is_lost() {
    let mut w = World::new("9.2").await;
    w.server().await;
    w.one_backup().await;
    let archive = w.newest_backup().await;
    let ask = [("vmid", "101"), ("archive", archive.as_str())];
    let refused = w.post(QEMU, &ask).await;
    assert_eq!(refused.message(), "unable to restore VM 101 - VM 101 already exists on node 'pve1'");
    for (more, status, text) in [
        (&[("force", "1"), ("scsi0", "local-lvm:1")][..], 400, "Parameter verification failed."),
        (&[("force", "1"), ("pool", "none")], 403, "Permission check failed (pool 'none' does not exist)"),
    ] {
        let refused = w.post(QEMU, &[&ask[..], more].concat()).await;
        assert_eq!((refused.status, refused.message()), (status, text));
    }
    for (archive, text) in [
        (
            "local:backup/vzdump-qemu-101-2026_01_01-00_00_00.vma.zst",
            "volume 'local:backup/vzdump-qemu-101-2026_01_01-00_00_00.vma.zst' does not exist",
        ),
        ("local:iso/a.iso", "unable to use volume local:iso/a.iso - content type needs to be 'backup'"),
    ] {
        let refused = w.post(QEMU, &[("vmid", "101"), ("force", "1"), ("archive", archive)]).await;
        assert_eq!((refused.status, refused.message()), (500, text));
    }
    w.control_post("/vms/101/lock", json!({"lock": "snapshot"})).await;
    let locked = w.post(QEMU, &[&ask[..], &[("force", "1")]].concat()).await;
    assert_eq!(locked.message(), "unable to restore VM 101 - VM is locked (snapshot)");
    w.control_post("/vms/101/lock", json!({"lock": null})).await;
    let before = w.config().await;
    w.start().await;
    let upid = w.restore(&[]).await;
    assert_eq!(w.ended(&upid).await, "unable to restore VM 101 - vm is running");
    assert!(w.log(&upid).await[0].ends_with("VM 101 state is NOT cleaned up."));
    w.stop().await;
    w.put(CONFIG, &[("protection", "1")]).await.data();
    let upid = w.restore(&[]).await;
    assert_eq!(w.ended(&upid).await, "unable to restore VM 101 - - protection mode enabled");
    w.put(CONFIG, &[("delete", "protection")]).await.data();
    let upid = w.restore(&[("storage", "nowhere")]).await;
    assert_eq!(w.ended(&upid).await, "storage 'nowhere' does not exist");
    assert_eq!(w.config().await, before, "nothing was touched, not even by the lock");
    // Without VM.Backup the agent still has VM.Allocate; a stranger has neither.
    w.as_agent("").await;
    let upid = w.post(QEMU, &[&ask[..], &[("force", "1")]].concat()).await;
    assert_eq!(w.ended(upid.data().as_str().unwrap()).await, "OK", "the VM's own backup");
    let stranger = w.post(QEMU, &[("vmid", "555"), ("archive", archive.as_str())]).await;
    assert_eq!((stranger.status, stranger.message()), (403, "Permission check failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_half_way_leaves_a_vm_without_marker_and_without_disks() {
    let w = World::new("9.2").await;
    w.server().await;
    w.write("before").await;
    w.one_backup().await;
    w.arm(json!({"task": "qmrestore", "fault": "fail", "exit": "vma: data corrupted", "pieces": 2})).await;
    let upid = w.restore(&[]).await;
    assert_eq!(w.ended(&upid).await, "vma: data corrupted");
    let log = w.log(&upid).await;
    for line in [
        "temporary volume 'local-lvm:vm-101-disk-0' successfully removed",
        "no lock found trying to remove 'create'  lock",
        "error before or during data restore, some or all disks were not completely restored. VM 101 state is NOT cleaned up.",
    ] {
        assert!(log.contains(&line.to_owned()), "{line}\n{log:#?}");
    }
    let left = w.picture().await;
    assert_eq!(left["config"], json!({"memory": "128"}), "no marker, no lock");
    assert_eq!((&left["volumes"], &left["pool"]), (&json!([]), &json!("ez")));
    let upid = w.restore(&[]).await;
    assert_eq!(w.ended(&upid).await, "OK", "the way out is another restore");
    assert_eq!(w.written().await, json!(["before"]));
    assert_eq!(w.config().await["description"], MARKER);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_leaves_the_old_vm_or_half_of_the_new_one() {
    let w = World::new("9.2").await;
    w.server().await;
    w.write("before").await;
    w.one_backup().await;
    let before = w.config().await;
    w.arm(json!({"task": "qmrestore", "fault": "kill"})).await;
    let upid = w.restore(&[]).await;
    assert_eq!(w.ended(&upid).await, "unexpected status");
    let mut early = w.config().await;
    assert_eq!(early["lock"], "create", "nothing but the lock");
    early.as_object_mut().unwrap().remove("lock");
    assert_eq!(early["scsi0"], before["scsi0"]);
    assert_eq!(w.written().await, json!(["before"]));
    let archive = w.newest_backup().await;
    let again = [("vmid", "101"), ("archive", archive.as_str()), ("force", "1")];
    let refused = w.post(QEMU, &again).await;
    assert_eq!(refused.message(), "unable to restore VM 101 - VM is locked (create)");
    w.control_post("/vms/101/lock", json!({"lock": null})).await;
    w.arm(json!({"task": "qmrestore", "fault": "kill", "pieces": 2})).await;
    let upid = w.restore(&[]).await;
    assert_eq!(w.ended(&upid).await, "unexpected status");
    let half = w.picture().await;
    assert_eq!(half["config"], json!({"memory": "128"}));
    assert_eq!(half["volumes"].as_array().unwrap().len(), 2, "the new disk and cloud-init drive stay");
    assert!(half["volumes"][1]["holds"]["writes"] != json!(["before"]), "and are not whole");
    // The way out is not another restore: the cloud-init drive of the first one is in its way.
    let upid = w.restore(&[]).await;
    let text = "lvcreate 'local-lvm/vm-101-cloudinit' error:   Logical Volume \"vm-101-cloudinit\" already exists in volume group \"local-lvm\"";
    assert_eq!(w.ended(&upid).await, text);
    let destroy = format!("{Q}?destroy-unreferenced-disks=1");
    assert_eq!(w.task(Method::DELETE, &destroy, &[]).await, "OK");
    let new = [("vmid", "101"), ("archive", archive.as_str()), ("pool", "ez")];
    assert_eq!(w.task(Method::POST, QEMU, &new).await, "OK");
    assert_eq!(w.written().await, json!(["before"]));
    assert_eq!(w.config().await["description"], MARKER);
    assert_eq!(w.picture().await["volumes"].as_array().unwrap().len(), 2);
}

#[test]
fn a_lock_of_a_backup_survives_the_death_of_the_simulator() {
    let directory = tempfile::tempdir().unwrap();
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let first = runtime();
    let upid = first.block_on(async {
        let w = World::at(directory.path(), &config("9.2")).await;
        w.server().await;
        w.one_backup().await;
        w.control_post("/speed", json!({"clone_ms": 600_000, "start_ms": 1, "other_ms": 1})).await;
        let upid = w.back_up(&[]).await;
        w.until_logged(&upid, "  0% ").await;
        upid
    });
    first.shutdown_background();
    runtime().block_on(async {
        let w = World::at(directory.path(), &config("9.2")).await;
        assert_eq!(w.ended(&upid).await, "unexpected status");
        assert_eq!(w.config().await["lock"], "backup");
        assert_eq!(w.backups().await.len(), 1, "only the whole one");
    });
}
