//! `/cluster`: resources (lagging, as pvestatd's picture does), the next free VMID, options, firewall.

use serde_json::{Value, json};

use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::load::host_cpu;
use crate::pve::reply::{ApiError, ApiResult, null};
use crate::pve::state::sha1_hex;

const FIREWALL: &str = "\
delete? s fmt=pve-configid-list
digest? s max=64
ebtables? b
enable? i 0..
log_ratelimit? s fmt=@log_ratelimit
policy_forward? s enum=ACCEPT|DROP
policy_in? s enum=ACCEPT|REJECT|DROP
policy_out? s enum=ACCEPT|REJECT|DROP
";

pub(super) fn calls() -> Vec<Call> {
    const AUDIT: Check = Check::All("/", &["Sys.Audit"]);
    vec![
        call("GET", "/cluster/resources", &["type? s enum=vm|storage|node|sdn"], Check::Everyone, resources),
        call("GET", "/cluster/nextid", &["vmid? i 100..999999999 fmt=pve-vmid"], Check::Everyone, next_id),
        call("GET", "/cluster/status", &[], AUDIT, status),
        call("GET", "/cluster/options", &[], Check::Everyone, options),
        call("GET", "/cluster/firewall/options", &[], AUDIT, firewall),
        call("PUT", "/cluster/firewall/options", &[FIREWALL], Check::All("/", &["Sys.Modify"]), set_firewall),
        call("GET", "/cluster/ha/resources", &["type? s enum=ct|vm"], AUDIT, |_| async {
            Ok(json!([]).into())
        }),
        call("GET", "/cluster/firewall/groups", &[], Check::Everyone, |_| async { Ok(json!([]).into()) }),
        call("GET", "/cluster/firewall/macros", &[], Check::Everyone, |_| async {
            let macros =
                super::firewall::MACROS.iter().map(|m| json!({"macro": m, "descr": format!("{m} traffic")}));
            Ok(Value::Array(macros.collect()).into())
        }),
        call(
            "GET",
            "/cluster/sdn/zones",
            &["pending? b\nrunning? b\ntype? s enum=evpn|faucet|qinq|simple|vlan|vxlan"],
            Check::Everyone,
            |_| async { Ok(json!([]).into()) },
        ),
        call("GET", "/cluster/tasks", &[], Check::Everyone, super::tasks::cluster_tasks),
    ]
}

async fn next_id(ctx: Ctx) -> ApiResult {
    let wanted = ctx.params.get("vmid").and_then(|v| v.parse::<u32>().ok());
    ctx.cluster
        .read(|s| match wanted {
            Some(vmid) if s.vms.contains(vmid) => {
                Err(ApiError::parameter("vmid", format!("VM {vmid} already exists")))
            }
            Some(vmid) => Ok(Value::from(vmid.to_string()).into()),
            None => (100u32..1_000_000)
                .find(|v| !s.vms.contains(v))
                .map(|v| Value::from(v.to_string()).into())
                .ok_or_else(|| ApiError::died("unable to get any free VMID in range [100, 1000000]")),
        })
        .await
}

async fn status(ctx: Ctx) -> ApiResult {
    let mut out = Vec::new();
    if ctx.cluster.nodes.len() > 1 {
        out.push(json!({"type": "cluster", "id": "cluster", "name": ctx.cluster.name, "nodes": ctx.cluster.nodes.len(),
                        "quorate": 1, "version": ctx.cluster.nodes.len()}));
    }
    for (i, name) in ctx.cluster.nodes.keys().enumerate() {
        out.push(json!({"type": "node", "id": format!("node/{name}"), "name": name, "nodeid": i, "online": 1,
                        "ip": format!("192.0.2.{}", i + 2), "level": "", "local": u8::from(*name == ctx.node)}));
    }
    Ok(Value::Array(out).into())
}

async fn options(ctx: Ctx) -> ApiResult {
    ctx.cluster
        .judge(|s, a| {
            let mut tags: Vec<&str> = s
                .vms
                .iter()
                .filter(|(vmid, _)| a.may(&ctx.caller, &format!("/vms/{vmid}"), "VM.Audit"))
                .filter_map(|(_, v)| v.config.get("tags"))
                .flat_map(|t| t.split(';'))
                .collect();
            tags.sort_unstable();
            tags.dedup();
            let mut out = json!({"allowed-tags": tags});
            if a.may(&ctx.caller, "/", "Sys.Audit") {
                out["mac_prefix"] = "BC:24:11".into();
                out["description"] = "".into();
            }
            Ok(out.into())
        })
        .await
}

async fn firewall(ctx: Ctx) -> ApiResult {
    ctx.cluster
        .read(|s| {
            let mut out = json!({});
            let mut text = String::new();
            for option in ["enable", "ebtables", "log_ratelimit", "policy_forward", "policy_in", "policy_out"]
            {
                if let Some(v) = s.meta.get(format!("firewall {option}")) {
                    text.push_str(&format!("{option}: {v}\n"));
                    out[option] = v.parse::<i64>().map_or_else(|_| v.as_str().into(), Value::from);
                }
            }
            out["digest"] = sha1_hex(text.as_bytes()).into();
            Ok(out.into())
        })
        .await
}

async fn set_firewall(ctx: Ctx) -> ApiResult {
    let given = crate::pve::vmconfig::given_options(&ctx.params, &["delete", "digest"]);
    let delete = ctx.params.list("delete");
    ctx.cluster
        .change("cluster.firewall", |s| {
            for option in delete {
                s.meta.remove(format!("firewall {option}"));
            }
            for (k, v) in given {
                s.meta.insert(format!("firewall {k}"), v);
            }
        })
        .await;
    null()
}

/// A node; what it is doing is for those who may audit it.
fn node_row(ctx: &Ctx, name: &str, (cores, cpu): (u32, f64), memory_mib: u64, used: Option<&u64>) -> Value {
    let base = json!({"id": format!("node/{name}"), "type": "node", "node": name, "status": "online"});
    let Some(used) = used else { return base };
    let up = (ctx.cluster.clock.now() - ctx.cluster.boot).max(0) / 1000;
    json!({
        "id": base["id"], "type": "node", "node": name, "status": "online", "level": "", "cgroup-mode": 1,
        "maxcpu": cores, "cpu": cpu, "maxmem": memory_mib << 20, "mem": used, "maxdisk": 100u64 << 30,
        "disk": 8u64 << 30, "uptime": up,
    })
}

/// The picture that pvestatd took up to `resources_lag_ms` ago; who may see what is judged now.
async fn resources(ctx: Ctx) -> ApiResult {
    let now = ctx.cluster.clock.now();
    let lag = i64::try_from(ctx.cluster.timing.resources_lag_ms).unwrap_or(i64::MAX);
    let mut picture = ctx.cluster.lagging.lock().await;
    if picture.as_ref().is_none_or(|(at, _)| now - at >= lag) {
        let taken = ctx.cluster.read(|s| {
            let map = s.vms.iter().map(|(vmid, v)| (vmid.clone(), Value::from(v.run.is_some()))).collect();
            Value::Object(map)
        });
        *picture = Some((now, taken.await));
    }
    let running = picture.as_ref().map(|(_, v)| v.clone()).unwrap_or_default();
    drop(picture);
    let mut memory = std::collections::BTreeMap::new();
    for name in ctx.cluster.nodes.keys() {
        memory.insert(name.clone(), super::node::memory_used(&ctx.cluster, name).await);
    }
    let kind = ctx.params.get("type").unwrap_or("");
    let wanted = |k: &str| kind.is_empty() || kind == k;
    ctx.cluster
        .judge(|s, a| {
            let mut out = Vec::new();
            if kind.is_empty() {
                for (id, _) in s.pools.iter().filter(|(id, _)| a.may(&ctx.caller, &format!("/pool/{id}"), "Pool.Audit")) {
                    out.push(json!({"id": format!("/pool/{id}"), "pool": id, "type": "pool"}));
                }
            }
            if wanted("vm") {
                for vm in s.vms.values().filter(|v| a.may(&ctx.caller, &format!("/vms/{}", v.vmid), "VM.Audit")) {
                    let mut row = super::picture::row(&ctx.cluster, vm);
                    if row["status"] != "unknown" {
                        let was = running.get(vm.vmid.to_string()).and_then(Value::as_bool).unwrap_or(vm.run.is_some());
                        row["status"] = if was { "running" } else { "stopped" }.into();
                    }
                    for option in ["lock", "tags"] {
                        if let Some(value) = vm.config.get(option) {
                            row[option] = value.as_str().into();
                        }
                    }
                    if let Some(pool) = s.pool_of(vm.vmid).filter(|p| a.may(&ctx.caller, &format!("/pool/{p}"), "Pool.Audit")) {
                        row["pool"] = pool.into();
                    }
                    out.push(row);
                }
            }
            for (name, facts) in &ctx.cluster.nodes {
                if wanted("node") {
                    let used = a.may(&ctx.caller, &format!("/nodes/{name}"), "Sys.Audit").then(|| memory.get(name));
                    let cores = facts.config.cores;
                    let cpu = host_cpu(s.vms.values().filter(|v| v.node == *name), cores, now);
                    out.push(node_row(&ctx, name, (cores, cpu), facts.config.memory_mib, used.flatten()));
                }
                if wanted("storage") {
                    let on_node = |st: &&crate::pve::state::Storage| st.nodes.is_empty() || st.nodes.contains(name);
                    for st in s.storages.values().filter(on_node) {
                        if a.may(&ctx.caller, &format!("/storage/{}", st.id), "Datastore.Audit") {
                            out.push(json!({"id": format!("storage/{name}/{}", st.id), "type": "storage", "node": name,
                                "storage": st.id, "plugintype": st.kind, "content": st.content.join(","),
                                "shared": u8::from(st.shared), "status": "available",
                                "maxdisk": st.total, "disk": s.used_on(name, &st.id)}));
                        }
                    }
                }
                if wanted("sdn") && a.may_any(&ctx.caller, "/sdn/zones/localnetwork", &["SDN.Audit", "SDN.Use"]) {
                    out.push(json!({"id": format!("sdn/{name}/localnetwork"), "type": "sdn", "sdn": "localnetwork", "node": name, "status": "ok"}));
                }
            }
            Ok(Value::Array(out).into())
        })
        .await
}
