//! Looks once a minute, whether anybody is connected or not.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ez_protocol::{InstanceId, UnixMillis};
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::{
    agent::Agent,
    journal::Phase,
    pve::{GuestLoad, Vmid},
};

/// How often is looked.
const EVERY_MS: i64 = 60_000;
/// The wall's clock may be set: it is asked this often whether it is time.
const GLANCE: Duration = Duration::from_secs(5);

/// What was seen at one look.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// When.
    pub(super) at: UnixMillis,
    /// The minute its samples are of.
    pub(super) minute: u32,
    /// The kernel's boot id.
    pub(super) boot_id: String,
    /// Seconds since the boot.
    pub(super) host_uptime_secs: Option<u64>,
    /// Share of CPU, bytes of memory.
    pub(super) host: Option<(f64, u64)>,
    /// Our servers that run.
    pub(super) guests: Vec<(InstanceId, GuestLoad)>,
}

/// Samples until `stop`. The first look is at once; the others come at a moment of the minute that differs from host to
/// host, so that a fleet does not speak at once.
pub async fn run(agent: Arc<Agent>, metrics: Arc<Metrics>, stop: CancellationToken) {
    let phase = i64::try_from(agent.entropy.up_to(59_999)).unwrap_or(0);
    let mut last = None;
    loop {
        let now = agent.clock.now();
        let turn = (now.0 - phase).div_euclid(EVERY_MS);
        if last != Some(turn) {
            last = Some(turn);
            // The minute of the moment that was due, not of the one in which we got to it.
            let minute = u32::try_from((turn * EVERY_MS + phase) / EVERY_MS).unwrap_or(0);
            if let Some(look) = look(&agent, now, minute).await {
                metrics.note(&look);
            }
        }
        let due = (turn + 1) * EVERY_MS + phase - now.0;
        let pause =
            Duration::from_millis(u64::try_from(due).unwrap_or(0)).clamp(Duration::from_millis(20), GLANCE);
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One call for all VMs. A host that does not answer leaves a gap.
async fn look(agent: &Agent, at: UnixMillis, minute: u32) -> Option<Look> {
    let loads = match agent.pve.loads().await {
        Ok(loads) => loads,
        Err(error) => {
            tracing::debug!(%error, "Proxmox VE does not say what is used");
            return None;
        }
    };
    let ours: HashMap<Vmid, InstanceId> = match &agent.works {
        Some(works) => works
            .journal
            .resources()
            .await
            .ok()?
            .iter()
            .filter(|row| row.phase != Phase::Reserved)
            .map(|row| (row.vmid, row.instance))
            .collect(),
        None => HashMap::new(),
    };
    let guests = loads.guests.into_iter().filter_map(|load| Some((*ours.get(&load.vmid)?, load))).collect();
    Some(Look {
        at,
        minute,
        boot_id: agent.boot_id.clone(),
        host_uptime_secs: host_uptime(),
        host: loads.host,
        guests,
    })
}

/// Seconds since the boot, by the kernel; sleep counts.
fn host_uptime() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    text.split(['.', ' ']).next()?.parse().ok()
}
