//! Drives that come and go: copies of an image as a second disk, ISO images, the boot order.

use reqwest::Method;
use serde_json::{Value, json};

use super::servant::{CONFIG, Q};
use super::world::{ROOT, World};

const RESCUE: &str = "local-lvm:0,import-from=local-lvm:base-9000-disk-0";
const ISO: &str = "local:iso/rescue.iso,media=cdrom";

impl World {
    async fn iso(&self) {
        let file = json!({"storage": "local", "name": "iso/rescue.iso", "content": "iso", "size": 65_536});
        self.control_post("/volumes", file).await;
    }

    async fn unlink(&self, ids: &str, force: &str) -> super::world::Reply {
        self.put(&format!("{Q}/unlink"), &[("idlist", ids), ("force", force)]).await
    }

    async fn pending(&self, key: &str) -> Value {
        let rows = self.get(&format!("{Q}/pending")).await.data().clone();
        rows.as_array().unwrap().iter().find(|r| r["key"] == key).cloned().unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescue_system_boots_from_a_second_disk_and_leaves_no_trace() {
    for version in ["8.4", "9.2"] {
        let mut w = World::new(version).await;
        w.server().await;
        w.write("the customer's").await;
        w.as_agent("").await;
        let image = w.control("/vms/9000").await["boots"]["holds"]["image"].clone();
        let upid = w.post(CONFIG, &[("scsi1", RESCUE)]).await.data().as_str().unwrap().to_owned();
        assert!(upid.contains(":qmconfig:101:ez@pve!agent:"), "{upid}");
        assert_eq!(w.ended(&upid).await, "OK");
        let log = w.log(&upid).await;
        assert_eq!(log[0], format!("update VM 101: -scsi1 {RESCUE}"));
        assert_eq!(log[1], "create full clone of drive scsi0 (local-lvm:base-9000-disk-0)");
        assert!(
            log.contains(&"scsi1: successfully created disk 'local-lvm:vm-101-disk-1,size=3G'".to_owned()),
            "{log:#?}"
        );
        w.put(CONFIG, &[("boot", "order=scsi1;scsi0")]).await.data();
        w.start().await;
        let booted = w.picture().await["booted"].clone();
        assert_eq!(
            (&booted["drive"], &booted["volid"]),
            (&json!("scsi1"), &json!("local-lvm:vm-101-disk-1"))
        );
        assert_eq!(booted["holds"], json!({"image": image, "writes": [], "passwords": {}}));
        // Back: the order waits for the next start, as does nothing of the disk.
        w.put(CONFIG, &[("boot", "order=scsi0")]).await.data();
        assert_eq!(w.pending("boot").await["pending"], "order=scsi0");
        w.stop().await;
        w.put(CONFIG, &[("delete", "scsi1")]).await.data();
        assert_eq!(w.config().await["unused0"], "local-lvm:vm-101-disk-1");
        w.unlink("unused0", "1").await.data();
        assert_eq!(w.config().await.get("unused0"), None);
        w.start().await;
        let picture = w.picture().await;
        assert_eq!(picture["booted"]["holds"]["writes"], json!(["the customer's"]));
        assert_eq!(picture["volumes"].as_array().unwrap().len(), 2, "disk and cloud-init drive");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_wants_rights_on_its_source_and_its_target() {
    let mut w = World::new("9.2").await;
    w.server().await;
    w.control_post(
        "/volumes",
        json!({"storage": "local", "name": "import/r.qcow2", "content": "import", "size": 1_073_741_824}),
    )
    .await;
    w.task(Method::POST, "/nodes/pve1/qemu/9000/clone", &[("newid", "555"), ("full", "1")]).await;
    w.iso().await;
    w.as_agent("").await;
    for (value, status, text) in [
        (
            "local-lvm:0,import-from=local-lvm:vm-555-disk-0",
            403,
            "Permission check failed (/vms/555, VM.Clone)",
        ),
        (
            "local-lvm:0,import-from=local-lvm:vm-101-disk-0",
            403,
            "Permission check failed (/vms/101, VM.Clone)",
        ),
        ("local-lvm:5,import-from=local:import/r.qcow2", 400, "Parameter verification failed."),
        ("local-lvm:0,import-from=local:iso/rescue.iso", 400, "Parameter verification failed."),
        (
            "local-lvm:0,import-from=/etc/passwd",
            500,
            "Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm line 581.",
        ),
    ] {
        let refused = w.post(CONFIG, &[("scsi1", value)]).await;
        assert_eq!((refused.status, refused.message()), (status, text), "{value}");
    }
    let missing = "local-lvm:0,import-from=local:import/none.qcow2";
    assert_eq!(
        w.task(Method::POST, CONFIG, &[("scsi1", missing)]).await,
        "failed to stat '/var/lib/vz/import/none.qcow2'"
    );
    let missing = "local-lvm:0,import-from=local-lvm:base-9000-disk-7";
    let refused = w.put(CONFIG, &[("scsi1", missing)]).await;
    assert_eq!(
        refused.message(),
        "cannot import from 'local-lvm:base-9000-disk-7' - could not get size of local-lvm:base-9000-disk-7"
    );
    // PUT takes as long as the copy, and answers when it is done.
    w.put(CONFIG, &[("scsi1", "local-lvm:0,import-from=local:import/r.qcow2")]).await.data();
    assert_eq!(w.config().await["scsi1"], "local-lvm:vm-101-disk-1,size=1G");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_import_leaves_nothing_and_a_killed_one_a_volume_without_a_name() {
    let w = World::new("9.2").await;
    w.server().await;
    w.arm(
        json!({"task": "qmconfig", "fault": "fail", "exit": "cannot import from 'x' - no luck", "pieces": 2}),
    )
    .await;
    assert_eq!(w.task(Method::POST, CONFIG, &[("scsi1", RESCUE)]).await, "cannot import from 'x' - no luck");
    assert_eq!(w.config().await.get("scsi1"), None);
    assert_eq!(w.picture().await["volumes"].as_array().unwrap().len(), 2);
    w.arm(json!({"task": "qmconfig", "fault": "kill", "pieces": 2})).await;
    assert_eq!(w.task(Method::POST, CONFIG, &[("scsi1", RESCUE)]).await, "unexpected status");
    assert_eq!((w.config().await.get("scsi1"), w.config().await.get("lock")), (None, None));
    assert_eq!(w.picture().await["volumes"].as_array().unwrap().len(), 3, "half a copy");
    assert_eq!(w.task(Method::POST, CONFIG, &[("scsi1", RESCUE)]).await, "OK");
    assert_eq!(w.config().await["scsi1"], "local-lvm:vm-101-disk-2,size=3G", "the next number");
    w.control_post("/storages/local-lvm/full", json!({"full": true})).await;
    let full = w.task(Method::POST, CONFIG, &[("scsi2", RESCUE)]).await;
    assert!(full.starts_with("cannot import from 'local-lvm:base-9000-disk-0' - lvcreate"), "{full}");
    assert_eq!(w.task(Method::DELETE, &format!("{Q}?destroy-unreferenced-disks=1"), &[]).await, "OK");
    assert_eq!(w.get("/nodes/pve1/storage/local-lvm/content?vmid=101").await.data(), &json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_a_snapshot_is_not_removed_and_a_rollback_brings_its_content_back() {
    let w = World::new("9.2").await;
    w.server().await;
    w.write("before").await;
    assert_eq!(w.task(Method::POST, CONFIG, &[("scsi1", RESCUE)]).await, "OK");
    assert_eq!(w.task(Method::POST, &format!("{Q}/snapshot"), &[("snapname", "s1")]).await, "OK");
    w.write("after").await;
    w.unlink("scsi1", "0").await.data();
    let refused = w.unlink("unused0", "1").await;
    let text = "unable to delete 'local-lvm:vm-101-disk-1' - volume is still in use (snapshot?)";
    assert_eq!((refused.status, refused.message()), (500, text));
    w.put(CONFIG, &[("scsi2", "local-lvm:1")]).await.data();
    assert_eq!(w.written().await, json!(["before", "after"]));
    assert_eq!(w.task(Method::POST, &format!("{Q}/snapshot/s1/rollback"), &[]).await, "OK");
    assert_eq!(w.written().await, json!(["before"]));
    let config = w.config().await;
    assert_eq!(config["scsi1"], "local-lvm:vm-101-disk-1,size=3G");
    let unused = (&config["unused0"], &config["unused1"]);
    assert_eq!(unused, (&json!("local-lvm:vm-101-disk-1"), &json!("local-lvm:vm-101-disk-2")));
    assert_eq!(config.get("scsi2"), None, "it came later");
    let clone = [("newid", "102"), ("full", "1"), ("snapname", "s1")];
    w.write("later").await;
    assert_eq!(w.task(Method::POST, &format!("{Q}/clone"), &clone).await, "OK");
    assert_eq!(w.control("/vms/102").await["boots"]["holds"]["writes"], json!(["before"]));
    w.put(CONFIG, &[("protection", "1")]).await.data();
    assert_eq!(
        w.unlink("scsi1", "0").await.message(),
        "can't remove drive 'scsi1' - protection mode enabled"
    );
    assert_eq!(
        w.unlink("unused1", "0").await.message(),
        "can't remove unused disk 'local-lvm:vm-101-disk-2' - protection mode enabled"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iso_image_goes_into_a_drive_and_out_of_it() {
    let mut w = World::new("9.2").await;
    w.server().await;
    w.iso().await;
    w.as_agent("").await;
    let listed = w.get("/nodes/pve1/storage/local/content?content=iso").await.data().clone();
    assert_eq!((&listed[0]["volid"], &listed[0]["format"]), (&json!("local:iso/rescue.iso"), &json!("iso")));
    let refused = w.put(CONFIG, &[("ide3", "local:iso/none.iso,media=cdrom")]).await;
    assert_eq!((refused.status, refused.message()), (500, "volume 'local:iso/none.iso' does not exist"));
    let refused = w.put(CONFIG, &[("ide3", "local:iso/rescue.iso")]).await;
    assert_eq!(refused.body["errors"]["ide3"], "explicit 'media=cdrom' is required for iso images");
    w.put(CONFIG, &[("ide3", ISO)]).await.data();
    assert_eq!(w.config().await["boot"], "order=scsi0;ide3", "a new CD drive is bootable");
    w.put(CONFIG, &[("boot", "order=ide3;scsi0")]).await.data();
    w.start().await;
    assert_eq!(w.picture().await["booted"]["volid"], "local:iso/rescue.iso");
    // The medium comes out of a running machine, the drive does not.
    w.put(CONFIG, &[("ide3", "none,media=cdrom")]).await.data();
    assert_eq!(w.pending("ide3").await, json!({"key": "ide3", "value": "none,media=cdrom"}));
    assert_eq!(w.picture().await["boots"]["drive"], "scsi0");
    w.put(CONFIG, &[("delete", "ide3")]).await.data();
    assert_eq!(w.pending("ide3").await["delete"], 1);
    assert_eq!(w.pending("boot").await["pending"], "order=scsi0");
    w.put(CONFIG, &[("ide0", ISO)]).await.data();
    assert_eq!(w.pending("ide0").await, json!({"key": "ide0", "pending": ISO}));
    w.stop().await;
    let config = w.config().await;
    assert_eq!((config.get("ide3"), &config["ide0"]), (None, &json!(ISO)));
    // Somebody removes the image: the machine does not start any more.
    w.as_token(ROOT);
    let gone = w.delete("/nodes/pve1/storage/local/content/local:iso/rescue.iso").await;
    assert_eq!(w.ended(gone.data().as_str().unwrap()).await, "OK");
    let start = w.task(Method::POST, &format!("{Q}/status/start"), &[]).await;
    assert_eq!(start, "volume 'local:iso/rescue.iso' does not exist");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_drives_there_is_no_iso_image() {
    let mut w = World::new("9.2").await;
    w.server().await;
    w.iso().await;
    w.post("/access/roles", &[("roleid", "Few"), ("privs", "VM.Config.Disk VM.Audit")]).await.data();
    w.post("/access/users", &[("userid", "few@pve")]).await.data();
    w.put("/access/acl", &[("path", "/vms"), ("roles", "Few"), ("users", "few@pve")]).await.data();
    let made = w.post("/access/users/few@pve/token/few", &[("privsep", "0")]).await;
    let token = format!("few@pve!few={}", made.data()["value"].as_str().unwrap());
    w.as_token(&token);
    let refused = w.put(CONFIG, &[("ide3", ISO)]).await;
    assert_eq!(refused.message(), "Permission check failed (/vms/101, VM.Config.CDROM)");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_snapshots_and_rollbacks_leave_their_locks() {
    let w = World::new("9.2").await;
    w.server().await;
    let (snapshots, s1) = (format!("{Q}/snapshot"), format!("{Q}/snapshot/s1"));
    let unlock = async || w.control_post("/vms/101/lock", json!({"lock": null})).await;
    w.arm(json!({"task": "qmsnapshot", "fault": "fail", "exit": "no luck"})).await;
    assert_eq!(w.task(Method::POST, &snapshots, &[("snapname", "s1")]).await, "no luck");
    assert_eq!((w.config().await.get("lock"), &w.picture().await["snapshots"]), (None, &json!([])));
    w.arm(json!({"task": "qmsnapshot", "fault": "kill"})).await;
    assert_eq!(w.task(Method::POST, &snapshots, &[("snapname", "s1")]).await, "unexpected status");
    assert_eq!(w.config().await["lock"], "snapshot");
    assert_eq!(w.get(&snapshots).await.data()[0]["snapstate"], "prepare");
    unlock().await;
    let half = w.task(Method::POST, &format!("{s1}/rollback"), &[]).await;
    assert_eq!(half, "unable to rollback to incomplete snapshot (snapstate = prepare)");
    assert_eq!(w.task(Method::DELETE, &s1, &[]).await, "OK", "half of one can be removed");
    assert_eq!(w.task(Method::POST, &snapshots, &[("snapname", "s1")]).await, "OK");
    w.start().await;
    for (fault, exit) in [("kill", "unable to read tail (got 0 bytes)"), ("fail", "no luck")] {
        let mut rule = json!({"task": "qmrollback", "fault": fault});
        if fault == "fail" {
            rule["exit"] = exit.into();
        }
        w.arm(rule).await;
        assert_eq!(w.task(Method::POST, &format!("{s1}/rollback"), &[]).await, exit);
        assert_eq!(w.config().await["lock"], "rollback");
        assert_eq!(w.get(&format!("{Q}/status/current")).await.data()["status"], "stopped");
        unlock().await;
    }
    w.arm(json!({"task": "qmdelsnapshot", "fault": "kill"})).await;
    w.task(Method::DELETE, &s1, &[]).await;
    assert_eq!(w.config().await["lock"], "snapshot-delete");
    assert_eq!(w.get(&snapshots).await.data()[0]["snapstate"], "delete");
}
