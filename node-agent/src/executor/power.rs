//! Steps that change the power state: `start`, `stop`, `await_usable`.

use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::json;
use tokio::time::Instant;

use super::{
    backup,
    context::Cx,
    destroy::{self, CameTo},
    fault::{Class, Trouble, of_task},
    limits::Load,
    running_task,
    saga::{Act, Look, Step},
};
use crate::{
    journal::{Confirmation, StepRow},
    pve::text,
};

/// Starts the VM; a running one is done.
pub(super) enum Start {
    /// A new server: from here on its customer may see it, so the control plane has to want it still.
    First,
    /// One that was suspended or retired.
    Again,
    /// One that was running when [`NotePower`] looked, and only that.
    AsBefore,
    /// The same, and only if the restore that its order tried did nothing to it.
    IfNotRestored,
    /// The same, and only if the destruction that its order called did nothing to it.
    IfNotDestroyed,
}

/// Notes whether the server runs, for [`Start::AsBefore`].
pub(super) struct NotePower;

/// Name of the step.
pub(super) const NOTE_POWER: &str = "note_power";

impl Step for NotePower {
    fn name(&self) -> &'static str {
        NOTE_POWER
    }

    fn load(&self, _cx: &Cx) -> Load {
        Load::None
    }

    fn look<'a>(&'a self, cx: &'a Cx, _row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            // A server that is not there any more, after a rebuild that failed, does not run either.
            let runs = cx.own_config().await?.is_some() && cx.runs().await?;
            Ok(Look::Done(json!({ "runs": runs })))
        })
    }

    fn act<'a>(&'a self, _cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async { Ok(Act::Done(json!({}))) })
    }
}

/// Whether the control plane knows that this node builds the server; why not yet, if it does not.
///
/// One that never heard of the acceptance has the server built elsewhere once the order is over (and five minutes of
/// clock tolerance, which is why a confirmation counts up to the end alone).
async fn unheard(cx: &Cx) -> Result<Option<&'static str>, Trouble> {
    let end = cx.order().exp;
    let over = match cx.journal().confirmation(cx.id()).await? {
        Confirmation::Unasked => return Ok(None),
        Confirmation::At(at) if at <= end => return Ok(None),
        Confirmation::At(_) => true,
        Confirmation::Missing => cx.now() > end,
    };
    if over {
        let text = "the control plane did not learn in time that this node had the order";
        return Err(Trouble::fail(Class::Retryable, text.to_owned()));
    }
    Ok(Some("the control plane does not know yet that this node has the order"))
}

/// What a revoked node says of a server it was building.
fn no_longer_ours(cx: &Cx) -> Result<(), Trouble> {
    if cx.engine().contact.is_revoked() {
        let text = "this node was revoked before the server was handed over";
        return Err(Trouble::fail(Class::Retryable, text.to_owned()));
    }
    Ok(())
}

/// What a node that was enrolled anew says of a server it was building before: whoever enrolled it may have had it built
/// elsewhere meanwhile, and it need not have heard of its revocation.
async fn of_this_enrolment(cx: &Cx) -> Result<(), Trouble> {
    let (meta, aud) = (cx.journal().meta().await?, &cx.order().aud);
    if meta.epoch > aud.epoch || meta.node.is_some_and(|node| node != aud.node) {
        let text = "this node was enrolled anew before the server was handed over";
        return Err(Trouble::fail(Class::Retryable, text.to_owned()));
    }
    Ok(())
}

impl Step for Start {
    fn name(&self) -> &'static str {
        "start"
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            if matches!(self, Self::IfNotDestroyed) {
                match destroy::came_to(cx, row).await? {
                    CameTo::AtWork => {
                        return Ok(Look::Wait("its destruction is at work all the same".to_owned()));
                    }
                    CameTo::Gone => return Ok(Look::Done(json!({ "power": "absent" }))),
                    CameTo::Nothing => {}
                }
            }
            let config = cx.present().await?;
            if let Some(running) = running_task(cx, row).await? {
                return Ok(Look::Adopt(running));
            }
            let runs = cx.runs().await?;
            // A new server that runs before we meant to start it was started by somebody else: it may do so no more than
            // by us.
            let fenced = matches!(self, Self::First) && row.is_none_or(|row| row.attempt == 0);
            if runs && !fenced {
                return Ok(Look::Done(json!({ "power": "running" })));
            }
            if matches!(self, Self::AsBefore | Self::IfNotRestored | Self::IfNotDestroyed)
                && cx.step_result_of(NOTE_POWER).await?["runs"] != json!(true)
            {
                return Ok(Look::Done(json!({ "power": "stopped" })));
            }
            // A disk that is gone, or half another one, is not started.
            if matches!(self, Self::IfNotRestored) && backup::restore_began(cx, &config).await? {
                return Ok(Look::Done(json!({ "power": "stopped", "restored": true })));
            }
            if matches!(self, Self::First) {
                no_longer_ours(cx)?;
                of_this_enrolment(cx).await?;
                if let Some(why) = unheard(cx).await? {
                    return Ok(Look::Wait(why.to_owned()));
                }
                if !cx.engine().contact.is_fresh(cx.now()) {
                    let why = "the control plane has not been heard for ten minutes; it may have given up on this node";
                    return Ok(Look::Wait(why.to_owned()));
                }
            }
            Ok(if runs { Look::Done(json!({ "power": "running" })) } else { Look::Todo })
        })
    }

    fn patience(&self, cx: &Cx) -> Duration {
        // Waiting for a word of the control plane is bounded by the order's own time alone.
        if matches!(self, Self::First) && !cx.engine().contact.is_fresh(cx.now()) {
            cx.pace().overall
        } else {
            cx.pace().task
        }
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            if cx.limits().start_turn(cx.pace().between_starts).await {
                // Meanwhile the VM may have become somebody else's.
                cx.present().await?;
            }
            Ok(Act::Task(cx.pve().start(cx.vmid()).await?))
        })
    }

    fn judge(&self, exit: &str) -> Trouble {
        if text::is_already_running(exit) { Trouble::Look(exit.to_owned()) } else { of_task("start", exit) }
    }
}

/// Stops the VM: asks the guest first, pulls the plug after a while.
pub(super) struct Stop {
    /// How long the guest may take to shut down, seconds; 0 pulls the plug at once.
    pub(super) grace_secs: u32,
}

impl Step for Stop {
    fn name(&self) -> &'static str {
        "stop"
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            if cx.own_config().await?.is_none() {
                return Ok(Look::Done(json!({ "power": "absent" })));
            }
            if let Some(running) = running_task(cx, row).await? {
                return Ok(Look::Adopt(running));
            }
            // A VM that does not run is told to stop once all the same: a start of which no answer came
            // may still wait for its lock, and the stop waits behind it.
            let told = row.is_some_and(|row| row.attempt > 0);
            Ok(if told && !cx.runs().await? { Look::Done(json!({ "power": "stopped" })) } else { Look::Todo })
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let called = match self.grace_secs {
                0 => cx.pve().stop(cx.vmid()).await,
                secs => cx.pve().shutdown(cx.vmid(), secs, true).await,
            };
            called.map(Act::Task).map_err(|error| cx.refused(error))
        })
    }
}

/// Waits for the first sign of life of the guest. Silence is no failure: it is said as it is.
pub(super) struct AwaitUsable;

impl Step for AwaitUsable {
    fn name(&self) -> &'static str {
        "await_usable"
    }

    fn load(&self, _cx: &Cx) -> Load {
        Load::None
    }

    fn look<'a>(&'a self, _cx: &'a Cx, _row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async { Ok(Look::Todo) })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let began = Instant::now();
            loop {
                no_longer_ours(cx)?;
                // Errors are silence: nothing depends on this answer but what is told.
                if cx.pve().agent_ping(cx.vmid()).await.unwrap_or(false) {
                    return Ok(Act::Done(json!({ "confirmed": true })));
                }
                if began.elapsed() >= cx.pace().usable {
                    return Ok(Act::Done(json!({ "confirmed": false })));
                }
                tokio::time::sleep(cx.pace().usable_poll).await;
            }
        })
    }

    fn attempts(&self) -> u32 {
        u32::MAX
    }
}
