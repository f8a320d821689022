//! `/pools`.

use serde_json::{Value, json};

use crate::pve::access::Access;
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::reply::{ApiError, ApiResult, null};
use crate::pve::state::{Pool, State};

const POOL: &str = "poolid s fmt=pve-poolid";
const MEMBERS: &str =
    "allow-move? b\ncomment? s\ndelete? b\nstorage? s fmt=pve-storage-id-list\nvms? s fmt=pve-vmid-list";

pub(super) fn calls() -> Vec<Call> {
    const ALLOCATE: Check = Check::All("/pool/{poolid}", &["Pool.Allocate"]);
    vec![
        call(
            "GET",
            "/pools",
            &["poolid? s fmt=pve-poolid\ntype? s enum=qemu|lxc|storage req=poolid"],
            Check::Everyone,
            list,
        ),
        call(
            "GET",
            "/pools/{poolid}",
            &["type? s enum=qemu|lxc|storage"],
            Check::All("/pool/{poolid}", &["Pool.Audit"]),
            get,
        ),
        call("POST", "/pools", &[POOL, "comment? s"], ALLOCATE, create),
        call("PUT", "/pools", &[POOL, MEMBERS], ALLOCATE, update),
        call("PUT", "/pools/{poolid}", &[MEMBERS], ALLOCATE, update),
        call("DELETE", "/pools", &[POOL], ALLOCATE, remove),
        call("DELETE", "/pools/{poolid}", &[], ALLOCATE, remove),
    ]
}

fn members(s: &State, a: &Access<'_>, ctx: &Ctx, pool: &Pool) -> Value {
    let mut out = Vec::new();
    let kind = ctx.params.get("type");
    for vm in pool.vms.iter().filter_map(|v| s.vms.get(v)).filter(|_| kind.is_none_or(|k| k == "qemu")) {
        if a.may(&ctx.caller, &format!("/vms/{}", vm.vmid), "VM.Audit") {
            out.push(super::picture::row(&ctx.cluster, vm));
        }
    }
    for id in pool.storages.iter().filter(|_| kind.is_none_or(|k| k == "storage")) {
        for node in ctx.cluster.nodes.keys() {
            out.push(json!({"id": format!("storage/{node}/{id}"), "node": node, "storage": id, "type": "storage", "status": "available"}));
        }
    }
    Value::Array(out)
}

fn missing(id: &str) -> ApiError {
    ApiError::died(format!("pool '{id}' does not exist"))
}

async fn list(ctx: Ctx) -> ApiResult {
    ctx.cluster
        .judge(|s, a| {
            if let Some(id) = ctx.params.get("poolid") {
                let pool = s.pools.get(id).ok_or_else(|| missing(id))?;
                let mut row = json!({"poolid": id, "members": members(s, a, &ctx, pool)});
                if let Some(comment) = &pool.comment {
                    row["comment"] = comment.as_str().into();
                }
                return Ok(json!([row]).into());
            }
            let mut out = Vec::new();
            for (id, pool) in
                s.pools.iter().filter(|(id, _)| a.may(&ctx.caller, &format!("/pool/{id}"), "Pool.Audit"))
            {
                let mut row = json!({"poolid": id});
                if let Some(comment) = &pool.comment {
                    row["comment"] = comment.as_str().into();
                }
                out.push(row);
            }
            Ok(Value::Array(out).into())
        })
        .await
}

async fn get(ctx: Ctx) -> ApiResult {
    ctx.cluster
        .judge(|s, a| {
            let id = ctx.params.text("poolid");
            let pool = s.pools.get(id).ok_or_else(|| missing(id))?;
            let mut row = json!({"poolid": id, "members": members(s, a, &ctx, pool)});
            if let Some(comment) = &pool.comment {
                row["comment"] = comment.as_str().into();
            }
            Ok(row.into())
        })
        .await
}

async fn create(ctx: Ctx) -> ApiResult {
    let id = ctx.params.text("poolid").to_owned();
    let comment = ctx.params.get("comment").map(str::to_owned);
    ctx.cluster
        .change("pool.create", |s| {
            let fail = |text: String| Err(ApiError::died(format!("create pool failed: {text}")));
            if s.pools.contains(&id) {
                return fail(format!("pool '{id}' already exists"));
            }
            if let Some((parent, _)) = id.rsplit_once('/')
                && !s.pools.contains(parent)
            {
                return fail(format!("parent '{parent}' of pool '{id}' does not exist"));
            }
            s.pools.insert(&id, Pool { comment, ..Pool::default() });
            Ok(())
        })
        .await?;
    null()
}

/// Who adds or removes a member needs rights on the member too.
fn may_move(a: &Access<'_>, ctx: &Ctx, path: &str, privilege: &str) -> Result<(), ApiError> {
    let any = ["Permissions.Modify", privilege];
    a.check_any(&ctx.caller, path, &any)
        .map_err(|e| ApiError::died(format!("update pools failed: 403 {}", e.text())))
}

async fn update(ctx: Ctx) -> ApiResult {
    let p = &ctx.params;
    let id = p.text("poolid").to_owned();
    let vms: Vec<u32> = p.list("vms").iter().filter_map(|v| v.parse().ok()).collect();
    let storages = p.list("storage");
    let (delete, allow_move) = (p.flag("delete"), p.flag("allow-move"));
    let fail = |text: String| ApiError::died(format!("update pools failed: {text}"));
    ctx.cluster
        .judge(|s, a| {
            if !s.pools.contains(&id) {
                return Err(fail(format!("pool '{id}' does not exist")));
            }
            for vmid in &vms {
                may_move(a, &ctx, &format!("/vms/{vmid}"), "VM.Allocate")?;
                let now_in = s.pool_of(*vmid);
                if delete && now_in != Some(id.as_str()) {
                    return Err(fail(format!("VM {vmid} is not a pool member")));
                }
                if !delete {
                    if !s.vms.contains(vmid) {
                        return Err(fail(format!("VM {vmid} does not exist")));
                    }
                    if now_in == Some(id.as_str()) {
                        return Err(fail(format!("VM {vmid} is already a pool member")));
                    }
                    if let Some(other) = now_in.filter(|_| !allow_move) {
                        return Err(fail(format!(
                            "VM {vmid} belongs already to pool '{other}' and 'allow-move' is not set"
                        )));
                    }
                }
            }
            for st in &storages {
                may_move(a, &ctx, &format!("/storage/{st}"), "Datastore.Allocate")?;
            }
            Ok(())
        })
        .await?;
    let comment = p.get("comment").map(str::to_owned);
    ctx.cluster
        .change("pool.update", |s| {
            if !delete {
                for vmid in &vms {
                    if let Some(old) = s.pool_of(*vmid).map(str::to_owned)
                        && let Some(pool) = s.pools.get_mut(old)
                    {
                        pool.vms.retain(|v| v != vmid);
                    }
                }
            }
            if let Some(pool) = s.pools.get_mut(&id) {
                if comment.is_some() {
                    pool.comment = comment;
                }
                pool.vms.retain(|v| !vms.contains(v));
                pool.storages.retain(|st| !storages.contains(st));
                if !delete {
                    pool.vms.extend(vms);
                    pool.storages.extend(storages);
                }
            }
        })
        .await;
    null()
}

async fn remove(ctx: Ctx) -> ApiResult {
    let id = ctx.params.text("poolid").to_owned();
    ctx.cluster
        .change("pool.remove", |s| {
            let fail = |text: String| Err(ApiError::died(format!("delete pool failed: {text}")));
            match s.pools.get(&id) {
                None => fail(format!("pool '{id}' does not exist")),
                Some(p) if !p.vms.is_empty() || !p.storages.is_empty() => {
                    fail(format!("pool '{id}' is not empty"))
                }
                Some(_) => {
                    s.pools.remove(&id);
                    Ok(())
                }
            }
        })
        .await?;
    null()
}
