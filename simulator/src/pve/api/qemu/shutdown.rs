//! Shutdown and reboot: what needs the guest's help.

use std::sync::Arc;
use std::time::Duration;

use super::start::{Boot, boot, wait_for_agent};
use super::{check_lock, load, only_root};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::{Cluster, Ctx, unable_to_find};
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::state::State;
use crate::pve::task::Worker;

const POWER: Check = Check::All("/vms/{vmid}", &["VM.PowerMgmt"]);

pub(super) fn calls() -> Vec<Call> {
    vec![
        call(
            "POST",
            "/nodes/{node}/qemu/{vmid}/status/shutdown",
            &["forceStop? b\nkeepActive? b\nskiplock? b\ntimeout? i 0.."],
            POWER,
            shutdown,
        ),
        call("POST", "/nodes/{node}/qemu/{vmid}/status/reboot", &["timeout? i 0.."], POWER, reboot),
    ]
}

/// The machine is off; what was pending is taken over.
pub(crate) fn switch_off(s: &mut State, vmid: u32) {
    if let Some(vm) = s.vms.get_mut(vmid) {
        vm.run = None;
        let node = vm.node.clone();
        let freed = crate::pve::vmconfig::apply_pending(vm);
        freed.iter().for_each(|volid| s.free(&node, volid));
    }
}

/// Whether the guest obeys: it has booted far enough that its agent, or init, listens. A guest of
/// which the control API says that it is deaf never does.
async fn obeys(w: &Worker, vmid: u32) -> (bool, bool) {
    let now = w.cluster.clock.now();
    w.cluster
        .read(|s| {
            let deaf = s.meta.contains(format!("deaf {vmid}"));
            let run = s.vms.get(vmid).and_then(|v| v.run.clone());
            let silent = run.as_ref().is_some_and(|r| r.agent_device && r.agent_at.is_none_or(|at| at > now));
            (!deaf, silent || (deaf && run.is_some_and(|r| r.agent_device)))
        })
        .await
}

/// Asks the guest to power down; gives whether it did within `seconds`.
async fn ask(w: &Worker, vmid: u32, seconds: u64) -> Result<bool, String> {
    let (obeys, silent) = obeys(w, vmid).await;
    if silent {
        wait_for_agent(&w.cluster).await;
        w.log(format!(
            "QEMU Guest Agent is not running - VM {vmid} qmp command 'guest-ping' failed - got timeout"
        ))
        .await;
    }
    if obeys {
        w.work_shortly().await?;
        return Ok(true);
    }
    w.work(seconds * w.cluster.timing.shutdown_second_ms).await?;
    Ok(false)
}

async fn shutdown(ctx: Ctx) -> ApiResult {
    only_root(&ctx, &["skiplock", "keepActive"])?;
    let cluster = ctx.cluster.clone();
    let vmid = ctx.vmid();
    let force = ctx.params.flag("forceStop");
    let seconds = u64::try_from(ctx.params.number("timeout").unwrap_or(60)).unwrap_or(60);
    cluster
        .read(|s| match s.vm_on(&ctx.node, vmid).and_then(|v| v.run.as_ref()) {
            Some(run) if run.paused && !force => Err(ApiError::died("VM is paused - cannot shutdown")),
            _ => Ok(()),
        })
        .await?;
    cluster
        .fork(&ctx, "qmshutdown", &vmid.to_string(), |w| async move {
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
            if !running {
                return Ok(());
            }
            if !ask(&w, vmid, seconds).await? {
                if !force {
                    return Err("VM quit/powerdown failed - got timeout".into());
                }
                w.log("VM still running - terminating now with SIGTERM").await;
            }
            w.cluster.change("vm.stop", |s| switch_off(s, vmid)).await;
            Ok(())
        })
        .await
}

async fn reboot(ctx: Ctx) -> ApiResult {
    let cluster = ctx.cluster.clone();
    let vmid = ctx.vmid();
    let seconds = u64::try_from(ctx.params.number("timeout").unwrap_or(60)).unwrap_or(60);
    cluster
        .read(|s| match load(s, &ctx)?.run {
            Some(_) => Ok(()),
            None => Err(ApiError::died(format!("VM {vmid} not running"))),
        })
        .await?;
    cluster
        .fork(&ctx, "qmreboot", &vmid.to_string(), |w| async move {
            let _guard = w.lock(vmid).await?;
            let node = w.node.clone();
            w.cluster
                .read(|s| check_lock(s.vm_on(&node, vmid).ok_or_else(|| unable_to_find(&node, vmid))?))
                .await?;
            if !ask(&w, vmid, seconds).await? {
                return Err("VM quit/powerdown failed - got timeout".into());
            }
            w.cluster
                .change("vm.reboot", |s| {
                    switch_off(s, vmid);
                    s.meta.insert(format!("reboot {vmid}"), node.clone());
                })
                .await;
            qmeventd(&w.cluster, vmid);
            Ok(())
        })
        .await
}

/// After a reboot's power-off it is qmeventd that starts the machine anew, a moment after the task.
pub(crate) fn qmeventd(cluster: &Arc<Cluster>, vmid: u32) {
    let cluster = cluster.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(cluster.speed().other_ms)).await;
        let Ok(_guard) = cluster.lock(vmid, cluster.timing.config_lock_ms).await else { return };
        let wanted = cluster.change("qmeventd.take", |s| s.meta.remove(format!("reboot {vmid}"))).await;
        let stopped = cluster.read(|s| s.vms.get(vmid).is_some_and(|v| v.run.is_none())).await;
        if let Some(node) = wanted.filter(|_| stopped)
            && let Err(text) = boot(&Boot::quiet(&cluster, &node), vmid).await
        {
            tracing::warn!(vmid, text, "start after a reboot");
        }
    });
}
