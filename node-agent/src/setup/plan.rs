//! From what is wanted and what is there to the changes between: pure, and empty the second time.

use std::{collections::BTreeSet, path::Path};

use super::{
    Change, PVE_USER, SetupError, Wanted, files,
    look::{StorageEntry, World},
    roles,
};

/// What setup is about to do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In this order.
    pub changes: Vec<Change>,
    /// What people should know, but nobody has to do now.
    pub notes: Vec<String>,
}

/// Name of this node's token.
pub(super) fn token_name(node: &str) -> String {
    format!("node-{node}")
}

fn refuse<T>(text: String) -> Result<T, SetupError> {
    Err(SetupError::Refused(text))
}

/// Makes the plan.
///
/// # Errors
/// [`SetupError::Refused`] when something is there that setup does not understand.
pub fn plan(wanted: &Wanted, world: &World) -> Result<Plan, SetupError> {
    let wanted = complete(wanted, world)?;
    let mut plan = Plan::default();
    within_the_sandbox(&wanted, &mut plan)?;
    pools(&wanted, world, &mut plan);
    access(&wanted, world, &mut plan)?;
    snippets(&wanted, world, &mut plan)?;
    builds(&wanted, world)?;
    named(&wanted, world, &mut plan)?;
    templates(&wanted, world, &mut plan);
    own_files(&wanted, world, &mut plan)?;
    match world.firewall_on {
        Some(true) => {}
        Some(false) => plan.notes.push(
            "the datacenter firewall is off, so servers can forge addresses; switch it on in Datacenter → Firewall → \
             Options once its rules suit you"
                .to_owned(),
        ),
        None => plan.notes.push("could not see whether the datacenter firewall is on".to_owned()),
    }
    Ok(plan)
}

/// The state directory of the package's unit, which is all that its sandbox lets the agent write to.
const STATE_DIR: &str = "/var/lib/ez-node-agent";

/// A directory elsewhere could be made and granted, and then the agent could write nothing there, or not even be started.
/// Where one lies there already its owner has found a way: that host must not lose setup by it.
fn within_the_sandbox(wanted: &Wanted, plan: &mut Plan) -> Result<(), SetupError> {
    let here = Path::new(STATE_DIR);
    let before = toml::from_str::<toml::Table>(wanted.setup_text.as_deref().unwrap_or_default()).ok();
    let as_before = |key: &str, dir: &Path| match before.as_ref().and_then(|table| table.get(key)) {
        Some(said) => said.as_str().map(Path::new) == Some(dir),
        None => wanted.setup_text.is_some() && wanted.owners.contains(key),
    };
    let (state, snippets) = (wanted.state_dir == here, wanted.snippet_dir.starts_with(here));
    if !wanted.by_unit || (state && snippets) {
        return Ok(());
    }
    let known = (state || as_before("state_dir", &wanted.state_dir))
        && (snippets || as_before("snippet_dir", &wanted.snippet_dir));
    let text = format!(
        "the unit of the package lets the agent write below {STATE_DIR} alone, so neither its state nor its snippets can \
         lie elsewhere; to have them on another disk, mount that disk there"
    );
    if !known {
        return refuse(text);
    }
    plan.notes.push(text);
    Ok(())
}

/// Fills in what was not given, from what is there.
pub(super) fn complete(wanted: &Wanted, world: &World) -> Result<Wanted, SetupError> {
    let mut wanted = wanted.clone();
    let known: Vec<&str> = world.disk_stores.iter().map(|store| store.id.as_str()).collect();
    if wanted.storages.is_empty() {
        let local = world.disk_stores.iter().find(|s| !s.shared).or(world.disk_stores.first());
        match local {
            Some(store) => wanted.storages.push(store.id.clone()),
            None => {
                return refuse(format!(
                    "no active storage for disks on node {}; give one content 'images'",
                    world.node
                ));
            }
        }
    }
    if let Some(missing) = wanted.storages.iter().find(|id| !known.contains(&id.as_str())) {
        let text = format!(
            "storage {missing} holds no disks on node {}; there are: {}",
            world.node,
            known.join(", ")
        );
        return refuse(text);
    }
    if wanted.bridges.is_empty() {
        let preferred = world.bridges.iter().find(|b| *b == "vmbr0").or(world.bridges.first());
        match preferred {
            Some(bridge) => drop(wanted.bridges.insert(bridge.clone())),
            None => {
                return refuse(format!("node {} has no bridge; make one first (usually vmbr0)", world.node));
            }
        }
    }
    // Proxmox accepts grants on bridges that do not exist.
    if let Some(missing) = wanted.bridges.iter().find(|bridge| !world.bridges.contains(bridge)) {
        let text = format!(
            "bridge {missing} is not on node {}; there are: {}",
            world.node,
            world.bridges.join(", ")
        );
        return refuse(text);
    }
    if wanted.vmids.is_none() {
        // Disjoint by position in the cluster; whoever adds nodes later gives --vmids.
        let index = world.nodes.iter().position(|n| *n == world.node).unwrap_or(0);
        let first = 100_000 + 10_000 * u32::try_from(index).unwrap_or(0);
        wanted.vmids = Some(first..=first + 9_999);
    }
    wanted.snippet_storage.get_or_insert_with(|| snippet_storage(&world.node));
    Ok(wanted)
}

/// Name of a node's snippet storage, unless somebody gave another.
pub(super) fn snippet_storage(node: &str) -> String {
    format!("ez-ci-{node}")
}

fn pools(wanted: &Wanted, world: &World, plan: &mut Plan) {
    for (pool, comment) in [
        (&wanted.pool, "EZ: customers' servers"),
        (&wanted.template_pool, "EZ: templates servers are made from"),
    ] {
        if !world.pools.contains_key(pool) {
            plan.changes.push(Change::AddPool { pool: pool.clone(), comment });
        }
    }
}

fn access(wanted: &Wanted, world: &World, plan: &mut Plan) -> Result<(), SetupError> {
    let granted: BTreeSet<&str> =
        roles::grants(wanted.into(), &world.node).into_iter().map(|(_, role)| role).collect();
    for (role, privileges) in roles::roles(&world.version).into_iter().filter(|(r, _)| granted.contains(r)) {
        match world.roles.get(role) {
            None => plan.changes.push(Change::AddRole { role, privileges }),
            Some(has) if !has.is_superset(&privileges) => {
                let missing = privileges.difference(has).cloned().collect();
                plan.changes.push(Change::WidenRole { role, missing });
            }
            Some(has) if *has != privileges => {
                let more: Vec<&str> = has.difference(&privileges).map(String::as_str).collect();
                plan.notes.push(format!("role {role} has more than the agent needs: {}", more.join(", ")));
            }
            Some(_) => {}
        }
    }
    if !world.user_exists {
        plan.changes.push(Change::AddUser);
    }
    let name = token_name(&world.node);
    let id = format!("{PVE_USER}!{name}");
    let stored = files::token_id(&wanted.token_file)?;
    let file = wanted.token_file.clone();
    match (world.tokens.contains(&name), stored) {
        (_, Some(other)) if other != id => {
            let text = format!("{} holds the token of {other}, not of {id}; move it away", file.display());
            return refuse(text);
        }
        (true, Some(_)) => {}
        // Its secret is shown only once; without the file it is lost.
        (true, None) => plan.changes.push(Change::AddToken { name, file, replace: true }),
        (false, _) => plan.changes.push(Change::AddToken { name, file, replace: false }),
    }
    for (path, role) in roles::grants(wanted.into(), &world.node) {
        if !world.grants.contains(&(path.clone(), role.to_owned())) {
            plan.changes.push(Change::Grant { path, role });
        }
    }
    Ok(())
}

fn snippets(wanted: &Wanted, world: &World, plan: &mut Plan) -> Result<(), SetupError> {
    let id = wanted.snippet_storage.clone().unwrap_or_default();
    let base = wanted.snippet_dir.parent().unwrap_or(&wanted.snippet_dir).to_owned();
    if !wanted.snippet_dir.is_dir() {
        plan.changes.push(Change::MakeDir { dir: wanted.snippet_dir.clone() });
    }
    let Some(there) = world.storages.get(&id) else {
        plan.changes.push(Change::AddStorage { id, base, node: world.node.clone() });
        return Ok(());
    };
    let StorageEntry { kind, path, content, nodes } = there;
    let fits = kind == "dir"
        && path.as_deref().map(|p| p.trim_end_matches('/')) == base.to_str()
        && content.contains("snippets")
        && (nodes.is_empty() || nodes.contains(&world.node));
    if fits {
        return Ok(());
    }
    refuse(format!(
        "storage {id} exists, but is not a directory storage for snippets at {} on node {}; remove it or give \
         --snippet-storage",
        base.display(),
        world.node
    ))
}

/// Building images needs a storage that takes downloads.
fn builds(wanted: &Wanted, world: &World) -> Result<(), SetupError> {
    let Some(build) = &wanted.build else { return Ok(()) };
    let id = &build.import_storage;
    match world.storages.get(id) {
        None => refuse(format!("images.import_storage of the policy file: there is no storage {id}")),
        Some(entry) if !entry.content.contains("import") => {
            let content: Vec<&str> = entry.content.iter().map(String::as_str).chain(["import"]).collect();
            refuse(format!(
                "storage {id} takes no downloads of disk images; allow it with `pvesm set {id} --content {}`",
                content.join(",")
            ))
        }
        Some(_) => Ok(()),
    }
}

/// Proxmox takes grants on storages that do not exist, and a backup or a medium that fails later says it to the wrong person.
/// What a policy has named before is only said: its owner may have taken that storage away for a while.
fn named(wanted: &Wanted, world: &World, plan: &mut Plan) -> Result<(), SetupError> {
    for (key, id, content) in
        [("backups.storage", &wanted.backup_storage, "backup"), ("media.storage", &wanted.iso_storage, "iso")]
    {
        let Some(unfit) = id.as_ref().and_then(|id| unfit(world, id, content)) else { continue };
        let text = format!("{key}: {unfit}");
        if wanted.policy.is_none() {
            return refuse(text);
        }
        plan.notes.push(text);
    }
    Ok(())
}

/// Why this node cannot keep such content on a storage, if it cannot.
fn unfit(world: &World, id: &str, content: &str) -> Option<String> {
    let all = |there: &BTreeSet<String>, one: &str| {
        there.iter().map(String::as_str).chain([one]).collect::<Vec<_>>().join(",")
    };
    match world.storages.get(id) {
        None => {
            let there: Vec<&str> = world.storages.keys().map(String::as_str).collect();
            Some(format!("there is no storage {id}; there are: {}", there.join(", ")))
        }
        Some(entry) if !entry.content.contains(content) => Some(format!(
            "storage {id} does not hold content {content}; allow it with `pvesm set {id} --content {}`",
            all(&entry.content, content)
        )),
        Some(entry) if !entry.nodes.is_empty() && !entry.nodes.contains(&world.node) => Some(format!(
            "storage {id} is kept from node {node}; if it can be reached from there, `pvesm set {id} --nodes {}`",
            all(&entry.nodes, &world.node),
            node = world.node
        )),
        Some(_) => None,
    }
}

fn templates(wanted: &Wanted, world: &World, plan: &mut Plan) {
    let pooled = world.pools.get(&wanted.template_pool).cloned().unwrap_or_default();
    let marked: BTreeSet<u32> =
        world.templates.iter().filter(|(_, good)| **good).map(|(id, _)| *id).collect();
    let missing: BTreeSet<u32> = marked.difference(&pooled).copied().collect();
    if !missing.is_empty() {
        plan.changes.push(Change::AddToPool { pool: wanted.template_pool.clone(), vmids: missing });
    }
    for vmid in world.templates.iter().filter(|(_, good)| !**good).map(|(id, _)| id) {
        plan.notes.push(format!("template {vmid}: its image marker cannot be read, so it is not used"));
    }
    if marked.is_empty() {
        plan.notes.push(format!(
            "no template on node {} carries `ez-image:v1 <name> sha256:<digest>` as the first line of its \
             description, so there is nothing to make servers from yet",
            world.node
        ));
    }
}

fn own_files(wanted: &Wanted, world: &World, plan: &mut Plan) -> Result<(), SetupError> {
    if !world.ca_copied {
        if !wanted.cluster_ca.is_file() {
            return refuse(format!(
                "{} is not here; give --cluster-ca with the cluster's pve-root-ca.pem",
                wanted.cluster_ca.display()
            ));
        }
        let (from, to) = (wanted.cluster_ca.clone(), wanted.cluster_ca_copy.clone());
        plan.changes.push(Change::CopyFile { from, to });
    }
    let text = files::setup_toml(wanted, world);
    if wanted.setup_text.as_deref() != Some(&text) {
        plan.changes.push(Change::WriteFile { path: wanted.setup_file.clone(), text, mode: 0o644 });
    }
    if wanted.policy.is_none() {
        let text = files::policy_toml(wanted, world)?;
        plan.changes.push(Change::WriteFile { path: wanted.policy_file.clone(), text, mode: 0o644 });
        plan.notes.push(format!(
            "look at {} before you join: it bounds what this host does",
            wanted.policy_file.display()
        ));
    }
    Ok(())
}
