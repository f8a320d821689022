//! Start, stop, reset, suspend, resume.

use super::start::{START, start};
use super::{check_lock, load, only_root};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::{Ctx, unable_to_find};
use crate::pve::reply::{ApiError, ApiResult};

const POWER: Check = Check::All("/vms/{vmid}", &["VM.PowerMgmt"]);

pub(super) fn calls() -> Vec<Call> {
    const STOP: &str =
        "keepActive? b\nmigratedfrom? s fmt=pve-node\noverrule-shutdown? b\nskiplock? b\ntimeout? i 0..";
    vec![
        call("POST", "/nodes/{node}/qemu/{vmid}/status/start", &[START], POWER, start),
        call("POST", "/nodes/{node}/qemu/{vmid}/status/stop", &[STOP], POWER, stop),
        call("POST", "/nodes/{node}/qemu/{vmid}/status/reset", &["skiplock? b"], POWER, reset),
        call(
            "POST",
            "/nodes/{node}/qemu/{vmid}/status/suspend",
            &["skiplock? b\nstatestorage? s fmt=pve-storage-id req=todisk\ntodisk? b"],
            POWER,
            suspend,
        ),
        call("POST", "/nodes/{node}/qemu/{vmid}/status/resume", &["nocheck? b\nskiplock? b"], POWER, resume),
    ]
}

async fn stop(ctx: Ctx) -> ApiResult {
    only_root(&ctx, &["skiplock", "keepActive", "migratedfrom"])?;
    let cluster = ctx.cluster.clone();
    let vmid = ctx.vmid();
    // A hard stop may end the shutdown that holds the lock.
    if ctx.params.flag("overrule-shutdown") {
        let me = ctx.caller.id();
        let upids = cluster
            .read(|s| {
                let id = vmid.to_string();
                let open = s
                    .tasks
                    .values()
                    .filter(|t| t.kind == "qmshutdown" && t.id == id && t.exit.is_none() && t.user == me);
                open.map(|t| t.upid.clone()).collect::<Vec<_>>()
            })
            .await;
        for upid in upids {
            cluster.interrupt(&upid);
        }
    }
    cluster
        .fork(&ctx, "qmstop", &vmid.to_string(), |w| async move {
            let _guard = w.lock(vmid).await?;
            let node = w.node.clone();
            let running = w
                .cluster
                .read(|s| {
                    let vm = s.vm_on(&node, vmid).ok_or_else(|| unable_to_find(&node, vmid))?;
                    check_lock(vm)?;
                    Ok::<_, String>(vm.run.is_some())
                })
                .await?;
            if running {
                w.work_shortly().await?;
                w.cluster.change("vm.stop", |s| super::shutdown::switch_off(s, vmid)).await;
            }
            Ok(())
        })
        .await
}

/// 500 unless the VM runs; says whether it is locked.
async fn running(ctx: &Ctx) -> Result<(), ApiError> {
    ctx.cluster
        .read(|s| match load(s, ctx)?.run {
            Some(_) => Ok(()),
            None => Err(ApiError::died(format!("VM {} not running", ctx.vmid()))),
        })
        .await
}

async fn reset(ctx: Ctx) -> ApiResult {
    only_root(&ctx, &["skiplock"])?;
    running(&ctx).await?;
    let cluster = ctx.cluster.clone();
    let vmid = ctx.vmid();
    cluster
        .fork(&ctx, "qmreset", &vmid.to_string(), |w| async move {
            let _guard = w.lock(vmid).await?;
            let (now, after) = (w.cluster.clock.now(), w.cluster.agent_after());
            w.change("vm.reset", |s| {
                let vm = s.vms.get_mut(vmid).ok_or_else(|| unable_to_find(&w.node, vmid))?;
                check_lock(vm)?;
                // The machine keeps its process; the guest boots again.
                if let Some(run) = vm.run.as_mut() {
                    run.agent_at = run.agent_at.map(|_| now + i64::try_from(after).unwrap_or(0));
                }
                Ok(())
            })
            .await
        })
        .await
}

async fn pause(ctx: Ctx, kind: &'static str, paused: bool) -> ApiResult {
    only_root(&ctx, &["skiplock"])?;
    running(&ctx).await?;
    let cluster = ctx.cluster.clone();
    let vmid = ctx.vmid();
    cluster
        .fork(&ctx, kind, &vmid.to_string(), |w| async move {
            let _guard = w.lock(vmid).await?;
            w.change("vm.pause", |s| {
                let vm = s.vms.get_mut(vmid).ok_or_else(|| unable_to_find(&w.node, vmid))?;
                // A backup may go on while the machine is paused.
                if vm.lock() != Some("backup") {
                    check_lock(vm)?;
                }
                if let Some(run) = vm.run.as_mut() {
                    run.paused = paused;
                }
                Ok(())
            })
            .await
        })
        .await
}

async fn suspend(ctx: Ctx) -> ApiResult {
    pause(ctx, "qmpause", true).await
}

async fn resume(ctx: Ctx) -> ApiResult {
    pause(ctx, "qmresume", false).await
}
