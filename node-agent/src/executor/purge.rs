//! `purge`: a retired server is removed for good. Also the last step of undoing a create.

use futures::future::BoxFuture;
use serde_json::json;

use super::{
    backup::{FindAll, Prune},
    context::Cx,
    fault::{Class, Trouble},
    firstboot,
    limits::Load,
    running_task,
    saga::{self, Act, Look, Step},
};
use crate::{journal::StepRow, pve::GuestConfig};

/// Destroys the VM with its disks, after checking that it is ours and does not run.
pub(super) struct Destroy;

/// Its steps. Backups go with the server they are of, and before it: the right to see and to remove them comes from the
/// VM they are of being in our pool, and Proxmox lists none of a VM that is gone. They are all that could bring it back,
/// so everything that could forbid the destruction is looked at first.
pub(super) fn steps() -> Vec<Box<dyn Step>> {
    vec![Box::new(FindAll), Box::new(MayDestroy), Box::new(Prune { keep: 0 }), Box::new(Destroy)]
}

/// Carries the purge out.
pub(super) async fn run(cx: &Cx) -> Result<(), Trouble> {
    saga::run(cx, &steps(), 1).await?;
    firstboot::forget(cx);
    Ok(())
}

/// The configuration of our VM, if nothing forbids its destruction; `None`: there is no such VM.
async fn destroyable(cx: &Cx) -> Result<Option<GuestConfig>, Trouble> {
    let Some(config) = cx.own_config().await? else { return Ok(None) };
    if config.get("protection") == Some("1") {
        let text = format!(
            "the owner of this host protects VM {0} (protection: 1), so it is not destroyed; \
             `qm set {0} --protection 0` lets it go",
            cx.vmid()
        );
        return Err(Trouble::fail(Class::Policy, text));
    }
    if cx.runs().await? {
        let text = format!("VM {} runs: a running server is never destroyed", cx.vmid());
        return Err(Trouble::fail(Class::Policy, text));
    }
    Ok(Some(config))
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

impl Step for Destroy {
    fn name(&self) -> &'static str {
        "destroy"
    }

    fn load(&self, _cx: &Cx) -> Load {
        Load::Heavy
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            if let Some(running) = running_task(cx, row).await? {
                return Ok(Look::Adopt(running));
            }
            let there = destroyable(cx).await?.is_some();
            Ok(if there { Look::Todo } else { Look::Done(json!({ "absent": true })) })
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            match cx.pve().destroy(cx.vmid()).await {
                Ok(upid) => Ok(Act::Task(upid)),
                Err(error) if error.is_absent() => Ok(Act::Done(json!({ "absent": true }))),
                Err(error) if error.is_protected() => Err(Trouble::fail(Class::Policy, error.to_string())),
                // Once the VM is gone its pool is no longer there to grant the right: look.
                Err(error) if error.is_forbidden() && cx.own_config().await?.is_none() => {
                    Ok(Act::Done(json!({ "absent": true })))
                }
                Err(error) => Err(cx.refused(error)),
            }
        })
    }
}
