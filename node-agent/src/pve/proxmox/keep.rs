//! Snapshots, backups, and a disk from an image: what takes long and is wanted once.

use proxmox_api::{client::Client as _, nodes::node::qemu::vmid::snapshot};
use serde_json::{Value, json};

use super::{ProxmoxHypervisor, config_id, upid};
use crate::pve::{
    Backup, PveError, Snapshot, TaskState, Upid, Vmid, encode,
    raw::{self, Row},
};

/// Name that Proxmox's list of snapshots gives to the present.
const PRESENT: &str = "current";

/// Refuses a snapshot name that could change the path.
fn snapshot_name(name: &str) -> Result<&str, PveError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if (2..=40).contains(&name.len()) && name.bytes().all(plain) {
        Ok(name)
    } else {
        Err(PveError::Invalid(format!("not a snapshot's name: {name:?}")))
    }
}

/// Splits `<storage>:<rest>`, refusing what could be a path on the host.
fn volume_parts(volume: &str) -> Result<(&str, &str), PveError> {
    let refuse = || PveError::Invalid(format!("not a volume: {volume:?}"));
    let (storage, rest) = volume.split_once(':').ok_or_else(refuse)?;
    let plain = rest.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b',' | b'\\' | b'%'));
    if rest.is_empty() || !plain || rest.starts_with('/') || rest.contains("..") {
        return Err(refuse());
    }
    Ok((config_id(storage)?, rest))
}

impl ProxmoxHypervisor {
    pub(super) async fn read_snapshots(&self, vmid: Vmid) -> Result<Vec<Snapshot>, PveError> {
        let rows: Vec<Row> = self.read(&self.guest_path(vmid, "/snapshot")?, &[]).await?;
        let snapshot = |row: &Row| {
            Some(Snapshot {
                name: raw::text(row, "name").filter(|name| name != PRESENT)?,
                description: raw::text(row, "description").unwrap_or_default(),
                taken_secs: i64::try_from(raw::count(row, "snaptime")).unwrap_or_default(),
            })
        };
        Ok(rows.iter().filter_map(snapshot).collect())
    }

    pub(super) async fn post_snapshot(
        &self,
        vmid: Vmid,
        name: String,
        text: String,
    ) -> Result<Upid, PveError> {
        let name = snapshot::SnapnameStr::try_from(snapshot_name(&name)?.to_owned())
            .map_err(|e| PveError::Invalid(format!("snapshot: {e:?}")))?;
        let mut parameters = snapshot::PostParams::new(name);
        parameters.description = Some(text);
        // The disks alone: an image of the memory would take minutes and as much room again.
        parameters.vmstate = Some(false);
        upid(&self.guest(vmid)?.snapshot().post(parameters).await?)
    }

    fn snapshot_path(&self, vmid: Vmid, name: &str, rest: &str) -> Result<String, PveError> {
        self.guest_path(vmid, &format!("/snapshot/{}{rest}", snapshot_name(name)?))
    }

    pub(super) async fn post_rollback(&self, vmid: Vmid, name: String) -> Result<Upid, PveError> {
        let path = self.snapshot_path(vmid, &name, "/rollback")?;
        upid(&self.http.post::<Value, String>(&path, &json!({})).await?)
    }

    pub(super) async fn delete_snapshot_of(&self, vmid: Vmid, name: String) -> Result<Upid, PveError> {
        let path = self.snapshot_path(vmid, &name, "")?;
        upid(&self.http.delete::<_, String>(&path, &()).await?)
    }

    pub(super) async fn read_backups(&self, storage: String, vmid: Vmid) -> Result<Vec<Backup>, PveError> {
        let path = self.node_path(&format!("/storage/{}/content", config_id(&storage)?));
        let wanted = vmid.to_string();
        let rows: Vec<Row> = self.read(&path, &[("content", "backup"), ("vmid", wanted.as_str())]).await?;
        let backup = |row: &Row| {
            Some(Backup {
                volume: raw::text(row, "volid")?,
                vmid: Vmid::try_from(raw::count(row, "vmid")).ok().filter(|id| *id == vmid)?,
                notes: raw::text(row, "notes").unwrap_or_default(),
                size: raw::count(row, "size"),
                made_secs: i64::try_from(raw::count(row, "ctime")).unwrap_or_default(),
            })
        };
        Ok(rows.iter().filter_map(backup).collect())
    }

    pub(super) async fn post_backup(
        &self,
        vmid: Vmid,
        storage: String,
        notes: String,
    ) -> Result<Upid, PveError> {
        // The template's `{{…}}` are filled in by Proxmox; ours has none.
        if notes.contains(['{', '}', '\n', '\\']) {
            return Err(PveError::Invalid("a backup's notes hold a brace or a line break".to_owned()));
        }
        let body = json!({
            "vmid": vmid, "storage": config_id(&storage)?, "mode": "snapshot", "compress": "zstd",
            "notes-template": notes,
            // Without a word of ours the storage's own rule would remove others' backups, or ask for a
            // right that we do not have.
            "remove": 0,
        });
        upid(&self.http.post::<Value, String>(&self.node_path("/vzdump"), &body).await?)
    }

    pub(super) async fn post_restore(
        &self,
        vmid: Vmid,
        volume: String,
        storage: String,
    ) -> Result<Upid, PveError> {
        volume_parts(&volume)?;
        super::vm_id(vmid)?;
        let body = json!({ "vmid": vmid, "archive": volume, "force": 1, "storage": config_id(&storage)? });
        upid(&self.http.post::<Value, String>(&self.node_path("/qemu"), &body).await?)
    }

    pub(super) async fn delete_content(&self, volume: String) -> Result<Option<Upid>, PveError> {
        let (storage, _) = volume_parts(&volume)?;
        let path = self.node_path(&format!("/storage/{storage}/content/{}", encode::escape(&volume)));
        let answer: Option<String> = self.http.delete(&path, &()).await?;
        answer.as_deref().map(upid).transpose()
    }

    pub(super) async fn post_import(
        &self,
        vmid: Vmid,
        drive: &str,
        storage: String,
        volume: String,
    ) -> Result<Upid, PveError> {
        volume_parts(&volume)?;
        let value = format!("{}:0,import-from={volume}", config_id(&storage)?);
        let path = self.guest_path(vmid, "/config")?;
        let answer: Option<String> = self.http.post(&path, &json!({ drive: value })).await?;
        let handle = answer.ok_or_else(|| PveError::Decode {
            call: "import of a disk".to_owned(),
            reason: "no task handle came back".to_owned(),
        })?;
        upid(&handle)
    }

    pub(super) async fn put_unlink(&self, vmid: Vmid, drive: &str) -> Result<(), PveError> {
        let path = self.guest_path(vmid, "/unlink")?;
        self.http.put(&path, &json!({ "idlist": drive, "force": 1 })).await
    }

    pub(super) async fn read_tasks_of(
        &self,
        kind: &str,
        vmid: Vmid,
        since_secs: i64,
    ) -> Result<Vec<(Upid, TaskState)>, PveError> {
        let (id, since) = (vmid.to_string(), since_secs.max(0).to_string());
        let query = [
            ("typefilter", kind),
            ("vmid", id.as_str()),
            ("since", since.as_str()),
            ("source", "all"),
            ("limit", "50"),
        ];
        let rows: Vec<Row> = self.read(&self.node_path("/tasks"), &query).await?;
        let mut found = Vec::new();
        for text in rows.iter().filter_map(|row| raw::text(row, "upid")) {
            let Ok(upid) = text.parse::<Upid>() else { continue };
            if upid.kind() == kind && upid.subject() == id && upid.started_secs() >= since_secs {
                let state = self.read_task(upid.clone()).await?;
                found.push((upid, state));
            }
        }
        found.sort_by_key(|(upid, _)| std::cmp::Reverse(upid.started_secs()));
        Ok(found)
    }

    pub(super) async fn post_password(&self, vmid: Vmid, user: &str, hash: String) -> Result<bool, PveError> {
        let path = self.guest_path(vmid, "/agent/set-user-password")?;
        let body = json!({ "username": user, "password": hash, "crypted": 1 });
        match self.http.post::<Value, Option<Value>>(&path, &body).await {
            Ok(_) => Ok(true),
            // Nothing was changed, whatever the reason: it is silent, it is told not to by its owner, or we may not ask.
            Err(error @ PveError::Refused { .. }) => {
                tracing::info!(vmid, %error, "the guest agent does not set the password; the next boot does");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn read_pending(&self, vmid: Vmid) -> Result<Vec<String>, PveError> {
        let rows: Vec<Row> = self.read(&self.guest_path(vmid, "/pending")?, &[]).await?;
        let waits = |row: &&Row| row.contains_key("pending") || raw::count(row, "delete") > 0;
        Ok(rows.iter().filter(waits).filter_map(|row| raw::text(row, "key")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_and_names_that_reach_elsewhere_are_refused() {
        assert!(volume_parts("store:backup/vzdump-qemu-101-2026_11_28-10_00_00.vma.zst").is_ok());
        for wrong in ["/etc/shadow", "store:/etc/shadow", "store:../x", "a/b:x", "store:", "store:a,b", "x"] {
            assert!(volume_parts(wrong).is_err(), "{wrong}");
        }
        assert!(snapshot_name("before-upgrade").is_ok());
        for wrong in ["a", "a/b", "..", "a b", ""] {
            assert!(snapshot_name(wrong).is_err(), "{wrong}");
        }
    }
}
