//! What pvestatd saw in its last round: rows of `/cluster/resources` and of a pool's members.
//!
//! The daemon looks every ten seconds. A VM that is younger than its last round is there, and nothing
//! is known of it yet (recorded).

use serde_json::{Value, json};

use crate::pve::cluster::Cluster;
use crate::pve::state::Vm;

/// Whether pvestatd has seen the VM: it was there when the last round began.
fn is_seen(cluster: &Cluster, vm: &Vm) -> bool {
    let every = i64::try_from(cluster.timing.resources_lag_ms).unwrap_or(i64::MAX);
    let now = cluster.clock.now();
    every == 0 || vm.created_at < now - now % every
}

/// A VM as pvestatd knows it.
pub(super) fn row(cluster: &Cluster, vm: &Vm) -> Value {
    let mut out = json!({
        "id": format!("qemu/{}", vm.vmid), "type": "qemu", "node": vm.node, "vmid": vm.vmid, "status": "unknown",
    });
    if !is_seen(cluster, vm) {
        return out;
    }
    let mut now = super::qemu::list::row(vm, cluster.clock.now());
    for field in ["cpu", "disk", "maxdisk", "maxmem", "mem", "name", "netin", "netout", "status", "uptime"] {
        out[field] = now[field].take();
    }
    out["maxcpu"] = now["cpus"].take();
    let load = crate::pve::load::of(vm, cluster.clock.now());
    out["diskread"] = load.disk_read.into();
    out["diskwrite"] = load.disk_write.into();
    out["template"] = u8::from(vm.is_template()).into();
    out
}
