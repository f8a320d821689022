//! The operator's view of nodes and alarms.

use ez_protocol::UnixMillis;
use serde::Serialize;

use crate::web::{
    forms::FormState,
    templates::Page,
    views::{
        SAMPLE_NOW,
        metrics::{Chart, sample_chart},
    },
};

/// Real and sold use of one resource of a node, in the unit of `total`.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    /// What servers were sold.
    pub sold: u64,
    /// What the node says is in use.
    pub real: u64,
    /// What can be sold.
    pub total: u64,
}

/// One node.
#[derive(Debug, Clone, Serialize)]
pub struct NodeRow {
    /// `/operator/nodes/{name}` or by id.
    pub href: String,
    /// `fsn-1`
    pub name: String,
    /// `pending`, `active`, `cordoned`, `quarantined`, `revoked`.
    pub state: &'static str,
    /// `online`, `late`, `offline`, `never`.
    pub presence: &'static str,
    /// Last word from it.
    pub seen_at: Option<UnixMillis>,
    /// Version of the agent.
    pub agent: Option<String>,
    /// Version of Proxmox VE.
    pub pve: Option<String>,
    /// Servers on it.
    pub servers: u64,
    /// vCPUs.
    pub cpu: Usage,
    /// MiB.
    pub memory: Usage,
    /// GiB.
    pub disk: Usage,
    /// How full the fullest of its storages and thin pools is, per mille.
    pub fullest_permille: u64,
    /// Stable codes such as `FIREWALL_INERT`; how many.
    pub warnings: usize,
}

/// Nodes of one location.
#[derive(Debug, Clone, Serialize)]
pub struct LocationGroup {
    /// Name for people.
    pub name: String,
    /// Its nodes by name.
    pub nodes: Vec<NodeRow>,
}

/// Something a person must look at.
#[derive(Debug, Clone, Serialize)]
pub struct AlarmRow {
    /// `critical` or `warning`.
    pub severity: &'static str,
    /// Stable word; text `fleet-alarm-<kind>` or the general one.
    pub kind: String,
    /// What it is about, as stored: with the kind it names the alarm.
    pub about: String,
    /// Name of the node or of the server.
    pub subject: String,
    /// One sentence.
    pub detail: String,
    /// How often while open.
    pub occurrences: u64,
    /// When it began.
    pub raised_at: UnixMillis,
    /// When it ended.
    pub closed_at: Option<UnixMillis>,
    /// Where to go.
    pub href: Option<String>,
}

/// On how many nodes an image can be built.
#[derive(Debug, Clone, Serialize)]
pub struct ImageReady {
    /// Name for people.
    pub name: String,
    /// Nodes that have its template.
    pub ready: u64,
}

/// `GET /operator/fleet`; event stream at `/operator/fleet/changes`.
#[derive(Debug, Clone, Serialize)]
pub struct Overview {
    /// Nodes that are online.
    pub up: u64,
    /// Nodes that are late or offline.
    pub away: u64,
    /// Silence of the longest-silent of those, in milliseconds.
    pub away_ms: i64,
    /// Paid orders that are not finished.
    pub waiting: u64,
    /// Age of the oldest, in milliseconds.
    pub oldest_ms: i64,
    /// How many more fit: (name of the plan, number), cheapest plan first.
    pub room: Vec<(String, u64)>,
    /// Images on sale: name, and how many of the nodes in service have a template for it.
    pub images: Vec<ImageReady>,
    /// Nodes in service.
    pub serving: u64,
    /// Open alarms, the most harmful first.
    pub attention: Vec<AlarmRow>,
    /// All locations.
    pub locations: Vec<LocationGroup>,
}

/// A fact of a node, ready to print: text `fleet-fact-<code>` and its value.
#[derive(Debug, Clone, Serialize)]
pub struct Fact {
    /// `agent`, `pve`, `cluster`, `link`, `vmids`, `pool`, `epoch`, `prefixes`, `images`, `builds`.
    pub code: &'static str,
    /// Its value.
    pub value: String,
}

/// A certificate of a node.
#[derive(Debug, Clone, Serialize)]
pub struct Certificate {
    /// Serial number.
    pub serial: String,
    /// Its end.
    pub not_after: UnixMillis,
    /// `valid`, `replaced`, `expired`, `revoked`.
    pub state: &'static str,
}

/// A server on a node.
#[derive(Debug, Clone, Serialize)]
pub struct ServerRow {
    /// Name of the server.
    pub name: String,
    /// Mail address of its account's owner.
    pub owner: String,
    /// Proxmox's number.
    pub vmid: u32,
    /// Text `instances-state-<state>`.
    pub state: &'static str,
    /// Its colour.
    pub tone: &'static str,
    /// Its latest provisioning order, if it can be shown.
    pub href: Option<String>,
}

/// A storage of a node and how full it is.
#[derive(Debug, Clone, Serialize)]
pub struct StorageUse {
    /// Its name in Proxmox.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// MiB.
    pub used_mib: u64,
    /// MiB.
    pub total_mib: u64,
}

/// An LVM thin pool of a node and how full it is.
#[derive(Debug, Clone, Serialize)]
pub struct PoolUse {
    /// Volume group and pool.
    pub name: String,
    /// MiB.
    pub total_mib: u64,
    /// Data in use, per mille.
    pub data_permille: u32,
    /// Metadata in use, per mille.
    pub metadata_permille: u32,
}

/// What an agent warns about.
#[derive(Debug, Clone, Serialize)]
pub struct Warning {
    /// Stable code such as `FIREWALL_INERT`.
    pub code: String,
    /// One sentence with the way out.
    pub text: String,
}

/// `GET /operator/nodes/{…}`. Buttons post to `<href>/cordon`, `<href>/uncordon`, `<href>/revoke`
/// (`confirm` = the node's name), `<href>/token` (a new join token, shown by [`AddNode`]).
#[derive(Debug, Clone, Serialize)]
pub struct Node {
    /// The same numbers as in the overview.
    pub node: NodeRow,
    /// Name of the location.
    pub location: String,
    /// What it said about itself.
    pub facts: Vec<Fact>,
    /// What it warns about.
    pub warnings: Vec<Warning>,
    /// Newest first.
    pub certificates: Vec<Certificate>,
    /// Servers that live there.
    pub servers: Vec<ServerRow>,
    /// The storages its policy names.
    pub storages: Vec<StorageUse>,
    /// Its LVM thin pools.
    pub pools: Vec<PoolUse>,
    /// What the host used in the last 24 hours; none before its first samples.
    pub charts: Vec<Chart>,
    /// Whether taking new servers can be ended or allowed again.
    pub can_cordon: bool,
    /// Whether new servers can be allowed again.
    pub can_uncordon: bool,
    /// Whether its certificates can be taken away.
    pub can_revoke: bool,
    /// Messages of the revocation form.
    pub form: FormState,
}

/// A join token just made.
#[derive(Debug, Clone, Serialize)]
pub struct Joined {
    /// Name of the node.
    pub name: String,
    /// The one line to paste on the host.
    pub command: String,
    /// The token ends then.
    pub until: UnixMillis,
}

/// `GET|POST /operator/nodes/new`: `name`, `location`.
#[derive(Debug, Clone, Serialize)]
pub struct AddNode {
    /// Values and messages.
    pub form: FormState,
    /// (code, name)
    pub locations: Vec<(String, String)>,
    /// After the post.
    pub joined: Option<Joined>,
}

/// `GET /operator/alarms`
#[derive(Debug, Clone, Serialize)]
pub struct Alarms {
    /// Open ones, the most harmful first.
    pub open: Vec<AlarmRow>,
    /// Closed lately, newest first.
    pub closed: Vec<AlarmRow>,
}

fn sample_node(name: &str, state: &'static str, presence: &'static str, ago: Option<i64>) -> NodeRow {
    let used = |sold, real, total| Usage { sold, real, total };
    NodeRow {
        href: format!("/operator/nodes/{name}"),
        name: name.to_owned(),
        state,
        presence,
        seen_at: ago.map(|ago| UnixMillis(SAMPLE_NOW.0 - ago)),
        agent: ago.map(|_| "0.1.0".to_owned()),
        pve: ago.map(|_| "9.2".to_owned()),
        servers: if ago.is_some() { 18 } else { 0 },
        cpu: used(38, 9, 64),
        memory: used(57_344, 40_112, 61_440),
        disk: used(720, 310, 900),
        fullest_permille: if ago.is_some() { 345 } else { 0 },
        warnings: usize::from(name == "fsn-2"),
    }
}

fn sample_alarm(severity: &'static str, kind: &str, subject: &str, detail: &str) -> AlarmRow {
    AlarmRow {
        about: subject.to_owned(),
        severity,
        kind: kind.to_owned(),
        subject: subject.to_owned(),
        detail: detail.to_owned(),
        occurrences: if severity == "critical" { 1 } else { 4 },
        raised_at: UnixMillis(SAMPLE_NOW.0 - 190_000),
        closed_at: None,
        href: Some("/operator/orders/x".to_owned()),
    }
}

fn sample_alarms() -> Vec<AlarmRow> {
    vec![
        sample_alarm("critical", "node_offline", "fsn-3", "Silent since 3 min; 18 servers are on it."),
        sample_alarm(
            "warning",
            "x_unknown",
            "fsn-2",
            "The datacenter firewall is off: anti-spoofing is inert.",
        ),
    ]
}

impl Page for Overview {
    const TEMPLATE: &'static str = "pages/fleet/overview.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let full = Self {
            up: 3,
            away: 1,
            away_ms: 190_000,
            waiting: 2,
            oldest_ms: 14_000,
            room: vec![("Plan S".to_owned(), 118), ("Plan M".to_owned(), 58), ("Plan L".to_owned(), 0)],
            images: vec![
                ImageReady { name: "Debian 13".to_owned(), ready: 3 },
                ImageReady { name: "Rocky Linux 9".to_owned(), ready: 1 },
            ],
            serving: 3,
            attention: sample_alarms(),
            locations: vec![
                LocationGroup {
                    name: "Falkenstein".to_owned(),
                    nodes: vec![
                        sample_node("fsn-1", "active", "online", Some(2_000)),
                        sample_node("fsn-2", "cordoned", "online", Some(3_000)),
                        sample_node("fsn-3", "active", "offline", Some(190_000)),
                    ],
                },
                LocationGroup {
                    name: "Helsinki".to_owned(),
                    nodes: vec![
                        sample_node("hel-1", "active", "late", Some(50_000)),
                        sample_node("hel-2", "pending", "never", None),
                        sample_node("hel-3", "quarantined", "online", Some(1_000)),
                        sample_node("hel-4", "revoked", "offline", Some(9_000_000)),
                    ],
                },
            ],
        };
        let quiet = Self { away: 0, waiting: 0, attention: Vec::new(), ..full.clone() };
        let empty =
            Self { up: 0, room: Vec::new(), images: Vec::new(), locations: Vec::new(), ..quiet.clone() };
        vec![("attention", full), ("quiet", quiet), ("empty", empty)]
    }
}

impl Page for Node {
    const TEMPLATE: &'static str = "pages/fleet/node.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let fact = |code, value: &str| Fact { code, value: value.to_owned() };
        let full = Self {
            node: sample_node("fsn-2", "active", "online", Some(2_000)),
            location: "Falkenstein".to_owned(),
            facts: vec![
                fact("agent", "0.1.0"),
                fact("pve", "9.2"),
                fact("cluster", "9f2c41d07be0"),
                fact("link", "198.51.100.7, connected since 14:02"),
                fact("vmids", "10000 – 19999"),
                fact("pool", "ez"),
                fact("epoch", "3"),
                fact("prefixes", "203.0.113.0/24, 2001:db8:12::/48"),
                fact("images", "debian-13, ubuntu-24.04"),
            ],
            warnings: vec![Warning {
                code: "FIREWALL_INERT".to_owned(),
                text: "The datacenter firewall is off, so anti-spoofing does nothing. Switch it on under Datacenter, Firewall, Options.".to_owned(),
            }],
            certificates: vec![
                Certificate { serial: "4f:1a:9c".to_owned(), not_after: UnixMillis(SAMPLE_NOW.0 + 1_000_000_000), state: "valid" },
                Certificate { serial: "2b:77:03".to_owned(), not_after: UnixMillis(SAMPLE_NOW.0 - 1_000), state: "replaced" },
            ],
            servers: vec![ServerRow {
                name: "web-1".to_owned(),
                owner: "jane@acme.example".to_owned(),
                vmid: 10_003,
                state: "running",
                tone: "good",
                href: Some("/operator/orders/x".to_owned()),
            }],
            storages: vec![StorageUse {
                name: "local-lvm".to_owned(),
                kind: "lvmthin".to_owned(),
                used_mib: 310 << 10,
                total_mib: 1_000 << 10,
            }],
            pools: vec![PoolUse {
                name: "pve/data".to_owned(),
                total_mib: 1_000 << 10,
                data_permille: 310,
                metadata_permille: 124,
            }],
            charts: vec![
                sample_chart("host-cpu", "permille", 1_000, &["cpu"]),
                sample_chart("host-memory", "bytes", 64 << 30, &["memory"]),
            ],
            can_cordon: true,
            can_uncordon: false,
            can_revoke: true,
            form: FormState::default(),
        };
        let mut pending = Self {
            node: sample_node("hel-2", "cordoned", "never", None),
            facts: Vec::new(),
            warnings: Vec::new(),
            certificates: Vec::new(),
            servers: Vec::new(),
            storages: Vec::new(),
            pools: Vec::new(),
            charts: Vec::new(),
            can_cordon: false,
            can_uncordon: true,
            ..full.clone()
        };
        pending.form.refuse("confirm", "confirm-name");
        let revoked = Self { can_revoke: false, can_uncordon: false, ..pending.clone() };
        vec![("full", full), ("cordoned-refused", pending), ("revoked", revoked)]
    }
}

impl Page for AddNode {
    const TEMPLATE: &'static str = "pages/fleet/add_node.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let asked = Self {
            form: FormState::default(),
            locations: vec![
                ("fsn".to_owned(), "Falkenstein".to_owned()),
                ("hel".to_owned(), "Helsinki".to_owned()),
            ],
            joined: None,
        };
        let mut refused = asked.clone();
        refused.form.fill("name", "fsn 4");
        refused.form.fill("location", "hel");
        refused.form.refuse("name", "node-name-invalid");
        let joined = Self {
            joined: Some(Joined {
                name: "fsn-4".to_owned(),
                command: "echo 'ezj1.01890a5d.5VQ2mYt0.9f2c41d07be0' | ez-node-agent join https://servers.example:7443".to_owned(),
                until: UnixMillis(SAMPLE_NOW.0 + 3_600_000),
            }),
            ..asked.clone()
        };
        vec![("empty", asked), ("refused", refused), ("joined", joined)]
    }
}

impl Page for Alarms {
    const TEMPLATE: &'static str = "pages/fleet/alarms.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let closed = sample_alarms()
            .into_iter()
            .map(|alarm| AlarmRow { closed_at: Some(SAMPLE_NOW), href: None, ..alarm })
            .collect();
        vec![
            ("some", Self { open: sample_alarms(), closed }),
            ("none", Self { open: Vec::new(), closed: Vec::new() }),
        ]
    }
}
