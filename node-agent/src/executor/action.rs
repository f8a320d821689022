//! `action`: what is done at most once. Which steps an action has, and when it may not be.

use ez_protocol::order::{Action, Op, PowerVerb, Service};

use super::{
    backup,
    context::Cx,
    fault::{self, Class, Trouble},
    password, press,
    saga::{self, Step},
    snapshot,
};
use crate::journal::Phase;

/// The action's steps.
pub(super) fn steps(action: &Action) -> Vec<Box<dyn Step>> {
    match action {
        Action::SnapshotCreate { name } => snapshot::take(name),
        Action::SnapshotRollback { name } => snapshot::roll_back(name),
        Action::SnapshotDelete { name } => snapshot::drop(name),
        Action::BackupCreate { keep } => backup::create(*keep),
        Action::BackupRestore { backup } => backup::restore(*backup),
        Action::BackupDelete { backup } => backup::delete(*backup),
        Action::SetPassword { hash } => password::steps(hash),
        Action::Start {} => press::steps(PowerVerb::Start),
        Action::Shutdown {} => press::steps(PowerVerb::Shutdown),
        Action::Reboot {} => press::steps(PowerVerb::Reboot),
        Action::Stop {} => press::steps(PowerVerb::Stop),
        Action::Reset {} => press::steps(PowerVerb::Reset),
    }
}

/// Carries the action out.
pub(super) async fn run(cx: &Cx) -> Result<(), Trouble> {
    let Op::Action(action) = &cx.order().op else {
        return Err(fault::hopeless(cx.id(), "an action without a verb"));
    };
    let begun = !cx.journal().steps(cx.id()).await?.is_empty();
    // What has begun goes on: half of it may be done.
    if !begun {
        allowed(cx, action)?;
    }
    saga::run(cx, &steps(action), 1).await?;
    if matches!(action, Action::Reboot {}) {
        press::came_back(cx).await;
    }
    Ok(())
}

/// A suspended or retired server stays off and as it is, whoever asks.
fn allowed(cx: &Cx, action: &Action) -> Result<(), Trouble> {
    let retired = cx.resource().is_some_and(|row| row.phase == Phase::Retired);
    let suspended = cx.applied().is_some_and(|spec| spec.service == Service::Suspended);
    let why = match action {
        Action::Start {} | Action::Reboot {} | Action::Reset {} if suspended => "suspended and stays off",
        Action::Start {} | Action::Reboot {} | Action::Reset {} if retired => "retired and stays off",
        Action::SnapshotRollback { .. } | Action::BackupRestore { .. } | Action::SetPassword { .. }
            if retired =>
        {
            "retired and stays as it is"
        }
        _ => return Ok(()),
    };
    Err(Trouble::fail(Class::Policy, format!("the server is {why}")))
}
