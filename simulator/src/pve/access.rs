//! Who may do what: users, tokens, roles, access control list and pools, combined as Proxmox does.
//!
//! Along one path the deepest entry that applies replaces what was inherited; what a pool gives is
//! added to that; `NoAccess` on a path beats everything. A token with privilege separation has what
//! both it and its user have.

use std::collections::BTreeMap;

use subtle::ConstantTimeEq;

use super::reply::ApiError;
use super::state::{Acl, State, sha256_hex};

const COMMON: &[&str] = &[
    "Datastore.Allocate",
    "Datastore.AllocateSpace",
    "Datastore.AllocateTemplate",
    "Datastore.Audit",
    "Group.Allocate",
    "Mapping.Audit",
    "Mapping.Modify",
    "Mapping.Use",
    "Permissions.Modify",
    "Pool.Allocate",
    "Pool.Audit",
    "Realm.Allocate",
    "Realm.AllocateUser",
    "SDN.Allocate",
    "SDN.Audit",
    "SDN.Use",
    "Sys.AccessNetwork",
    "Sys.Audit",
    "Sys.Console",
    "Sys.Incoming",
    "Sys.Modify",
    "Sys.PowerMgmt",
    "Sys.Syslog",
    "User.Modify",
    "VM.Allocate",
    "VM.Audit",
    "VM.Backup",
    "VM.Clone",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Cloudinit",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.Console",
    "VM.Migrate",
    "VM.PowerMgmt",
    "VM.Snapshot",
    "VM.Snapshot.Rollback",
];
const ONLY_8: &[&str] = &["VM.Monitor"];
const ONLY_9: &[&str] = &[
    "VM.GuestAgent.Audit",
    "VM.GuestAgent.FileRead",
    "VM.GuestAgent.FileSystemMgmt",
    "VM.GuestAgent.FileWrite",
    "VM.GuestAgent.Unrestricted",
    "VM.Replicate",
];

/// All privileges of a version.
pub(crate) fn privileges(major: u32) -> Vec<&'static str> {
    let mut all = [COMMON, if major >= 9 { ONLY_9 } else { ONLY_8 }].concat();
    all.sort_unstable();
    all
}

/// Whether any supported version knows the privilege; roles check their own version again.
pub(crate) fn is_known_privilege(name: &str) -> bool {
    COMMON.contains(&name) || ONLY_8.contains(&name) || ONLY_9.contains(&name)
}

/// The built-in roles of a version and their privileges.
pub(crate) fn builtin_roles(major: u32) -> BTreeMap<&'static str, Vec<&'static str>> {
    let all = privileges(major);
    let pick = |keep: &dyn Fn(&str) -> bool| all.iter().copied().filter(|p| keep(p)).collect::<Vec<_>>();
    let admin_only = |p: &str| {
        matches!(
            p,
            "Permissions.Modify"
                | "Realm.Allocate"
                | "Sys.Modify"
                | "Sys.PowerMgmt"
                | "Sys.Incoming"
                | "Sys.AccessNetwork"
                | "Mapping.Modify"
        )
    };
    let vm_user = |p: &str| {
        matches!(
            p,
            "VM.Audit"
                | "VM.Backup"
                | "VM.Config.CDROM"
                | "VM.Config.Cloudinit"
                | "VM.Console"
                | "VM.PowerMgmt"
                | "VM.GuestAgent.Audit"
        )
    };
    BTreeMap::from([
        ("Administrator", all.clone()),
        ("NoAccess", Vec::new()),
        ("PVEAdmin", pick(&|p| !admin_only(p))),
        (
            "PVEAuditor",
            pick(&|p| {
                matches!(
                    p,
                    "VM.Audit"
                        | "Sys.Audit"
                        | "Datastore.Audit"
                        | "Pool.Audit"
                        | "SDN.Audit"
                        | "Mapping.Audit"
                        | "VM.GuestAgent.Audit"
                )
            }),
        ),
        ("PVEDatastoreAdmin", pick(&|p| p.starts_with("Datastore."))),
        ("PVEDatastoreUser", pick(&|p| matches!(p, "Datastore.AllocateSpace" | "Datastore.Audit"))),
        ("PVEMappingAdmin", pick(&|p| p.starts_with("Mapping."))),
        ("PVEMappingUser", pick(&|p| matches!(p, "Mapping.Audit" | "Mapping.Use"))),
        ("PVEPoolAdmin", pick(&|p| p.starts_with("Pool."))),
        ("PVEPoolUser", pick(&|p| p == "Pool.Audit")),
        ("PVESDNAdmin", pick(&|p| p.starts_with("SDN."))),
        ("PVESDNUser", pick(&|p| matches!(p, "SDN.Audit" | "SDN.Use"))),
        ("PVESysAdmin", pick(&|p| matches!(p, "Sys.Audit" | "Sys.Console" | "Sys.Syslog"))),
        ("PVETemplateUser", pick(&|p| matches!(p, "VM.Audit" | "VM.Clone"))),
        ("PVEUserAdmin", pick(&|p| matches!(p, "Group.Allocate" | "Realm.AllocateUser" | "User.Modify"))),
        ("PVEVMAdmin", pick(&|p| p.starts_with("VM."))),
        ("PVEVMUser", pick(&vm_user)),
    ])
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// `user@realm`.
    pub(crate) user: String,
    /// Name of the API token.
    pub(crate) token: Option<String>,
}

impl Caller {
    /// `user@realm` or `user@realm!token`.
    pub(crate) fn id(&self) -> String {
        match &self.token {
            Some(t) => format!("{}!{t}", self.user),
            None => self.user.clone(),
        }
    }
}

/// Checks an `Authorization` header; the error is the reason phrase of the 401.
pub(crate) fn authenticate(state: &State, header: Option<&str>, now: i64) -> Result<Caller, &'static str> {
    const FAILED: &str = "Authentication failed!";
    let Some(token) = header
        .and_then(|h| h.trim().strip_prefix("PVEAPIToken").map(|t| t.trim_start_matches(['=', ' ', ':'])))
    else {
        return Err("No ticket");
    };
    let (id, secret) = token.split_once('=').or_else(|| token.split_once(':')).ok_or(FAILED)?;
    let (user, name) = id.split_once('!').ok_or(FAILED)?;
    let row = state.tokens.get(id).ok_or(FAILED)?;
    let account = state.users.get(user).ok_or(FAILED)?;
    let given = sha256_hex(secret.as_bytes());
    let expired = |at: i64| at != 0 && at <= now;
    if !bool::from(given.as_bytes().ct_eq(row.secret_sha256.as_bytes()))
        || expired(row.expire)
        || !account.enable
        || expired(account.expire)
    {
        return Err(FAILED);
    }
    Ok(Caller { user: user.into(), token: Some(name.into()) })
}

/// Privileges on a path; the value says whether each propagates.
pub(crate) type Rights = BTreeMap<String, bool>;

/// Rights of a caller: a view that reads the whole state.
pub(crate) struct Access<'s> {
    pub(crate) state: &'s State,
    pub(crate) major: u32,
}

impl Access<'_> {
    /// Privileges of a role, or none if there is no such role.
    pub(crate) fn role(&self, name: &str) -> Option<Vec<String>> {
        if let Some(own) = self.state.roles.get(name) {
            return Some(own.clone());
        }
        builtin_roles(self.major).get(name).map(|r| r.iter().map(|p| (*p).to_owned()).collect())
    }

    /// Roles along a path; the value says whether the entry propagates.
    fn roles_on(&self, kind: &str, who: &str, groups: &[String], path: &str) -> BTreeMap<String, bool> {
        let mut levels = vec!["/".to_owned()];
        let mut current = String::new();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            current = format!("{current}/{part}");
            levels.push(current.clone());
        }
        let last = levels.len() - 1;
        let mut roles = BTreeMap::new();
        for (i, level) in levels.iter().enumerate() {
            let at = |kind: &str, who: &str| -> BTreeMap<String, bool> {
                let hit = |a: &&Acl| {
                    a.path == *level && a.kind == kind && a.who == who && (a.propagate || i == last)
                };
                self.state.acls.values().filter(hit).map(|a| (a.role.clone(), a.propagate)).collect()
            };
            let mut found = at(kind, who);
            if found.is_empty() && kind == "user" {
                for group in groups {
                    found.extend(at("group", group));
                }
            }
            if found.contains_key("NoAccess") {
                found =
                    BTreeMap::from([("NoAccess".to_owned(), found.get("NoAccess").copied().unwrap_or(true))]);
            }
            if !found.is_empty() {
                roles = found;
            }
        }
        roles
    }

    fn rights_of(&self, kind: &str, who: &str, path: &str) -> Rights {
        let user = who.split('!').next().unwrap_or(who);
        let groups = self.state.users.get(user).map(|u| u.groups.clone()).unwrap_or_default();
        let mut roles = self.roles_on(kind, who, &groups, path);
        if roles.contains_key("NoAccess") {
            return Rights::new();
        }
        for (id, pool) in self.state.pools.iter() {
            let member = match path.strip_prefix("/vms/").map(|v| v.parse::<u32>()) {
                Some(Ok(vmid)) => pool.vms.contains(&vmid),
                Some(Err(_)) => false,
                None => path.strip_prefix("/storage/").is_some_and(|s| pool.storages.iter().any(|p| p == s)),
            };
            if member {
                for (role, _) in self.roles_on(kind, who, &groups, &format!("/pool/{id}")) {
                    if role != "NoAccess" {
                        roles.entry(role).or_insert(false);
                    }
                }
            }
        }
        let mut rights = Rights::new();
        for (role, propagate) in roles {
            for privilege in self.role(&role).unwrap_or_default() {
                *rights.entry(privilege).or_insert(false) |= propagate;
            }
        }
        rights
    }

    /// What the caller may do on `path`.
    pub(crate) fn rights(&self, caller: &Caller, path: &str) -> Rights {
        let user = if caller.user == "root@pam" {
            privileges(self.major).into_iter().map(|p| (p.to_owned(), true)).collect()
        } else {
            self.rights_of("user", &caller.user, path)
        };
        let separated = match &caller.token {
            None => return user,
            Some(_) => self.state.tokens.get(caller.id()).is_none_or(|t| t.privsep),
        };
        if !separated {
            return user;
        }
        let mut own = self.rights_of("token", &caller.id(), path);
        own.retain(|p, _| user.contains_key(p));
        own
    }

    pub(crate) fn may(&self, caller: &Caller, path: &str, privilege: &str) -> bool {
        self.rights(caller, path).contains_key(privilege)
    }

    pub(crate) fn may_any(&self, caller: &Caller, path: &str, any: &[&str]) -> bool {
        let rights = self.rights(caller, path);
        any.iter().any(|p| rights.contains_key(*p))
    }

    /// 403 with path and privilege unless the caller has it.
    pub(crate) fn check(&self, caller: &Caller, path: &str, privilege: &str) -> Result<(), ApiError> {
        if self.may(caller, path, privilege) { Ok(()) } else { Err(ApiError::permission(path, privilege)) }
    }

    /// 403 with path and all the privileges unless the caller has one of them.
    pub(crate) fn check_any(&self, caller: &Caller, path: &str, any: &[&str]) -> Result<(), ApiError> {
        if self.may_any(caller, path, any) { Ok(()) } else { Err(ApiError::permission(path, &any.join("|"))) }
    }
}
