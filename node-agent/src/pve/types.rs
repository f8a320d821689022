//! Proxmox VE's nouns in our own types: only what the agent reads or asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
};

use super::PveError;

/// A VM's number, unique in the cluster.
pub type Vmid = u32;

/// The handle of a task: `UPID:<node>:<pid>:<pstart>:<starttime>:<type>:<id>:<user[!token]>:`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upid(String);

impl Upid {
    /// The text as Proxmox wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn part(&self, index: usize) -> &str {
        self.0.split(':').nth(index).unwrap_or("")
    }

    /// The node the task runs on.
    pub fn node(&self) -> &str {
        self.part(1)
    }

    /// When the task began, unix seconds.
    pub fn started_secs(&self) -> i64 {
        i64::from_str_radix(self.part(4), 16).unwrap_or(0)
    }

    /// Kind of task: `qmclone`, `qmstart` …
    pub fn kind(&self) -> &str {
        self.part(5)
    }

    /// What the task is about: mostly a VMID (for a clone the *template's*); may be empty.
    pub fn subject(&self) -> &str {
        self.part(6)
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Upid {
    type Err = PveError;
    fn from_str(text: &str) -> Result<Self, PveError> {
        let refuse = || {
            PveError::Invalid(format!("not a task handle: {:?}", text.chars().take(80).collect::<String>()))
        };
        let parts: Vec<&str> = text.split(':').collect();
        let &["UPID", node, pid, pstart, start, kind, id, user, ""] = parts.as_slice() else {
            return Err(refuse());
        };
        let hex = |s: &str, len: std::ops::RangeInclusive<usize>| {
            len.contains(&s.len()) && s.bytes().all(|b| b.is_ascii_hexdigit())
        };
        let plain = |s: &str| s.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        let good = is_node_name(node)
            && hex(pid, 8..=8)
            && hex(pstart, 8..=9)
            && hex(start, 8..=8)
            && !kind.is_empty()
            && plain(kind)
            && plain(id)
            && !user.is_empty()
            && plain(user);
        if good { Ok(Self(text.to_owned())) } else { Err(refuse()) }
    }
}

/// Whether `name` can be a node name in a path.
pub fn is_node_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Whether `name` can be a storage, pool or other configuration id in a path.
pub fn is_config_id(name: &str) -> bool {
    (1..=100).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// Version of Proxmox VE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// First number: 8, 9.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// The full text, `9.2.11`.
    pub text: String,
}

impl Version {
    /// Reads `8.4.21` or `9.2`; a missing second number is 0.
    pub fn parse(text: &str) -> Result<Self, PveError> {
        let mut numbers = text.split(['.', '-', '~']).map(str::parse::<u32>);
        let refuse = || PveError::Invalid(format!("not a Proxmox VE version: {text:?}"));
        let major = numbers.next().and_then(Result::ok).ok_or_else(refuse)?;
        let minor = numbers.next().and_then(Result::ok).unwrap_or(0);
        Ok(Self { major, minor, text: text.to_owned() })
    }

    /// 8.4 or newer: what the agent works with.
    pub fn is_supported(&self) -> bool {
        (self.major, self.minor) >= (8, 4)
    }
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskExit {
    /// `OK`.
    Ok,
    /// `WARNINGS: n`: success with something to read in the log.
    Warnings(u32),
    /// The log does not tell its end (`unexpected status`, or no line at all): the worker was killed; what
    /// it did is half done.
    Killed,
    /// The error text.
    Failed(String),
}

impl TaskExit {
    /// Reads Proxmox's exit status, which it takes from the last line of the task's log. A worker that was
    /// killed left no such line; one that was killed at once left no line, or no log (pve-common,
    /// `PVE::Tools::upid_read_status`).
    pub fn parse(text: &str) -> Self {
        match text {
            "OK" => Self::Ok,
            "unexpected status" | "unable to extract last line" => Self::Killed,
            early
                if ["unable to read tail (got ", "unable to open file - "]
                    .iter()
                    .any(|s| early.starts_with(s)) =>
            {
                Self::Killed
            }
            other => match other.strip_prefix("WARNINGS: ").map(str::parse) {
                Some(Ok(count)) => Self::Warnings(count),
                _ => Self::Failed(other.to_owned()),
            },
        }
    }

    /// The task did its work.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Ok | Self::Warnings(_))
    }

    /// The error text of a failure.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Failed(text) => Some(text),
            Self::Killed => Some("unexpected status"),
            Self::Ok | Self::Warnings(_) => None,
        }
    }
}

/// State of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Still working.
    Running,
    /// Ended, and how.
    Ended(TaskExit),
    /// Proxmox does not know this task (log rotated away, another token's, another node's).
    Unknown,
}

/// So many lines of a task's log come at once, at most.
pub const LOG_PAGE: usize = 500;

/// One line of a task's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Line number, from 1.
    pub number: u64,
    /// The text.
    pub text: String,
}

/// What looking for a clone task that made (or makes) `newid` came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloneSearch {
    /// No clone of the template since the given time made this VMID: the call had no effect.
    NotFound,
    /// It is still at work.
    Running(Upid),
    /// It has ended.
    Ended(Upid, TaskExit),
    /// A clone of this template runs, and its log does not tell yet for whom: ask again.
    Undecided,
}

/// A storage as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Its id.
    pub id: String,
    /// `dir`, `lvmthin`, `zfspool` …
    pub kind: String,
    /// What it may hold: `images`, `snippets`, `iso` …
    pub content: BTreeSet<String>,
    /// Enabled and reachable.
    pub active: bool,
    /// Shared between nodes.
    pub shared: bool,
    /// Bytes in all.
    pub total: u64,
    /// Bytes used.
    pub used: u64,
    /// Bytes free.
    pub available: u64,
}

/// A template VM that carries the image marker `ez-image:v1 <name> <sha256:digest>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageTemplate {
    /// The template's VMID.
    pub vmid: Vmid,
    /// Name of the image (`debian-13`).
    pub image: String,
    /// Digest the order names (`sha256:…`).
    pub digest: String,
    /// Its boot disk's volume, `<storage>:<name>`.
    pub volume: String,
    /// Storage of its boot disk.
    pub storage: String,
    /// Size of its boot disk, bytes.
    pub disk_bytes: u64,
}

/// First word of a template's description that makes it an image of ours.
pub const IMAGE_MARKER: &str = "ez-image:v1";

/// Reads `ez-image:v1 <name> <sha256:digest>` from the first line of a description.
pub fn parse_image_marker(description: &str) -> Option<(String, String)> {
    let mut words = description.lines().next()?.split_whitespace();
    if words.next()? != IMAGE_MARKER {
        return None;
    }
    let (name, digest) = (words.next()?, words.next()?);
    let hex = digest.strip_prefix("sha256:")?;
    let good = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (good && words.next().is_none()).then(|| (name.to_owned(), digest.to_owned()))
}

/// The host's own state.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeStatus {
    /// Seconds since boot.
    pub uptime_secs: u64,
    /// Share of the CPUs in use, 0.0 … 1.0.
    pub cpu: f64,
    /// Logical CPUs.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_total: u64,
    /// Bytes of memory in use.
    pub memory_used: u64,
    /// Running kernel.
    pub kernel: String,
    /// `pve-manager/9.2.11/…`.
    pub pve_version: String,
}

/// What the node and its VMs use, as its own daemon looked last (up to some seconds ago).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loads {
    /// The host: share of its CPUs in use (0.0 … 1.0) and bytes of memory in use.
    pub host: Option<(f64, u64)>,
    /// Its running VMs.
    pub guests: Vec<GuestLoad>,
}

/// What a running VM uses. Counters begin at 0 with each start of the VM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuestLoad {
    /// The VM's number.
    pub vmid: Vmid,
    /// Seconds since its start.
    pub uptime_secs: u64,
    /// Share of its CPUs in use, 0.0 … 1.0.
    pub cpu: f64,
    /// Memory in use, bytes.
    pub memory_used: u64,
    /// Bytes received since its start.
    pub net_in: u64,
    /// Bytes sent since its start.
    pub net_out: u64,
    /// Bytes read from its disks since its start.
    pub disk_read: u64,
    /// Bytes written to its disks since its start.
    pub disk_write: u64,
}

/// An LVM thin pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinPool {
    /// Volume group and pool: `pve/data`.
    pub name: String,
    /// Bytes for data.
    pub size: u64,
    /// Bytes of data in use.
    pub used: u64,
    /// Bytes for metadata.
    pub metadata_size: u64,
    /// Bytes of metadata in use.
    pub metadata_used: u64,
}

/// A node of the cluster, as any token may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNode {
    /// Its name.
    pub name: String,
    /// In touch with the cluster.
    pub online: bool,
    /// SHA-256 of its certificate, if told.
    pub fingerprint: Option<String>,
}

/// Whether filtering works at all: without the datacenter's switch, anti-spoofing is inert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirewallState {
    /// Filtering.
    On,
    /// Inert: the agent must say so.
    Off,
    /// Our token may not read it.
    Unknown,
}

/// Own effective privileges: ACL path → privileges (a listed privilege is granted).
pub type Permissions = BTreeMap<String, BTreeSet<String>>;

/// An address the guest agent reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestAddress {
    /// Interface inside the guest.
    pub interface: String,
    /// Its MAC, lower case.
    pub mac: Option<String>,
    /// The address.
    pub address: IpAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_task_handle_gives_its_parts() {
        let upid: Upid = "UPID:pve1:00000976:00031F8C:6B03C9AA:qmclone:9000:root@pam!agent:".parse().unwrap();
        assert_eq!((upid.node(), upid.kind(), upid.subject()), ("pve1", "qmclone", "9000"));
        assert_eq!(upid.started_secs(), 0x6B03_C9AA);
        let empty = "UPID:pve1:00000976:00031F8C:6B03C9AA:imgcopy::root@pam!agent:";
        assert!(empty.parse::<Upid>().is_ok());
        for wrong in [
            "",
            "UPID:pve1:976:00031F8C:6B03C9AA:qmclone:9000:root@pam!agent:",
            "UPID:pve1:00000976:00031F8C:6B03C9AA:qmclone:9000:root@pam!agent",
            "UPID:../x:00000976:00031F8C:6B03C9AA:qmclone:9000:root@pam!agent:",
            "UPID:pve1:00000976:00031F8C:6B03C9AA:qm/x:9000:root@pam!agent:",
        ] {
            assert!(wrong.parse::<Upid>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn exit_texts_are_sorted() {
        assert!(TaskExit::parse("OK").is_success());
        assert_eq!(TaskExit::parse("WARNINGS: 3"), TaskExit::Warnings(3));
        for killed in [
            "unexpected status",
            "unable to read tail (got 0 bytes)",
            "unable to extract last line",
            "unable to open file - No such file or directory",
        ] {
            assert_eq!(TaskExit::parse(killed), TaskExit::Killed);
        }
        assert_eq!(TaskExit::parse("VM is locked (backup)").error(), Some("VM is locked (backup)"));
    }

    #[test]
    fn only_a_whole_marker_makes_an_image() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        let text = format!("ez-image:v1 debian-13 {digest}\nbuilt by hand");
        assert_eq!(parse_image_marker(&text), Some(("debian-13".into(), digest.clone())));
        for wrong in [
            format!("ez-image:v2 debian-13 {digest}"),
            format!("ez-image:v1 debian-13 {digest} more"),
            "ez-image:v1 debian-13 sha256:abc".to_owned(),
            format!("\nez-image:v1 debian-13 {digest}"),
            String::new(),
        ] {
            assert_eq!(parse_image_marker(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn versions_before_8_4_are_not_supported() {
        for (text, good) in
            [("8.4.21", true), ("9.2", true), ("8.3.5", false), ("7.4-17", false), ("9.0~11", true)]
        {
            assert_eq!(Version::parse(text).map(|v| v.is_supported()), Ok(good), "{text}");
        }
        assert!(Version::parse("nine").is_err());
    }
}
