//! Proxmox VE as the agent's token sees it.

use std::{collections::BTreeSet, path::Path};

use super::{Check, Patient};
use crate::{
    config::Config,
    journal::{Journal, lists},
    policy::Policy,
    pve::{FirewallState, Hypervisor, PveError, Storage, Version},
    setup::roles,
};

pub(super) const NAMES: &[&str] = &[
    "pve-api",
    "pve-certificate",
    "pve-version",
    "pve-token",
    "rights",
    "rights-bounded",
    "consoles",
    "node",
    "pool",
    "template-pool",
    "storages",
    "storage-space",
    "snippet-storage",
    "bridges",
    "firewall",
    "templates",
    "vmids",
];

/// A storage that is fuller than this will be full soon; a thin pool that is full corrupts what is in it.
const FILLING_PERCENT: u64 = 85;
const FULL_PERCENT: u64 = 95;

pub(super) async fn look(patient: &Patient) -> Vec<Check> {
    let (pve, config) = match (&patient.pve, &patient.config) {
        (Ok(pve), Ok(config)) => (pve.as_ref(), config),
        (Err(why), Ok(_)) => {
            let mut checks = vec![Check::fail("pve-api", why.clone(), "ez-node-agent setup")];
            checks.extend(unseen(&NAMES[1..], "there is no client for Proxmox VE"));
            return checks;
        }
        (_, Err(_)) => {
            let no = |name: &&'static str| Check::unseen(name, "there is no configuration", "configuration");
            return NAMES.iter().map(no).collect();
        }
    };
    let version = match pve.version().await {
        Ok(version) => version,
        Err(error) => return silent(config, &error),
    };
    let mut checks = vec![
        Check::ok("pve-api", format!("{} answers", config.pve_url)),
        Check::ok("pve-certificate", "it shows the pinned certificate"),
        supported(&version),
    ];
    let policy = patient.policy.as_ref().and_then(|policy| policy.as_ref().ok());
    let (rights, nodes, storages, bridges, firewall, templates) = tokio::join!(
        pve.permissions(),
        pve.nodes(),
        pve.storages(),
        pve.bridges(),
        pve.datacenter_firewall(),
        pve.templates()
    );
    match (&rights, policy) {
        (Ok(has), policy) => {
            checks.push(Check::ok("pve-token", "it is valid"));
            checks.push(match policy {
                Some(policy) => missing(policy, config, &version, has),
                None => no_policy("rights"),
            });
            checks.push(bounded(has));
            checks.push(policy.map_or_else(|| no_policy("consoles"), |policy| consoles(policy, has)));
        }
        (Err(error), _) => {
            let fix = "ez-node-agent setup (after deleting the token file, if its secret is wrong)";
            checks.push(Check::fail("pve-token", error.to_string(), fix));
            checks.extend(
                ["rights", "rights-bounded", "consoles"]
                    .map(|n| Check::unseen(n, "the token is not usable", "pve-token")),
            );
        }
    }
    checks.push(match &nodes {
        Ok(nodes) => match nodes.iter().find(|node| node.name == config.pve_node) {
            Some(node) if node.online => Check::ok("node", format!("{} is online", node.name)),
            Some(node) => {
                Check::fail("node", format!("{} is not in touch with its cluster", node.name), "pvecm status")
            }
            None => {
                let found = format!("there is no node {} in this cluster", config.pve_node);
                Check::fail(
                    "node",
                    found,
                    "set pve_node to the name `hostname` shows, or run ez-node-agent setup",
                )
            }
        },
        Err(error) => Check::fail("node", error.to_string(), "pvecm status; systemctl status pveproxy"),
    });
    let Some(policy) = policy else {
        checks.extend(NAMES[8..].iter().map(|name| no_policy(name)));
        return checks;
    };
    let (pool, template_pool) =
        tokio::join!(pool(pve, "pool", &policy.pool), pool(pve, "template-pool", &policy.template_pool));
    checks.extend([pool, template_pool]);
    match &storages {
        Ok(storages) => checks.extend([present(policy, storages), space(policy, storages)]),
        Err(error) => checks
            .extend(["storages", "storage-space"].map(|n| Check::fail(n, error.to_string(), "pvesm status"))),
    }
    checks.push(snippets(patient, config, storages.as_deref().unwrap_or_default()));
    checks.push(bridged(policy, bridges));
    checks.push(filtering(firewall));
    checks.push(match templates {
        Ok(found) if found.is_empty() => Check::fail(
            "templates",
            "no template carries the image marker",
            "ez-node-agent image build NAME --url URL --sha256 DIGEST",
        ),
        Ok(found) => {
            let has: BTreeSet<&str> = found.iter().map(|t| t.digest.as_str()).collect();
            let lacking = policy.digests.iter().filter(|digest| !has.contains(digest.as_str())).count();
            let names: Vec<&str> = found.iter().map(|t| t.image.as_str()).collect();
            let said = format!("{} ready: {}", found.len(), names.join(", "));
            match lacking {
                0 => Check::ok("templates", said),
                _ => Check::warn(
                    "templates",
                    format!("{said}; {lacking} digests of the policy are not here"),
                    "build them, or take them out of [images] digests",
                ),
            }
        }
        Err(error) => Check::fail("templates", error.to_string(), "see the check `rights`"),
    });
    checks.push(foreign(pve, policy, config).await);
    checks
}

fn unseen(names: &[&'static str], because: &str) -> Vec<Check> {
    names.iter().map(|name| Check::unseen(name, because, "pve-api")).collect()
}

fn no_policy(name: &'static str) -> Check {
    Check::unseen(name, "there is no policy", "policy")
}

/// Nobody answers, or somebody who is not the pinned host.
fn silent(config: &Config, error: &PveError) -> Vec<Check> {
    let text = error.to_string();
    let mut checks = match error {
        PveError::Unauthorized { .. } => {
            let refused =
                Check::fail("pve-token", text, "ez-node-agent setup, after deleting the token file");
            let mut checks = vec![
                Check::ok("pve-api", format!("{} answers", config.pve_url)),
                Check::ok("pve-certificate", "it shows the pinned certificate"),
                Check::unseen("pve-version", "the token is refused", "pve-token"),
            ];
            checks.push(refused);
            checks
        }
        PveError::Unreachable { reason, .. } if error.is_other_certificate() => vec![
            Check::ok("pve-api", format!("{} answers", config.pve_url)),
            Check::fail(
                "pve-certificate",
                reason.clone(),
                "if it was renewed: systemctl restart ez-node-agent; where it was given, ez-node-agent setup --pve-fingerprint, or agent.toml",
            ),
        ],
        _ => vec![Check::fail("pve-api", text, "systemctl status pveproxy pvedaemon; is pve_url right?")],
    };
    checks.extend(unseen(&NAMES[checks.len()..], "Proxmox VE does not answer"));
    checks
}

fn supported(version: &Version) -> Check {
    match version.is_supported() {
        true => Check::ok("pve-version", format!("Proxmox VE {}", version.text)),
        false => {
            let found = format!("Proxmox VE {} is too old for this agent", version.text);
            Check::fail("pve-version", found, "upgrade the host to 8.4 or 9")
        }
    }
}

fn missing(policy: &Policy, config: &Config, version: &Version, has: &crate::pve::Permissions) -> Check {
    let missing = roles::missing(policy.into(), &config.pve_node, version, has);
    match missing.is_empty() {
        true => Check::ok("rights", "all that it needs are granted"),
        false => Check::fail(
            "rights",
            format!("missing: {}", missing.join(", ")),
            "ez-node-agent setup grants them",
        ),
    }
}

fn bounded(has: &crate::pve::Permissions) -> Check {
    let wide = roles::too_wide(has);
    match wide.is_empty() {
        true => Check::ok("rights-bounded", "none reaches beyond its pools, storages and bridges"),
        false => {
            let found = format!("too wide: {}", wide.join(", "));
            Check::warn("rights-bounded", found, "pveum acl list; remove what setup did not grant")
        }
    }
}

/// Whether customers can look at their servers' consoles.
fn consoles(policy: &Policy, has: &crate::pve::Permissions) -> Check {
    if !policy.consoles {
        return Check::ok("consoles", "the policy allows none ([console] allow)");
    }
    let pool = format!("/pool/{}", policy.pool);
    let may = has.iter().any(|(at, granted)| {
        let above = pool == *at || pool.starts_with(&format!("{at}/"));
        above && granted.contains("VM.Console")
    });
    if may {
        return Check::ok("consoles", format!("VM.Console on {pool}; relayed from 127.0.0.1 only"));
    }
    let found = format!("VM.Console is missing on {pool}: no console can be opened");
    Check::fail("consoles", found, "ez-node-agent setup grants it, or set [console] allow = false")
}

async fn pool(pve: &dyn Hypervisor, name: &'static str, pool: &str) -> Check {
    match pve.pool_members(pool).await {
        Ok(members) => Check::ok(name, format!("{pool}: {} in it", members.len())),
        Err(error) => Check::fail(name, format!("{pool}: {error}"), "ez-node-agent setup makes it"),
    }
}

fn present(policy: &Policy, storages: &[Storage]) -> Check {
    let wrong = |(id, content): &(&str, &str)| match storages.iter().find(|s| s.id == *id) {
        None => Some(format!("{id} is not there, or the token has no right on it")),
        Some(s) if !s.active => Some(format!("{id} is not active")),
        Some(s) if !s.content.contains(*content) => {
            Some(format!("{id} does not hold what the policy wants of it (content: {content})"))
        }
        Some(_) => None,
    };
    let named = policy.named_storages();
    let wrong: Vec<String> = named.iter().filter_map(wrong).collect();
    let mut names: Vec<&str> = named.iter().map(|(id, _)| *id).collect();
    names.dedup();
    match wrong.is_empty() {
        true => Check::ok("storages", names.join(", ")),
        false => Check::fail(
            "storages",
            wrong.join("; "),
            "pvesm status; then correct storages in policy.toml, or ez-node-agent setup",
        ),
    }
}

fn space(policy: &Policy, storages: &[Storage]) -> Check {
    let ours = storages.iter().filter(|s| policy.storages.contains(&s.id) && s.total > 0);
    let filled: Vec<(u64, &Storage)> = ours.map(|s| (s.used.saturating_mul(100) / s.total, s)).collect();
    let said: Vec<String> =
        filled.iter().map(|(percent, s)| format!("{} ({}) {percent} % full", s.id, s.kind)).collect();
    let said = said.join(", ");
    let fix = "free some space or extend it (for a thin pool: lvextend); a full thin pool damages the servers on it";
    match filled.iter().map(|(percent, _)| *percent).max() {
        None => Check::warn("storage-space", "no size is told", "pvesm status"),
        Some(most) if most >= FULL_PERCENT => Check::fail("storage-space", said, fix),
        Some(most) if most >= FILLING_PERCENT => Check::warn("storage-space", said, fix),
        Some(_) => Check::ok("storage-space", said),
    }
}

/// The storage that serves the snippet directory. The token has no right on it, so it is looked up where root can read the
/// configuration of the storages, and else in what the token is shown all the same.
fn snippets(patient: &Patient, config: &Config, storages: &[Storage]) -> Check {
    let name = "snippet-storage";
    let (id, dir) = (&config.snippet_storage, &config.snippet_dir);
    let fix = "ez-node-agent setup makes it";
    match std::fs::metadata(dir) {
        Err(error) => return Check::fail(name, format!("{}: {error}", dir.display()), fix),
        Ok(about) if !about.is_dir() => {
            return Check::fail(name, format!("{} is no directory", dir.display()), fix);
        }
        Ok(about) => {
            if let Some(check) = super::files::anothers(patient, name, dir, &about) {
                return check;
            }
        }
    }
    if rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_err() {
        return Check::warn(
            name,
            format!("{} cannot be written by this user", dir.display()),
            "run doctor as root",
        );
    }
    let good = format!("{id} serves {}", dir.display());
    if let Ok(text) = patient.system.read(Path::new("/etc/pve/storage.cfg")) {
        return match served(&text, id) {
            None => Check::fail(name, format!("storage {id} does not exist"), fix),
            Some((path, content))
                if Some(Path::new(&path)) == dir.parent() && content.contains("snippets") =>
            {
                Check::ok(name, good)
            }
            Some((path, _)) => {
                let found =
                    format!("storage {id} serves {path}, or holds no snippets; {} is wanted", dir.display());
                Check::fail(name, found, "remove that storage, then ez-node-agent setup")
            }
        };
    }
    match storages.iter().find(|s| s.id == *id) {
        Some(s) if s.active && s.content.contains("snippets") => Check::ok(name, good),
        Some(_) => Check::fail(name, format!("storage {id} is not active, or holds no snippets"), fix),
        None => Check::warn(
            name,
            format!("{} is there; whether storage {id} serves it cannot be seen", dir.display()),
            "run doctor as root on the host",
        ),
    }
}

/// Path and content of a directory storage in Proxmox's storage.cfg: `dir: <id>`, then indented `key value`.
fn served(text: &str, id: &str) -> Option<(String, String)> {
    let mut lines = text.lines().skip_while(|line| line.trim_end() != format!("dir: {id}")).skip(1);
    let (mut path, mut content) = (None, String::new());
    for line in lines.by_ref().take_while(|line| line.starts_with([' ', '\t'])) {
        match line.trim().split_once(char::is_whitespace) {
            Some(("path", value)) => path = Some(value.trim().trim_end_matches('/').to_owned()),
            Some(("content", value)) => value.trim().clone_into(&mut content),
            _ => {}
        }
    }
    path.map(|path| (path, content))
}

fn bridged(policy: &Policy, there: Result<Vec<String>, PveError>) -> Check {
    match there {
        Err(error) => Check::fail("bridges", error.to_string(), "see the check `rights`"),
        Ok(there) => {
            let missing: Vec<&str> =
                policy.bridges.iter().filter(|b| !there.contains(b)).map(String::as_str).collect();
            match missing.is_empty() {
                true => Check::ok("bridges", policy.bridges.iter().cloned().collect::<Vec<_>>().join(", ")),
                false => {
                    let found =
                        format!("not on this node: {} (there are: {})", missing.join(", "), there.join(", "));
                    Check::fail(
                        "bridges",
                        found,
                        "correct [network] bridges in policy.toml, or make the bridge in Proxmox",
                    )
                }
            }
        }
    }
}

fn filtering(state: Result<FirewallState, PveError>) -> Check {
    let fix = "Datacenter > Firewall > Options > Firewall: Yes, once its rules suit you";
    match state {
        Ok(FirewallState::On) => Check::ok("firewall", "the datacenter firewall is on"),
        Ok(FirewallState::Off) => {
            Check::warn("firewall", "the datacenter firewall is off: servers can forge addresses", fix)
        }
        Ok(FirewallState::Unknown) => {
            Check::warn("firewall", "the token may not see whether it is on", "ez-node-agent setup grants it")
        }
        Err(error) => Check::fail("firewall", error.to_string(), fix),
    }
}

/// VMs in the agent's range that are not in its books.
async fn foreign(pve: &dyn Hypervisor, policy: &Policy, config: &Config) -> Check {
    let guests = match pve.list_guests().await {
        Ok(guests) => guests,
        Err(error) => return Check::fail("vmids", error.to_string(), "see the check `rights`"),
    };
    let ours: BTreeSet<u32> = match Journal::open_read_only(&config.journal_file()).await {
        Ok(pool) => lists::vmids(&pool).await.unwrap_or_default().into_iter().collect(),
        Err(_) => BTreeSet::new(),
    };
    let inside = guests.iter().filter(|g| policy.vmids.contains(&g.vmid) && !g.template);
    let (known, foreign): (Vec<u32>, Vec<u32>) = inside.map(|g| g.vmid).partition(|vmid| ours.contains(vmid));
    let said = format!("{} servers in {}-{}", known.len(), policy.vmids.start(), policy.vmids.end());
    match foreign.as_slice() {
        [] => Check::ok("vmids", said),
        some => {
            let list: Vec<String> = some.iter().take(5).map(ToString::to_string).collect();
            let found = format!("{said}; not the agent's: {}", list.join(", "));
            Check::warn(
                "vmids",
                found,
                "move them to other VMIDs or choose another range: theirs are never touched, and never sold",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::served;

    #[test]
    fn a_storage_is_found_in_the_configuration_of_proxmox() {
        let text = "dir: local\n\tpath /var/lib/vz\n\tcontent iso\n\ndir: ez-ci-n1\n\tpath /var/lib/ez-node-agent/ci/\n\tcontent snippets\n\tnodes n1\n\nlvmthin: local-lvm\n\tthinpool data\n";
        let found = served(text, "ez-ci-n1").unwrap();
        assert_eq!(found, ("/var/lib/ez-node-agent/ci".to_owned(), "snippets".to_owned()));
        assert_eq!(served(text, "local-lvm"), None, "no directory");
        assert_eq!(served(text, "ez-ci"), None);
    }
}
