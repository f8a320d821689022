//! A power button, pressed at most once.
//!
//! The intent is journalled before the call. If the answer is lost, the button is not pressed again:
//! what can be seen is reported, and what cannot be seen is called unknown.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use ez_protocol::order::PowerVerb;
use futures::future::BoxFuture;
use serde_json::json;

use super::{
    context::Cx,
    fault::{Class, Trouble},
    running_task,
    saga::{Act, Look, Step},
};
use crate::{
    journal::StepRow,
    pve::{PveError, TaskState, Upid, text},
};

/// How long a guest may take to obey, seconds.
const GRACE_SECS: u32 = 60;

struct Press {
    verb: PowerVerb,
    /// Proxmox has said that it cannot do anything now, so the button was not pressed. Known until a restart of the agent;
    /// after one it counts as perhaps pressed.
    not_pressed: AtomicBool,
}

/// The button's one step.
pub(super) fn steps(verb: PowerVerb) -> Vec<Box<dyn Step>> {
    vec![Box::new(Press { verb, not_pressed: AtomicBool::new(false) })]
}

/// Waits a moment for a rebooted guest: its task ends when it is off, and Proxmox starts it anew right
/// after. The reboot is done by then; a host that does not answer is no reason to say otherwise.
pub(super) async fn came_back(cx: &Cx) {
    let deadline = tokio::time::Instant::now() + cx.pace().comes_back;
    while !cx.runs().await.unwrap_or(false) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

impl Press {
    /// The state that shows that the button has worked, where a state can show it.
    fn shown_by(&self, runs: bool) -> bool {
        match self.verb {
            PowerVerb::Start => runs,
            PowerVerb::Shutdown | PowerVerb::Stop => !runs,
            PowerVerb::Reboot | PowerVerb::Reset => false,
        }
    }
}

impl Step for Press {
    fn name(&self) -> &'static str {
        self.verb.as_str()
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let config = cx.present().await?;
            let Some(row) = row.filter(|_| !self.not_pressed.load(Ordering::SeqCst)) else {
                let runs = cx.runs().await?;
                // Proxmox starts it all the same, and it would look like a server.
                if self.verb == PowerVerb::Start && !runs && config.boot_disk().is_none() {
                    let text = format!(
                        "VM {} has no disk to boot from: its last restore or rebuild failed after the old one was gone. \
                         It was not started; restore a backup, or rebuild it",
                        cx.vmid()
                    );
                    return Err(Trouble::fail(Class::User, text));
                }
                return Ok(if self.shown_by(runs) {
                    Look::Done(json!({ "already": true }))
                } else {
                    Look::Todo
                });
            };
            if let Some(running) = running_task(cx, Some(row)).await? {
                return Ok(Look::Adopt(running));
            }
            // Pressed, or perhaps pressed, and the task is over or unknown.
            if let Some(upid) = row.upid.as_deref().and_then(|text| text.parse::<Upid>().ok())
                && let TaskState::Ended(exit) = cx.pve().task_status(&upid).await?
            {
                return match exit.error() {
                    None => Ok(Look::Done(json!({ "upid": upid.as_str() }))),
                    Some(error) => Err(self.judge(error)),
                };
            }
            if self.shown_by(cx.runs().await?) {
                return Ok(Look::Done(json!({ "seen": true })));
            }
            let detail = format!(
                "unknown: whether {} was carried out cannot be seen; it is not repeated",
                self.name()
            );
            Err(Trouble::fail(Class::Retryable, detail))
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let vmid = cx.vmid();
            let called = match self.verb {
                PowerVerb::Start => cx.pve().start(vmid).await,
                PowerVerb::Shutdown => cx.pve().shutdown(vmid, GRACE_SECS, false).await,
                PowerVerb::Reboot => cx.pve().reboot(vmid, GRACE_SECS).await,
                PowerVerb::Stop => cx.pve().stop(vmid).await,
                PowerVerb::Reset => cx.pve().reset(vmid).await,
            };
            let refused = called.as_ref().is_err_and(PveError::is_no_quorum);
            self.not_pressed.store(refused, Ordering::SeqCst);
            if refused && cx.now() > cx.order().exp {
                let text =
                    format!("{}: not done, the host's cluster had no quorum all the time", self.name());
                return Err(Trouble::fail(Class::Retryable, text));
            }
            Ok(Act::Task(called?))
        })
    }

    /// Every failure is final: a second press would be a second action.
    fn judge(&self, exit: &str) -> Trouble {
        let class = if text::is_shutdown_timeout(exit) { Class::User } else { Class::Retryable };
        Trouble::fail(class, format!("{}: {exit}", self.name()))
    }

    fn attempts(&self) -> u32 {
        1
    }
}
