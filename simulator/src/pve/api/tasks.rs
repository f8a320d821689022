//! `/nodes/{node}/tasks`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::pve::access::Access;
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::reply::{Answer, ApiError, ApiResult, null};
use crate::pve::state::Task;
use crate::pve::task;

const LIST: &str = "\
errors? b
limit? i 0..
since? i
source? s enum=archive|active|all
start? i 0..
statusfilter? s fmt=pve-task-status-type-list
typefilter? s
until? i
userfilter? s
vmid? i 100..999999999 fmt=pve-vmid
";

pub(super) fn calls() -> Vec<Call> {
    vec![
        call("GET", "/nodes/{node}/tasks", &[LIST], Check::Everyone, list),
        call("GET", "/nodes/{node}/tasks/{upid}/status", &[], Check::Everyone, status),
        call(
            "GET",
            "/nodes/{node}/tasks/{upid}/log",
            &["download? b\nlimit? i 0..\nstart? i 0.."],
            Check::Everyone,
            log,
        ),
        call("DELETE", "/nodes/{node}/tasks/{upid}", &[], Check::Everyone, stop),
    ]
}

/// Own tasks, or those of others with `privilege` on the node.
fn may(access: &Access<'_>, ctx: &Ctx, task: &Task, privilege: &str) -> Result<(), ApiError> {
    if task.user == ctx.caller.id() {
        Ok(())
    } else {
        access.check(&ctx.caller, &format!("/nodes/{}", ctx.node), privilege)
    }
}

async fn status(ctx: Ctx) -> ApiResult {
    ctx.cluster
        .judge(|s, a| {
            let task = task::find(s, &ctx.node, ctx.params.text("upid"))?;
            may(a, &ctx, task, "Sys.Audit")?;
            Ok(task::status(task).into())
        })
        .await
}

async fn log(ctx: Ctx) -> ApiResult {
    let start = usize::try_from(ctx.params.number("start").unwrap_or(0)).unwrap_or(0);
    let limit = match usize::try_from(ctx.params.number("limit").unwrap_or(50)).unwrap_or(50) {
        0 => usize::MAX,
        n => n,
    };
    ctx.cluster
        .judge(|s, a| {
            let task = task::find(s, &ctx.node, ctx.params.text("upid"))?;
            may(a, &ctx, task, "Sys.Audit")?;
            let (lines, total): (Vec<Value>, usize) = if task.log.is_empty() {
                (vec![json!({"n": 1, "t": "no content"})], 1)
            } else {
                let lines = task.log.iter().enumerate().skip(start).take(limit);
                (lines.map(|(i, t)| json!({"n": i + 1, "t": t})).collect(), task.log.len())
            };
            Ok(Answer { data: Value::Array(lines), extra: vec![("total", total.into())] })
        })
        .await
}

async fn stop(ctx: Ctx) -> ApiResult {
    let upid = ctx.params.text("upid").to_owned();
    ctx.cluster
        .judge(|s, a| {
            let task = task::find(s, &ctx.node, &upid)?;
            may(a, &ctx, task, "Sys.Modify")
        })
        .await?;
    if ctx.cluster.interrupt(&upid) {
        // The daemon waits up to five seconds for the worker to go.
        for _ in 0..500 {
            if ctx.cluster.read(|s| s.tasks.get(&upid).is_none_or(|t| t.exit.is_some())).await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    null()
}

fn row(task: &Task) -> Value {
    let mut out = json!({
        "upid": task.upid, "node": task.node, "pid": task.pid, "pstart": task.pstart, "starttime": task.starttime,
        "type": task.kind, "id": task.id,
    });
    match &task.exit {
        Some(exit) => {
            let (user, token) =
                task.user.split_once('!').map_or((task.user.as_str(), None), |(u, t)| (u, Some(t)));
            out["user"] = user.into();
            if let Some(token) = token {
                out["tokenid"] = token.into();
            }
            out["status"] = exit.as_str().into();
            out["endtime"] = task.endtime.into();
        }
        None => {
            out["user"] = task.user.as_str().into();
            out["status"] = "RUNNING".into();
            out["saved"] = "0".into();
        }
    }
    out
}

async fn list(ctx: Ctx) -> ApiResult {
    let p = &ctx.params;
    let source = p.get("source").unwrap_or("archive");
    let start = usize::try_from(p.number("start").unwrap_or(0)).unwrap_or(0);
    let limit = usize::try_from(p.number("limit").unwrap_or(50)).unwrap_or(50);
    ctx.cluster
        .judge(|s, a| {
            let sees_all = a.may(&ctx.caller, &format!("/nodes/{}", ctx.node), "Sys.Audit");
            let good = |t: &Task| t.exit.as_deref().is_none_or(|e| e == "OK" || e.starts_with("WARNINGS: "));
            let fits = |t: &&Task| {
                t.node == ctx.node
                    && (sees_all || t.user == ctx.caller.id())
                    && match source {
                        "active" => t.exit.is_none(),
                        "archive" => t.exit.is_some(),
                        _ => true,
                    }
                    && p.get("vmid").is_none_or(|v| t.id == v)
                    && p.get("typefilter").is_none_or(|k| t.kind == k)
                    && p.get("userfilter").is_none_or(|u| t.user.contains(u))
                    && p.number("since").is_none_or(|at| t.starttime >= at)
                    && p.number("until").is_none_or(|at| t.starttime <= at)
                    && (!p.flag("errors") || !good(t))
            };
            let mut tasks: Vec<&Task> = s.tasks.values().filter(fits).collect();
            tasks.sort_by_key(|t| (t.exit.is_some(), std::cmp::Reverse((t.starttime, t.pstart, t.pid))));
            let total = tasks.len();
            let rows = tasks.into_iter().skip(start).take(limit).map(row).collect();
            // A total of nothing is left out (recorded).
            let extra = if total == 0 { Vec::new() } else { vec![("total", total.into())] };
            Ok(Answer { data: Value::Array(rows), extra })
        })
        .await
}

/// A row of `/cluster/tasks`, which come from the nodes' status broadcasts and look a little otherwise.
fn cluster_row(task: &Task) -> Value {
    let (user, token) = task.user.split_once('!').map_or((task.user.as_str(), None), |(u, t)| (u, Some(t)));
    let mut out = json!({
        "upid": task.upid, "node": task.node, "starttime": task.starttime, "type": task.kind, "id": task.id,
        "user": user,
    });
    if let Some(token) = token {
        out["tokenid"] = token.into();
    }
    match &task.exit {
        Some(exit) => {
            out["status"] = exit.as_str().into();
            out["endtime"] = task.endtime.into();
            out["saved"] = "1".into();
        }
        None => out["pid"] = task.pid.into(),
    }
    out
}

/// `/cluster/tasks`: the newest tasks of all nodes.
pub(super) async fn cluster_tasks(ctx: Ctx) -> ApiResult {
    ctx.cluster
        .judge(|s, a| {
            let sees_all = a.may(&ctx.caller, "/", "Sys.Audit");
            // Entries are compared with the user alone: without Sys.Audit a token sees nothing (recorded).
            let own = |t: &&Task| sees_all || (ctx.caller.token.is_none() && t.user == ctx.caller.user);
            let mut tasks: Vec<&Task> = s.tasks.values().filter(own).collect();
            tasks.sort_by_key(|t| std::cmp::Reverse((t.starttime, t.pid)));
            Ok(Value::Array(tasks.into_iter().take(25).map(cluster_row).collect()).into())
        })
        .await
}
