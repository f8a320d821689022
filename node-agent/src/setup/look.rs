//! What is there now, on the Proxmox side.

use std::collections::{BTreeMap, BTreeSet};

use ez_protocol::marker::Marker;
use serde_json::Value;

use super::{AdminApi, PVE_USER, SetupError, Verb, wanted::Wanted};
use crate::pve::{Fingerprint, IMAGE_MARKER, Version, Vmid, parse_image_marker};

/// A storage of the cluster's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct StorageEntry {
    pub(super) kind: String,
    pub(super) path: Option<String>,
    pub(super) content: BTreeSet<String>,
    pub(super) nodes: BTreeSet<String>,
}

/// A storage as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskStore {
    pub(super) id: String,
    pub(super) shared: bool,
    pub(super) total_gib: u64,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct World {
    pub(super) version: Version,
    pub(super) fingerprint: Fingerprint,
    pub(super) node: String,
    /// All nodes of the cluster, sorted.
    pub(super) nodes: Vec<String>,
    pub(super) cpus: u32,
    pub(super) memory_mib: u64,
    pub(super) pools: BTreeMap<String, BTreeSet<Vmid>>,
    pub(super) roles: BTreeMap<String, BTreeSet<String>>,
    pub(super) user_exists: bool,
    pub(super) tokens: BTreeSet<String>,
    /// (path, role) granted to our user.
    pub(super) grants: BTreeSet<(String, String)>,
    pub(super) storages: BTreeMap<String, StorageEntry>,
    pub(super) disk_stores: Vec<DiskStore>,
    pub(super) bridges: Vec<String>,
    /// Templates on this node: VMID → marked as an image of ours.
    pub(super) templates: BTreeMap<Vmid, bool>,
    /// VMs on this node that are no templates.
    pub(super) vms: BTreeSet<Vmid>,
    /// Those of them that carry an agent's marker; looked for only where nothing else tells whose a VM is.
    pub(super) marked: BTreeSet<Vmid>,
    /// `None`: could not be read.
    pub(super) firewall_on: Option<bool>,
    pub(super) ca_copied: bool,
}

async fn get(admin: &dyn AdminApi, path: &str, parameters: &[(&str, String)]) -> Result<Value, SetupError> {
    admin.call(Verb::Get, path, parameters).await.map_err(SetupError::pve(format!("looking at {path}")))
}

fn rows(value: Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn text(row: &Value, key: &str) -> String {
    match row.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn number(row: &Value, key: &str) -> u64 {
    text(row, key).parse().unwrap_or(0)
}

fn words(row: &Value, key: &str) -> BTreeSet<String> {
    text(row, key).split([',', ';', ' ']).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

/// The node this host is: as given, the only one, or the one that shows the pinned certificate.
fn choose_node(wanted: &Wanted, fingerprint: Fingerprint, list: &[Value]) -> Result<String, SetupError> {
    let names: Vec<String> = list.iter().map(|row| text(row, "node")).collect();
    if let Some(node) = &wanted.node {
        let known = names.contains(node);
        let unknown =
            || SetupError::Refused(format!("node {node} is not in this cluster ({})", names.join(", ")));
        return if known { Ok(node.clone()) } else { Err(unknown()) };
    }
    // Nodes may share one certificate, such as one for all names below a domain: then it tells none of them apart.
    let shows = |row: &&Value| text(row, "ssl_fingerprint").parse() == Ok(fingerprint);
    let showing: Vec<String> = list.iter().filter(shows).map(|row| text(row, "node")).collect();
    match (names.as_slice(), showing.as_slice()) {
        ([only], _) | (_, [only]) => Ok(only.clone()),
        _ => Err(SetupError::Refused(format!(
            "cannot tell which node of {} this is; give --pve-node",
            names.join(", ")
        ))),
    }
}

/// Reads everything setup and leave decide by; changes nothing.
pub(super) async fn look(admin: &dyn AdminApi, wanted: &Wanted) -> Result<World, SetupError> {
    let version = text(&get(admin, "/version", &[]).await?, "version");
    let version = Version::parse(&version).map_err(SetupError::pve("reading the version"))?;
    if !version.is_supported() {
        let text = format!("Proxmox VE {} is not supported; 8.4 or newer is needed", version.text);
        return Err(SetupError::Refused(text));
    }
    let fingerprint = wanted.need_fingerprint()?;
    let list = rows(get(admin, "/nodes", &[]).await?);
    let node = choose_node(wanted, fingerprint, &list)?;
    let mut nodes: Vec<String> = list.iter().map(|row| text(row, "node")).collect();
    nodes.sort();
    let own = list.iter().find(|row| text(row, "node") == node).cloned().unwrap_or_default();

    let mut pools = BTreeMap::new();
    for row in rows(get(admin, "/pools", &[]).await?) {
        let id = text(&row, "poolid");
        let mut members = BTreeSet::new();
        // Who leaves without a policy does not know the pool of the servers.
        if wanted.policy.is_none() || [&wanted.pool, &wanted.template_pool].contains(&&id) {
            let pool = get(admin, "/pools", &[("poolid", id.clone())]).await?;
            let list =
                rows(pool).into_iter().flat_map(|row| rows(row.get("members").cloned().unwrap_or_default()));
            members.extend(list.filter_map(|m| Vmid::try_from(number(&m, "vmid")).ok()).filter(|id| *id > 0));
        }
        pools.insert(id, members);
    }
    let roles = rows(get(admin, "/access/roles", &[]).await?);
    let roles = roles.iter().map(|row| (text(row, "roleid"), words(row, "privs"))).collect();
    let users = rows(get(admin, "/access/users", &[]).await?);
    let user_exists = users.iter().any(|row| text(row, "userid") == PVE_USER);
    let mut tokens = BTreeSet::new();
    if user_exists {
        let list = rows(get(admin, &format!("/access/users/{PVE_USER}/token"), &[]).await?);
        tokens.extend(list.iter().map(|row| text(row, "tokenid")));
    }
    let acl = rows(get(admin, "/access/acl", &[]).await?);
    let ours = acl.iter().filter(|row| text(row, "type") == "user" && text(row, "ugid") == PVE_USER);
    let grants = ours.map(|row| (text(row, "path"), text(row, "roleid"))).collect();

    let storages = rows(get(admin, "/storage", &[]).await?);
    let storages = storages.iter().map(|row| {
        let path = Some(text(row, "path")).filter(|path| !path.is_empty());
        let entry = StorageEntry {
            kind: text(row, "type"),
            path,
            content: words(row, "content"),
            nodes: words(row, "nodes"),
        };
        (text(row, "storage"), entry)
    });
    let storages = storages.collect();
    let stores = get(admin, &format!("/nodes/{node}/storage"), &[("content", "images".to_owned())]).await?;
    let active = |row: &Value| number(row, "active") == 1 && number(row, "enabled") == 1;
    let disk_stores = rows(stores).into_iter().filter(active).map(|row| DiskStore {
        id: text(&row, "storage"),
        shared: number(&row, "shared") == 1,
        total_gib: number(&row, "total") >> 30,
    });
    let disk_stores = disk_stores.collect();
    let network = rows(get(admin, &format!("/nodes/{node}/network"), &[]).await?);
    let mut bridges: Vec<String> = network
        .iter()
        .filter(|row| matches!(text(row, "type").as_str(), "bridge" | "OVSBridge"))
        .map(|row| text(row, "iface"))
        .collect();
    bridges.sort();

    let (mut templates, mut vms) = (BTreeMap::new(), BTreeSet::new());
    for row in rows(get(admin, &format!("/nodes/{node}/qemu"), &[]).await?) {
        let Ok(vmid) = Vmid::try_from(number(&row, "vmid")) else { continue };
        if number(&row, "template") == 1 {
            let config = get(admin, &format!("/nodes/{node}/qemu/{vmid}/config"), &[]).await?;
            let description = text(&config, "description");
            if description.contains(IMAGE_MARKER) {
                templates.insert(vmid, parse_image_marker(&description).is_some());
            }
        } else {
            vms.insert(vmid);
        }
    }
    let mut marked = BTreeSet::new();
    if wanted.leaves && wanted.policy.is_none() {
        let elsewhere =
            pools.iter().filter(|(pool, _)| ![&wanted.pool, &wanted.template_pool].contains(pool));
        for vmid in elsewhere.flat_map(|(_, members)| members).filter(|vmid| vms.contains(*vmid)) {
            let config = get(admin, &format!("/nodes/{node}/qemu/{vmid}/config"), &[]).await?;
            if Marker::find(&text(&config, "description")).is_some() {
                marked.insert(*vmid);
            }
        }
    }
    // Not worth failing for: it is only said.
    let firewall = admin.call(Verb::Get, "/cluster/firewall/options", &[]).await.ok();
    Ok(World {
        cpus: u32::try_from(number(&own, "maxcpu")).unwrap_or(u32::MAX),
        memory_mib: number(&own, "maxmem") >> 20,
        firewall_on: firewall.map(|options| number(&options, "enable") == 1),
        ca_copied: same_file(wanted),
        version,
        fingerprint,
        node,
        nodes,
        pools,
        roles,
        user_exists,
        tokens,
        grants,
        storages,
        disk_stores,
        bridges,
        templates,
        vms,
        marked,
    })
}

/// Whether the agent's copy of the cluster's certificate is up to date.
fn same_file(wanted: &Wanted) -> bool {
    match (std::fs::read(&wanted.cluster_ca), std::fs::read(&wanted.cluster_ca_copy)) {
        (Ok(source), Ok(copy)) => source == copy,
        // Without a source, a copy that is there is all there can be.
        (Err(_), Ok(_)) => true,
        _ => false,
    }
}
