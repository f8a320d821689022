//! `…/cloudinit`: pending cloud-init values, regenerate, dump of the generated files.

use serde_json::{Value, json};

use crate::pve::api::qemu::start::write_drive;
use crate::pve::call::{Call, Check, call};
use crate::pve::cloudinit::{meta_data, network_config, user_data};
use crate::pve::cluster::{Ctx, no_config};
use crate::pve::reply::{ApiError, ApiResult, null};
use crate::pve::vmconfig;

/// What the view of cloud-init values shows; the addresses are not among it (recorded).
const SHOWN: &[&str] =
    &["cicustom", "cipassword", "citype", "ciuser", "nameserver", "searchdomain", "sshkeys"];

pub(super) fn calls() -> Vec<Call> {
    const AUDIT: Check = Check::All("/vms/{vmid}", &["VM.Audit"]);
    const PATH: &str = "/nodes/{node}/qemu/{vmid}/cloudinit";
    vec![
        call("GET", PATH, &[], AUDIT, values),
        call("PUT", PATH, &[], Check::All("/vms/{vmid}", &["VM.Config.Cloudinit"]), regenerate),
        call(
            "GET",
            "/nodes/{node}/qemu/{vmid}/cloudinit/dump",
            &["type s enum=user|network|meta"],
            AUDIT,
            dump,
        ),
    ]
}

async fn values(ctx: Ctx) -> ApiResult {
    ctx.cluster
        .read(|s| {
            let vm = s
                .vm_on(&ctx.node, ctx.vmid())
                .ok_or_else(|| ApiError::died(no_config(&ctx.node, ctx.vmid())))?;
            let rows = vm.config.iter().filter(|(k, _)| SHOWN.contains(&k.as_str()));
            let rows = rows.map(|(k, v)| json!({"key": k, "value": vmconfig::shown(k, v)}));
            Ok(Value::Array(rows.collect()).into())
        })
        .await
}

async fn regenerate(ctx: Ctx) -> ApiResult {
    let cluster = &ctx.cluster;
    let vmid = ctx.vmid();
    let _guard = cluster.lock(vmid, cluster.timing.config_lock_ms).await.map_err(ApiError::died)?;
    cluster
        .read(|s| {
            let vm = s.vm_on(&ctx.node, vmid).ok_or_else(|| ApiError::died(no_config(&ctx.node, vmid)))?;
            super::qemu::check_lock_of(vm).map_err(ApiError::died)
        })
        .await?;
    write_drive(cluster, &ctx.node, vmid).await.map_err(ApiError::died)?;
    null()
}

async fn dump(ctx: Ctx) -> ApiResult {
    let major = ctx.cluster.major;
    ctx.cluster
        .judge(|s, a| {
            let vm = s
                .vm_on(&ctx.node, ctx.vmid())
                .ok_or_else(|| ApiError::died(no_config(&ctx.node, ctx.vmid())))?;
            let masked = !a.may(&ctx.caller, &ctx.vm_path(), "VM.Config.Cloudinit");
            let user = user_data(&vm.config, vm.vmid, masked);
            let network = network_config(&vm.config, major);
            let text = match ctx.params.text("type") {
                "user" => user,
                "network" => network,
                _ => meta_data(&user, &network),
            };
            Ok(Value::from(text).into())
        })
        .await
}
