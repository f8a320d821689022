//! I11 and I12: nothing leaked, nothing left behind.

use super::{Violation, World, found};

/// States of a provisioning order after which nothing more is expected.
const FINAL: [&str; 8] =
    ["succeeded", "failed", "undone", "stuck", "refused", "expired", "superseded", "cancelled"];

/// I11: no secret stands in a log.
pub(super) fn no_secret_in_logs(world: &World) -> Vec<Violation> {
    world.leaks.iter().map(|(file, secret)| found("I11", file, format!("{secret} stands in it"))).collect()
}

/// I12: nothing waits that could have been done, and what is shown is what is.
pub(super) fn converged(world: &World) -> Vec<Violation> {
    let mut out = Vec::new();
    for job in &world.jobs {
        let error = job.error.as_deref().unwrap_or("no error");
        if job.dead {
            out.push(found("I12", format!("job {}", job.name), format!("given up: {error}")));
        } else if world.settled(job.run_at) {
            let seconds = (world.now - job.run_at) / 1_000;
            let detail = format!("due since {seconds} s after {} tries: {error}", job.attempts);
            out.push(found("I12", format!("job {}", job.name), detail));
        }
    }
    for (id, created) in world.unsent_mail.iter().filter(|(_, created)| world.settled(*created)) {
        let seconds = (world.now - created) / 1_000;
        out.push(found("I12", format!("mail {id}"), format!("not sent for {seconds} s")));
    }
    for order in &world.provisioning {
        let online = world.nodes.iter().any(|n| n.id == order.node && n.online && n.state != "quarantined");
        let waits = ["signed", "queued"].contains(&order.state.as_str()) && online;
        if waits && world.settled(order.updated_at.max(order.issued_at)) {
            let detail = format!("still {} although its node is online", order.state);
            out.push(found("I12", format!("provisioning order {}", order.id), detail));
        }
        let journalled =
            world.journal_of(&order.node).and_then(|j| j.orders.iter().find(|o| o.id == order.id));
        let differs = journalled.is_some_and(|j| FINAL.contains(&j.state.as_str()) && j.state != order.state);
        // What was stuck when its host was set up again is over for the control plane, and nobody takes it up there.
        let over = order.earlier
            && order.state == "failed"
            && journalled.is_some_and(|j| ["stuck", "accepted", "running"].contains(&j.state.as_str()));
        if differs && !over && online && world.settled(order.updated_at) {
            let there = journalled.map(|j| j.state.as_str()).unwrap_or_default();
            let detail = format!("the journal says {there}, the control plane {}", order.state);
            out.push(found("I12", format!("provisioning order {}", order.id), detail));
        }
    }
    for instance in world.instances.iter().filter(|i| world.settled(i.updated_at)) {
        let Some(shown) = instance.observed_state.as_deref() else { continue };
        let vms = world.hosts.iter().flat_map(|h| &h.vms);
        let vm = vms.into_iter().find(|vm| vm.marker.is_some_and(|m| m.instance.to_string() == instance.id));
        let really = vm.map_or("absent", |vm| if vm.running { "running" } else { "stopped" });
        if shown != really && shown != "paused" {
            let detail = format!("the portal shows {shown}, the host says {really}");
            out.push(found("I12", format!("instance {}", instance.id), detail));
        }
    }
    out
}
