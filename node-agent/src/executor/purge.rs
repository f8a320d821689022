//! `purge`: a retired server is removed for good.

use futures::future::BoxFuture;
use serde_json::json;

use super::{
    backup::{FindAll, Prune},
    context::Cx,
    destroy::{Destroy, destroyable},
    fault::Trouble,
    firstboot,
    limits::Load,
    saga::{self, Act, Look, Step},
};
use crate::journal::StepRow;

/// Its steps. Backups go with the server they are of, and before it: the right to see and to remove them comes from the
/// VM they are of being in our pool, and Proxmox lists none of a VM that is gone. They are all that could bring it back,
/// so everything that could forbid the destruction is looked at first.
pub(super) fn steps() -> Vec<Box<dyn Step>> {
    vec![
        Box::new(FindAll),
        Box::new(MayDestroy),
        Box::new(Prune { keep: 0 }),
        Box::new(Destroy { for_good: true }),
    ]
}

/// Carries the purge out.
pub(super) async fn run(cx: &Cx) -> Result<(), Trouble> {
    saga::run(cx, &steps(), 1).await?;
    firstboot::forget(cx);
    Ok(())
}

/// Looks, before the backups go, whether the server may go after them: one that stays keeps what it has.
struct MayDestroy;

impl Step for MayDestroy {
    fn name(&self) -> &'static str {
        "may_destroy"
    }

    fn load(&self, _cx: &Cx) -> Load {
        Load::None
    }

    fn look<'a>(&'a self, cx: &'a Cx, _row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let Some(config) = destroyable(cx).await? else {
                return Ok(Look::Done(json!({ "absent": true })));
            };
            // Nothing is destroyed under a lock. Somebody may be at work; one that stays is root's to take away.
            Ok(match config.lock() {
                Some(lock) => Look::Wait(format!("VM {} is locked ({lock})", cx.vmid())),
                None => Look::Done(json!({})),
            })
        })
    }

    fn act<'a>(&'a self, _cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        // Looking is all there is to do.
        Box::pin(async { Ok(Act::Done(json!({}))) })
    }
}
