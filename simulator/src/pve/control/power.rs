//! The host loses its power. Nobody shuts anything down; machines that start with their host start anew.

use axum::Json;
use axum::extract::State as Shared;
use serde_json::{Value, json};

use super::Control;
use crate::pve::api::qemu::start::power_on;
use crate::pve::vmconfig;

/// Off and on again, in one moment.
pub(super) async fn cycle(Shared(c): Shared<Control>) -> Json<Value> {
    let (now, after) = (c.cluster.clock.now(), c.cluster.agent_after());
    let started = c
        .cluster
        .change("control.power", |s| {
            let here = |vm: &&crate::pve::state::Vm| vm.node == c.node;
            let all: Vec<(u32, bool)> = s
                .vms
                .values()
                .filter(here)
                .map(|vm| (vm.vmid, vm.flag("onboot") && !vm.is_template()))
                .collect();
            for (vmid, starts) in &all {
                let Some(vm) = s.vms.get_mut(vmid) else { continue };
                vm.run = None;
                if *starts {
                    let freed = vmconfig::apply_pending(vm);
                    freed.iter().for_each(|volid| s.free(&c.node, volid));
                    power_on(s, *vmid, now, after);
                }
            }
            all.into_iter().filter(|(_, starts)| *starts).map(|(vmid, _)| vmid).collect::<Vec<_>>()
        })
        .await;
    Json(json!({ "started": started }))
}
