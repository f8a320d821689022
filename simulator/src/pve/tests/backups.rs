//! Backups: what a job does, what it says, what it leaves.

use reqwest::Method;
use serde_json::{Value, json};

use super::servant::{CONFIG, MARKER, Q, VZDUMP};
use super::world::{World, config};

const CONTENT: &str = "/nodes/pve1/storage/local/content";

fn volume(volid: &str) -> String {
    format!("{CONTENT}/{volid}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_ends_in_the_content_list_and_its_log_tells_of_its_progress() {
    for version in ["8.4", "9.2"] {
        let mut w = World::new(version).await;
        w.server().await;
        w.as_agent("VM.Backup").await;
        w.start().await;
        w.write("before").await;
        let upid = w.back_up(&[("mode", "snapshot"), ("notes-template", "ez {{vmid}}\\nsecond line")]).await;
        assert!(upid.contains(":vzdump:101:ez@pve!agent:"), "{upid}");
        assert_eq!(w.ended(&upid).await, "OK");
        let row = w.backups().await.pop().unwrap();
        let volid = row["volid"].as_str().unwrap();
        assert!(
            volid.starts_with("local:backup/vzdump-qemu-101-2") && volid.ends_with(".vma.zst"),
            "{volid}"
        );
        assert_eq!(
            (&row["vmid"], &row["subtype"], &row["format"], &row["notes"], row.get("protected")),
            (&json!(101), &json!("qemu"), &json!("vma.zst"), &json!("ez 101"), None)
        );
        assert!(row["size"].as_u64() > Some(0) && row["ctime"].as_i64() > Some(0));
        let log = w.log(&upid).await;
        let name = volid.split_once('/').unwrap().1;
        for line in [
            "INFO: starting new backup job: vzdump 101 --compress zstd --mode snapshot --node pve1 --notes-template 'ez {{vmid}}\\nsecond line' --storage local".to_owned(),
            "INFO: Starting Backup of VM 101 (qemu)".into(),
            "INFO: status = running".into(),
            "INFO: include disk 'scsi0' 'local-lvm:vm-101-disk-0' 3G".into(),
            format!("INFO: creating vzdump archive '/var/lib/vz/dump/{name}'"),
            "INFO:  50% (1.5 GiB of 3.0 GiB) in 2s, read: 350.0 MiB/s, write: 120.0 MiB/s".into(),
            "INFO: 100% (3.0 GiB of 3.0 GiB) in 4s, read: 350.0 MiB/s, write: 120.0 MiB/s".into(),
            "INFO: adding notes to backup".into(),
            "INFO: Backup job finished successfully".into(),
        ] {
            assert!(log.contains(&line), "{line}\n{log:#?}");
        }
        assert_eq!(log.last().unwrap(), "TASK OK");
        let info = w.get(&volume(volid)).await.data().clone();
        assert_eq!((&info["notes"], &info["format"]), (&json!("ez 101\nsecond line"), &json!("raw")));
        let kept = w.picture().await["backups"][0].clone();
        assert_eq!(kept["description"], MARKER);
        assert_eq!(kept["disks"]["scsi0"]["holds"]["writes"], json!(["before"]));
        assert_eq!(w.config().await.get("lock"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_backup_runs_the_vm_is_locked_and_a_second_job_waits() {
    let mut slow = config("9.2");
    slow.timing.vzdump_minute_ms = 20;
    let w = World::with(slow).await;
    w.server().await;
    w.control_post("/speed", json!({"clone_ms": 600_000, "start_ms": 1, "other_ms": 1})).await;
    let first = w.back_up(&[]).await;
    w.until_logged(&first, "  0% ").await;
    assert_eq!(w.config().await["lock"], "backup");
    let refused = w.put(CONFIG, &[("name", "other")]).await;
    assert_eq!((refused.status, refused.message()), (500, "VM is locked (backup)"));
    for (method, path) in [
        (Method::POST, format!("{Q}/status/start")),
        (Method::POST, format!("{Q}/status/stop")),
        (Method::POST, format!("{Q}/snapshot?snapname=s1")),
    ] {
        assert_eq!(w.task(method, &path, &[]).await, "VM is locked (backup)", "{path}");
    }
    // It was stopped: the emulator runs for the backup alone.
    let current = w.get(&format!("{Q}/status/current")).await.data().clone();
    assert_eq!((&current["status"], &current["qmpstatus"]), (&json!("running"), &json!("prelaunch")));
    assert_eq!(current["lock"], "backup");
    for (wait, last) in [
        ("0", "ERROR: can't acquire lock '/var/run/vzdump.lock' (wait = 0)"),
        ("1", "ERROR: can't acquire lock '/var/run/vzdump.lock' - got timeout"),
    ] {
        let late = w.back_up(&[("lockwait", wait)]).await;
        assert_eq!(w.ended(&late).await, "unexpected status", "the daemon leaves without a word");
        assert_eq!(w.log(&late).await.last().unwrap(), last);
    }
    let second = w.back_up(&[("lockwait", "100000")]).await;
    w.until_logged(&second, "INFO: trying to get global lock - waiting...").await;
    w.control_post("/speed", json!({"clone_ms": 4, "start_ms": 1, "other_ms": 1})).await;
    w.delete(&format!("/nodes/pve1/tasks/{first}")).await.data();
    assert_eq!(w.ended(&first).await, "interrupted by signal");
    let log = w.log(&first).await;
    assert!(log.contains(&"ERROR: Backup of VM 101 failed - interrupted by signal".to_owned()), "{log:#?}");
    assert_eq!(w.ended(&second).await, "OK");
    assert_eq!(w.backups().await.len(), 1, "the interrupted one left no archive");
    assert_eq!(w.get(&format!("{Q}/status/current")).await.data()["status"], "stopped");
    assert_eq!(w.config().await.get("lock"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_back_up_learns_it_from_the_call_or_from_the_task() {
    let mut w = World::new("8.4").await;
    w.server().await;
    w.control_post("/foreign-vm", json!({"vmid": 555})).await;
    w.as_agent("").await;
    let upid = w.back_up(&[("mode", "stop")]).await;
    let text = "403 Permission check failed (/vms/101, VM.Backup)";
    assert_eq!(w.ended(&upid).await, text);
    assert_eq!(w.log(&upid).await[1], format!("TASK ERROR: {text}"));
    let all = w.post(VZDUMP, &[("all", "1"), ("storage", "local")]).await;
    assert_eq!(w.ended(all.data().as_str().unwrap()).await, "OK", "and has skipped every VM");
    for (params, status, text) in [
        (&[("vmid", "101"), ("storage", "other")][..], 403, "(/storage/other, Datastore.AllocateSpace)"),
        (&[("vmid", "101"), ("prune-backups", "keep-last=1")], 403, "(/storage/local, Datastore.Allocate)"),
        (&[("vmid", "101"), ("bwlimit", "100")], 403, "(/, Sys.Modify)"),
        (&[("vmid", "101"), ("tmpdir", "/x")], 400, "Parameter verification failed."),
        (&[("storage", "local")], 400, "Parameter verification failed."),
        (
            &[("vmid", "101"), ("storage", "local"), ("notes-template", "{{x}}")],
            400,
            "Parameter verification",
        ),
    ] {
        let refused = w.post(VZDUMP, params).await;
        assert_eq!(refused.status, status, "{params:?}: {refused:?}");
        assert!(refused.message().contains(text), "{refused:?}");
    }
    w.as_token(super::world::ROOT);
    let none = w.post(VZDUMP, &[("vmid", "999"), ("storage", "local")]).await;
    let upid = none.data().as_str().unwrap();
    assert_eq!(w.ended(upid).await, "job errors");
    assert!(
        w.log(upid).await.contains(&"ERROR: Backup of VM 999 failed - unable to find VM '999'".to_owned())
    );
    let wrong = w.task(Method::POST, VZDUMP, &[("vmid", "101"), ("storage", "local-lvm")]).await;
    assert_eq!(
        wrong,
        "could not get storage information for 'local-lvm': can't use storage 'local-lvm' for backups - wrong content type"
    );
    w.control_post("/vms/101/lock", json!({"lock": "snapshot"})).await;
    let upid = w.back_up(&[]).await;
    assert_eq!(w.ended(&upid).await, "job errors");
    let text = "ERROR: Backup of VM 101 failed - VM is locked (snapshot)";
    assert!(w.log(&upid).await.contains(&text.to_owned()));
    assert_eq!(w.config().await["lock"], "snapshot", "another's lock stays");
    assert!(w.backups().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_deleted_kept_and_pruned_one_by_one() {
    let mut w = World::new("9.2").await;
    w.server().await;
    w.as_agent("VM.Backup").await;
    for protected in ["1", "0", "0"] {
        let upid = w.back_up(&[("protected", protected)]).await;
        assert_eq!(w.ended(&upid).await, "OK");
    }
    let rows = w.backups().await;
    assert_eq!(rows.iter().map(|r| r["protected"] == 1).collect::<Vec<_>>(), [true, false, false]);
    let volid = |row: &Value| row["volid"].as_str().unwrap().to_owned();
    let (kept, second) = (volid(&rows[0]), volid(&rows[1]));
    let name = kept.split_once(':').unwrap().1;
    assert_eq!(
        w.task(Method::DELETE, &volume(&kept), &[]).await,
        format!("cannot remove protected volume '{name}' on 'local'")
    );
    let gone = w.delete(&volume(&second)).await.data().as_str().unwrap().to_owned();
    assert!(gone.contains(":imgdel:101@local:"), "{gone}");
    assert_eq!(w.ended(&gone).await, "OK");
    assert_eq!(w.log(&gone).await, [format!("Removed volume '{second}'"), "TASK OK".into()]);
    let again = w.delete(&volume(&second)).await.data().as_str().unwrap().to_owned();
    assert_eq!(w.ended(&again).await, "OK", "what is not there can be removed");
    assert!(w.log(&again).await[0].ends_with("does not exist"));
    w.put(&volume(&kept), &[("protected", "0"), ("notes", "mine")]).await.data();
    assert_eq!(w.backups().await[0]["notes"], "mine");
    // Retention belongs to whoever administers the storage, and spares what is protected.
    w.put(&volume(&kept), &[("protected", "1")]).await.data();
    w.as_token(super::world::ROOT);
    let upid = w.back_up(&[("prune-backups", "keep-last=1")]).await;
    assert_eq!(w.ended(&upid).await, "OK");
    let log = w.log(&upid).await;
    assert!(
        log.contains(&"INFO: pruned 1 backup(s) not covered by keep-retention policy".to_owned()),
        "{log:#?}"
    );
    let left = w.backups().await;
    assert_eq!((left.len(), volid(&left[0])), (2, kept), "the protected one and the newest");
    let upid = w.back_up(&[("prune-backups", "keep-last=1"), ("remove", "0")]).await;
    assert_eq!(w.ended(&upid).await, "job errors");
    assert!(w.log(&upid).await.iter().any(|l| l.contains("There is a max backup limit of 1 enforced by")));
    // The VM goes, its backups stay.
    assert_eq!(w.task(Method::DELETE, Q, &[]).await, "OK");
    assert_eq!(w.backups().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_sees_no_backups_of_others_and_touches_none() {
    let mut w = World::new("9.2").await;
    w.server().await;
    let upid = w.back_up(&[]).await;
    assert_eq!(w.ended(&upid).await, "OK");
    let volid = w.newest_backup().await;
    w.as_agent("").await;
    assert!(w.backups().await.is_empty());
    for refused in [
        w.delete(&volume(&volid)).await,
        w.get(&volume(&volid)).await,
        w.put(&volume(&volid), &[("notes", "x")]).await,
    ] {
        assert_eq!(refused.message(), "Permission check failed (/vms/101, VM.Backup)");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_strike_backups_like_everything_else() {
    let w = World::new("9.2").await;
    w.server().await;
    let call = json!({"method": "POST", "path": "/vzdump"});
    w.arm(json!({"call": call, "fault": "refuse_before"})).await;
    w.arm(json!({"call": call, "fault": "refuse_after"})).await;
    let params = [("vmid", "101"), ("storage", "local")];
    assert_eq!(w.post(VZDUMP, &params).await.status, 500);
    assert_eq!(w.post(VZDUMP, &params).await.status, 596);
    // The second one ran all the same.
    let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while w.backups().await.is_empty() {
        assert!(tokio::time::Instant::now() < patience, "no backup comes");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    w.arm(json!({"task": "vzdump", "fault": "fail", "exit": "job errors", "pieces": 2})).await;
    let upid = w.back_up(&[]).await;
    assert_eq!(w.ended(&upid).await, "job errors");
    assert!(w.log(&upid).await.iter().any(|l| l.starts_with("INFO:  50%")), "in the middle");
    assert_eq!((w.backups().await.len(), w.config().await.get("lock")), (1, None));
    w.control_post("/storages/local/full", json!({"full": true})).await;
    let upid = w.back_up(&[]).await;
    assert_eq!(w.ended(&upid).await, "job errors");
    let text = "ERROR: Backup of VM 101 failed - job failed with err -28 - No space left on device";
    assert!(w.log(&upid).await.contains(&text.to_owned()));
    w.control_post("/storages/local/full", json!({"full": false})).await;
    w.arm(json!({"task": "vzdump", "fault": "kill", "pieces": 1})).await;
    let upid = w.back_up(&[]).await;
    assert_eq!(w.ended(&upid).await, "unexpected status");
    assert_eq!(w.config().await["lock"], "backup", "a killed worker leaves its lock");
    assert_eq!(w.get(&format!("{Q}/status/current")).await.data()["qmpstatus"], "prelaunch");
    assert_eq!(w.backups().await.len(), 1);
    assert_eq!(w.task(Method::POST, &format!("{Q}/status/stop"), &[]).await, "VM is locked (backup)");
    w.control_post("/vms/101/lock", json!({"lock": null})).await;
    w.stop().await;
    let upid = w.back_up(&[]).await;
    assert_eq!(w.ended(&upid).await, "OK", "the next job takes the global lock");
    w.arm(json!({"task": "imgdel", "fault": "kill"})).await;
    let volid = w.newest_backup().await;
    assert_eq!(w.task(Method::DELETE, &volume(&volid), &[]).await, "unable to read tail (got 0 bytes)");
    assert_eq!(w.newest_backup().await, volid, "it is still there");
}
