//! Rights: as few as the life of a server needs, told apart by what they open.
//!
//! Found by running that life with one privilege less at a time. Proxmox 9 split the guest agent's
//! rights off `VM.Monitor`, and refuses roles with privileges it does not know.

use std::collections::BTreeSet;

use super::{PVE_USER, SetupError, look::World, wanted::Wanted};
use crate::{
    policy::{ImageBuilds, Policy},
    pve::{Hypervisor as _, Permissions, ProxmoxHypervisor, PveAddress, Version},
};

/// What the agent does with servers in its pool.
pub(super) const AGENT_ROLE: &str = "EzAgent";
/// Reads VM configurations: without it a half-made clone cannot be told from a free number.
pub(super) const OBSERVER_ROLE: &str = "EzObserver";
/// Takes space on a storage.
pub(super) const STORE_ROLE: &str = "EzStore";
/// Attaches to a bridge.
pub(super) const NET_ROLE: &str = "EzNet";
/// Reads the host's state.
pub(super) const NODE_ROLE: &str = "EzNode";
/// Backs servers up and restores them; where the policy names a storage for backups.
pub(super) const BACKUP_ROLE: &str = "EzBackup";
/// Changes the medium in a CD drive; where the policy names a storage for media.
pub(super) const CDROM_ROLE: &str = "EzCdrom";
/// Reads media.
pub(super) const MEDIA_ROLE: &str = "EzMedia";
/// Sets passwords inside guests; where the policy lets it.
pub(super) const GUEST_ROLE: &str = "EzGuest";
/// Built into Proxmox: clone and read templates.
pub(super) const TEMPLATE_ROLE: &str = "PVETemplateUser";

const AGENT: &str = "VM.Allocate VM.Audit VM.PowerMgmt VM.Console VM.Snapshot VM.Config.Disk VM.Config.CPU \
                     VM.Config.Memory VM.Config.Network VM.Config.Options VM.Config.Cloudinit";

/// Makes templates in their pool.
pub(super) const BUILDER_ROLE: &str = "EzImageBuilder";
/// Downloads into a storage and reads what is there.
pub(super) const IMPORT_ROLE: &str = "EzImport";
/// Has the host download.
pub(super) const DOWNLOAD_ROLE: &str = "EzDownload";

const BUILDER: &str = "VM.Allocate VM.Audit VM.Clone VM.Config.Disk VM.Config.CDROM VM.Config.CPU \
                       VM.Config.Memory VM.Config.Network VM.Config.Options VM.Config.Cloudinit \
                       VM.Config.HWType";

/// Our roles and their privileges for a version. What only some hosts allow is a role of its own: roles
/// belong to the cluster, policies to a host.
pub(super) fn roles(version: &Version) -> [(&'static str, BTreeSet<String>); 12] {
    let new = version.major >= 9;
    let guest_agent = if new { "VM.GuestAgent.Audit" } else { "VM.Monitor" };
    let guest = if new { "VM.GuestAgent.Unrestricted" } else { "VM.Monitor" };
    let privileges = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
    let mut agent = privileges(AGENT);
    agent.insert(guest_agent.to_owned());
    [
        (AGENT_ROLE, agent),
        (OBSERVER_ROLE, privileges("VM.Audit")),
        (STORE_ROLE, privileges("Datastore.AllocateSpace")),
        (NET_ROLE, privileges("SDN.Use")),
        (NODE_ROLE, privileges("Sys.Audit")),
        (BACKUP_ROLE, privileges("VM.Backup")),
        (CDROM_ROLE, privileges("VM.Config.CDROM")),
        (MEDIA_ROLE, privileges("Datastore.Audit")),
        (GUEST_ROLE, privileges(guest)),
        (BUILDER_ROLE, privileges(BUILDER)),
        (IMPORT_ROLE, privileges("Datastore.AllocateSpace Datastore.AllocateTemplate Datastore.Audit")),
        (DOWNLOAD_ROLE, privileges("Sys.AccessNetwork")),
    ]
}

/// What the agent's rights are about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pool: &'a str,
    template_pool: &'a str,
    storages: &'a [String],
    bridges: &'a BTreeSet<String>,
    backup_storage: Option<&'a str>,
    iso_storage: Option<&'a str>,
    guest_passwords: bool,
    build: Option<&'a ImageBuilds>,
}

impl<'a> From<&'a Wanted> for Scope<'a> {
    fn from(wanted: &'a Wanted) -> Self {
        let Wanted { pool, template_pool, storages, bridges, guest_passwords, .. } = wanted;
        Self {
            pool,
            template_pool,
            storages,
            bridges,
            backup_storage: wanted.backup_storage.as_deref(),
            iso_storage: wanted.iso_storage.as_deref(),
            guest_passwords: *guest_passwords,
            build: wanted.build.as_ref(),
        }
    }
}

impl<'a> From<&'a Policy> for Scope<'a> {
    fn from(policy: &'a Policy) -> Self {
        let Policy { pool, template_pool, storages, bridges, guest_passwords, .. } = policy;
        Self {
            pool,
            template_pool,
            storages,
            bridges,
            backup_storage: policy.backup_storage.as_deref(),
            iso_storage: policy.iso_storage.as_deref(),
            guest_passwords: *guest_passwords,
            build: policy.build.as_ref(),
        }
    }
}

/// Path and role of every grant the agent needs.
///
/// On `/` it is for that path alone (see [`spreads`]): without `Sys.Audit` there no token can see whether
/// the datacenter firewall is on, and an inert anti-spoofing would go unnoticed.
pub(super) fn grants(scope: Scope<'_>, node: &str) -> Vec<(String, &'static str)> {
    let mut grants = vec![
        (format!("/pool/{}", scope.pool), AGENT_ROLE),
        (format!("/pool/{}", scope.template_pool), TEMPLATE_ROLE),
        ("/vms".to_owned(), OBSERVER_ROLE),
        (format!("/nodes/{node}"), NODE_ROLE),
        ("/".to_owned(), NODE_ROLE),
    ];
    let pool = format!("/pool/{}", scope.pool);
    if let Some(storage) = scope.backup_storage {
        grants.push((pool.clone(), BACKUP_ROLE));
        // Enough to make one there, and to remove those of our own servers.
        grants.push((format!("/storage/{storage}"), STORE_ROLE));
    }
    if let Some(storage) = scope.iso_storage {
        grants.push((pool.clone(), CDROM_ROLE));
        grants.push((format!("/storage/{storage}"), MEDIA_ROLE));
    }
    if scope.guest_passwords {
        grants.push((pool, GUEST_ROLE));
    }
    grants.extend(scope.storages.iter().map(|id| (format!("/storage/{id}"), STORE_ROLE)));
    grants.extend(scope.bridges.iter().map(|id| (format!("/sdn/zones/localnetwork/{id}"), NET_ROLE)));
    if let Some(build) = scope.build {
        grants.push((format!("/pool/{}", scope.template_pool), BUILDER_ROLE));
        grants.push((format!("/storage/{}", build.import_storage), IMPORT_ROLE));
        grants.push((format!("/nodes/{node}"), DOWNLOAD_ROLE));
    }
    grants
}

/// Whether a grant counts below its path too.
pub(super) fn spreads(path: &str) -> bool {
    path != "/"
}

/// Asks Proxmox with the agent's own token which rights it has, and names what is missing.
pub(super) async fn missing_rights(wanted: &Wanted, world: &World) -> Result<Vec<String>, SetupError> {
    let token =
        std::fs::read_to_string(&wanted.token_file).map_err(SetupError::file("read", &wanted.token_file))?;
    let address = PveAddress {
        url: wanted.pve_url.clone(),
        fingerprint: world.fingerprint,
        token: token.trim().to_owned(),
    };
    let doing = || format!("trying the token of {PVE_USER}");
    let pve = ProxmoxHypervisor::new(&address, &world.node).map_err(SetupError::pve(doing()))?;
    let has = pve.permissions().await.map_err(SetupError::pve(doing()))?;
    Ok(missing(wanted.into(), &world.node, &world.version, &has))
}

/// `path: privilege` for everything that is wanted and not there.
pub(crate) fn missing(scope: Scope<'_>, node: &str, version: &Version, has: &Permissions) -> Vec<String> {
    let roles = roles(version);
    let template = ["VM.Clone".to_owned(), "VM.Audit".to_owned()].into();
    let mut missing = Vec::new();
    for (path, role) in grants(scope, node) {
        let privileges = roles.iter().find(|(name, _)| *name == role).map_or(&template, |(_, p)| p);
        // Rights are listed where they are granted, and rights on a parent count below it.
        let holds = |privilege: &String| {
            has.iter().any(|(at, granted)| {
                // `/` is granted for itself alone, or it is somebody else's wider grant.
                let above =
                    path == *at || path.starts_with(&format!("{at}/")) || at == "/" && granted.len() > 1;
                above && granted.contains(privilege)
            })
        };
        missing.extend(privileges.iter().filter(|p| !holds(p)).map(|p| format!("{path}: {p}")));
    }
    missing
}

/// Rights that would let whoever holds the token out of its pools, storages and bridges.
const TOO_WIDE: [&str; 8] = [
    "Datastore.Allocate",
    "Group.Allocate",
    "Permissions.Modify",
    "Pool.Allocate",
    "Realm.Allocate",
    "Sys.Modify",
    "Sys.PowerMgmt",
    "User.Modify",
];

/// `path: privilege` for everything the token should not have.
pub(crate) fn too_wide(has: &Permissions) -> Vec<String> {
    let here = |path: &str, privilege: &str| match path {
        // On everything it may only look at the firewall's switch.
        "/" => privilege != "Sys.Audit",
        "/vms" => privilege != "VM.Audit",
        _ => TOO_WIDE.contains(&privilege),
    };
    let wide = |(path, privileges): (&String, &BTreeSet<String>)| {
        let wide: Vec<String> =
            privileges.iter().filter(|p| here(path, p)).map(|p| format!("{path}: {p}")).collect();
        wide
    };
    has.iter().flat_map(wide).collect()
}
