//! `adopt`: take a VM that carries our marker into the books. Nothing on it is changed.

use serde_json::{Value, json};

use super::{
    context::Cx,
    fault::{Class, Trouble},
};
use crate::policy;

/// Looks whether the VM is what the order says; answers what there is to know of it without an order that says it.
pub(super) async fn run(cx: &Cx) -> Result<Value, Trouble> {
    let mut looks = 0;
    loop {
        match cx.own_config().await {
            Ok(Some(config)) => return Ok(json!({ "networks": policy::networks_of(&config) })),
            Ok(None) => {
                return Err(Trouble::fail(Class::Bug, format!("there is no VM {} on this node", cx.vmid())));
            }
            Err(Trouble::Look(why)) if !cx.overdue() => {
                tracing::info!(order = %cx.id(), why, "looking again");
                tokio::time::sleep(cx.pace().again(looks)).await;
                looks += 1;
            }
            // Nothing was touched: the books forget it, so that it can be ordered again.
            Err(Trouble::Look(why)) => return Err(Trouble::fail(Class::Retryable, why)),
            // Somebody else's VM is not ours to worry about: the order fails, nothing is stuck.
            Err(Trouble::Stuck(why)) => return Err(Trouble::fail(Class::Bug, why.facts())),
            Err(trouble) => return Err(trouble),
        }
    }
}
