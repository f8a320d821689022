//! Reading a VM's configuration.

use super::load;
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::vmconfig;

pub(super) fn calls() -> Vec<Call> {
    const AUDIT: Check = Check::All("/vms/{vmid}", &["VM.Audit"]);
    vec![
        call(
            "GET",
            "/nodes/{node}/qemu/{vmid}/config",
            &["current? b\nsnapshot? s max=40 fmt=pve-configid"],
            AUDIT,
            get,
        ),
        call("GET", "/nodes/{node}/qemu/{vmid}/pending", &[], AUDIT, pending),
    ]
}

async fn get(ctx: Ctx) -> ApiResult {
    let current = ctx.params.flag("current");
    ctx.cluster
        .read(|s| {
            let vm = load(s, &ctx)?;
            match ctx.params.get("snapshot") {
                None => Ok(vmconfig::view(vm, current).into()),
                Some(_) if current => {
                    Err(ApiError::parameter("snapshot", "cannot use 'snapshot' parameter with 'current'"))
                }
                Some(name) => {
                    let snapshot = vm
                        .snapshots
                        .get(name)
                        .ok_or_else(|| ApiError::died(format!("snapshot '{name}' does not exist")))?;
                    let mut seen = vm.clone();
                    seen.config = snapshot.config.clone();
                    seen.pending.clear();
                    let mut out = vmconfig::view(&seen, true);
                    out["snaptime"] = snapshot.taken_at.into();
                    Ok(out.into())
                }
            }
        })
        .await
}

async fn pending(ctx: Ctx) -> ApiResult {
    ctx.cluster.read(|s| Ok(vmconfig::pending(load(s, &ctx)?).into())).await
}
