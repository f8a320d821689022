//! `…/rrddata`: statistics, made up but plausible; and the machine monitor.

use serde_json::{Value, json};

use super::qemu::load_of;
use crate::pve::access::{Access, Caller};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::params::Params;
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::vmconfig;

const GUEST: &str = "cf? s enum=AVERAGE|MAX\ntimeframe s enum=hour|day|week|month|year";
const NODE: &str = "cf? s enum=AVERAGE|MAX\ntimeframe s enum=hour|day|week|month|year enum9=decade";

pub(super) fn calls() -> Vec<Call> {
    const STORAGE: Check = Check::Any("/storage/{storage}", &["Datastore.Audit", "Datastore.AllocateSpace"]);
    vec![
        call("GET", "/nodes/{node}/rrddata", &[NODE], Check::All("/nodes/{node}", &["Sys.Audit"]), node),
        call(
            "GET",
            "/nodes/{node}/qemu/{vmid}/rrddata",
            &[GUEST],
            Check::All("/vms/{vmid}", &["VM.Audit"]),
            guest,
        ),
        call("GET", "/nodes/{node}/storage/{storage}/rrddata", &[GUEST], STORAGE, storage),
        call("POST", "/nodes/{node}/qemu/{vmid}/monitor", &["command s"], Check::Own(may_monitor), monitor),
    ]
}

fn may_monitor(a: &Access<'_>, caller: &Caller, p: &Params) -> Result<(), ApiError> {
    let path = format!("/vms/{}", p.text("vmid"));
    if a.major >= 9 {
        a.check_any(caller, &path, &["Sys.Audit", "Sys.Modify"])
    } else {
        a.check(caller, &path, "VM.Monitor")
    }
}

async fn monitor(ctx: Ctx) -> ApiResult {
    let command = ctx.params.text("command");
    if !command.starts_with("info") && !command.starts_with("help") {
        let path = if ctx.cluster.major >= 9 { ctx.vm_path() } else { "/".to_owned() };
        ctx.cluster.judge(|_, a| a.check(&ctx.caller, &path, "Sys.Modify")).await?;
    }
    ctx.cluster
        .read(|s| match &load_of(s, &ctx)?.run {
            None => Err(ApiError::died(format!("VM {} not running", ctx.vmid()))),
            Some(run) if command == "info status" => {
                let state = if run.paused { "paused" } else { "running" };
                Ok(Value::from(format!("VM status: {state}\r\n")).into())
            }
            Some(_) => Ok(Value::from("").into()),
        })
        .await
}

/// Seconds in one slot of a frame.
fn step(ctx: &Ctx) -> i64 {
    match ctx.params.text("timeframe") {
        "hour" => 60,
        "day" => 1800,
        "week" => 10_800,
        "month" => 43_200,
        _ => 604_800,
    }
}

/// The end times of a frame's 70 slots.
fn slots(ctx: &Ctx) -> impl Iterator<Item = i64> + use<> {
    let step = step(ctx);
    let now = ctx.cluster.clock.seconds() / step * step;
    (0..70).rev().map(move |i| now - i * step)
}

/// A number between 0 and 1 that follows from the time.
fn wave(at: i64) -> f64 {
    f64::from(i32::try_from(at / 60 % 97).unwrap_or(0)) / 97.0
}

async fn node(ctx: Ctx) -> ApiResult {
    let Some(facts) = ctx.cluster.nodes.get(&ctx.node) else { return Ok(json!([]).into()) };
    let (boot, step) = (ctx.cluster.boot / 1000, step(&ctx));
    let used = super::node::memory_used(&ctx.cluster, &ctx.node).await;
    let rows = slots(&ctx).map(|at| {
        // A slot has data when the whole of it was seen.
        if at - step < boot {
            return json!({ "time": at });
        }
        json!({"time": at, "cpu": 0.02 + wave(at) / 10.0, "iowait": wave(at) / 100.0, "loadavg": wave(at), "maxcpu": facts.config.cores,
               "memtotal": facts.config.memory_mib << 20, "memused": used, "swaptotal": 0, "swapused": 0, "netin": wave(at) * 4000.0,
               "netout": wave(at) * 2000.0, "roottotal": 100u64 << 30, "rootused": 8u64 << 30})
    });
    Ok(Value::Array(rows.collect()).into())
}

async fn guest(ctx: Ctx) -> ApiResult {
    let found = ctx.cluster.read(|s| s.vms.get(ctx.vmid()).cloned()).await;
    let Some(vm) = found else {
        return Err(ApiError::died(format!(
            "RRD error: rrdcached@unix:/var/run/rrdcached.sock: rrd_fetch_r failed: opening '/var/lib/rrdcached/db/pve2-vm/{}': No such file or directory",
            ctx.vmid()
        )));
    };
    let memory = vmconfig::memory_mib(&vm.config) << 20;
    let step = step(&ctx);
    let rows = slots(&ctx).map(|at| {
        if at - step < vm.created_at / 1000 {
            return json!({ "time": at });
        }
        let mut row = json!({"time": at, "maxmem": memory, "maxcpu": vmconfig::cpus(&vm.config), "maxdisk": vmconfig::max_disk(&vm.config), "disk": 0});
        if vm.run.as_ref().is_some_and(|r| at >= r.since / 1000) {
            row["cpu"] = json!(wave(at) / 5.0);
            row["mem"] = (memory / 4).into();
            row["netin"] = json!(wave(at) * 900.0);
            row["netout"] = json!(wave(at) * 400.0);
            row["diskread"] = 0.into();
            row["diskwrite"] = json!(wave(at) * 5000.0);
        }
        row
    });
    Ok(Value::Array(rows.collect()).into())
}

async fn storage(ctx: Ctx) -> ApiResult {
    let id = ctx.params.text("storage");
    let (total, used) =
        ctx.cluster.read(|s| (s.storages.get(id).map_or(0, |st| st.total), s.used_on(&ctx.node, id))).await;
    let rows = slots(&ctx).map(|at| json!({"time": at, "total": total, "used": used}));
    Ok(Value::Array(rows.collect()).into())
}
