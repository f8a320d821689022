//! `/access`: users, own permissions, tickets (refused).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::pve::access::{Access, Caller};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::params::Params;
use crate::pve::reply::{ApiError, ApiResult, null};
use crate::pve::state::User;

const FIELDS: &str = "\
comment? s max=2048
email? s max=254 fmt=email-opt
enable? b
expire? i 0..
firstname? s max=1024
groups? s fmt=pve-groupid-list
keys? s re=userkeys
lastname? s max=1024
";
const TICKET: &str = "\
new-format? b
otp? s
password s
path? s max=64 req=privs
privs? s max=64 req=path fmt=pve-priv-list
realm? s max=32 fmt=pve-realm
tfa-challenge? s
username s max=64
";

pub(super) fn calls() -> Vec<Call> {
    const USERID: &str = "userid s max=64 fmt=pve-userid";
    let mut ticket = call("POST", "/access/ticket", &[TICKET], Check::World, |_| async {
        Err(ApiError::Login("authentication failure".into()))
    });
    ticket.token = false;
    vec![
        ticket,
        call("GET", "/access/domains", &[], Check::World, |_| async {
            Ok(json!([{"realm": "pam", "type": "pam", "comment": "Linux PAM standard authentication"},
                      {"realm": "pve", "type": "pve", "comment": "Proxmox VE authentication server"}])
            .into())
        }),
        call("GET", "/access/permissions", &["path? s\nuserid? s"], Check::Everyone, permissions),
        call("GET", "/access/users", &["enabled? b\nfull? b"], Check::Everyone, list),
        call(
            "POST",
            "/access/users",
            &[USERID, FIELDS, "password? s min=8 max=64"],
            Check::Own(may_create),
            create,
        ),
        call("GET", "/access/users/{userid}", &[], Check::Own(may_see), get),
        call(
            "PUT",
            "/access/users/{userid}",
            &[FIELDS, "append? b req=groups"],
            Check::Own(may_modify),
            update,
        ),
        call("DELETE", "/access/users/{userid}", &[], Check::Own(may_modify), remove),
    ]
}

fn realm(params: &Params) -> &str {
    params.text("userid").rsplit_once('@').map_or("", |(_, r)| r)
}

fn may_create(a: &Access<'_>, caller: &Caller, params: &Params) -> Result<(), ApiError> {
    if !params.text("userid").contains('@') {
        let text = format!("value '{}' does not look like a valid user name", params.text("userid"));
        return Err(ApiError::died(text));
    }
    a.check(caller, &format!("/access/realm/{}", realm(params)), "Realm.AllocateUser")?;
    may_modify(a, caller, params)
}

fn may_modify(a: &Access<'_>, caller: &Caller, _params: &Params) -> Result<(), ApiError> {
    if a.may(caller, "/access/groups", "User.Modify") { Ok(()) } else { Err(ApiError::Forbidden(None)) }
}

fn may_see(a: &Access<'_>, caller: &Caller, _params: &Params) -> Result<(), ApiError> {
    if a.may_any(caller, "/access/groups", &["User.Modify", "Sys.Audit"]) {
        Ok(())
    } else {
        Err(ApiError::Forbidden(None))
    }
}

/// Paths that `GET /access/permissions` lists besides those of the access control list.
const TOP: &[&str] = &["/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"];
/// The same, since version 9. No recording covers it.
const TOP_9: &str = "/mapping";

async fn permissions(ctx: Ctx) -> ApiResult {
    let caller = match ctx.params.get("userid") {
        None => ctx.caller.clone(),
        Some(id) if id == ctx.caller.id() => ctx.caller.clone(),
        Some(id) => {
            ctx.cluster.judge(|_, a| a.check(&ctx.caller, "/access", "Sys.Audit")).await?;
            let (user, token) = id.split_once('!').map_or((id, None), |(u, t)| (u, Some(t.to_owned())));
            Caller { user: user.to_owned(), token }
        }
    };
    ctx.cluster
        .judge(|s, a| {
            let shown = |path: &str| {
                let rights = a.rights(&caller, path);
                Value::Object(
                    rights.into_iter().map(|(p, propagates)| (p, u8::from(propagates).into())).collect(),
                )
            };
            if let Some(path) = ctx.params.get("path") {
                return Ok(json!({ path: shown(path) }).into());
            }
            let mut paths: BTreeSet<String> = TOP.iter().map(|p| (*p).to_owned()).collect();
            if a.major >= 9 {
                paths.insert(TOP_9.to_owned());
            }
            paths.extend(s.acls.values().map(|acl| acl.path.clone()));
            for pool in s.pools.values() {
                paths.extend(pool.vms.iter().map(|v| format!("/vms/{v}")));
                paths.extend(pool.storages.iter().map(|st| format!("/storage/{st}")));
            }
            let mut out = serde_json::Map::new();
            for path in paths {
                let rights = shown(&path);
                if rights.as_object().is_some_and(|m| !m.is_empty()) {
                    out.insert(path, rights);
                }
            }
            Ok(Value::Object(out).into())
        })
        .await
}

fn show(id: &str, user: &User) -> Value {
    let mut out = json!({"userid": id, "enable": u8::from(user.enable), "expire": user.expire,
                         "realm-type": if id.ends_with("@pam") { "pam" } else { "pve" }});
    for (k, v) in [
        ("comment", &user.comment),
        ("email", &user.email),
        ("firstname", &user.firstname),
        ("lastname", &user.lastname),
    ] {
        if let Some(v) = v {
            out[k] = v.as_str().into();
        }
    }
    out
}

async fn list(ctx: Ctx) -> ApiResult {
    ctx.cluster
        .judge(|s, a| {
            let all = a.may_any(&ctx.caller, "/access/groups", &["User.Modify", "Sys.Audit"]);
            let seen = s.users.iter().filter(|(id, u)| {
                (all || **id == ctx.caller.id())
                    && ctx.params.get("enabled").is_none_or(|e| (e == "1") == u.enable)
            });
            Ok(Value::Array(seen.map(|(id, u)| show(id, u)).collect()).into())
        })
        .await
}

async fn get(ctx: Ctx) -> ApiResult {
    let id = ctx.params.text("userid");
    ctx.cluster
        .read(|s| {
            let user = s.users.get(id).ok_or_else(|| ApiError::died(format!("no such user ('{id}')")))?;
            let mut out = show(id, user);
            if let Value::Object(map) = &mut out {
                map.remove("userid");
                map.remove("realm-type");
            }
            out["groups"] = json!(user.groups);
            Ok(out.into())
        })
        .await
}

fn fill(user: &mut User, p: &Params) {
    for (k, _) in p.iter() {
        let v = p.text(k).to_owned();
        match k.as_str() {
            "comment" => user.comment = Some(v),
            "email" => user.email = Some(v),
            "firstname" => user.firstname = Some(v),
            "lastname" => user.lastname = Some(v),
            "enable" => user.enable = v == "1",
            "expire" => user.expire = v.parse().unwrap_or(0),
            "groups" => user.groups = p.list("groups"),
            _ => {}
        }
    }
}

async fn create(ctx: Ctx) -> ApiResult {
    let id = ctx.params.text("userid").to_owned();
    ctx.cluster
        .change("user.create", |s| {
            if s.users.contains(&id) {
                return Err(ApiError::died(format!("create user failed: user '{id}' already exists")));
            }
            let mut user = User { enable: true, ..User::default() };
            fill(&mut user, &ctx.params);
            s.users.insert(&id, user);
            Ok(())
        })
        .await?;
    null()
}

async fn update(ctx: Ctx) -> ApiResult {
    let id = ctx.params.text("userid").to_owned();
    ctx.cluster
        .change("user.update", |s| match s.users.get_mut(&id) {
            Some(user) => {
                fill(user, &ctx.params);
                Ok(())
            }
            None => Err(ApiError::died(format!("update user failed: user '{id}' does not exist"))),
        })
        .await?;
    null()
}

async fn remove(ctx: Ctx) -> ApiResult {
    let id = ctx.params.text("userid").to_owned();
    ctx.cluster
        .change("user.remove", |s| {
            if s.users.remove(&id).is_none() {
                return Err(ApiError::died(format!("delete user failed: user '{id}' does not exist")));
            }
            let token = format!("{id}!");
            s.tokens.retain(|k, _| !k.starts_with(&token));
            s.acls.retain(|_, a| a.who != id && !a.who.starts_with(&token));
            Ok(())
        })
        .await?;
    null()
}
