//! Suspension: the service is not due, so the server is off and stays off until it is resumed.
//!
//! The wish is written first, with its reason; from then on the customer's buttons are refused. [`settle`] tells the node,
//! once nothing else is under way, and repeats it until the node has done it: an order that failed takes back a
//! customer's wish, never this one.
//!
//! It is a state, not a deed: a server that was switched off and is seen running later was started on its host by
//! somebody, and is told once more. Whoever goes on starting it rings ([`RUNS`]).

use std::time::Duration;

use ez_protocol::{InstanceId, UnixMillis};
use serde_json::json;
use sqlx::AnyConnection;

use super::{
    act::{ActError, Desk, Label},
    model::{ActionState, Instance, InstanceState},
    observe,
    settings::{Settings, Suspension, Wishes, store as settings_store},
    settle, store,
};
use crate::{
    app::App,
    audit,
    db::DbError,
    dispatch::Keys,
    entropy::Entropy,
    fleet::{self, alarms},
};

/// What did not work out is tried again after this long.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// The alarm about a server that should be off, or on, and is not.
const LATE: &str = "suspension_late";
/// The alarm about a server that somebody starts again and again on its host.
const RUNS: &str = "suspended_runs";
/// It rings when a server has to be switched off once more after so many times …
const RINGS_AFTER: usize = 3;
/// … within this.
const RINGS_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest reason, in characters.
const LONGEST_REASON: usize = 200;

/// Why a server was not suspended or resumed.
#[derive(Debug, thiserror::Error)]
pub enum SuspendError {
    /// There is no such server.
    #[error("there is no such server")]
    Unknown,
    /// It is gone, or on its way.
    #[error("a server that is {0} is neither suspended nor resumed")]
    DoesNotFit(InstanceState),
    /// Its customer reads it.
    #[error("a reason of at most {LONGEST_REASON} characters is needed; the customer reads it")]
    Reason,
    /// The database.
    #[error("reading or writing the server")]
    Db(#[from] DbError),
}

/// Wishes that a server is off until it is resumed. The same wish again changes nothing; another reason takes the
/// place of the first. The customer reads the reason.
///
/// # Errors
/// [`SuspendError`]; nothing was changed.
pub async fn suspend(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: InstanceId,
    reason: &str,
    actor: &str,
) -> Result<Instance, SuspendError> {
    let reason = sentence(reason)?;
    if reason.is_empty() {
        return Err(SuspendError::Reason);
    }
    let wish = Suspension { suspended: true, reason, by: actor.to_owned(), at };
    wished(tx, at, id, wish).await
}

/// A reason without white space around it, if it is one short line.
fn sentence(reason: &str) -> Result<String, SuspendError> {
    let reason = reason.trim();
    if reason.chars().count() > LONGEST_REASON || reason.chars().any(char::is_control) {
        return Err(SuspendError::Reason);
    }
    Ok(reason.to_owned())
}

/// Wishes that a server is served again. The same wish again changes nothing. The reason is for the audit log.
///
/// # Errors
/// [`SuspendError`]; nothing was changed.
pub async fn resume(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: InstanceId,
    reason: &str,
    actor: &str,
) -> Result<Instance, SuspendError> {
    let wish = Suspension { suspended: false, reason: sentence(reason)?, by: actor.to_owned(), at };
    wished(tx, at, id, wish).await
}

async fn wished(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: InstanceId,
    wish: Suspension,
) -> Result<Instance, SuspendError> {
    let instance = store::get_to_change(tx, id).await?.ok_or(SuspendError::Unknown)?;
    let ends = matches!(
        instance.state,
        InstanceState::Retiring
            | InstanceState::Retired
            | InstanceState::Purging
            | InstanceState::Purged
            | InstanceState::Released
    );
    if ends {
        return Err(SuspendError::DoesNotFit(instance.state));
    }
    let held = settings_store::suspension(tx, id).await?;
    let same = match &held {
        Some(held) => held.suspended == wish.suspended && (!wish.suspended || held.reason == wish.reason),
        None => !wish.suspended,
    };
    if same {
        return Ok(instance);
    }
    // It has been suspended since the first time, whatever is said about the reason later.
    let since = held.filter(|held| held.suspended && wish.suspended).map_or(at, |held| held.at);
    let wish = Suspension { at: since, ..wish };
    settings_store::put_suspension(tx, id, &wish).await?;
    let entry = audit::Entry {
        actor: wish.by.clone(),
        action: if wish.suspended { "instance.suspend_wished" } else { "instance.resume_wished" }.to_owned(),
        subject_kind: "instance".to_owned(),
        subject_id: id.to_string(),
        detail: json!({ "reason": wish.reason }),
    };
    audit::record(tx, at, entry).await?;
    settle::enqueue(tx, id, at).await?;
    Ok(instance)
}

/// Tells the node what is wished, if it has not been told and nothing else is under way.
pub(super) async fn carry_out(
    tx: &mut AnyConnection,
    keys: &Keys,
    at: UnixMillis,
    entropy: &dyn Entropy,
    instance: Instance,
    wishes: Wishes,
) -> Result<(), ActError> {
    if !instance.state.is_live() || !wishes.suspension_is_due() || wishes.disk_lost {
        return Ok(());
    }
    let Some(wish) = wishes.suspension.clone() else { return Ok(()) };
    // Whatever is under way ends first; its end comes by here again.
    if wishes.under_way.is_some() || store::open_action(tx, instance.id).await?.is_some() {
        return Ok(());
    }
    let last = store::last_of(tx, instance.id, ("suspend", "resume")).await?;
    let failed = last.filter(|action| action.state == ActionState::Failed && action.started_at >= wish.at);
    if let Some(failed) = failed {
        late(tx, at, &instance, &wish, failed.error.as_deref().unwrap_or("it failed")).await?;
        let again = failed.finished_at.unwrap_or(failed.started_at).plus(AGAIN_AFTER);
        if at < again {
            return Ok(settle::enqueue(tx, instance.id, again).await?);
        }
    }
    let desk = Desk { keys, entropy, at, actor: &wish.by };
    tell(desk, tx, &instance, wishes, &wish).await
}

async fn tell(
    desk: Desk<'_>,
    tx: &mut AnyConnection,
    instance: &Instance,
    wishes: Wishes,
    wish: &Suspension,
) -> Result<(), ActError> {
    let kind = if wish.suspended { "suspend" } else { "resume" };
    let settings = Settings { suspended: wish.suspended, ..wishes.applied.clone() };
    desk.change(tx, instance, wishes, settings, Label { kind, about: None, ttl: None }).await?;
    Ok(())
}

/// Whether its node sees a server running that it has switched off for its suspension. A node that is away, or that
/// cannot look, says nothing of now.
pub(super) async fn runs_all_the_same(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: &Instance,
    wishes: &Wishes,
) -> Result<bool, DbError> {
    if !wishes.applied.suspended || wishes.suspension().is_none() || !instance.state.is_live() {
        return Ok(false);
    }
    Ok(instance.is_seen_on() && observe::sight(tx, instance, at).await?.fresh)
}

/// Tells the node once more to switch a server off that was started there. What was seen before the last order about it
/// ended says nothing: that order may have stopped it since.
pub(super) async fn once_more(
    tx: &mut AnyConnection,
    keys: &Keys,
    at: UnixMillis,
    entropy: &dyn Entropy,
    instance: Instance,
    wishes: Wishes,
) -> Result<(), ActError> {
    let Some(wish) = wishes.suspension().cloned() else { return Ok(()) };
    if wishes.disk_lost || wishes.under_way.is_some() || store::open_action(tx, instance.id).await?.is_some()
    {
        return Ok(());
    }
    let since = wish.at.max(at.minus(RINGS_WITHIN));
    let before = store::successes_since(tx, instance.id, "suspend", since).await?;
    if let Some(last) = store::last_of(tx, instance.id, ("suspend", "resume")).await? {
        let ended = last.finished_at.unwrap_or(last.started_at);
        let seen = observe::sight(tx, &instance, at).await?.at;
        if seen.is_none_or(|seen| seen <= ended) {
            return Ok(());
        }
        if last.state == ActionState::Failed {
            late(tx, at, &instance, &wish, last.error.as_deref().unwrap_or("it failed")).await?;
        }
        // Whoever starts it again and again is not met by an order each minute for ever.
        let doubled = u32::try_from(before.saturating_sub(RINGS_AFTER).min(6)).unwrap_or(6);
        let again = ended.plus(AGAIN_AFTER * 2_u32.pow(doubled));
        if at < again {
            return Ok(settle::enqueue(tx, instance.id, again).await?);
        }
    }
    let entry = audit::Entry {
        actor: "system".to_owned(),
        action: "instance.suspended_runs".to_owned(),
        subject_kind: "instance".to_owned(),
        subject_id: instance.id.to_string(),
        detail: json!({ "seen_at": instance.observed_at, "switched_off_before": before }),
    };
    audit::record(tx, at, entry).await?;
    if before >= RINGS_AFTER {
        started_again(tx, at, &instance, before).await?;
    }
    let desk = Desk { keys, entropy, at, actor: &wish.by };
    tell(desk, tx, &instance, wishes, &wish).await
}

async fn started_again(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: &Instance,
    times: usize,
) -> Result<(), DbError> {
    let detail = format!(
        "{} is suspended and runs again: it was switched off {times} times within a day, and somebody or something on its \
         host started it each time. It is switched off again; find out there who starts it (`qm start`, a high-availability \
         rule, a script).",
        instance.hostname
    );
    let (severity, subject) = (fleet::Severity::Warning, instance.id.to_string());
    let alarm = alarms::New { kind: RUNS, subject: &subject, severity, node: instance.node, detail: &detail };
    alarms::hold(tx, at, alarm).await?;
    Ok(())
}

async fn late(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: &Instance,
    wish: &Suspension,
    why: &str,
) -> Result<(), DbError> {
    let wanted = if wish.suspended { "suspended" } else { "resumed" };
    let detail =
        format!("{} should be {wanted} and is not yet: {why}. It is tried again.", instance.hostname);
    let (severity, subject) = (fleet::Severity::Warning, instance.id.to_string());
    let alarm = alarms::New { kind: LATE, subject: &subject, severity, node: instance.node, detail: &detail };
    alarms::hold(tx, at, alarm).await?;
    Ok(())
}

/// Nothing is due: there is no reason for an alarm.
pub(super) async fn in_time(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: &Instance,
    wishes: &Wishes,
) -> Result<(), DbError> {
    if wishes.suspension.is_none() {
        return Ok(());
    }
    let subject = instance.id.to_string();
    alarms::clear(tx, at, LATE, &subject).await?;
    if wishes.suspension().is_none() || !instance.is_seen_on() {
        alarms::clear(tx, at, RUNS, &subject).await?;
    }
    Ok(())
}

/// A server that is gone is neither suspended nor resumed any more.
pub(super) async fn over(tx: &mut AnyConnection, at: UnixMillis, id: InstanceId) -> Result<(), DbError> {
    alarms::clear(tx, at, LATE, &id.to_string()).await?;
    alarms::clear(tx, at, RUNS, &id.to_string()).await
}

/// Servers whose suspension waits, or is not so any more: a lost message costs time, never the wish.
pub(super) async fn sweep(app: &App) -> Result<(), DbError> {
    let due = {
        let mut connection = app.db.read().await?;
        settings_store::suspensions_due(&mut connection).await?
    };
    let at = app.clock.now();
    for id in due {
        app.db.write(move |tx| Box::pin(async move { settle::enqueue(tx, id, at).await })).await?;
    }
    Ok(())
}
