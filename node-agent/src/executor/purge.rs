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
use crate::journal::StepRow;

/// Destroys the VM with its disks, after checking that it is ours and does not run.
pub(super) struct Destroy;

/// Its steps. Backups go with the server they are of, and last: until then they are all that could bring it
/// back. So whether they can be reached is looked at first.
pub(super) fn steps() -> Vec<Box<dyn Step>> {
    vec![Box::new(FindAll), Box::new(Destroy), Box::new(Prune { keep: 0 })]
}

/// Carries the purge out.
pub(super) async fn run(cx: &Cx) -> Result<(), Trouble> {
    saga::run(cx, &steps(), 1).await?;
    firstboot::forget(cx);
    Ok(())
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
            let Some(config) = cx.own_config().await? else {
                return Ok(Look::Done(json!({ "absent": true })));
            };
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
            Ok(Look::Todo)
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
