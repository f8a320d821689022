//! The rest of a clone whose worker was killed: locked, half made, not in the pool. No token may
//! touch it, only root; a root-owned path unit watches for this request and does one thing with it,
//! `clean-clone <vmid>`, after checks of its own.

use std::time::Duration;

use ez_protocol::UnixMillis;
use serde_json::{Value, json};

use super::{
    clone::taken,
    context::Cx,
    fault::{self, Trouble},
};
use crate::identity::files;

/// A request that was not served is written again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// What is known of the request in this run of an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing was asked for yet.
    #[default]
    Never,
    /// The request was written.
    Waiting,
    /// Root's unit has taken it away: the rest was removed, or there was none.
    Answered,
}

/// Name of the request inside the repair directory.
fn file_name(vmid: u32) -> String {
    format!("clean-clone-{vmid}.json")
}

/// Asks for the repair, or says that it is not installed, did not help, or found nothing of ours. Called again and
/// again while something is there.
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
    match (cx.repair(), before.is_some()) {
        // One more look tells whether the VM went with the request.
        (Asked::Waiting, false) => {
            cx.set_repair(Asked::Answered);
            return Ok(());
        }
        (Asked::Answered, false) => {
            return Err(taken(cx, "root's repair found that it is not the rest of a clone"));
        }
        _ => cx.set_repair(Asked::Waiting),
    }
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
