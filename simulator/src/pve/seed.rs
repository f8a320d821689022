//! A cluster's first day: storages, templates, root's token.

use std::collections::BTreeMap;
use std::path::Path;

use super::config::{ClusterConfig, NodeConfig, PveConfig, TemplateConfig};
use super::drive::{NewVolume, print_size};
use super::state::{Pool, State, Storage, Token, User, Vm, sha256_hex};

/// Fills an empty state; on later starts only root's token follows the configuration.
pub(crate) fn fill(s: &mut State, config: &PveConfig, cluster: &ClusterConfig, directory: &Path, now: i64) {
    let (user, _) = config.root_token.id.split_once('!').unwrap_or(("root@pam", ""));
    if !s.users.contains("root@pam") {
        s.users.insert("root@pam", User { enable: true, ..User::default() });
    }
    if !s.users.contains(user) {
        s.users.insert(user, User { enable: true, ..User::default() });
    }
    let token = Token {
        secret_sha256: sha256_hex(config.root_token.secret.as_bytes()),
        privsep: false,
        expire: 0,
        comment: None,
    };
    s.tokens.insert(&config.root_token.id, token);
    for node in &cluster.nodes {
        if s.meta.contains(format!("seeded {}", node.name)) {
            continue;
        }
        storages(s, cluster, node, directory);
        for template in &node.templates {
            template_of(s, node, template, now);
        }
        s.meta.insert(format!("seeded {}", node.name), now.to_string());
    }
    if !s.meta.contains("seeded") {
        if config.firewall_enabled {
            s.meta.insert("firewall enable", "1".to_owned());
        }
        s.meta.insert("boot", now.to_string());
        s.meta.insert("seeded", now.to_string());
    }
}

fn storages(s: &mut State, cluster: &ClusterConfig, node: &NodeConfig, directory: &Path) {
    for given in &node.storages {
        let files = matches!(given.kind.as_str(), "dir" | "nfs" | "btrfs" | "cifs");
        let own = given.path.clone().unwrap_or_else(|| {
            directory.join("storage").join(&node.name).join(&given.id).to_string_lossy().into_owned()
        });
        if files && let Err(error) = std::fs::create_dir_all(Path::new(&own).join("snippets")) {
            tracing::warn!(%error, path = %own, "directory of a simulated storage");
        }
        let shown = if given.id == "local" { "/var/lib/vz".to_owned() } else { own.clone() };
        if let Some(row) = s.storages.get_mut(&given.id) {
            row.directories.insert(node.name.clone(), own);
            if !row.nodes.is_empty() {
                row.nodes.push(node.name.clone());
            }
            continue;
        }
        let everywhere = cluster.nodes.iter().all(|n| n.storages.iter().any(|st| st.id == given.id));
        s.storages.insert(
            &given.id,
            Storage {
                id: given.id.clone(),
                kind: given.kind.clone(),
                content: given.content.clone(),
                nodes: if everywhere { Vec::new() } else { vec![node.name.clone()] },
                shared: false,
                disable: false,
                path: files.then_some(shown),
                directories: if files { BTreeMap::from([(node.name.clone(), own)]) } else { BTreeMap::new() },
                total: given.total_gib << 30,
                options: if given.kind == "dir" {
                    BTreeMap::from([("prune-backups".to_owned(), "keep-all=1".to_owned())])
                } else {
                    BTreeMap::new()
                },
            },
        );
    }
}

/// A cloud image's template as `setup` or an operator builds it.
fn template_of(s: &mut State, node: &NodeConfig, given: &TemplateConfig, now: i64) {
    if s.vms.contains(given.vmid) {
        return;
    }
    let Some(storage) = s.storages.get(&given.storage).cloned() else {
        tracing::warn!(storage = %given.storage, vmid = given.vmid, "a template names an unknown storage");
        return;
    };
    let vmid = given.vmid;
    let files = storage.path.is_some();
    let format = if files { "qcow2" } else { "raw" };
    let size = given.disk_gib << 30;
    let new = |size, cloudinit| NewVolume {
        node: &node.name,
        storage: &storage,
        vmid,
        format,
        size,
        at: now,
        parent: None,
        cloudinit,
        holds: None,
    };
    let made = s.allocate(&new(size, false)).and_then(|disk| Ok((disk, s.allocate(&new(4 << 20, true))?)));
    let (disk, cloudinit) = match made {
        Ok(both) => both,
        Err(reason) => return tracing::warn!(%reason, vmid, "a template has no room"),
    };
    let bridge = node.bridges.first().map_or("vmbr0", String::as_str);
    let mac = s.draw_mac();
    let mut config = BTreeMap::new();
    let mut set = |k: &str, v: String| config.insert(k.to_owned(), v);
    set("name", given.name.clone());
    if !given.description.is_empty() {
        set("description", given.description.clone());
    }
    set("agent", "enabled=1".into());
    set("boot", "order=scsi0".into());
    set("cores", "1".into());
    set("cpu", "x86-64-v2-AES".into());
    set("ide2", format!("{cloudinit},media=cdrom,size=4M"));
    set("memory", "1024".into());
    set("meta", format!("creation-qemu=9.2.0,ctime={}", now / 1000));
    set("net0", format!("virtio={mac},bridge={bridge},firewall=1"));
    set("ostype", "l26".into());
    set("scsi0", format!("{disk},discard=on,iothread=1,size={}", print_size(size)));
    set("scsihw", "virtio-scsi-single".into());
    set("serial0", "socket".into());
    set("sockets", "1".into());
    set("vga", "std".into());
    set("smbios1", format!("uuid={}", s.draw_uuid()));
    let generation = s.draw_uuid();
    config.insert("vmgenid".into(), generation);
    s.vms.insert(
        vmid,
        Vm {
            vmid,
            node: node.name.clone(),
            config,
            created_at: now,
            guest_agent: given.guest_agent,
            ..Vm::default()
        },
    );
    super::api::qemu::convert(s, &node.name, vmid);
    if let Some(pool) = &given.pool {
        if !s.pools.contains(pool) {
            s.pools.insert(pool, Pool::default());
        }
        if let Some(pool) = s.pools.get_mut(pool) {
            pool.vms.push(vmid);
        }
    }
}
