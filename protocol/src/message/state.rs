//! State streams: what an agent sees on its host.

/// Everything, at connect, on request and now and then.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StateSnapshot {
    /// As in Hello.
    #[prost(string, tag = "1")]
    pub report_epoch: String,
    /// Rises by one with each report of this epoch.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    /// When it was observed, by the agent's clock.
    #[prost(int64, tag = "3")]
    pub observed_at_ms: i64,
    /// Every instance in the journal that is not purged.
    #[prost(message, repeated, tag = "4")]
    pub instances: Vec<InstanceState>,
    /// The host.
    #[prost(message, optional, tag = "5")]
    pub host: Option<HostState>,
    /// Where the servers cannot be looked at now: when they last were, 0 for never. Absent while they are looked at, and
    /// from older agents.
    #[prost(int64, optional, tag = "6")]
    pub blind_since_ms: Option<i64>,
}

/// What changed since the report before.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StateDelta {
    /// As in Hello.
    #[prost(string, tag = "1")]
    pub report_epoch: String,
    /// The report this one builds on.
    #[prost(uint64, tag = "2")]
    pub base_seq: u64,
    /// Its own number.
    #[prost(uint64, tag = "3")]
    pub seq: u64,
    /// When it was observed, by the agent's clock.
    #[prost(int64, tag = "4")]
    pub observed_at_ms: i64,
    /// Instances that changed.
    #[prost(message, repeated, tag = "5")]
    pub changed: Vec<InstanceState>,
    /// Instances that are no longer in the journal.
    #[prost(string, repeated, tag = "6")]
    pub removed: Vec<String>,
    /// The host, if it changed.
    #[prost(message, optional, tag = "7")]
    pub host: Option<HostState>,
    /// As in a snapshot.
    #[prost(int64, optional, tag = "8")]
    pub blind_since_ms: Option<i64>,
}

/// One instance as seen.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstanceState {
    /// The instance.
    #[prost(string, tag = "1")]
    pub instance_id: String,
    /// Proxmox's number.
    #[prost(uint32, tag = "2")]
    pub vmid: u32,
    /// `running`, `stopped`, `paused` or `absent`.
    #[prost(string, tag = "3")]
    pub power: String,
    /// Newest generation that was applied completely.
    #[prost(uint64, tag = "4")]
    pub generation: u64,
    /// Rises with each change of this item.
    #[prost(uint64, tag = "5")]
    pub state_gen: u64,
    /// What differs from the wished state, one short line each.
    #[prost(string, repeated, tag = "6")]
    pub drift: Vec<String>,
    /// Seconds since it was started; 0 when it does not run.
    #[prost(uint64, tag = "7")]
    pub uptime_s: u64,
    /// `present`, `retired` or `purged`.
    #[prost(string, tag = "8")]
    pub phase: String,
}

/// The host as seen.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HostState {
    /// CPU threads.
    #[prost(uint32, tag = "1")]
    pub cpus: u32,
    /// Memory, MiB.
    #[prost(uint64, tag = "2")]
    pub memory_mib: u64,
    /// Memory in use, MiB.
    #[prost(uint64, tag = "3")]
    pub memory_used_mib: u64,
    /// Load of the CPUs, per mille.
    #[prost(uint32, tag = "4")]
    pub cpu_permille: u32,
    /// Storages the policy names.
    #[prost(message, repeated, tag = "5")]
    pub storages: Vec<StorageState>,
    /// Images whose template is ready, as `name digest`.
    #[prost(message, repeated, tag = "6")]
    pub images: Vec<ImageState>,
    /// Version of Proxmox VE.
    #[prost(string, tag = "7")]
    pub pve_version: String,
    /// Version of the agent.
    #[prost(string, tag = "8")]
    pub agent_version: String,
    /// End of the agent's certificate.
    #[prost(int64, tag = "9")]
    pub certificate_not_after_ms: i64,
    /// Own clock minus the server's, milliseconds.
    #[prost(int64, tag = "10")]
    pub clock_offset_ms: i64,
    /// What an operator should know.
    #[prost(message, repeated, tag = "11")]
    pub warnings: Vec<Warning>,
    /// VMs on the host that are not ours.
    #[prost(uint32, tag = "12")]
    pub foreign_vms: u32,
    /// Memory given to VMs that are not ours, MiB.
    #[prost(uint64, tag = "13")]
    pub foreign_memory_mib: u64,
    /// Image orders of late, and how they stand.
    #[prost(message, repeated, tag = "14")]
    pub image_builds: Vec<ImageBuildState>,
    /// LVM thin pools of the host, if a storage of the policy is one.
    #[prost(message, repeated, tag = "15")]
    pub thin_pools: Vec<ThinPoolState>,
}

/// A thin pool and how full it is. One that is full stops every VM on it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ThinPoolState {
    /// Volume group and pool, such as `pve/data`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Size, MiB.
    #[prost(uint64, tag = "2")]
    pub total_mib: u64,
    /// Data in use, per mille.
    #[prost(uint32, tag = "3")]
    pub data_permille: u32,
    /// Metadata in use, per mille.
    #[prost(uint32, tag = "4")]
    pub metadata_permille: u32,
}

/// One storage.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StorageState {
    /// Its name in Proxmox.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its type, such as `lvmthin`.
    #[prost(string, tag = "2")]
    pub kind: String,
    /// Size, MiB.
    #[prost(uint64, tag = "3")]
    pub total_mib: u64,
    /// Used, MiB.
    #[prost(uint64, tag = "4")]
    pub used_mib: u64,
}

/// One image that is ready.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageState {
    /// Catalogue name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Digest.
    #[prost(string, tag = "2")]
    pub digest: String,
    /// VMID of the template.
    #[prost(uint32, tag = "3")]
    pub vmid: u32,
}

/// An image order and how it stands.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageBuildState {
    /// The order.
    #[prost(string, tag = "1")]
    pub order_id: String,
    /// `accepted`, `running`, `ready` or `failed`.
    #[prost(string, tag = "2")]
    pub state: String,
    /// The step it is in, such as `download`; empty before the first.
    #[prost(string, tag = "3")]
    pub step: String,
    /// For a failure: what happened and what can be done; empty otherwise.
    #[prost(string, tag = "4")]
    pub detail: String,
}

/// Something an operator should know about a host.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Warning {
    /// Stable code such as `FIREWALL_INERT`.
    #[prost(string, tag = "1")]
    pub code: String,
    /// One sentence with the way out.
    #[prost(string, tag = "2")]
    pub text: String,
}
