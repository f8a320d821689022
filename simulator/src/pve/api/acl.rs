//! `/access/acl`.

use serde_json::{Value, json};

use crate::pve::access::{Access, Caller};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::params::Params;
use crate::pve::reply::{ApiError, ApiResult, null};
use crate::pve::state::Acl;

const UPDATE: &str = "\
delete? b
groups? s fmt=pve-groupid-list
path s
propagate? b
roles s fmt=pve-roleid-list
tokens? s fmt=pve-tokenid-list
users? s fmt=pve-userid-list
";

pub(super) fn calls() -> Vec<Call> {
    vec![
        call("GET", "/access/acl", &[], Check::Everyone, list),
        call("PUT", "/access/acl", &[UPDATE], Check::Own(may_modify), update),
    ]
}

fn may_modify(a: &Access<'_>, caller: &Caller, params: &Params) -> Result<(), ApiError> {
    let path = params.text("path");
    let delegate = match path.split('/').nth(1) {
        Some("storage") => "Datastore.Allocate",
        Some("vms") => "VM.Allocate",
        Some("pool") => "Pool.Allocate",
        _ => "Permissions.Modify",
    };
    if delegate == "Permissions.Modify" {
        return a.check(caller, path, "Permissions.Modify");
    }
    a.check_any(caller, path, &["Permissions.Modify", delegate])
}

async fn list(ctx: Ctx) -> ApiResult {
    ctx.cluster
        .judge(|s, a| {
            let seen = |acl: &&Acl| {
                a.may(&ctx.caller, "/access", "Sys.Audit") || a.may(&ctx.caller, &acl.path, "Permissions.Modify")
            };
            let row = |acl: &Acl| {
                json!({"path": acl.path, "type": acl.kind, "ugid": acl.who, "roleid": acl.role, "propagate": u8::from(acl.propagate)})
            };
            Ok(Value::Array(s.acls.values().filter(seen).map(row).collect()).into())
        })
        .await
}

fn is_acl_path(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let word = |p: &&str| !p.is_empty() && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c));
    path == "/"
        || (path.starts_with('/')
            && parts.iter().all(word)
            && matches!(parts[0], "access" | "mapping" | "nodes" | "pool" | "sdn" | "storage" | "vms")
            && (parts[0] != "vms" || parts.len() == 1 || crate::pve::schema::is_vmid(parts[1])))
}

async fn update(ctx: Ctx) -> ApiResult {
    let p = &ctx.params;
    let mut path = p.text("path").trim_end_matches('/').to_owned();
    if path.is_empty() {
        path.push('/');
    }
    if !is_acl_path(&path) {
        return Err(ApiError::parameter("path", format!("invalid ACL path '{}'", p.text("path"))));
    }
    let mut who: Vec<(&str, String)> = Vec::new();
    for (kind, list) in [("user", "users"), ("group", "groups"), ("token", "tokens")] {
        who.extend(p.list(list).into_iter().map(|w| (kind, w)));
    }
    if who.is_empty() {
        return Err(ApiError::parameter("users", "either 'users', 'groups' or 'tokens' is required."));
    }
    let roles = p.list("roles");
    let fail = |text: String| ApiError::died(format!("ACL update failed: {text}"));
    ctx.cluster
        .judge(|s, a| {
            for role in &roles {
                if a.role(role).is_none() {
                    return Err(fail(format!("role '{role}' does not exist")));
                }
            }
            for (kind, w) in &who {
                match *kind {
                    "user" if !s.users.contains(w) => return Err(fail(format!("user '{w}' does not exist"))),
                    "token" if !s.tokens.contains(w) => {
                        let (user, token) = w.split_once('!').unwrap_or((w, ""));
                        return Err(fail(format!("no such token '{token}' for user '{user}'")));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await?;
    let propagate = p.get("propagate").is_none_or(|v| v == "1");
    let delete = p.flag("delete");
    ctx.cluster
        .change("acl.update", |s| {
            for (kind, w) in &who {
                for role in &roles {
                    let key = Acl::key(&path, kind, w, role);
                    if delete {
                        s.acls.remove(key);
                    } else {
                        let acl = Acl {
                            path: path.clone(),
                            kind: (*kind).into(),
                            who: w.clone(),
                            role: role.clone(),
                            propagate,
                        };
                        s.acls.insert(key, acl);
                    }
                }
            }
        })
        .await;
    null()
}
