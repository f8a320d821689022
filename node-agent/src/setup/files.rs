//! Files on this host: `setup.toml`, a first `policy.toml`, the token.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
    path::Path,
};

use super::{SYSTEM_USER, SetupError, Wanted, look::World};
use crate::policy;

/// User and group of the agent, when we are root and the package made it.
pub(crate) fn service_owner() -> Option<(u32, u32)> {
    let root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    let users = fs::read_to_string("/etc/passwd").ok().filter(|_| root)?;
    let line = users.lines().find(|line| line.split(':').next() == Some(SYSTEM_USER))?;
    let mut numbers = line.split(':').skip(2).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn hand_over(path: &Path) -> Result<(), SetupError> {
    match service_owner() {
        Some((user, group)) => {
            chown(path, Some(user), Some(group)).map_err(SetupError::file("hand over", path))
        }
        None => Ok(()),
    }
}

/// Writes a file whole or not at all; `for_agent` gives it to the agent's user.
pub(super) fn write(path: &Path, text: &str, mode: u32, for_agent: bool) -> Result<(), SetupError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(SetupError::file("create", dir))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    // A leftover may have a wider mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        other => other.map_err(SetupError::file("remove", &temporary))?,
    }
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary);
    let mut file = file.map_err(SetupError::file("create", &temporary))?;
    file.write_all(text.as_bytes()).map_err(SetupError::file("write", &temporary))?;
    file.sync_all().map_err(SetupError::file("write", &temporary))?;
    if for_agent {
        hand_over(&temporary)?;
    }
    fs::rename(&temporary, path).map_err(SetupError::file("write", path))?;
    let dir = fs::File::open(dir).map_err(SetupError::file("open", dir))?;
    dir.sync_all().map_err(SetupError::file("write", path))
}

/// The snippet directory: the agent writes, Proxmox (root) reads, nobody else.
pub(super) fn make_dir(dir: &Path) -> Result<(), SetupError> {
    // The state directory above it, where the package did not make it, is nobody else's either.
    let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(dir);
    made.map_err(SetupError::file("create", dir))?;
    let mode = fs::Permissions::from_mode(0o750);
    fs::set_permissions(dir, mode).map_err(SetupError::file("protect", dir))?;
    hand_over(dir)
}

/// `user@realm!name` of the token in a file; `None` if there is no file.
pub(super) fn token_id(path: &Path) -> Result<Option<String>, SetupError> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let id = text.trim().split_once('=').map(|(id, _)| id.to_owned());
            let broken = || SetupError::Refused(format!("{} holds no API token; remove it", path.display()));
            id.ok_or_else(broken).map(Some)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SetupError::file("read", path)(error)),
    }
}

/// Ends the line of a fingerprint that nobody gave: it may be followed when the host's certificate is renewed.
pub(super) const OF_HOST: &str = " # the host's own file";

/// A whole `setup.toml`: what setup was told and found, less what the owner says in `agent.toml`.
pub(super) fn setup_toml(wanted: &Wanted, world: &World) -> String {
    let path = |path: &Path| path.display().to_string();
    let keys = [
        ("pve_url", wanted.pve_url.clone()),
        // The one certificate that is accepted.
        ("pve_fingerprint", world.fingerprint.to_string()),
        ("pve_node", world.node.clone()),
        ("pve_token_file", path(&wanted.token_file)),
        ("state_dir", path(&wanted.state_dir)),
        ("policy_file", path(&wanted.policy_file)),
        ("snippet_dir", path(&wanted.snippet_dir)),
        ("snippet_storage", wanted.snippet_storage.clone().unwrap_or_default()),
        // Its SHA-256 is the identity of the cluster.
        ("cluster_ca_file", path(&wanted.cluster_ca_copy)),
    ];
    let mut text = "# Written by `ez-node-agent setup`, which writes it again when something changed: a renewed certificate,\n\
                    # for instance. Settings of your own belong into agent.toml, which wins and which nothing rewrites.\n\n"
        .to_owned();
    for (key, value) in keys.into_iter().filter(|(key, _)| !wanted.owners.contains(*key)) {
        let followed = key == "pve_fingerprint" && wanted.fingerprint_of_host;
        let mark = if followed { OF_HOST } else { "" };
        text.push_str(&format!("{key} = {}{mark}\n", toml::Value::String(value)));
    }
    text
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> =
        names.into_iter().map(|name| toml::Value::String(name.to_owned()).to_string()).collect();
    format!("[{}]", quoted.join(", "))
}

/// A first `policy.toml`, sized after this host; read back before it is used.
pub(super) fn policy_toml(wanted: &Wanted, world: &World) -> Result<String, SetupError> {
    let vmids = wanted.vmids.clone().unwrap_or(100_000..=109_999);
    let stores = world.disk_stores.iter().filter(|s| wanted.storages.first() == Some(&s.id));
    let disk_gib = (stores.map(|s| s.total_gib).sum::<u64>() * 9 / 10).max(1);
    let reserve = (world.memory_mib / 10).max(2048);
    let memory_mib = world.memory_mib.saturating_sub(reserve).max(1024);
    let vcpus = world.cpus.saturating_mul(4).max(1);
    let prefixes: Vec<String> = wanted.prefixes.iter().map(|p| p.trunc().to_string()).collect();
    let text = format!(
        "# EZ node agent: what even a correctly signed order may not do on this host.\n\
         # Written once by `ez-node-agent setup` from what it found; it is yours now. After a change:\n\
         # `ez-node-agent check-config`, then `systemctl restart ez-node-agent`.\n\n\
         # VMIDs the agent may use; the nodes of one cluster need ranges that do not overlap.\n\
         vmid_first = {first}\n\
         vmid_last  = {last}\n\n\
         pool          = \"{pool}\"\n\
         template_pool = \"{template_pool}\"\n\n\
         # Storages for disks; the first one is used.\n\
         storages = {storages}\n\
         clone    = \"{clone}\"\n\n\
         [network]\n\
         bridges  = {bridges}\n\
         vlans    = {vlans}    # tags or ranges (\"100-199\"); empty: untagged only\n\
         prefixes = {prefixes}    # empty: any address the control plane gives\n\
         require_firewall = true\n\n\
         [images]\n\
         digests = []    # empty: every template in the template pool\n\
         # Whether signed orders may have images downloaded and made into templates here. If so, run setup once more:\n\
         # it widens the agent's rights by what that needs.\n\
         build = false\n\
         # sources        = [\"https://cloud.debian.org/images/cloud/\"]    # addresses begin with one of these\n\
         # vmid_first     = 9000    # VMIDs for templates, apart from those above\n\
         # vmid_last      = 9099\n\
         # import_storage = \"local\"    # takes the downloads; needs content `import`\n\n\
         [backups]\n\
         storage = \"{backups}\"    # empty: no backups here\n\n\
         [media]\n\
         storage = \"{media}\"    # its ISO images may be inserted; empty: none\n\n\
         [guest]\n\
         set_passwords = {passwords}    # true lets the token do anything inside guests, as Proxmox VE 8 does anyway\n\n\
         [console]\n\
         allow = true    # customers may look at the screens of their servers\n\n\
         [limits]\n\
         # One server.\n\
         vcpus_each      = {vcpus_each}\n\
         memory_mib_each = {memory_mib}\n\
         disk_gib_each   = {disk_gib}\n\
         # All servers of this agent together: memory and disk as they are, less a reserve; four vCPUs per CPU.\n\
         instances  = {instances}\n\
         vcpus      = {vcpus}\n\
         memory_mib = {memory_mib}\n\
         disk_gib   = {disk_gib}\n\
         creates_per_minute = 10\n\
         creates_per_day    = 200\n\
         orders_per_hour    = 2000\n\
         orders_per_server_per_hour = 120\n\n\
         [destroy]\n\
         purge_after_hours     = 24    # at least 24\n\
         purges_per_10_minutes = 5\n\
         purge_percent_per_day = 10\n\
         purge_floor_per_day   = 3\n\
         replaces_per_hour     = 10    # rebuilds, rollbacks and restores\n\
         replaces_per_server_per_hour = 3\n\
         replace_percent_per_day = 25    # servers that may lose their disk\n\
         replace_floor_per_day   = 5\n",
        first = vmids.start(),
        last = vmids.end(),
        pool = wanted.pool,
        template_pool = wanted.template_pool,
        storages = names(wanted.storages.iter().map(String::as_str)),
        clone = if wanted.linked { "linked" } else { "full" },
        bridges = names(wanted.bridges.iter().map(String::as_str)),
        vlans = names(wanted.vlans.iter().map(String::as_str)),
        prefixes = names(prefixes.iter().map(String::as_str)),
        backups = wanted.backup_storage.as_deref().unwrap_or_default(),
        media = wanted.iso_storage.as_deref().unwrap_or_default(),
        passwords = wanted.guest_passwords,
        vcpus_each = world.cpus.clamp(1, 128),
        instances = (vmids.end() - vmids.start()).saturating_add(1).min(200),
    );
    policy::parse(&wanted.policy_file, &text)?;
    Ok(text)
}
