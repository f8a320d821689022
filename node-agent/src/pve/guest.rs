//! One VM in our own types: its configuration, its state, and what we ask of it.

use std::collections::{BTreeMap, BTreeSet};

use super::Vmid;

/// Power state as Proxmox sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// A QEMU process exists (it may be paused).
    Running,
    /// No QEMU process.
    Stopped,
}

/// One line of the node's list of VMs.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestSummary {
    /// The VM's number.
    pub vmid: Vmid,
    /// Its name in Proxmox.
    pub name: String,
    /// Running or stopped.
    pub power: Power,
    /// A template is never started.
    pub template: bool,
    /// Lock in the configuration, if any (`clone`, `backup` …).
    pub lock: Option<String>,
    /// Share of its CPUs in use, 0.0 … 1.0.
    pub cpu: f64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in use, bytes.
    pub memory_used: u64,
    /// Memory it may use, bytes.
    pub memory_max: u64,
    /// Size of its first disk, bytes.
    pub disk_max: u64,
    /// Seconds since start; 0 when stopped.
    pub uptime_secs: u64,
    /// Bytes received since start.
    pub net_in: u64,
    /// Bytes sent since start.
    pub net_out: u64,
    /// Tags, sorted as Proxmox keeps them.
    pub tags: Vec<String>,
}

/// `status/current` of one VM: fresh, unlike the lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestStatus {
    /// Running or stopped.
    pub power: Power,
    /// QEMU's own word (`running`, `paused`, `stopped` …).
    pub qmp: String,
    /// Lock in the configuration, if any.
    pub lock: Option<String>,
    /// Seconds since start; 0 when stopped.
    pub uptime_secs: u64,
}

/// What reading a VM's configuration came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigRead {
    /// No such VM, said plainly.
    Absent,
    /// 403: no such VM, or one outside our pools. Ask [`vmid_taken`](super::Hypervisor::vmid_taken).
    Forbidden,
    /// Here it is.
    Present(GuestConfig),
}

/// A VM's configuration: every option as text, and the few the executor asks for by name.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct GuestConfig {
    /// All options but `digest`, as Proxmox spells them.
    pub values: BTreeMap<String, String>,
    /// Changes with every write; guards the next one.
    pub digest: String,
}

/// Drive of a rescue system: the last SCSI slot Proxmox has, which no template uses.
pub const RESCUE_DRIVE: &str = "scsi30";
/// Drive of a customer's medium.
pub const ISO_DRIVE: &str = "sata5";

/// Description of a clone's target before Proxmox has written the real one.
pub const CLONE_PLACEHOLDER: &str = "qmclone temporary file";

impl GuestConfig {
    /// One option as text.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// The lock, if any: `clone`, `backup` …
    pub fn lock(&self) -> Option<&str> {
        self.get("lock")
    }

    /// The name.
    pub fn name(&self) -> Option<&str> {
        self.get("name")
    }

    /// The whole description.
    pub fn description(&self) -> &str {
        self.get("description").unwrap_or("")
    }

    /// First line of the description, where the marker stands.
    pub fn marker_line(&self) -> &str {
        self.description().lines().next().unwrap_or("").trim()
    }

    /// The description is the one a running (or crashed) clone leaves.
    pub fn is_clone_placeholder(&self) -> bool {
        self.description().trim() == CLONE_PLACEHOLDER
    }

    /// All that a destruction leaves that died after it had removed the disks (qemu-server, `destroy_vm`). Nothing says any
    /// more whose it was.
    pub fn is_half_destroyed(&self) -> bool {
        self.lock() == Some("destroyed") && self.values.len() == 1
    }

    /// A template.
    pub fn is_template(&self) -> bool {
        self.get("template") == Some("1")
    }

    /// Memory in MiB (`2048` or `current=2048`).
    pub fn memory_mib(&self) -> Option<u64> {
        let text = self.get("memory")?;
        text.split(',').find_map(|part| part.strip_prefix("current=").unwrap_or(part).parse().ok())
    }

    /// Tags.
    pub fn tags(&self) -> BTreeSet<String> {
        let text = self.get("tags").unwrap_or("");
        text.split([';', ',', ' ']).filter(|t| !t.is_empty()).map(str::to_owned).collect()
    }

    /// Real disks: bus name → value; no CD-ROM, no cloud-init drive.
    pub fn disks(&self) -> BTreeMap<String, String> {
        self.drives(|value| !value.contains("media=cdrom") && !value.contains("cloudinit"))
    }

    /// Cloud-init drives: bus name → value.
    pub fn cloudinit_drives(&self) -> BTreeMap<String, String> {
        self.drives(|value| value.contains("cloudinit"))
    }

    fn drives(&self, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
        let is_drive = |key: &str| {
            ["scsi", "virtio", "sata", "ide"].iter().any(|bus| {
                key.strip_prefix(bus).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
            })
        };
        let drives = self.values.iter().filter(|(key, value)| is_drive(key) && wanted(value));
        drives.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Name of the disk the server's own system boots from: the first in `boot: order=…`, else the first
    /// disk. A rescue system's is none of its own.
    pub fn boot_disk(&self) -> Option<String> {
        let mut disks = self.disks();
        disks.remove(RESCUE_DRIVE);
        let order = self.get("boot").and_then(|b| b.split(',').find_map(|p| p.strip_prefix("order=")));
        let named = order.and_then(|o| o.split(';').find(|d| disks.contains_key(*d)).map(str::to_owned));
        named.or_else(|| disks.keys().next().cloned())
    }

    /// Size of a disk in bytes, from its `size=` part.
    pub fn disk_bytes(&self, disk: &str) -> Option<u64> {
        let size = self.get(disk)?.split(',').find_map(|p| p.strip_prefix("size="))?;
        let digits = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &size[digits.len()..] {
            "" => 1,
            "K" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            "T" => 1_u64 << 40,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(unit)
    }

    /// One part of a property string, such as `bridge` in `net0`.
    pub fn property(&self, key: &str, part: &str) -> Option<&str> {
        self.get(key)?.split(',').find_map(|p| p.strip_prefix(part)?.strip_prefix('='))
    }
}

/// How a template becomes a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CloneMode {
    /// An independent copy; works on every storage.
    Full,
    /// A thin child of the template, on the template's storage.
    Linked,
}

/// A clone call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneRequest {
    /// The template's VMID.
    pub template: Vmid,
    /// The new VM's VMID.
    pub newid: Vmid,
    /// The new VM's name: a DNS name.
    pub name: String,
    /// The description; its first line is the marker.
    pub description: String,
    /// The pool it joins (at the end of the clone).
    pub pool: String,
    /// Where a full copy's disks go; not sent for a linked clone.
    pub storage: String,
    /// Full or linked.
    pub mode: CloneMode,
}

/// A change of a VM's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ConfigChange {
    /// Options to set.
    pub set: BTreeMap<String, String>,
    /// Options to remove.
    pub delete: BTreeSet<String>,
    /// Digest of the configuration this change was computed from.
    pub digest: Option<String>,
}

/// The guest's firewall as we want it: whatever it sends must come from these addresses, and what the
/// customer's rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirewallSetup {
    /// Exact members of the ipset `ipfilter-net0`: addresses or prefixes.
    pub addresses: BTreeSet<ipnet::IpNet>,
    /// What comes in and fits no rule: `ACCEPT`, `DROP` or `REJECT`.
    pub inbound: &'static str,
    /// The customer's rules in the order in which they are tried, in Proxmox's words.
    pub rules: Vec<GuestRule>,
}

/// One rule in Proxmox's words. It is ours by its comment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestRule {
    /// `in` or `out`.
    pub direction: &'static str,
    /// `ACCEPT`, `DROP` or `REJECT`.
    pub action: &'static str,
    /// `tcp`, `udp`, `icmp`, `ipv6-icmp`; none is every protocol.
    pub proto: Option<&'static str>,
    /// `22` or `8000:8080`.
    pub dport: Option<String>,
    /// Sender of what comes in: networks of one family with commas between them.
    pub source: Option<String>,
    /// Receiver of what goes out.
    pub dest: Option<String>,
    /// Says that it is ours, and which of them.
    pub comment: String,
}

/// How the comment of every rule of ours begins.
pub const RULE_COMMENT: &str = "ez:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_answers_by_name() {
        let values = [
            ("scsi0", "local-lvm:vm-101-disk-0,size=20G"),
            ("ide2", "local-lvm:vm-101-cloudinit,media=cdrom"),
            ("scsihw", "virtio-scsi-pci"),
            ("boot", "order=scsi0;net0"),
            ("memory", "current=2048"),
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1"),
            ("description", "ez:v1 a b c 1\nsecond line\n"),
            ("tags", "ez;x"),
        ];
        let values = values.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let config = GuestConfig { values, digest: "d".into() };
        assert_eq!(config.boot_disk().as_deref(), Some("scsi0"));
        assert_eq!(config.disk_bytes("scsi0"), Some(20 << 30));
        assert_eq!(config.memory_mib(), Some(2048));
        assert_eq!(config.property("net0", "bridge"), Some("vmbr0"));
        assert_eq!(config.marker_line(), "ez:v1 a b c 1");
        assert_eq!(config.cloudinit_drives().len(), 1);
        assert_eq!(config.tags().len(), 2);
        let clone = [("lock", "clone"), ("description", " qmclone temporary file")];
        let values = clone.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        assert!(GuestConfig { values, digest: String::new() }.is_clone_placeholder());
        let mut values = BTreeMap::from([("lock".to_owned(), "destroyed".to_owned())]);
        let of =
            |values: &BTreeMap<String, String>| GuestConfig { values: values.clone(), digest: String::new() };
        assert!(of(&values).is_half_destroyed());
        values.insert("memory".to_owned(), "512".to_owned());
        assert!(!of(&values).is_half_destroyed(), "somebody has made something of it");
    }
}
