//! The configuration of the simulated Proxmox VE clusters (section `pve` of the simulator's file).

use serde::{Deserialize, Serialize};

/// All simulated clusters and what they have in common.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PveConfig {
    /// The clusters, each with its own certificate authority, users and VMIDs.
    pub clusters: Vec<ClusterConfig>,
    /// An API token of root@pam that exists in every cluster from the start.
    pub root_token: RootToken,
    /// Whether the datacenter firewall (`/cluster/firewall/options`) is switched on at the first start.
    #[serde(default)]
    pub firewall_enabled: bool,
    /// How long tasks take.
    #[serde(default)]
    pub task_speed: TaskSpeed,
    /// How long after a start the guest agent answers, in milliseconds.
    #[serde(default = "default_guest_agent_after")]
    pub guest_agent_after_ms: u64,
    /// Waiting times of Proxmox itself; tests shorten them.
    #[serde(default)]
    pub timing: Timing,
}

/// One cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Name, also the directory of its state.
    pub name: String,
    /// Version it answers as: `8.4…` or `9…`.
    pub version: String,
    /// Seed of everything random in it (MAC addresses, UUIDs).
    #[serde(default)]
    pub seed: u64,
    /// Its nodes, at least one.
    pub nodes: Vec<NodeConfig>,
}

/// One node of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Node name as in `/nodes/{node}`.
    pub name: String,
    /// Address of the HTTPS API (`host:port`, port 0 picks one).
    pub listen: String,
    /// Address of the plain control API for tests and operators.
    pub control_listen: String,
    /// Memory of the machine in MiB.
    #[serde(default = "default_memory")]
    pub memory_mib: u64,
    /// Processors of the machine.
    #[serde(default = "default_cores")]
    pub cores: u32,
    /// Storages the node can use.
    #[serde(default)]
    pub storages: Vec<StorageConfig>,
    /// Linux bridges.
    #[serde(default = "default_bridges")]
    pub bridges: Vec<String>,
    /// Templates present at the first start.
    #[serde(default)]
    pub templates: Vec<TemplateConfig>,
}

/// One storage of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// Storage id.
    pub id: String,
    /// `dir`, `lvmthin`, `lvm`, `zfspool`, `nfs`, `rbd` or `btrfs`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Content types.
    pub content: Vec<String>,
    /// Size in GiB.
    #[serde(default = "default_total")]
    pub total_gib: u64,
    /// Directory of a `dir` storage on this machine; by default below the cluster's state directory.
    #[serde(default)]
    pub path: Option<String>,
}

/// One template.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateConfig {
    /// VMID, unique in the cluster.
    pub vmid: u32,
    /// Name.
    pub name: String,
    /// Storage of its disk.
    pub storage: String,
    /// Size of its disk in GiB.
    pub disk_gib: u64,
    /// Description; its first line is the image marker.
    #[serde(default)]
    pub description: String,
    /// Whether the image brings the QEMU guest agent.
    #[serde(default = "yes")]
    pub guest_agent: bool,
    /// Pool it is a member of; the pool is made if need be.
    #[serde(default)]
    pub pool: Option<String>,
}

/// The token of root@pam.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootToken {
    /// Full token id, `root@pam!<name>`.
    pub id: String,
    /// Secret (a UUID).
    pub secret: String,
}

/// How long tasks take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskSpeed {
    /// A clone.
    pub clone_ms: u64,
    /// A start.
    pub start_ms: u64,
    /// Everything else.
    pub other_ms: u64,
}

impl Default for TaskSpeed {
    fn default() -> Self {
        TaskSpeed { clone_ms: 1500, start_ms: 800, other_ms: 80 }
    }
}

/// Waiting times that Proxmox VE has built in, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// How long an answer 401 is held back.
    pub unauthorized_ms: u64,
    /// How long a configuration call waits for the VM's file lock.
    pub config_lock_ms: u64,
    /// How long a clone waits for the lock of its target.
    pub clone_lock_ms: u64,
    /// How long a task waits for the lock under which volumes of a storage are allocated.
    pub storage_lock_ms: u64,
    /// How long a silent guest agent is waited for.
    pub agent_ms: u64,
    /// One second of a guest's shutdown time-out.
    pub shutdown_second_ms: u64,
    /// How long a console's listener lives without a client.
    pub console_ms: u64,
    /// How far `/cluster/resources` is behind.
    pub resources_lag_ms: u64,
    /// One minute of waiting for another backup job of the node.
    pub vzdump_minute_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            unauthorized_ms: 3000,
            config_lock_ms: 10_000,
            clone_lock_ms: 1000,
            storage_lock_ms: 10_000,
            agent_ms: 3000,
            shutdown_second_ms: 1000,
            console_ms: 10_000,
            resources_lag_ms: 10_000,
            vzdump_minute_ms: 60_000,
        }
    }
}

fn default_guest_agent_after() -> u64 {
    2500
}
fn default_memory() -> u64 {
    65_536
}
fn default_cores() -> u32 {
    16
}
fn default_total() -> u64 {
    100
}
fn default_bridges() -> Vec<String> {
    vec!["vmbr0".into()]
}
fn yes() -> bool {
    true
}
