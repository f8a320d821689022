//! The rest of a clone whose worker was killed: locked, half made, not in the pool. No token may
//! touch it, only root; a root-owned path unit watches for this request and does one thing with it,
//! `clean-clone <vmid>`, after checks of its own.

use std::time::Duration;

use ez_protocol::UnixMillis;
use serde_json::{Value, json};

use super::{
    context::Cx,
    fault::{self, Trouble},
};
use crate::identity::files;

/// A request that was not served is written again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Name of the request inside the repair directory.
fn file_name(vmid: u32) -> String {
    format!("clean-clone-{vmid}.json")
}

/// Asks for the repair, or says that it is not installed or did not help. Called again and again
/// while the rest is there.
pub(super) async fn clean_clone(cx: &Cx) -> Result<(), Trouble> {
    let rules = &cx.engine().rules;
    let stuck = |why: &str| {
        let vmid = cx.vmid();
        fault::stuck(
            cx.id(),
            format_args!("VM {vmid} is the rest of a clone whose worker died, or somebody else's; {why}"),
            // The agent's token may not see it, so root has to: a VM of others may have taken the number meanwhile.
            format_args!(
                "look at `qm config {vmid}`, and only where that shows `lock: clone` do `qm unlock {vmid}` and \
                 `qm destroy {vmid} --purge --destroy-unreferenced-disks 1` (any other VM stays as it is)"
            ),
        )
    };
    let Some(dir) = rules.repair_dir.as_ref().filter(|dir| dir.is_dir()) else {
        return Err(stuck("the repair unit is not installed"));
    };
    let path = dir.join(file_name(cx.vmid()));
    let now = cx.now();
    let before = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let time = |key: &str| before.as_ref()?[key].as_i64().map(UnixMillis);
    let asked_at = time("asked_at").unwrap_or(now);
    if now.since(asked_at) > cx.pace().repair {
        return Err(stuck("the repair was asked for and did not happen"));
    }
    // The unit gives up after a minute and wakes again when the request is written anew.
    if time("written_at").is_some_and(|at| now.since(at) < ASK_AGAIN) {
        return Ok(());
    }
    let request = json!({
        "verb": "clean-clone", "vmid": cx.vmid(), "order": cx.id(), "instance": cx.order().instance.uuid,
        "asked_at": asked_at, "written_at": now,
    });
    files::write_whole(&path, request.to_string().as_bytes(), 0o640)
        .map_err(|error| stuck(&format!("the repair could not be asked for: {error}")))
}

/// The VM is whole or gone: a request that is still there is void.
pub(super) fn withdraw(cx: &Cx) {
    if let Some(dir) = &cx.engine().rules.repair_dir {
        let _ = std::fs::remove_file(dir.join(file_name(cx.vmid())));
    }
}
