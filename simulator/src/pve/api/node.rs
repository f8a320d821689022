//! `/version`, `/nodes` and what a node tells about itself.

use serde_json::{Value, json};

use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::{Cluster, Ctx};
use crate::pve::load::host_cpu;
use crate::pve::reply::ApiResult;

const ON_NODE: Check = Check::All("/nodes/{node}", &["Sys.Audit"]);

pub(super) fn calls() -> Vec<Call> {
    vec![
        call("GET", "/", &[], Check::Everyone, |_| async {
            Ok(json!([{"subdir": "version"}, {"subdir": "cluster"}, {"subdir": "nodes"}, {"subdir": "storage"},
                      {"subdir": "access"}, {"subdir": "pools"}])
            .into())
        }),
        call("GET", "/version", &[], Check::Everyone, |ctx| async move { Ok(version(&ctx.cluster).into()) }),
        call("GET", "/nodes/{node}/version", &[], Check::Everyone, |ctx| async move {
            Ok(version(&ctx.cluster).into())
        }),
        call("GET", "/nodes", &[], Check::Everyone, list),
        call("GET", "/nodes/{node}/status", &[], ON_NODE, status),
        call("GET", "/nodes/{node}/dns", &[], ON_NODE, |_| async {
            Ok(json!({"dns1": "192.0.2.53"}).into())
        }),
        call("GET", "/nodes/{node}/time", &[], ON_NODE, |ctx| async move {
            let now = ctx.cluster.clock.seconds();
            Ok(json!({"time": now, "localtime": now, "timezone": "Etc/UTC"}).into())
        }),
        call("GET", "/nodes/{node}/firewall/options", &[], ON_NODE, |_| async {
            Ok(json!({"digest": crate::pve::state::sha1_hex(b"")}).into())
        }),
        call("GET", "/nodes/{node}/disks/lvmthin", &[], Check::All("/", &["Sys.Audit"]), thin_pools),
        call("GET", "/nodes/{node}/certificates/info", &[], Check::Everyone, certificates),
        call("GET", "/nodes/{node}/services", &[], ON_NODE, |_| async { Ok(json!([]).into()) }),
        call("GET", "/nodes/{node}/subscription", &[], Check::Everyone, |_| async {
            Ok(json!({"status": "notfound", "serverid": "00000000000000000000000000000000", "message": "There is no subscription key",
                      "url": "https://www.proxmox.com/en/proxmox-virtual-environment/pricing"})
            .into())
        }),
    ]
}

fn version(cluster: &Cluster) -> Value {
    json!({"version": cluster.version, "release": cluster.release(), "repoid": "2606ac850d46da29"})
}

async fn certificates(ctx: Ctx) -> ApiResult {
    let Some(facts) = ctx.cluster.nodes.get(&ctx.node) else { return Ok(json!([]).into()) };
    let read = |file: &std::path::Path| std::fs::read_to_string(file).unwrap_or_default();
    let root = read(&crate::pve::tls::ca_file(&ctx.cluster.directory));
    let own = read(&ctx.cluster.directory.join(format!("{}-ssl.pem", ctx.node)));
    let (ca, day, from) =
        ("/CN=Proxmox Virtual Environment/O=PVE Cluster Manager CA", 86_400, ctx.cluster.boot / 1000);
    Ok(json!([
        {
            "filename": "pve-root-ca.pem", "fingerprint": crate::pve::tls::fingerprint_of(&root), "pem": root,
            "issuer": ca, "subject": ca, "san": [], "public-key-type": "id-ecPublicKey", "public-key-bits": 256,
            "notbefore": from, "notafter": from + 3650 * day,
        },
        {
            "filename": "pve-ssl.pem", "fingerprint": facts.fingerprint, "pem": own,
            "issuer": ca, "subject": format!("/OU=PVE Cluster Node/CN={}", ctx.node),
            "san": ["127.0.0.1", "0000:0000:0000:0000:0000:0000:0000:0001", "localhost", ctx.node],
            "public-key-type": "id-ecPublicKey", "public-key-bits": 256, "notbefore": from, "notafter": from + 730 * day,
        },
    ])
    .into())
}

/// Behind each storage of the kind is a thin pool of its own; metadata fills more slowly than data. No recording shows
/// one: names and fields are those of Proxmox VE's description of the call.
async fn thin_pools(ctx: Ctx) -> ApiResult {
    ctx.cluster
        .read(|s| {
            let here = |st: &&crate::pve::state::Storage| {
                st.kind == "lvmthin" && (st.nodes.is_empty() || st.nodes.contains(&ctx.node))
            };
            let pools = s.storages.values().filter(here).map(|st| {
                let (total, used) = (st.total, s.used_on(&ctx.node, &st.id));
                let metadata = (total / 1_000).max(1 << 20);
                let share = u64::try_from(u128::from(metadata) * u128::from(used) / u128::from(total.max(1)));
                json!({"vg": "pve", "lv": st.id, "lv_size": total, "used": used, "metadata_size": metadata,
                       "metadata_used": metadata / 100 + share.unwrap_or(metadata) / 2})
            });
            Ok(Value::Array(pools.collect()).into())
        })
        .await
}

/// Memory that running VMs take on a node, in bytes.
pub(super) async fn memory_used(cluster: &Cluster, node: &str) -> u64 {
    cluster
        .read(|s| {
            s.vms
                .values()
                .filter(|v| v.node == node && v.run.is_some())
                .map(|v| crate::pve::vmconfig::memory_mib(&v.config) << 20)
                .sum::<u64>()
        })
        .await
        + (2 << 30)
}

async fn list(ctx: Ctx) -> ApiResult {
    let mut out = Vec::new();
    for (name, facts) in &ctx.cluster.nodes {
        let audit =
            ctx.cluster.judge(|_, a| a.may(&ctx.caller, &format!("/nodes/{name}"), "Sys.Audit")).await;
        let mut row = json!({
            "node": name, "id": format!("node/{name}"), "type": "node", "status": "online",
            "ssl_fingerprint": facts.fingerprint, "level": "",
        });
        if audit {
            let (cores, now) = (facts.config.cores, ctx.cluster.clock.now());
            let cpu = ctx.cluster.read(|s| host_cpu(s.vms.values().filter(|v| v.node == *name), cores, now));
            row["maxcpu"] = cores.into();
            row["cpu"] = json!(cpu.await);
            row["maxmem"] = (facts.config.memory_mib << 20).into();
            row["mem"] = memory_used(&ctx.cluster, name).await.into();
            row["maxdisk"] = (100u64 << 30).into();
            row["disk"] = (8u64 << 30).into();
            row["uptime"] = ((ctx.cluster.clock.now() - ctx.cluster.boot).max(0) / 1000).into();
        }
        out.push(row);
    }
    Ok(Value::Array(out).into())
}

async fn status(ctx: Ctx) -> ApiResult {
    let Some(facts) = ctx.cluster.nodes.get(&ctx.node) else { return Ok(Value::Null.into()) };
    let total = facts.config.memory_mib << 20;
    let used = memory_used(&ctx.cluster, &ctx.node).await.min(total);
    let kernel = if ctx.cluster.major >= 9 { "6.14.8-2-pve" } else { "6.8.12-9-pve" };
    let mut memory = json!({"total": total, "used": used, "free": total - used});
    if ctx.cluster.major >= 9 {
        memory["available"] = (total - used).into();
    }
    let (cores, now) = (facts.config.cores, ctx.cluster.clock.now());
    let cpu = ctx.cluster.read(|s| host_cpu(s.vms.values().filter(|v| v.node == ctx.node), cores, now)).await;
    Ok(json!({
        "uptime": (ctx.cluster.clock.now() - ctx.cluster.boot).max(0) / 1000,
        "cpu": cpu, "wait": 0, "idle": 0,
        "loadavg": ["0.10", "0.12", "0.09"],
        "kversion": format!("Linux {kernel} #1 SMP PREEMPT_DYNAMIC"),
        "current-kernel": {"sysname": "Linux", "release": kernel, "version": "#1 SMP PREEMPT_DYNAMIC", "machine": "x86_64"},
        "pveversion": format!("pve-manager/{}/2606ac850d46da29", ctx.cluster.version),
        "boot-info": {"mode": "legacy-bios"},
        "cpuinfo": {"model": "Simulated CPU", "cpus": cores, "cores": cores, "sockets": 1, "mhz": "2600.000",
                    "user_hz": 100, "hvm": "1", "flags": "fpu vme de pse tsc msr pae mce cx8 apic sep svm"},
        "memory": memory,
        "swap": {"total": 0, "used": 0, "free": 0},
        "ksm": {"shared": 0},
        "rootfs": {"total": 100u64 << 30, "used": 8u64 << 30, "free": 92u64 << 30, "avail": 92u64 << 30},
    })
    .into())
}
