//! Looking after a server: snapshots, backups, firewall, rescue, another disk, root's password; and the same for
//! operators.

use ez_protocol::UnixMillis;
use serde::Serialize;

use super::{Head, Notice, Running, sample_head};
use crate::web::{
    forms::FormState,
    templates::Page,
    views::{SAMPLE_NOW, Step},
};

/// One snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// When it was taken.
    pub taken_at: UnixMillis,
}

/// `GET /servers/{id}/snapshots`. All forms post to `<href>/actions`.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshots {
    /// The server.
    pub server: Head,
    /// Newest first.
    pub snapshots: Vec<Snapshot>,
    /// How many there may be.
    pub most: u32,
    /// The form for a new one.
    pub form: FormState,
}

/// One backup.
#[derive(Debug, Clone, Serialize)]
pub struct Backup {
    /// Its id.
    pub id: String,
    /// When it was begun.
    pub made_at: UnixMillis,
    /// Bytes it takes.
    pub bytes: u64,
}

/// `GET /servers/{id}/backups`. All forms post to `<href>/actions`.
#[derive(Debug, Clone, Serialize)]
pub struct Backups {
    /// The server.
    pub server: Head,
    /// Newest first.
    pub backups: Vec<Backup>,
    /// How many are kept; 0 when none were sold.
    pub most: u32,
}

/// One row of the firewall's form.
#[derive(Debug, Clone, Serialize)]
pub struct Rule {
    /// `in` or `out`.
    pub direction: String,
    /// `accept`, `drop` or `reject`.
    pub verdict: String,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, or empty.
    pub protocol: String,
    /// As typed.
    pub ports: String,
    /// As typed.
    pub peers: String,
}

/// `GET /servers/{id}/firewall`. The form posts to itself; its buttons are called `do`: `save`, `add`, `remove-<row>`,
/// `preset-<code>`. Messages stand at `<field>-<row>`.
#[derive(Debug, Clone, Serialize)]
pub struct Firewall {
    /// The server.
    pub server: Head,
    /// What comes in and fits no rule.
    pub inbound: String,
    /// The rows, saved or not.
    pub rules: Vec<Rule>,
    /// Whether what is shown was changed and not saved.
    pub unsaved: bool,
    /// Codes of the presets.
    pub presets: Vec<&'static str>,
    /// Messages.
    pub form: FormState,
}

/// Something to choose: an image or a medium.
#[derive(Debug, Clone, Serialize)]
pub struct Medium {
    /// What is sent.
    pub code: String,
    /// What is read.
    pub name: String,
}

/// `GET /servers/{id}/rescue`. All forms post to `<href>/actions`.
#[derive(Debug, Clone, Serialize)]
pub struct Rescue {
    /// The server.
    pub server: Head,
    /// The rescue system it runs.
    pub rescue: Option<String>,
    /// Rescue systems its node has.
    pub images: Vec<Medium>,
    /// The line that logs into it.
    pub ssh: Option<String>,
    /// The medium in its drive.
    pub iso: Option<String>,
    /// Media on offer.
    pub isos: Vec<Medium>,
    /// Messages.
    pub form: FormState,
}

/// `GET /servers/{id}/rebuild`. The form posts to `<href>/actions` with the server's name as `confirm`.
#[derive(Debug, Clone, Serialize)]
pub struct Rebuild {
    /// The server.
    pub server: Head,
    /// Images its node has.
    pub images: Vec<Medium>,
    /// Code of the one it has now.
    pub current: String,
    /// Whether the old disk is gone already.
    pub disk_lost: bool,
    /// How many snapshots go with the disk.
    pub snapshots: u32,
    /// Messages.
    pub form: FormState,
}

/// `GET /servers/{id}/password`, and the answer to the form there, which is the only one with the password.
#[derive(Debug, Clone, Serialize)]
pub struct Password {
    /// The server.
    pub server: Head,
    /// The new one.
    pub password: Option<String>,
}

/// `GET /operator/servers/{id}`: what operators see of a server, and what only they do. Forms post to
/// `/operator/servers/{id}/suspend`, `…/resume`, `…/tags`, `…/limit` and `…/filter`.
#[derive(Debug, Clone, Serialize)]
pub struct Operated {
    /// The server; its address is that of this page.
    pub server: Head,
    /// Mail address of the customer.
    pub owner: String,
    /// Its node.
    pub node: Option<String>,
    /// Proxmox's number.
    pub vmid: Option<u32>,
    /// Addresses.
    pub addresses: Vec<String>,
    /// Name of the image and number of the build.
    pub image: String,
    /// The rescue system it runs.
    pub rescue: Option<String>,
    /// The medium in its drive.
    pub iso: Option<String>,
    /// How many firewall rules it has.
    pub rules: u32,
    /// Newest first.
    pub snapshots: Vec<Snapshot>,
    /// Newest first.
    pub backups: Vec<Backup>,
    /// Whether it shall be suspended.
    pub suspended: bool,
    /// Its newest provisioning order.
    pub order_href: Option<String>,
    /// Tags as typed.
    pub tags: String,
    /// The limit of its network in Mbit/s; empty without one.
    pub rate: String,
    /// Whether its host filters its packets.
    pub filtered: bool,
    /// Messages of its forms.
    pub form: FormState,
}

fn at(ago: i64) -> UnixMillis {
    UnixMillis(SAMPLE_NOW.0 - ago)
}

fn busy(code: &str, step: &str) -> Head {
    let steps = vec![Step::now(step, SAMPLE_NOW)];
    let running = Some(Running { code: code.to_owned(), steps });
    Head { running, locked: Some("busy"), ..sample_head("running", "good") }
}

fn medium(code: &str, name: &str) -> Medium {
    Medium { code: code.to_owned(), name: name.to_owned() }
}

fn sample_snapshots() -> Vec<Snapshot> {
    vec![
        Snapshot { name: "before-upgrade".to_owned(), taken_at: at(3_600_000) },
        Snapshot { name: "clean".to_owned(), taken_at: at(86_400_000) },
    ]
}

fn sample_backups() -> Vec<Backup> {
    vec![Backup {
        id: "01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
        made_at: at(3_600_000),
        bytes: 3 << 30,
    }]
}

impl Page for Snapshots {
    const TEMPLATE: &'static str = "pages/instances/snapshots.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let some = Self {
            server: sample_head("running", "good"),
            snapshots: sample_snapshots(),
            most: 5,
            form: FormState::default(),
        };
        let none = Self { snapshots: Vec::new(), ..some.clone() };
        let running = Self { server: busy("snapshot_create", "snapshot"), ..some.clone() };
        let full = Self { most: 2, ..some.clone() };
        let mut refused = some.clone();
        refused.form.refuse("name", "snapshot-name-taken");
        vec![("some", some), ("none", none), ("busy", running), ("full", full), ("refused", refused)]
    }
}

impl Page for Backups {
    const TEMPLATE: &'static str = "pages/instances/backups.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let some = Self { server: sample_head("running", "good"), backups: sample_backups(), most: 3 };
        let none = Self { backups: Vec::new(), ..some.clone() };
        let unsold = Self { most: 0, ..none.clone() };
        let running = Self { server: busy("backup_create", "backup"), ..some.clone() };
        vec![("some", some), ("none", none), ("unsold", unsold), ("busy", running)]
    }
}

impl Page for Firewall {
    const TEMPLATE: &'static str = "pages/instances/firewall.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let rule = |protocol: &str, ports: &str, peers: &str| Rule {
            direction: "in".to_owned(),
            verdict: "accept".to_owned(),
            protocol: protocol.to_owned(),
            ports: ports.to_owned(),
            peers: peers.to_owned(),
        };
        let some = Self {
            server: sample_head("running", "good"),
            inbound: "drop".to_owned(),
            rules: vec![rule("tcp", "22", ""), rule("icmp", "", "203.0.113.0/24")],
            unsaved: false,
            presets: vec!["ssh", "http", "https", "ping"],
            form: FormState::default(),
        };
        let none = Self { inbound: "accept".to_owned(), rules: Vec::new(), ..some.clone() };
        let mut refused = Self { unsaved: true, ..some.clone() };
        refused.form.refuse("ports-1", "firewall-ports-invalid");
        let running = Self { server: busy("firewall", "firewall"), ..some.clone() };
        vec![("some", some), ("none", none), ("refused", refused), ("busy", running)]
    }
}

impl Page for Rescue {
    const TEMPLATE: &'static str = "pages/instances/rescue.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let off = Self {
            server: sample_head("running", "good"),
            rescue: None,
            images: vec![medium("rescue-debian-13", "Debian 13 rescue")],
            ssh: None,
            iso: None,
            isos: vec![medium("debian-13-netinst.iso", "Debian 13 installer")],
            form: FormState::default(),
        };
        let notice = Notice { tone: "wait", code: "in-rescue", at: None, detail: None };
        let on = Self {
            server: Head { notices: vec![notice], ..sample_head("running", "good") },
            rescue: Some("Debian 13 rescue".to_owned()),
            ssh: Some("ssh root@203.0.113.24".to_owned()),
            iso: Some("Debian 13 installer".to_owned()),
            ..off.clone()
        };
        let nothing = Self { images: Vec::new(), isos: Vec::new(), ..off.clone() };
        vec![("off", off), ("on", on), ("nothing", nothing)]
    }
}

impl Page for Rebuild {
    const TEMPLATE: &'static str = "pages/instances/rebuild.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let ready = Self {
            server: sample_head("running", "good"),
            images: vec![medium("debian-13", "Debian 13"), medium("rocky-9", "Rocky Linux 9")],
            current: "debian-13".to_owned(),
            disk_lost: false,
            snapshots: 2,
            form: FormState::default(),
        };
        let notice = Notice { tone: "bad", code: "needs-rebuild", at: None, detail: None };
        let lost = Self {
            server: Head {
                notices: vec![notice],
                locked: Some("needs-rebuild"),
                ..sample_head("stopped", "idle")
            },
            disk_lost: true,
            snapshots: 0,
            ..ready.clone()
        };
        let mut refused = ready.clone();
        refused.form.refuse("confirm", "confirm-name");
        let running = Self { server: busy("rebuild", "clone"), ..ready.clone() };
        vec![("ready", ready), ("lost", lost), ("refused", refused), ("busy", running)]
    }
}

impl Page for Password {
    const TEMPLATE: &'static str = "pages/instances/password.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let asks = Self { server: sample_head("running", "good"), password: None };
        let shown = Self {
            server: busy("set_password", "set_password"),
            password: Some("pT7wYkq2mRx9bHs4nDcV".to_owned()),
        };
        vec![("asks", asks), ("shown", shown)]
    }
}

impl Page for Operated {
    const TEMPLATE: &'static str = "pages/instances/operated.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let served = Self {
            server: Head {
                href: "/operator/servers/01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
                ..sample_head("running", "good")
            },
            owner: "jane@acme.example".to_owned(),
            node: Some("fsn-1".to_owned()),
            vmid: Some(1_042),
            addresses: vec!["203.0.113.24".to_owned(), "2001:db8:12::1".to_owned()],
            image: "Debian 13".to_owned(),
            rescue: None,
            iso: None,
            rules: 3,
            snapshots: sample_snapshots(),
            backups: sample_backups(),
            suspended: false,
            order_href: Some("/operator/orders/01890a5d-ac96-774b-bcce-b302099a8057".to_owned()),
            tags: "web customer-a".to_owned(),
            rate: String::new(),
            filtered: true,
            form: FormState::default(),
        };
        let notice = Notice {
            tone: "bad",
            code: "suspended",
            at: Some(SAMPLE_NOW),
            detail: Some("Invoice 2026-117 is unpaid.".to_owned()),
        };
        let mut suspended = Self {
            server: Head { notices: vec![notice], locked: Some("suspended"), ..served.server.clone() },
            suspended: true,
            rate: "100".to_owned(),
            filtered: false,
            node: None,
            vmid: None,
            addresses: Vec::new(),
            rescue: Some("Debian 13 rescue".to_owned()),
            iso: Some("Debian 13 installer".to_owned()),
            snapshots: Vec::new(),
            backups: Vec::new(),
            order_href: None,
            ..served.clone()
        };
        suspended.form.refuse("tags", "tag-invalid");
        suspended.form.refuse_with("rate", "rate-invalid", 100_000_u32);
        vec![("served", served), ("suspended", suspended)]
    }
}
