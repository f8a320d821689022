//! Control stream: greeting, time, certificates, acknowledgements.

/// The agent's greeting.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// Lowest protocol version it speaks.
    #[prost(uint32, tag = "1")]
    pub proto_min: u32,
    /// Highest protocol version it speaks.
    #[prost(uint32, tag = "2")]
    pub proto_max: u32,
    /// Its version, such as `0.1.0`.
    #[prost(string, tag = "3")]
    pub agent_version: String,
    /// Its epoch, as given at enrolment.
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    /// The kernel's boot id.
    #[prost(string, tag = "5")]
    pub boot_id: String,
    /// Random per process; numbers its state reports.
    #[prost(string, tag = "6")]
    pub report_epoch: String,
    /// Random per journal; changes when the journal is made anew.
    #[prost(string, tag = "7")]
    pub journal_id: String,
    /// Highest sequence it has journalled.
    #[prost(uint64, tag = "8")]
    pub high_water_seq: u64,
    /// Highest event number it has written.
    #[prost(uint64, tag = "9")]
    pub last_event_seq: u64,
    /// The value of the last Welcome, which a copied disk sooner or later does not have.
    #[prost(bytes = "vec", tag = "10")]
    pub ratchet: Vec<u8>,
    /// SHA-256 over machine id, hardware UUID and permanent MACs, hexadecimal.
    #[prost(string, tag = "11")]
    pub fingerprint: String,
    /// Version of Proxmox VE, such as `9.2.3`.
    #[prost(string, tag = "12")]
    pub pve_version: String,
    /// Name of the node in Proxmox.
    #[prost(string, tag = "13")]
    pub pve_node: String,
    /// SHA-256 of the cluster's root certificate, hexadecimal.
    #[prost(string, tag = "14")]
    pub cluster: String,
    /// What the host's policy allows.
    #[prost(message, optional, tag = "15")]
    pub policy: Option<PolicySummary>,
    /// Its own clock when it wrote this.
    #[prost(int64, tag = "16")]
    pub now_ms: i64,
    /// Version of the trust document that it believes. Absent from older agents.
    #[prost(uint64, optional, tag = "17")]
    pub trust_version: Option<u64>,
}

/// The part of the host's policy that placement must know.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PolicySummary {
    /// First VMID it may use.
    #[prost(uint32, tag = "1")]
    pub vmid_first: u32,
    /// Last VMID it may use.
    #[prost(uint32, tag = "2")]
    pub vmid_last: u32,
    /// Pool its VMs live in.
    #[prost(string, tag = "3")]
    pub pool: String,
    /// Bridges it may use.
    #[prost(string, repeated, tag = "4")]
    pub bridges: Vec<String>,
    /// Storages it may use for disks; the first is used.
    #[prost(string, repeated, tag = "5")]
    pub storages: Vec<String>,
    /// Address prefixes it may configure, in CIDR form; none means any.
    #[prost(string, repeated, tag = "6")]
    pub prefixes: Vec<String>,
    /// Most VMs it may hold.
    #[prost(uint32, tag = "7")]
    pub max_instances: u32,
    /// Most memory for all VMs together, MiB.
    #[prost(uint64, tag = "8")]
    pub max_memory_mib: u64,
    /// Most disk for all VMs together, GiB.
    #[prost(uint64, tag = "9")]
    pub max_disk_gib: u64,
    /// Most vCPUs for all VMs together.
    #[prost(uint32, tag = "10")]
    pub max_vcpus: u32,
    /// VLAN tags it may use as `first-last` ranges; none means untagged only.
    #[prost(string, repeated, tag = "11")]
    pub vlans: Vec<String>,
    /// Most servers it lets be purged in ten minutes; one more opens its destroy circuit. Absent from older agents, as
    /// are the next two.
    #[prost(uint32, optional, tag = "12")]
    pub purges_per_10_minutes: Option<u32>,
    /// Share of its servers that may be purged in a day, percent.
    #[prost(uint32, optional, tag = "13")]
    pub purge_percent_per_day: Option<u32>,
    /// So many may be purged in a day however few it has.
    #[prost(uint32, optional, tag = "14")]
    pub purge_floor_per_day: Option<u32>,
    /// Most disks it lets be replaced in an hour. Absent from older agents, as are the next three.
    #[prost(uint32, optional, tag = "15")]
    pub replaces_per_hour: Option<u32>,
    /// Most times it lets one server's disk be replaced in an hour.
    #[prost(uint32, optional, tag = "16")]
    pub replaces_per_server_per_hour: Option<u32>,
    /// Share of its servers that may lose their disk in a day, percent; one more opens its destroy circuit.
    #[prost(uint32, optional, tag = "17")]
    pub replace_percent_per_day: Option<u32>,
    /// So many may lose it in a day however few there are.
    #[prost(uint32, optional, tag = "18")]
    pub replace_floor_per_day: Option<u32>,
}

/// The server's answer. Only with this is the agent connected.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Welcome {
    /// The protocol version both will speak.
    #[prost(uint32, tag = "1")]
    pub proto: u32,
    /// The server's clock.
    #[prost(int64, tag = "2")]
    pub now_ms: i64,
    /// The node's epoch as the server knows it.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Value to store and present in the next Hello.
    #[prost(bytes = "vec", tag = "4")]
    pub ratchet: Vec<u8>,
    /// Reconnect after a uniform random time up to this many milliseconds.
    #[prost(uint64, tag = "5")]
    pub reconnect_spread_ms: u64,
    /// Every event up to here is stored at the server.
    #[prost(uint64, tag = "6")]
    pub acked_event_seq: u64,
    /// Version of the server's trust document.
    #[prost(uint64, tag = "7")]
    pub trust_version: u64,
    /// Name of the node in the portal.
    #[prost(string, tag = "8")]
    pub node_name: String,
    /// Whether the node is quarantined: reports are taken, no orders are sent.
    #[prost(bool, tag = "9")]
    pub quarantined: bool,
}

/// Sent by the agent when the Welcome is stored.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ready {
    /// `export_keying_material("ez-hello-v1", SHA-256(Hello ‖ Welcome))`: both saw the same greeting.
    #[prost(bytes = "vec", tag = "1")]
    pub binding: Vec<u8>,
}

/// Asks for the peer's time.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ping {
    /// Repeated in the answer.
    #[prost(uint64, tag = "1")]
    pub nonce: u64,
    /// The sender's clock.
    #[prost(int64, tag = "2")]
    pub now_ms: i64,
}

/// Answers a ping.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pong {
    /// From the ping.
    #[prost(uint64, tag = "1")]
    pub nonce: u64,
    /// The sender's clock.
    #[prost(int64, tag = "2")]
    pub now_ms: i64,
}

/// Every event up to this number is stored.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EventAck {
    /// Cumulative.
    #[prost(uint64, tag = "1")]
    pub event_seq: u64,
}

/// Every state report up to this number is stored.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StateAck {
    /// Cumulative.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
}

/// Please send a full snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resync {
    /// Why, for the log.
    #[prost(string, tag = "1")]
    pub reason: String,
}

/// A trust document is stored and believed, or was before.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TrustTaken {
    /// The version believed now.
    #[prost(uint64, tag = "1")]
    pub version: u64,
}

/// The server is going away.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Drain {
    /// Connect again after a uniform random time up to this many milliseconds.
    #[prost(uint64, tag = "1")]
    pub reconnect_after_ms: u64,
}

/// Asks for the next certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertRenew {
    /// Certificate request with a new key, PEM. Only the public key is used.
    #[prost(string, tag = "1")]
    pub csr_pem: String,
}

/// The next certificate, or why there is none.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertIssued {
    /// Certificate, PEM; empty when refused.
    #[prost(string, tag = "1")]
    pub certificate_pem: String,
    /// Why it was refused; empty otherwise.
    #[prost(string, tag = "2")]
    pub refused: String,
}
