//! One VM: configuration, clone, resize, power, destroy, guest agent.

use proxmox_api::{
    client::Client as _,
    nodes::node::qemu::{
        self,
        vmid::{clone, config, resize, status},
    },
};
use serde_json::Value;

use super::{ProxmoxHypervisor, config_id, upid};
use crate::pve::{
    CloneMode, CloneRequest, ConfigChange, ConfigRead, GuestAddress, GuestConfig, GuestStatus, Power,
    PveError, Upid, Vmid,
    raw::{self, Row},
};

/// Options that only root may set, or that reach out of the VM: never sent, whoever asks.
const NEVER_SENT: [&str; 10] = [
    "args",
    "hookscript",
    "lock",
    "vmstatestorage",
    "affinity",
    "hugepages",
    "arch",
    "ivshmem",
    "vmgenid",
    "skiplock",
];
/// Families of such options (`hostpci0` …).
const NEVER_SENT_FAMILIES: [&str; 4] = ["hostpci", "usb", "parallel", "virtiofs"];

/// Why an option may not be sent, if so. The policy's allow-list is narrower; this is the last door.
fn forbidden_option(key: &str, value: &str) -> Option<&'static str> {
    let family = key.trim_end_matches(|c: char| c.is_ascii_digit());
    if NEVER_SENT.contains(&key) || NEVER_SENT_FAMILIES.contains(&family) {
        return Some("is never set");
    }
    if value.chars().any(|c| c.is_control() && !(key == "description" && c == '\n')) {
        return Some("holds a control character");
    }
    let drive = ["scsi", "virtio", "sata", "ide", "efidisk", "tpmstate", "unused"].contains(&family);
    if drive && (value.starts_with('/') || value.contains("=/") || value.contains("..")) {
        return Some("names a path");
    }
    (family == "serial" && value != "socket").then_some("names a device")
}

impl ProxmoxHypervisor {
    pub(super) async fn read_config(&self, vmid: Vmid) -> Result<ConfigRead, PveError> {
        let read: Result<Row, PveError> = self.read(&self.guest_path(vmid, "/config")?, &[]).await;
        match read {
            Ok(row) => {
                let mut values: std::collections::BTreeMap<_, _> =
                    row.iter().filter_map(|(k, v)| Some((k.clone(), raw::value_text(v)?))).collect();
                let digest = values.remove("digest").unwrap_or_default();
                Ok(ConfigRead::Present(GuestConfig { values, digest }))
            }
            Err(error) if error.is_absent() => Ok(ConfigRead::Absent),
            Err(error) if error.is_forbidden() => Ok(ConfigRead::Forbidden),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn read_status(&self, vmid: Vmid) -> Result<GuestStatus, PveError> {
        let row: Row = self.read(&self.guest_path(vmid, "/status/current")?, &[]).await?;
        let power = raw::text(&row, "status").unwrap_or_default();
        Ok(GuestStatus {
            power: if power == "running" { Power::Running } else { Power::Stopped },
            qmp: raw::text(&row, "qmpstatus").unwrap_or(power),
            lock: raw::text(&row, "lock"),
            uptime_secs: raw::count(&row, "uptime"),
        })
    }

    pub(super) async fn post_clone(&self, request: CloneRequest) -> Result<Upid, PveError> {
        let newid = clone::NewidInt::try_from(i128::from(request.newid))
            .map_err(|e| PveError::Invalid(format!("VMID {}: {e:?}", request.newid)))?;
        let full = request.mode == CloneMode::Full;
        let mut parameters = clone::PostParams::new(newid);
        parameters.name = Some(request.name);
        parameters.description = Some(request.description);
        parameters.pool = Some(config_id(&request.pool)?.to_owned());
        parameters.full = Some(full);
        // A storage named for a linked clone is refused: it stays where the template is.
        parameters.storage = if full { Some(config_id(&request.storage)?.to_owned()) } else { None };
        upid(&self.guest(request.template)?.clone().post(parameters).await?)
    }

    pub(super) async fn put_config(&self, vmid: Vmid, change: ConfigChange) -> Result<(), PveError> {
        for (key, value) in &change.set {
            if let Some(why) = forbidden_option(key, value) {
                return Err(PveError::Invalid(format!("option {key} {why}")));
            }
        }
        let delete: Vec<String> = change.delete.into_iter().collect();
        let digest = change.digest.map(config::DigestStr::try_from).transpose();
        let parameters = config::PutParams {
            delete: (!delete.is_empty()).then(|| delete.join(",")),
            digest: digest.map_err(|e| PveError::Invalid(format!("digest: {e:?}")))?,
            additional_properties: change
                .set
                .into_iter()
                .map(|(key, value)| (key, Value::String(value)))
                .collect(),
            ..config::PutParams::default()
        };
        self.guest(vmid)?.config().put(parameters).await
    }

    pub(super) async fn put_resize(
        &self,
        vmid: Vmid,
        disk: String,
        gib: u32,
    ) -> Result<Option<Upid>, PveError> {
        let disk: resize::Disk = serde_json::from_value(Value::String(disk))
            .map_err(|e| PveError::Invalid(format!("disk: {e}")))?;
        let size = resize::SizeStr::try_from(format!("{gib}G"))
            .map_err(|e| PveError::Invalid(format!("size: {e:?}")))?;
        // The crate expects a task; old hosts answer null, so the path is called with our own type.
        let path = self.guest_path(vmid, "/resize")?;
        let answer: Option<String> = self.http.put(&path, &resize::PutParams::new(disk, size)).await?;
        answer.as_deref().map(upid).transpose()
    }

    pub(super) async fn post_start(&self, vmid: Vmid) -> Result<Upid, PveError> {
        upid(&self.guest(vmid)?.status().start().post(status::start::PostParams::default()).await?)
    }

    pub(super) async fn post_stop(&self, vmid: Vmid) -> Result<Upid, PveError> {
        upid(&self.guest(vmid)?.status().stop().post(status::stop::PostParams::default()).await?)
    }

    pub(super) async fn post_shutdown(&self, vmid: Vmid, secs: u32, force: bool) -> Result<Upid, PveError> {
        let parameters = status::shutdown::PostParams {
            timeout: Some(secs.into()),
            forcestop: force.then_some(true),
            ..Default::default()
        };
        upid(&self.guest(vmid)?.status().shutdown().post(parameters).await?)
    }

    pub(super) async fn post_reboot(&self, vmid: Vmid, secs: u32) -> Result<Upid, PveError> {
        let parameters = status::reboot::PostParams { timeout: Some(secs.into()), ..Default::default() };
        upid(&self.guest(vmid)?.status().reboot().post(parameters).await?)
    }

    pub(super) async fn post_reset(&self, vmid: Vmid) -> Result<Upid, PveError> {
        upid(&self.guest(vmid)?.status().reset().post(status::reset::PostParams::default()).await?)
    }

    pub(super) async fn delete_guest(&self, vmid: Vmid, purge: bool) -> Result<Upid, PveError> {
        let parameters = qemu::vmid::DeleteParams {
            purge: purge.then_some(true),
            destroy_unreferenced_disks: Some(true),
            ..Default::default()
        };
        upid(&self.guest(vmid)?.delete(parameters).await?)
    }

    pub(super) async fn post_ping(&self, vmid: Vmid) -> Result<bool, PveError> {
        let path = self.guest_path(vmid, "/agent/ping")?;
        match self.http.post::<(), Option<Value>>(&path, &()).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_agent_silent() || error.is_not_running() => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn read_agent_addresses(&self, vmid: Vmid) -> Result<Vec<GuestAddress>, PveError> {
        let path = self.guest_path(vmid, "/agent/network-get-interfaces")?;
        let answer: Row = match self.read(&path, &[]).await {
            Err(error) if error.is_agent_silent() || error.is_not_running() => return Ok(Vec::new()),
            other => other?,
        };
        let list = |row: &Row, key: &str| row.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut found = Vec::new();
        for interface in list(&answer, "result") {
            let Some(interface) = interface.as_object() else { continue };
            let name = raw::text(interface, "name").unwrap_or_default();
            let mac = raw::text(interface, "hardware-address").map(|m| m.to_ascii_lowercase());
            for address in list(interface, "ip-addresses") {
                let text = address.as_object().and_then(|a| raw::text(a, "ip-address"));
                let Some(address) = text.and_then(|t| t.parse::<std::net::IpAddr>().ok()) else { continue };
                if !address.is_loopback() {
                    found.push(GuestAddress { interface: name.clone(), mac: mac.clone(), address });
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::forbidden_option;

    #[test]
    fn options_that_reach_out_of_the_vm_are_never_sent() {
        for (key, value) in [
            ("args", "-x"),
            ("hookscript", "local:snippets/x"),
            ("hostpci0", "01:00"),
            ("usb3", "host=1"),
            ("lock", "backup"),
            ("serial0", "/dev/ttyS0"),
            ("scsi1", "/dev/sda"),
            ("scsi1", "local:0,import-from=/etc/shadow"),
            ("name", "web\nnet1"),
            ("description", "a\rb"),
        ] {
            assert!(forbidden_option(key, value).is_some(), "{key}={value}");
        }
        for (key, value) in [
            ("serial0", "socket"),
            ("description", "ez:v1 a\nb"),
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"),
            ("scsi0", "local-lvm:vm-101-disk-0,size=20G"),
        ] {
            assert_eq!(forbidden_option(key, value), None, "{key}={value}");
        }
    }
}
