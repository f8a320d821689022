//! `/access/roles`.

use serde_json::{Value, json};

use crate::pve::access::{builtin_roles, privileges};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::reply::{ApiError, ApiResult, null};

pub(super) fn calls() -> Vec<Call> {
    const MODIFY: Check = Check::All("/access", &["Sys.Modify"]);
    vec![
        call("GET", "/access/roles", &[], Check::Everyone, list),
        call("GET", "/access/roles/{roleid}", &[], Check::Everyone, get),
        call(
            "POST",
            "/access/roles",
            &["roleid s fmt=pve-roleid\nprivs? s fmt=pve-priv-list"],
            MODIFY,
            create,
        ),
        call(
            "PUT",
            "/access/roles/{roleid}",
            &["append? b req=privs\nprivs? s fmt=pve-priv-list"],
            MODIFY,
            update,
        ),
        call("DELETE", "/access/roles/{roleid}", &[], MODIFY, remove),
    ]
}

/// The privileges asked for; one of the wrong version is refused as an unknown one.
fn asked(ctx: &Ctx) -> Result<Vec<String>, ApiError> {
    let known = privileges(ctx.cluster.major);
    let mut out = ctx.params.list("privs");
    if let Some(bad) = out.iter().find(|p| !known.contains(&p.as_str())) {
        return Err(ApiError::parameter("privs", format!("invalid format - invalid privilege '{bad}'\n")));
    }
    out.sort();
    out.dedup();
    Ok(out)
}

async fn list(ctx: Ctx) -> ApiResult {
    let mut out: Vec<Value> = builtin_roles(ctx.cluster.major)
        .into_iter()
        .map(|(id, privs)| json!({"roleid": id, "privs": privs.join(","), "special": 1}))
        .collect();
    let own = ctx
        .cluster
        .read(|s| {
            s.roles
                .iter()
                .map(|(id, p)| json!({"roleid": id, "privs": p.join(","), "special": 0}))
                .collect::<Vec<_>>()
        })
        .await;
    out.extend(own);
    Ok(Value::Array(out).into())
}

async fn get(ctx: Ctx) -> ApiResult {
    let id = ctx.params.text("roleid");
    ctx.cluster
        .judge(|_, a| match a.role(id) {
            Some(privs) => Ok(Value::Object(privs.into_iter().map(|p| (p, 1.into())).collect()).into()),
            None => Err(ApiError::died(format!("role '{id}' does not exist"))),
        })
        .await
}

async fn create(ctx: Ctx) -> ApiResult {
    let id = ctx.params.text("roleid").to_owned();
    let privs = asked(&ctx)?;
    let builtin = builtin_roles(ctx.cluster.major).contains_key(id.as_str());
    ctx.cluster
        .change("role.create", |s| {
            if builtin || s.roles.contains(&id) {
                return Err(ApiError::died(format!("create role failed: role '{id}' already exists")));
            }
            s.roles.insert(&id, privs);
            Ok(())
        })
        .await?;
    null()
}

async fn update(ctx: Ctx) -> ApiResult {
    let id = ctx.params.text("roleid").to_owned();
    let privs = asked(&ctx)?;
    let append = ctx.params.flag("append");
    if builtin_roles(ctx.cluster.major).contains_key(id.as_str()) {
        return Err(ApiError::died(format!("auto-generated role '{id}' cannot be modified")));
    }
    ctx.cluster
        .change("role.update", |s| match s.roles.get_mut(&id) {
            None => Err(ApiError::died(format!("role '{id}' does not exist"))),
            Some(role) => {
                if !append {
                    role.clear();
                }
                role.extend(privs);
                role.sort();
                role.dedup();
                Ok(())
            }
        })
        .await?;
    null()
}

async fn remove(ctx: Ctx) -> ApiResult {
    let id = ctx.params.text("roleid").to_owned();
    if builtin_roles(ctx.cluster.major).contains_key(id.as_str()) {
        return Err(ApiError::died(format!("auto-generated role '{id}' cannot be deleted")));
    }
    ctx.cluster
        .change("role.remove", |s| {
            if s.roles.remove(&id).is_none() {
                return Err(ApiError::died(format!("delete role failed: role '{id}' does not exist")));
            }
            s.acls.retain(|_, a| a.role != id);
            Ok(())
        })
        .await?;
    null()
}
