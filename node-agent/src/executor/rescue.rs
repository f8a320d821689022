//! The rescue system: a disk of its own, made from a rescue image, that is booted instead of the server's.

use ez_protocol::order::ImageRef;
use futures::future::BoxFuture;
use serde_json::json;

use super::{
    clone,
    context::Cx,
    fault::{Class, Trouble, of_task},
    limits::Load,
    power::Stop,
    saga::{Act, Look, Step},
    task::{self, Seen},
};
use crate::{
    journal::StepRow,
    pve::{ImageTemplate, RESCUE_DRIVE, TaskExit},
};

/// How long a guest may take to shut down before the rescue system, seconds: it may be broken.
pub(super) const GRACE_SECS: u32 = 30;

/// Name of the step that puts the rescue disk in.
pub(super) const ATTACH: &str = "attach_rescue";

/// Puts the rescue disk in. The server is off.
pub(super) struct Attach {
    /// The template that realises the rescue image here.
    pub(super) template: ImageTemplate,
}

/// The template of the wished rescue image, looked for before anything is touched.
pub(super) async fn template(cx: &Cx, image: &ImageRef) -> Result<ImageTemplate, Trouble> {
    clone::template_for(cx, image).await
}

impl Step for Attach {
    fn name(&self) -> &'static str {
        ATTACH
    }

    fn load(&self, _cx: &Cx) -> Load {
        Load::Heavy
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let seen = task::own(cx, row, "qmconfig").await?;
            if let Seen::Running(upid) = seen {
                return Ok(Look::Adopt(upid));
            }
            let config = cx.present().await?;
            if config.get(RESCUE_DRIVE).is_some() {
                return Ok(Look::Done(json!({ "drive": RESCUE_DRIVE })));
            }
            match seen {
                seen @ Seen::Ended(_, TaskExit::Failed(_)) => {
                    task::look_once_more(seen, |exit| self.judge(exit))
                }
                _ => Ok(Look::Todo),
            }
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let config = cx.present().await?;
            let own =
                config.boot_disk().and_then(|disk| Some(config.get(&disk)?.split(':').next()?.to_owned()));
            let storage =
                own.ok_or_else(|| Trouble::fail(Class::Template, "the VM has no disk to boot from"))?;
            let called = cx.pve().import_disk(cx.vmid(), RESCUE_DRIVE, &storage, &self.template.volume).await;
            called.map(Act::Task).map_err(|error| cx.refused(error))
        })
    }

    fn judge(&self, exit: &str) -> Trouble {
        of_task(self.name(), exit)
    }
}

/// Takes the rescue disk out and away. The server is off.
pub(super) struct Detach;

impl Step for Detach {
    fn name(&self) -> &'static str {
        "detach_rescue"
    }

    fn look<'a>(&'a self, cx: &'a Cx, _row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let there = cx.present().await?.get(RESCUE_DRIVE).is_some();
            Ok(if there { Look::Todo } else { Look::Done(json!({})) })
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            cx.pve().remove_disk(cx.vmid(), RESCUE_DRIVE).await.map_err(|error| cx.refused(error))?;
            Ok(Act::Done(json!({})))
        })
    }
}

/// First step of undoing: a server that boots the rescue system is stopped. One that has none is left alone.
pub(super) struct StopIfAttached;

impl Step for StopIfAttached {
    fn name(&self) -> &'static str {
        "stop"
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            // A call that was refused may have begun its work all the same.
            let steps = cx.journal().steps(cx.id()).await?;
            let attach = steps.iter().find(|step| step.k > 0 && step.name == ATTACH);
            if let Seen::Running(upid) = task::own(cx, attach, "qmconfig").await? {
                // The server is off while it is brought: there is nothing to stop behind it.
                return Ok(Look::Adopt(upid));
            }
            let config = cx.present().await?;
            let named = config.property("boot", "order").is_some_and(|order| order.contains(RESCUE_DRIVE));
            if config.get(RESCUE_DRIVE).is_none() && !named {
                return Ok(Look::Done(json!({ "rescue": false })));
            }
            Stop { grace_secs: 0 }.look(cx, row).await
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move { Stop { grace_secs: 0 }.act(cx).await })
    }

    fn judge(&self, exit: &str) -> Trouble {
        // However it ended: what it left tells what is to be done.
        Trouble::Look(format!("the rescue system's disk: {exit}"))
    }
}
