//! The list of VMs and their current state.

use serde_json::{Value, json};

use super::load;
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::load::of as load_now;
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::state::Vm;
use crate::pve::vmconfig;

pub(super) fn calls() -> Vec<Call> {
    const VM: &str = "/nodes/{node}/qemu/{vmid}";
    const AUDIT: Check = Check::All("/vms/{vmid}", &["VM.Audit"]);
    vec![
        call("GET", "/nodes/{node}/qemu", &["full? b"], Check::Everyone, list),
        call("GET", VM, &[], Check::Everyone, index),
        call("GET", "/nodes/{node}/qemu/{vmid}/status/current", &[], AUDIT, current),
        call(
            "GET",
            "/nodes/{node}/qemu/{vmid}/feature",
            &["feature s enum=snapshot|clone|copy\nsnapname? s max=40 fmt=pve-configid"],
            AUDIT,
            feature,
        ),
    ]
}

/// One row of the list.
pub(crate) fn row(vm: &Vm, now: i64) -> Value {
    let memory = vmconfig::memory_mib(&vm.config) << 20;
    let uptime = vm.run.as_ref().map_or(0, |r| ((now - r.since) / 1000).max(0));
    let mut out = json!({
        "vmid": vm.vmid, "name": vm.name(), "status": if vm.run.is_some() { "running" } else { "stopped" },
        "cpus": vmconfig::cpus(&vm.config), "cpu": 0, "maxmem": memory, "mem": 0, "maxdisk": vmconfig::max_disk(&vm.config),
        "disk": 0, "netin": 0, "netout": 0, "uptime": uptime,
    });
    if let Some(run) = &vm.run {
        let load = load_now(vm, now);
        out["pid"] = run.pid.into();
        out["mem"] = load.memory.into();
        out["cpu"] = json!(load.cpu);
        out["netin"] = load.net_in.into();
        out["netout"] = load.net_out.into();
    }
    if vm.config.contains_key("serial0") {
        out["serial"] = 1.into();
    }
    if let Some(tags) = vm.config.get("tags") {
        out["tags"] = tags.as_str().into();
    }
    if vm.is_template() {
        out["template"] = 1.into();
    }
    if let Some(lock) = vm.lock() {
        out["lock"] = lock.into();
    }
    out
}

/// A row with what the running machine itself tells.
fn with_machine(vm: &Vm, mut row: Value) -> Value {
    row["qmpstatus"] = match &vm.run {
        None => "stopped",
        Some(r) if r.prelaunch => "prelaunch",
        Some(r) if r.paused => "paused",
        Some(_) => "running",
    }
    .into();
    if vm.run.is_some() {
        let mut nics = serde_json::Map::new();
        for net in vm.config.keys().filter(|k| vmconfig::is_net(k)) {
            let index = net.trim_start_matches("net");
            let traffic = json!({"netin": row["netin"], "netout": row["netout"]});
            nics.insert(format!("tap{}i{index}", vm.vmid), traffic);
        }
        row["nics"] = Value::Object(nics);
    }
    row
}

async fn list(ctx: Ctx) -> ApiResult {
    let now = ctx.cluster.clock.now();
    ctx.cluster
        .judge(|s, a| {
            let seen =
                |v: &&Vm| v.node == ctx.node && a.may(&ctx.caller, &format!("/vms/{}", v.vmid), "VM.Audit");
            let full = ctx.params.flag("full");
            let show = |v: &Vm| if full { with_machine(v, row(v, now)) } else { row(v, now) };
            Ok(Value::Array(s.vms.values().filter(seen).map(show).collect()).into())
        })
        .await
}

async fn index(_ctx: Ctx) -> ApiResult {
    let parts = [
        "config",
        "pending",
        "status",
        "unlink",
        "vncproxy",
        "termproxy",
        "migrate",
        "resize",
        "move",
        "rrd",
        "rrddata",
        "monitor",
        "agent",
        "snapshot",
        "spiceproxy",
        "sendkey",
        "firewall",
    ];
    Ok(Value::Array(parts.iter().map(|p| json!({"subdir": p})).collect()).into())
}

async fn current(ctx: Ctx) -> ApiResult {
    let now = ctx.cluster.clock.now();
    ctx.cluster
        .read(|s| {
            let vm = load(s, &ctx)?;
            let mut out = with_machine(vm, row(vm, now));
            out["ha"] = json!({"managed": 0});
            if agent_configured(vm) {
                out["agent"] = 1.into();
            }
            if vm.config.get("lock").is_none_or(|l| l != "clone") {
                out["clipboard"] = Value::Null;
            }
            Ok(out.into())
        })
        .await
}

/// Whether `agent` is switched on in the configuration.
pub(crate) fn agent_configured(vm: &Vm) -> bool {
    vm.config.get("agent").is_some_and(|a| {
        let first = a.split(',').next().unwrap_or("");
        let value = first.strip_prefix("enabled=").unwrap_or(first);
        matches!(value, "1" | "on" | "yes" | "true")
    })
}

async fn feature(ctx: Ctx) -> ApiResult {
    let feature = ctx.params.text("feature").to_owned();
    let nodes: Vec<String> = ctx.cluster.nodes.keys().cloned().collect();
    ctx.cluster
        .read(|s| {
            let vm = load(s, &ctx)?;
            let disks = vm.config.iter().filter(|(k, v)| vmconfig::is_drive(k) && !v.contains("media=cdrom"));
            let ok = disks.map(|(_, v)| crate::pve::drive::Drive::parse(v)).all(|d| {
                let Some(storage) = d.storage().and_then(|id| s.storages.get(id)) else { return false };
                match feature.as_str() {
                    "snapshot" => storage.can_snapshot(crate::pve::drive::format_of(&d.file)),
                    "clone" => storage.can_link() && d.file.contains("base-") && vm.is_template(),
                    _ => true,
                }
            });
            Ok::<_, ApiError>(json!({"hasFeature": u8::from(ok), "nodes": nodes}).into())
        })
        .await
}
