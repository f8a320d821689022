//! Leaving: what setup made is taken away again. VMs never are.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{
    Change, PVE_USER, SetupArgs, SetupError, Talk, Wanted, look,
    plan::{snippet_storage, token_name},
    roles,
};
use crate::pve::Vmid;

/// Options of `leave`.
#[derive(Clone, Debug, Default, Args)]
pub struct LeaveArgs {
    /// Only say what would be changed.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before changing anything.
    #[arg(long)]
    pub yes: bool,
    /// Leave although servers are still in the pool. They stay as they are, and nobody manages them.
    #[arg(long)]
    pub keep_servers: bool,
    /// Which servers are this node's, as first-last, where the policy file that would say so cannot be read.
    #[arg(long, value_name = "FIRST-LAST")]
    pub vmids: Option<String>,
    /// Ask Proxmox over HTTPS with this administrator's token instead of through pvesh as root.
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
}

/// Undoes what setup made for this node; what other nodes of the cluster share stays until the last
/// of them leaves. Configuration and journal on this host stay.
///
/// # Errors
/// See [`SetupError`]; refused while servers of this node are in the pool, unless they are kept.
pub async fn leave(
    args: &LeaveArgs,
    config_file: &Path,
    env: &(dyn Fn(&str) -> Option<String> + Sync),
    talk: &mut (dyn Talk + Send),
) -> Result<(), SetupError> {
    let given = SetupArgs {
        admin_token_file: args.admin_token_file.clone(),
        vmids: args.vmids.clone(),
        // One leaves hosts whose storage has died and whose policy is half written, too.
        without_policy: args.vmids.is_some(),
        leaves: true,
        ..SetupArgs::default()
    };
    let wanted = Wanted::gather(&given, config_file, env).map_err(|error| match error {
        SetupError::Policy(problems) => SetupError::Refused(format!(
            "the policy file is not usable, so which servers are this node's is not known:\n{problems}\n\
             mend it, or say it with --vmids FIRST-LAST"
        )),
        other => other,
    })?;
    let admin = wanted.admin()?;
    let world = look::look(admin.as_ref(), &wanted).await?;
    let changes = plan(&wanted, &world, args.keep_servers)?;
    if changes.is_empty() {
        talk.say("nothing to remove".to_owned());
        return Ok(());
    }
    for change in &changes {
        talk.say(format!("{} {change}", if args.dry_run { "would" } else { "will" }));
    }
    if args.dry_run {
        return Ok(());
    }
    if !args.yes && !talk.confirm() {
        return Err(SetupError::Refused("nothing was changed".to_owned()));
    }
    for change in &changes {
        change.apply(admin.as_ref()).await?;
        talk.say(format!("done: {change}"));
    }
    Ok(())
}

pub(super) fn plan(
    wanted: &Wanted,
    world: &look::World,
    keep_servers: bool,
) -> Result<Vec<Change>, SetupError> {
    let policys = wanted.policy.as_ref().map(|p| p.vmids.clone());
    let vmids = policys.or(wanted.vmids.clone()).unwrap_or(100..=u32::MAX);
    // Without a policy the name of the pool is a guess, and pools are the whole cluster's. A VM on this node counts where its
    // pool, its marker or a person says so.
    let is_theirs = |pool: &String, id: &Vmid| match &wanted.policy {
        Some(_) => *pool == wanted.pool,
        None => {
            let told = *pool == wanted.pool || wanted.vmids.is_some() || world.marked.contains(id);
            told && *pool != wanted.template_pool && world.vms.contains(id)
        }
    };
    let pooled = world.pools.iter().flat_map(|(pool, members)| members.iter().map(move |id| (pool, id)));
    let servers: Vec<String> = pooled
        .filter(|(pool, id)| is_theirs(pool, id) && vmids.contains(*id) && !world.templates.contains_key(*id))
        .map(|(pool, id)| format!("{id} (pool {pool})"))
        .collect();
    if !servers.is_empty() && !keep_servers {
        let unknown = "; no policy says which servers are this node's, so --vmids FIRST-LAST does";
        return Err(SetupError::Refused(format!(
            "servers of this node are still there: {}; retire and purge them first, or leave with --keep-servers{}",
            servers.join(", "),
            if wanted.policy.is_none() { unknown } else { "" }
        )));
    }
    let mut changes = Vec::new();
    let remove = |what: String, path: String| Change::Remove { what, path, parameters: Vec::new() };
    let name = token_name(&world.node);
    let last = world.tokens.iter().all(|token| *token == name);
    if world.tokens.contains(&name) {
        let path = format!("/access/users/{PVE_USER}/token/{name}");
        changes.push(remove(format!("API token {PVE_USER}!{name}"), path));
    }
    if wanted.token_file.exists() {
        changes.push(Change::RemoveFile { path: wanted.token_file.clone() });
    }
    let storage = wanted.snippet_storage.clone().unwrap_or_else(|| snippet_storage(&world.node));
    if world.storages.contains_key(&storage) && servers.is_empty() {
        changes.push(remove(format!("storage {storage} (its files stay)"), format!("/storage/{storage}")));
    }
    let own_node = format!("/nodes/{}", world.node);
    for (path, role) in world.grants.iter().filter(|(path, _)| last || *path == own_node) {
        changes.push(Change::Revoke { path: path.clone(), role: role.clone() });
    }
    if !last {
        return Ok(changes);
    }
    if world.user_exists {
        changes.push(remove(format!("user {PVE_USER}"), format!("/access/users/{PVE_USER}")));
    }
    for (role, _) in
        roles::roles(&world.version).into_iter().filter(|(role, _)| world.roles.contains_key(*role))
    {
        changes.push(remove(format!("role {role}"), format!("/access/roles/{role}")));
    }
    for pool in [&wanted.pool, &wanted.template_pool] {
        if world.pools.get(pool).is_some_and(|members| members.is_empty()) {
            let parameters = vec![("poolid", pool.clone())];
            changes.push(Change::Remove { what: format!("pool {pool}"), path: "/pools".into(), parameters });
        }
    }
    Ok(changes)
}
