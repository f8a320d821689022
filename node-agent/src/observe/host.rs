//! The host itself: sizes, storages, templates, and what an operator should know.

use std::time::Duration;

use ez_protocol::message::{HostState, ImageState, StorageState, ThinPoolState, Warning};

use crate::{
    agent::Agent,
    image::worker,
    pve::{FirewallState, GuestSummary, Storage, ThinPool},
};

const MIB: u64 = 1024 * 1024;

fn warning(code: &str, text: impl Into<String>) -> Warning {
    Warning { code: code.to_owned(), text: text.into() }
}

/// Looks at the host. What cannot be read keeps its last value.
pub async fn look(agent: &Agent, last: Option<&HostState>) -> HostState {
    let mut host = last.cloned().unwrap_or_default();
    let mut warnings = Vec::new();
    host.agent_version = env!("CARGO_PKG_VERSION").to_owned();
    host.pve_version = agent.pve_version();
    host.clock_offset_ms = agent.offset.millis();
    host.certificate_not_after_ms = agent.identity().pair.not_after.0;
    match agent.pve.node_status().await {
        Ok(status) => {
            host.cpus = status.cpus;
            host.memory_mib = status.memory_total / MIB;
            host.memory_used_mib = status.memory_used / MIB;
            host.cpu_permille = permille(status.cpu);
        }
        Err(error) => {
            // Before it ever answered, another start would find nothing else; and a bell that was rung then would be heard
            // just when Proxmox has become right.
            if error.is_other_certificate() && agent.pve_version.get().is_some() {
                agent.other_certificate.notify_one();
            }
            warnings.push(warning("PVE_SILENT", format!("Proxmox VE does not say how it is: {error}")));
        }
    }
    if let Ok(storages) = agent.pve.storages().await {
        host.storages = named(agent, &storages);
        warnings.extend(missing(agent, &storages));
    }
    host.thin_pools = thin_pools(agent, &host).await;
    match agent.pve.templates().await {
        Ok(templates) => {
            host.images = templates
                .iter()
                .map(|t| ImageState { name: t.image.clone(), digest: t.digest.clone(), vmid: t.vmid })
                .collect();
            if templates.is_empty() {
                let text = "no template carries the image marker: nothing can be created here";
                warnings.push(warning("NO_TEMPLATE", text));
            }
        }
        Err(error) => warnings.push(warning("TEMPLATES_UNREADABLE", error.to_string())),
    }
    if let Some(works) = &agent.works
        && let Ok(builds) = worker::states(&works.journal).await
    {
        host.image_builds = builds;
    }
    if let Ok(guests) = agent.pve.list_guests().await {
        let foreign = foreign(agent, &guests).await;
        host.foreign_vms = u32::try_from(foreign.len()).unwrap_or(u32::MAX);
        host.foreign_memory_mib = foreign.iter().map(|g| g.memory_max / MIB).sum();
    }
    if matches!(agent.pve.datacenter_firewall().await, Ok(FirewallState::Off)) {
        let text = "the datacenter firewall is off, so no server is kept to its own addresses: enable it under \
                    Datacenter > Firewall > Options";
        warnings.push(warning("FIREWALL_INERT", text));
    }
    warnings.extend(own(agent));
    warnings.extend(circuit(agent).await);
    host.warnings = warnings;
    host
}

/// Whether a host differs from what was told of it last by so much that it is worth a report: anything but the gauges,
/// or a gauge by more than its noise. Small movements come with the next full report.
pub fn is_news(told: &HostState, now: &HostState) -> bool {
    let fixed = |host: &HostState| HostState {
        memory_used_mib: 0,
        cpu_permille: 0,
        clock_offset_ms: 0,
        storages: host.storages.iter().map(|s| StorageState { used_mib: 0, ..s.clone() }).collect(),
        thin_pools: host
            .thin_pools
            .iter()
            .map(|p| ThinPoolState { data_permille: 0, metadata_permille: 0, ..p.clone() })
            .collect(),
        ..host.clone()
    };
    if fixed(told) != fixed(now) {
        return true;
    }
    let pools = told.thin_pools.iter().zip(&now.thin_pools);
    let mut moved = pools.flat_map(|(told, now)| {
        [(told.data_permille, now.data_permille), (told.metadata_permille, now.metadata_permille)]
    });
    if moved.any(|(told, now)| now.abs_diff(told) > 10) {
        return true;
    }
    let filled = told.storages.iter().zip(&now.storages);
    now.memory_used_mib.abs_diff(told.memory_used_mib) > now.memory_mib / 50
        || now.cpu_permille.abs_diff(told.cpu_permille) > 100
        || now.clock_offset_ms.abs_diff(told.clock_offset_ms) > 1_000
        || filled.into_iter().any(|(told, now)| now.used_mib.abs_diff(told.used_mib) > now.total_mib / 100)
}

/// How full the host's thin pools are, if a storage of the policy is one. The list does not say which pool is behind
/// which storage, so all are told. What cannot be read keeps its last value.
async fn thin_pools(agent: &Agent, host: &HostState) -> Vec<ThinPoolState> {
    if !host.storages.iter().any(|storage| storage.kind == "lvmthin") {
        return Vec::new();
    }
    let Ok(pools) = agent.pve.thin_pools().await else { return host.thin_pools.clone() };
    let pool = |pool: ThinPool| ThinPoolState {
        name: pool.name,
        total_mib: pool.size / MIB,
        data_permille: filled(pool.used, pool.size),
        metadata_permille: filled(pool.metadata_used, pool.metadata_size),
    };
    pools.into_iter().map(pool).collect()
}

/// A part of a whole, per mille, rounded up: full is full.
fn filled(used: u64, size: u64) -> u32 {
    let permille = (u128::from(used) * 1_000).div_ceil(u128::from(size.max(1)));
    u32::try_from(permille.min(1_000)).unwrap_or(1_000)
}

fn permille(share: f64) -> u32 {
    // A share of the CPUs between 0 and 1; anything else is nonsense from outside.
    let bounded = (share.clamp(0.0, 1.0) * 1_000.0).round();
    (0..=1_000_u32).find(|n| f64::from(*n) >= bounded).unwrap_or(0)
}

fn named(agent: &Agent, storages: &[Storage]) -> Vec<StorageState> {
    let ours = storages.iter().filter(|s| agent.policy.storages.contains(&s.id));
    ours.map(|s| StorageState {
        id: s.id.clone(),
        kind: s.kind.clone(),
        total_mib: s.total / MIB,
        used_mib: s.used / MIB,
    })
    .collect()
}

/// Every storage that the policy names and that is away: servers cannot be made without one, and where backups are kept
/// is asked before each purge.
fn missing(agent: &Agent, storages: &[Storage]) -> Vec<Warning> {
    let mut away: Vec<&str> = agent.policy.named_storages().into_iter().map(|(id, _)| id).collect();
    away.retain(|id| !storages.iter().any(|s| s.id == *id && s.active));
    away.sort_unstable();
    away.dedup();
    let said = |id| {
        warning("STORAGE_MISSING", format!("storage {id} of the policy file is not active on this node"))
    };
    away.into_iter().map(said).collect()
}

/// VMs that are not in our books; templates do not count.
async fn foreign(agent: &Agent, guests: &[GuestSummary]) -> Vec<GuestSummary> {
    let ours: Vec<u32> = match &agent.works {
        Some(works) => works.journal.resources().await.unwrap_or_default().iter().map(|r| r.vmid).collect(),
        None => Vec::new(),
    };
    guests.iter().filter(|g| !g.template && !ours.contains(&g.vmid)).cloned().collect()
}

/// Whether the destroy budget was exceeded.
async fn circuit(agent: &Agent) -> Option<Warning> {
    let circuit = agent.works.as_ref()?.journal.circuit().await.ok()?;
    let text = "the destroy budget of this host was exceeded, so nothing is purged, replaced or deleted here: look why, then, as root on the \
                host, `ez-node-agent unlock`";
    circuit.opened_at.map(|_| warning("CIRCUIT_OPEN", text))
}

/// What the agent knows about itself.
fn own(agent: &Agent) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if agent.works.is_none() {
        let text =
            "the journal is damaged: this node only reports. Keep the file, join again and adopt the servers";
        warnings.push(warning("JOURNAL_CORRUPT", text));
    }
    if agent.offset.suspect() {
        let text =
            format!("the clock is {} s off: check time synchronisation", agent.offset.millis() / 1_000);
        warnings.push(warning("CLOCK_SUSPECT", text));
    }
    if agent.space.is_low() {
        let text = "less than 64 MiB are free for the journal: new orders are refused";
        warnings.push(warning("NO_SPACE", text));
    }
    let left = agent.identity().pair.not_after.since(agent.clock.now());
    if left < Duration::from_secs(3 * 24 * 3600) {
        let text =
            format!("the certificate of this node ends in {} h and was not renewed", left.as_secs() / 3_600);
        warnings.push(warning("CERTIFICATE_ENDS", text));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_told_when_they_move_and_facts_at_once() {
        let storage = StorageState { id: "a".into(), kind: "dir".into(), total_mib: 1_000, used_mib: 500 };
        let pool = ThinPoolState { name: "pve/data".into(), data_permille: 500, ..ThinPoolState::default() };
        let told = HostState {
            thin_pools: vec![pool.clone()],
            memory_mib: 64_000,
            memory_used_mib: 8_000,
            cpu_permille: 20,
            storages: vec![storage.clone()],
            ..HostState::default()
        };
        let quiet = HostState {
            memory_used_mib: 9_000,
            cpu_permille: 90,
            clock_offset_ms: 40,
            thin_pools: vec![ThinPoolState { data_permille: 510, ..pool.clone() }],
            storages: vec![StorageState { used_mib: 509, ..storage.clone() }],
            ..told.clone()
        };
        assert!(!is_news(&told, &told) && !is_news(&told, &quiet));
        for news in [
            HostState { memory_used_mib: 10_000, ..told.clone() },
            HostState { cpu_permille: 400, ..told.clone() },
            HostState { clock_offset_ms: -2_000, ..told.clone() },
            HostState { storages: vec![StorageState { used_mib: 600, ..storage }], ..told.clone() },
            HostState { storages: Vec::new(), ..told.clone() },
            HostState { thin_pools: vec![ThinPoolState { metadata_permille: 11, ..pool }], ..told.clone() },
            HostState { warnings: vec![warning("NO_SPACE", "x")], ..told.clone() },
            HostState { images: vec![ImageState::default()], ..told.clone() },
        ] {
            assert!(is_news(&told, &news), "{news:?}");
        }
    }
}
