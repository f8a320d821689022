//! What a cluster knows: configurations, volumes, tasks, users. Plain data; the rules are elsewhere.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::contents::{Archive, Contents, SavedDisk};
use super::drive::Drive;
use super::store::{Change, Disk, StoreError, Table};

/// A VM's options as written in its configuration file.
pub(crate) type Options = BTreeMap<String, String>;

/// One virtual machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Vm {
    pub(crate) vmid: u32,
    pub(crate) node: String,
    pub(crate) config: Options,
    /// The `[PENDING]` section: a value to set, or none to delete the option.
    pub(crate) pending: BTreeMap<String, Option<String>>,
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
    pub(crate) run: Option<Run>,
    pub(crate) created_at: i64,
    /// Made outside, through the control API.
    pub(crate) foreign: bool,
    /// The image has the guest agent installed.
    pub(crate) guest_agent: bool,
    /// The image is a kernel with a shell: its guest agent finds no programs.
    #[serde(default)]
    pub(crate) bare_guest: bool,
    /// What the cloud-init drive holds.
    pub(crate) drive: Option<CloudinitDrive>,
}

impl Vm {
    pub(crate) fn is_template(&self) -> bool {
        self.config.get("template").is_some_and(|t| t == "1")
    }

    pub(crate) fn lock(&self) -> Option<&str> {
        self.config.get("lock").map(String::as_str)
    }

    pub(crate) fn flag(&self, option: &str) -> bool {
        self.config.get(option).is_some_and(|v| v == "1")
    }

    /// Drives with disks, as the configuration has them.
    pub(crate) fn disks(&self) -> Vec<(String, Drive)> {
        let drives = self.config.iter().filter(|(k, _)| super::vmconfig::is_drive(k));
        let drives = drives.map(|(k, v)| (k.clone(), Drive::parse(v)));
        drives.filter(|(_, d)| !d.is_cdrom() && !d.is_cloudinit()).collect()
    }

    pub(crate) fn name(&self) -> String {
        self.config.get("name").cloned().unwrap_or_else(|| format!("VM {}", self.vmid))
    }
}

/// A running machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) pid: u32,
    pub(crate) since: i64,
    pub(crate) paused: bool,
    /// The agent's device was there at the cold start.
    pub(crate) agent_device: bool,
    /// When the agent begins to answer; none: never.
    pub(crate) agent_at: Option<i64>,
    /// Only the emulator was started, for a backup; the guest waits.
    #[serde(default)]
    pub(crate) prelaunch: bool,
    /// The drive and the volume it booted from.
    #[serde(default)]
    pub(crate) booted_from: Option<(String, String)>,
}

/// One snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) config: Options,
    pub(crate) taken_at: i64,
    pub(crate) description: Option<String>,
    pub(crate) vmstate: bool,
    pub(crate) parent: Option<String>,
    /// `prepare` or `delete`: it is not whole, or not any more.
    #[serde(default)]
    pub(crate) state: Option<String>,
    /// What the disks held, by volume.
    #[serde(default)]
    pub(crate) disks: BTreeMap<String, SavedDisk>,
}

/// The files on a cloud-init drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CloudinitDrive {
    pub(crate) user: String,
    pub(crate) network: String,
    pub(crate) meta: String,
    pub(crate) vendor: Option<String>,
    pub(crate) instance_id: String,
}

/// One task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) upid: String,
    pub(crate) node: String,
    pub(crate) pid: u32,
    pub(crate) pstart: u64,
    pub(crate) starttime: i64,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) id: String,
    /// `user@realm` or `user@realm!token`.
    pub(crate) user: String,
    pub(crate) log: Vec<String>,
    pub(crate) exit: Option<String>,
    pub(crate) endtime: Option<i64>,
    /// Begin and end in milliseconds, for measurements; Proxmox VE itself tells seconds.
    #[serde(default)]
    pub(crate) began_ms: i64,
    #[serde(default)]
    pub(crate) ended_ms: Option<i64>,
}

/// A disk image, ISO, backup or the like on one node's storage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Volume {
    pub(crate) node: String,
    /// `storage:name`.
    pub(crate) volid: String,
    pub(crate) storage: String,
    pub(crate) vmid: Option<u32>,
    pub(crate) content: String,
    pub(crate) format: String,
    pub(crate) size: u64,
    pub(crate) ctime: i64,
    /// Volume id of the base image of a linked clone.
    pub(crate) parent: Option<String>,
    /// What is on a disk.
    #[serde(default)]
    pub(crate) holds: Contents,
    /// What is in a backup.
    #[serde(default)]
    pub(crate) archive: Option<Archive>,
}

/// One entry of storage.cfg.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Storage {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) content: Vec<String>,
    /// Only on these nodes; empty: on all.
    pub(crate) nodes: Vec<String>,
    pub(crate) shared: bool,
    pub(crate) disable: bool,
    /// Directory as the API shows it.
    pub(crate) path: Option<String>,
    /// Directory on this machine, by node.
    pub(crate) directories: BTreeMap<String, String>,
    pub(crate) total: u64,
    pub(crate) options: Options,
}

/// A user.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) enable: bool,
    pub(crate) expire: i64,
    pub(crate) comment: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) email: Option<String>,
    pub(crate) firstname: Option<String>,
    pub(crate) lastname: Option<String>,
}

/// An API token; only the hash of its secret is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) secret_sha256: String,
    pub(crate) privsep: bool,
    pub(crate) expire: i64,
    pub(crate) comment: Option<String>,
}

/// One line of the access control list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Acl {
    pub(crate) path: String,
    /// `user`, `group` or `token`.
    pub(crate) kind: String,
    pub(crate) who: String,
    pub(crate) role: String,
    pub(crate) propagate: bool,
}

impl Acl {
    pub(crate) fn key(path: &str, kind: &str, who: &str, role: &str) -> String {
        format!("{path} {kind} {who} {role}")
    }
}

/// A pool.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pool {
    pub(crate) comment: Option<String>,
    pub(crate) vms: Vec<u32>,
    pub(crate) storages: Vec<String>,
}

/// A VM's firewall file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Firewall {
    pub(crate) options: Options,
    pub(crate) rules: Vec<Options>,
    pub(crate) ipsets: BTreeMap<String, IpSet>,
}

/// One ipset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct IpSet {
    pub(crate) comment: Option<String>,
    pub(crate) entries: Vec<IpSetEntry>,
}

/// One entry of an ipset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct IpSetEntry {
    pub(crate) cidr: String,
    pub(crate) comment: Option<String>,
    pub(crate) nomatch: bool,
}

/// A clone that ended well, for ever: what the invariant checker counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CloneRecord {
    pub(crate) vmid: u32,
    pub(crate) source: u32,
    pub(crate) node: String,
    pub(crate) description: String,
    pub(crate) upid: String,
    pub(crate) at: i64,
}

/// Everything a cluster knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) vms: Table<Vm>,
    pub(crate) firewalls: Table<Firewall>,
    pub(crate) volumes: Table<Volume>,
    pub(crate) tasks: Table<Task>,
    pub(crate) storages: Table<Storage>,
    pub(crate) users: Table<User>,
    pub(crate) tokens: Table<Token>,
    pub(crate) roles: Table<Vec<String>>,
    pub(crate) acls: Table<Acl>,
    pub(crate) pools: Table<Pool>,
    pub(crate) clones: Table<CloneRecord>,
    /// Counters and cluster-wide options.
    pub(crate) meta: Table<String>,
    /// Storages on which nothing more fits, and how often something did not: an injected fault, never
    /// written down.
    full: BTreeMap<(String, String), AtomicU64>,
    seed: u64,
}

impl State {
    pub(crate) fn new(seed: u64) -> Self {
        State {
            vms: Table::new("vm"),
            firewalls: Table::new("firewall"),
            volumes: Table::new("volume"),
            tasks: Table::new("task"),
            storages: Table::new("storage"),
            users: Table::new("user"),
            tokens: Table::new("token"),
            roles: Table::new("role"),
            acls: Table::new("acl"),
            pools: Table::new("pool"),
            clones: Table::new("clone"),
            meta: Table::new("meta"),
            full: BTreeMap::new(),
            seed,
        }
    }

    pub(crate) async fn load(seed: u64, disk: &mut Disk) -> Result<Self, StoreError> {
        let mut s = State::new(seed);
        for (kind, key, body) in disk.read_all().await? {
            let (k, b) = (kind.as_str(), body.as_str());
            let _known = s.vms.load(k, &key, b)?
                || s.firewalls.load(k, &key, b)?
                || s.volumes.load(k, &key, b)?
                || s.tasks.load(k, &key, b)?
                || s.storages.load(k, &key, b)?
                || s.users.load(k, &key, b)?
                || s.tokens.load(k, &key, b)?
                || s.roles.load(k, &key, b)?
                || s.acls.load(k, &key, b)?
                || s.pools.load(k, &key, b)?
                || s.clones.load(k, &key, b)?
                || s.meta.load(k, &key, b)?;
        }
        Ok(s)
    }

    pub(crate) fn pending(&self) -> Result<Vec<Change>, StoreError> {
        let mut out = Vec::new();
        self.vms.pending(&mut out)?;
        self.firewalls.pending(&mut out)?;
        self.volumes.pending(&mut out)?;
        self.tasks.pending(&mut out)?;
        self.storages.pending(&mut out)?;
        self.users.pending(&mut out)?;
        self.tokens.pending(&mut out)?;
        self.roles.pending(&mut out)?;
        self.acls.pending(&mut out)?;
        self.pools.pending(&mut out)?;
        self.clones.pending(&mut out)?;
        self.meta.pending(&mut out)?;
        Ok(out)
    }

    pub(crate) fn clean(&mut self) {
        self.vms.clean();
        self.firewalls.clean();
        self.volumes.clean();
        self.tasks.clean();
        self.storages.clean();
        self.users.clean();
        self.tokens.clean();
        self.roles.clean();
        self.acls.clean();
        self.pools.clean();
        self.clones.clean();
        self.meta.clean();
    }

    /// The next value of a persistent counter.
    pub(crate) fn count(&mut self, name: &str, step: u64) -> u64 {
        let next = self.meta.get(name).and_then(|v| v.parse().ok()).unwrap_or(0u64) + step;
        self.meta.insert(name, next.to_string());
        next
    }

    /// Random bytes: a function of the cluster's seed and of how many were drawn before, so that a
    /// run can be repeated and a restart does not repeat itself.
    pub(crate) fn draw(&mut self) -> [u8; 32] {
        let n = self.count("draws", 1);
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(n.to_le_bytes());
        hash.finalize().into()
    }

    pub(crate) fn draw_uuid(&mut self) -> String {
        let b = self.draw();
        let mut raw = [0u8; 16];
        raw.copy_from_slice(&b[..16]);
        uuid::Builder::from_random_bytes(raw).into_uuid().to_string()
    }

    /// A MAC address with Proxmox's prefix, not in use.
    pub(crate) fn draw_mac(&mut self) -> String {
        let b = self.draw();
        format!("BC:24:11:{:02X}:{:02X}:{:02X}", b[0], b[1], b[2])
    }

    /// A VM on the given node.
    pub(crate) fn vm_on(&self, node: &str, vmid: u32) -> Option<&Vm> {
        self.vms.get(vmid).filter(|v| v.node == node)
    }

    pub(crate) fn volume_key(node: &str, volid: &str) -> String {
        format!("{node} {volid}")
    }

    pub(crate) fn volume(&self, node: &str, volid: &str) -> Option<&Volume> {
        self.volumes.get(Self::volume_key(node, volid))
    }

    /// Linked clones of a volume.
    pub(crate) fn children(&self, node: &str, volid: &str) -> Vec<&Volume> {
        self.volumes.values().filter(|v| v.node == node && v.parent.as_deref() == Some(volid)).collect()
    }

    pub(crate) fn pool_of(&self, vmid: u32) -> Option<&str> {
        self.pools.iter().find(|(_, p)| p.vms.contains(&vmid)).map(|(id, _)| id.as_str())
    }

    fn refusals(&self, node: &str, storage: &str) -> Option<&AtomicU64> {
        self.full.iter().find(|((n, id), _)| n == node && id == storage).map(|(_, refused)| refused)
    }

    /// Whether something does not fit on a node's storage because it is full.
    pub(crate) fn does_not_fit(&self, node: &str, storage: &str) -> bool {
        self.refusals(node, storage).map(|refused| refused.fetch_add(1, Ordering::SeqCst)).is_some()
    }

    /// Fills a node's storage to the brim, or makes room again; false if there is no such storage.
    pub(crate) fn set_full(&mut self, node: &str, storage: &str, full: bool) -> bool {
        let place = (node.to_owned(), storage.to_owned());
        if full && self.storages.contains(storage) {
            self.full.entry(place).or_default();
        } else {
            self.full.remove(&place);
        }
        self.storages.contains(storage)
    }

    /// The full storages of a node and how often something did not fit.
    pub(crate) fn full_storages(&self, node: &str) -> Vec<(String, u64)> {
        let here = self.full.iter().filter(|((n, _), _)| n == node);
        here.map(|((_, id), refused)| (id.clone(), refused.load(Ordering::SeqCst))).collect()
    }

    /// Makes room on every storage of a node.
    pub(crate) fn empty_storages(&mut self, node: &str) {
        self.full.retain(|(n, _), _| n != node);
    }

    pub(crate) fn used_on(&self, node: &str, storage: &str) -> u64 {
        if self.refusals(node, storage).is_some() {
            return self.storages.get(storage).map_or(0, |st| st.total);
        }
        // Thin everywhere: an image takes a tenth of its size.
        let here = self.volumes.values().filter(|v| v.node == node && v.storage == storage);
        here.map(|v| if v.content == "backup" { v.size } else { v.size / 10 }).sum()
    }
}

/// SHA-1 in hex, as in Proxmox's digests and cloud-init instance ids.
pub(crate) fn sha1_hex(data: &[u8]) -> String {
    use sha1::Sha1;
    data_encoding::HEXLOWER.encode(&<Sha1 as sha1::Digest>::digest(data))
}

/// SHA-256 in hex.
pub(crate) fn sha256_hex(data: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(data))
}
