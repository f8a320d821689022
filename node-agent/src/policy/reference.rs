//! Every key of the policy file: what `check-config` suggests from, and what `docs/reference/policy.md` and the manual
//! page are written from.

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Number,
    /// A text.
    Text,
    /// A list of texts.
    Texts,
    /// `true` or `false`.
    Flag,
}

impl Kind {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Text => "text",
            Self::Texts => "list of texts",
            Self::Flag => "true or false",
        }
    }
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name with its section, as refusals name it: `limits.instances`.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What applies where it is missing, as it would be written; none: it must be there.
    pub default: Option<&'static str>,
    /// What it means, for people.
    pub means: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>, means: &'static str) -> Key {
    Key { name, kind, default, means }
}

/// Every key, in the order in which the file has them.
pub const KEYS: &[Key] = &[
    key(
        "vmid_first",
        Kind::Number,
        None,
        "First VMID the agent may use, 100 to 999999999. The nodes of one cluster need ranges that do not overlap.",
    ),
    key(
        "vmid_last",
        Kind::Number,
        None,
        "Last VMID it may use. A VMID outside is refused by rule `vmid_range`.",
    ),
    key("pool", Kind::Text, None, "Proxmox pool its servers live in."),
    key("template_pool", Kind::Text, None, "Proxmox pool of the templates it may clone from."),
    key("storages", Kind::Texts, None, "Storages for disks; the first one is used."),
    key(
        "clone",
        Kind::Text,
        Some("\"full\""),
        "`full` copies the template's disk and works on every storage; `linked` makes thin children on the template's own storage.",
    ),
    key("network.bridges", Kind::Texts, None, "Bridges servers may be attached to."),
    key(
        "network.vlans",
        Kind::Texts,
        Some("[]"),
        "VLAN tags or ranges such as `\"100-199\"`; with none, only untagged.",
    ),
    key(
        "network.prefixes",
        Kind::Texts,
        Some("[]"),
        "Prefixes that addresses, and whole networks routed to a server, must come from; with none, any that the control plane gives.",
    ),
    key(
        "network.require_firewall",
        Kind::Flag,
        Some("true"),
        "Refuse a server whose network card is not filtered against forged addresses.",
    ),
    key(
        "images.digests",
        Kind::Texts,
        Some("[]"),
        "Digests (`sha256:…`) of the images that may be cloned; with none, every template in the template pool.",
    ),
    key(
        "images.build",
        Kind::Flag,
        Some("false"),
        "Whether signed orders may have images downloaded and made into templates here. Where true, the four keys below are needed, and `ez-node-agent setup` has to be run once more: it widens the agent's rights by what that takes.",
    ),
    key(
        "images.sources",
        Kind::Texts,
        Some("[]"),
        "Images are built from addresses that begin with one of these; each ends in `/`.",
    ),
    key(
        "images.vmid_first",
        Kind::Number,
        Some("0"),
        "First VMID for templates, apart from those of servers.",
    ),
    key("images.vmid_last", Kind::Number, Some("0"), "Last VMID for templates."),
    key(
        "images.import_storage",
        Kind::Text,
        Some("\"\""),
        "Storage that takes the downloads; it must hold the content type `import`.",
    ),
    key(
        "backups.storage",
        Kind::Text,
        Some("\"\""),
        "Storage for backups of servers; it must hold the content type `backup`. Empty: this host keeps no backups. The agent removes only backups it made itself.",
    ),
    key(
        "media.storage",
        Kind::Text,
        Some("\"\""),
        "Storage whose ISO images customers may insert into their servers. Empty: none.",
    ),
    key(
        "guest.set_passwords",
        Kind::Flag,
        Some("false"),
        "Let a new password be set inside a running server through its guest agent. The right for it lets whoever holds the agent's token do anything inside a guest; without it a password is set at the next boot. On Proxmox VE 8 the token has that right in any case (VM.Monitor).",
    ),
    key(
        "console.allow",
        Kind::Flag,
        Some("true"),
        "Let customers look at the screen and the serial line of their servers through the control plane. At most 4 consoles of a server and 32 of this host are open at once; one ends after 15 minutes without a key or click and after two hours in any case, and carries at most 1 MB a second each way.",
    ),
    key("limits.instances", Kind::Number, None, "Most servers of this agent."),
    key("limits.vcpus_each", Kind::Number, None, "Most vCPUs of one server."),
    key("limits.memory_mib_each", Kind::Number, None, "Most memory of one server, MiB."),
    key("limits.disk_gib_each", Kind::Number, None, "Largest disk of one server, GiB."),
    key("limits.vcpus", Kind::Number, None, "Most vCPUs of all servers together."),
    key("limits.memory_mib", Kind::Number, None, "Most memory of all servers together, MiB."),
    key("limits.disk_gib", Kind::Number, None, "Most disk of all servers together, GiB."),
    key("limits.creates_per_minute", Kind::Number, Some("10"), "Most servers made in any 60 s."),
    key("limits.creates_per_day", Kind::Number, Some("200"), "Most servers made in any 24 h."),
    key(
        "limits.orders_per_hour",
        Kind::Number,
        Some("2000"),
        "Most orders of every kind that are taken in any hour. Each leaves a row for 30 days, so this bounds how fast the journal grows; beyond 4 GiB it takes none but those that end a server, beyond 5 GiB none at all.",
    ),
    key(
        "limits.orders_per_server_per_hour",
        Kind::Number,
        Some("120"),
        "Most orders of one server that are taken in any hour. An order that ends the server (retire, purge) is not held up by it.",
    ),
    key(
        "destroy.purge_after_hours",
        Kind::Number,
        Some("24"),
        "Hours that must pass between the end of a service (retire) and its removal (purge); at least 24.",
    ),
    key(
        "destroy.purges_per_10_minutes",
        Kind::Number,
        Some("5"),
        "Most purges in any 10 minutes. Beyond it the circuit opens: every purge is refused until root of this host says `ez-node-agent unlock`.",
    ),
    key(
        "destroy.purge_percent_per_day",
        Kind::Number,
        Some("10"),
        "Most purges in any 24 h, percent of the servers of this agent; beyond it the circuit opens.",
    ),
    key(
        "destroy.purge_floor_per_day",
        Kind::Number,
        Some("3"),
        "So many purges in 24 h are always allowed, however few servers there are.",
    ),
    key(
        "destroy.replaces_per_hour",
        Kind::Number,
        Some("10"),
        "Most disks that may be replaced in any hour: rebuilds, rollbacks to a snapshot, restores of a backup. An order that ended before it touched a disk does not count.",
    ),
    key(
        "destroy.replaces_per_server_per_hour",
        Kind::Number,
        Some("3"),
        "So often the disk of one server may be replaced in any hour.",
    ),
    key(
        "destroy.replace_percent_per_day",
        Kind::Number,
        Some("25"),
        "Most servers that may lose their disk in any 24 h, percent of the servers of this agent; one snapshot or backup that is deleted is a quarter of a disk, and a server counts once however much it loses. Beyond it the circuit opens: nothing is purged, replaced or deleted until root of this host says `ez-node-agent unlock`.",
    ),
    key(
        "destroy.replace_floor_per_day",
        Kind::Number,
        Some("5"),
        "So many servers may always lose their disk in 24 h, however few there are.",
    ),
];

/// The key of a name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Names of the sections, each once, in the order of the file.
pub(super) fn sections() -> impl Iterator<Item = &'static str> + Clone {
    ["network", "images", "backups", "media", "guest", "console", "limits", "destroy"].into_iter()
}

/// Keys of a section without its name; the empty section is the top of the file.
pub(super) fn in_section(section: &str) -> impl Iterator<Item = &'static str> + Clone {
    let section = section.to_owned();
    KEYS.iter().filter_map(move |key| match key.name.split_once('.') {
        None => section.is_empty().then_some(key.name),
        Some((of, name)) => (of == section).then_some(name),
    })
}
