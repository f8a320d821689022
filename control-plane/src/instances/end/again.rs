//! Endings that did not work out: tried again, ever more slowly, and told to an operator when it takes long.
//!
//! A host that refused once may take the next order a minute later; one whose owner protects the VM refuses until a person
//! has dealt with it, and an order each minute would only fill its journal and ours. So an operator is told after
//! some failures, and from then on the wait doubles with each.
//! What was not refused and did not fail is no failure: an order that never reached its node, or waits for the host's
//! destroy budget, is asked again as soon as that makes sense.

use std::time::Duration;

use ez_protocol::{InstanceId, UnixMillis};
use sqlx::AnyConnection;

use super::{EndError, give_up_place, purge, retire};
use crate::{
    app::App,
    db::DbError,
    dispatch::{self, ProvisioningRecord, State},
    fleet::{self, Release, alarms},
    instances::{
        change,
        model::{Instance, InstanceState},
        observe, store,
    },
};

/// A retire or purge that did not work out is tried again after this long; once it has rung, each time after twice as long …
const FIRST_AGAIN: Duration = Duration::from_secs(60);
/// … but not after longer than this.
const LONGEST_AGAIN: Duration = Duration::from_secs(6 * 60 * 60);
/// One that is stuck waits for a person on its host, who lets it go on. Should nobody come, it is tried anew once a day.
pub(in crate::instances) const STUCK_AGAIN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// The alarm about a server that cannot be ended.
const LATE: &str = "ending_late";
/// It rings after so many failures …
const RINGS_AFTER: u32 = 5;
/// … or when the first of them was so long ago.
const RINGS_SINCE: Duration = Duration::from_secs(60 * 60);

/// What came of telling a node to end a server, since it last did as it was told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Failures {
    count: u32,
    /// When the first of them ended.
    since: Option<UnixMillis>,
}

/// The newest failures in a row among all orders about a server, which come oldest first.
fn failures(history: &[ProvisioningRecord], verb: &str) -> Failures {
    let about_its_end = |record: &&ProvisioningRecord| matches!(record.verb.as_str(), "retire" | "purge");
    let mut found = Failures::default();
    for record in history.iter().rev().filter(about_its_end) {
        match record.state {
            State::Succeeded => break,
            _ if record.verb == verb && is_failure(record) => {
                found.count += 1;
                found.since = record.finished_at.or(Some(record.issued_at));
            }
            _ => {}
        }
    }
    found
}

fn is_failure(record: &ProvisioningRecord) -> bool {
    let passing = record.refusal.as_deref().is_some_and(dispatch::is_passing_refusal);
    matches!(record.state, State::Failed | State::Undone | State::Refused) && !passing
}

/// How long after its end the next order follows one that did not work out.
fn wait(record: &ProvisioningRecord, failures: &Failures) -> Duration {
    if record.state == State::Stuck {
        return STUCK_AGAIN_AFTER;
    }
    if !is_failure(record) {
        return FIRST_AGAIN;
    }
    let doubled = 2_u32.saturating_pow(failures.count.saturating_sub(RINGS_AFTER));
    FIRST_AGAIN.saturating_mul(doubled).min(LONGEST_AGAIN)
}

/// Issues the next retire or purge when the last one ended without success, or could not be issued.
pub(in crate::instances) async fn again(app: &App, seen: Instance) -> Result<(), EndError> {
    // On its own: an order that cannot be issued now takes back all that was written with it.
    ring_if_late(app, &seen).await?;
    let (now, entropy, keys) = (app.clock.now(), app.entropy.clone(), app.keys.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(instance) = store::get_to_change(tx, seen.id).await? else { return Ok(()) };
                // Somebody else was quicker.
                if instance.state != seen.state || instance.provisioning_order != seen.provisioning_order {
                    return Ok(());
                }
                if !is_due(tx, now, &instance).await? {
                    return Ok(());
                }
                if instance.state == InstanceState::Purging {
                    purge(tx, &keys, now, entropy.as_ref(), instance, "system").await?;
                } else if dispatch::builds_at(tx, now, instance.id, instance.node).await?.is_fenced() {
                    // It was to end while nobody knew whether it exists; now it is certain that it does not.
                    fleet::release(tx, now, instance.id, Release::Gone).await?;
                    let instance = change::attempt_fenced(tx, now, instance, None, "system").await?;
                    give_up_place(tx, now, instance, Release::Gone, "system").await?;
                } else {
                    retire(tx, &keys, now, entropy.as_ref(), instance, "system").await?;
                }
                Ok(())
            })
        })
        .await
}

/// The last order to end a server as it is to end now, if it was told already, and the failures up to it.
async fn last_order(
    connection: &mut AnyConnection,
    instance: &Instance,
) -> Result<Option<(ProvisioningRecord, Failures)>, DbError> {
    let verb = if instance.state == InstanceState::Purging { "purge" } else { "retire" };
    let Some(order) = instance.provisioning_order else { return Ok(None) };
    let record = dispatch::show(connection, order).await?.filter(|record| record.verb == verb);
    let Some(record) = record else { return Ok(None) };
    let failures = failures(&dispatch::history_of(connection, instance.id).await?, verb);
    Ok(Some((record, failures)))
}

/// Whether the next order is due now.
async fn is_due(tx: &mut AnyConnection, now: UnixMillis, instance: &Instance) -> Result<bool, DbError> {
    let Some((record, failures)) = last_order(tx, instance).await? else { return Ok(true) };
    if !record.state.is_final() || record.state == State::Succeeded {
        return Ok(false);
    }
    let ended = record.finished_at.unwrap_or(record.expires_at);
    Ok(now.since(ended) >= wait(&record, &failures))
}

/// Tells an operator about an ending that has failed for long.
async fn ring_if_late(app: &App, seen: &Instance) -> Result<(), DbError> {
    let now = app.clock.now();
    let last = {
        let mut connection = app.db.read().await?;
        last_order(&mut connection, seen).await?
    };
    let Some((record, failures)) = last.filter(|(record, _)| is_failure(record)) else { return Ok(()) };
    let long = failures.since.is_some_and(|since| now.since(since) >= RINGS_SINCE);
    if failures.count < RINGS_AFTER && !long {
        return Ok(());
    }
    let seen = seen.clone();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                // It may have come to its end since.
                let instance = store::get_to_change(tx, seen.id).await?;
                match instance.filter(|instance| instance.provisioning_order == seen.provisioning_order) {
                    Some(instance) if instance.state == seen.state => {
                        ring(tx, now, &instance, &record, failures.count).await
                    }
                    _ => Ok(()),
                }
            })
        })
        .await
}

async fn ring(
    tx: &mut AnyConnection,
    now: UnixMillis,
    instance: &Instance,
    record: &ProvisioningRecord,
    tries: u32,
) -> Result<(), DbError> {
    let (wanted, left) = match record.verb.as_str() {
        "purge" => ("removed from its host", "Its disk stays there, and its place and addresses are held."),
        _ => ("retired", "It may still run."),
    };
    let why = observe::failure(record);
    let detail = format!(
        "{} should be {wanted} and is not: its host failed or refused {tries} times. {left} The host says: {}.{} It is \
         tried again, at least every six hours.",
        instance.hostname,
        why.trim_end_matches('.'),
        protected(record, &why)
    );
    let (severity, subject) = (fleet::Severity::Warning, instance.id.to_string());
    let alarm = alarms::New { kind: LATE, subject: &subject, severity, node: instance.node, detail: &detail };
    alarms::hold(tx, now, alarm).await?;
    Ok(())
}

/// What helps where the host's owner protects the VM, if the host has not said it itself.
fn protected(record: &ProvisioningRecord, why: &str) -> String {
    if !why.contains("protection") || why.contains("qm set") {
        return String::new();
    }
    format!(" Its VM is protected on the host: `qm set {} --protection 0` there lets it go.", record.vmid)
}

/// It was ended, or nothing is left to end.
pub(in crate::instances) async fn over(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: InstanceId,
) -> Result<(), DbError> {
    alarms::clear(tx, at, LATE, &id.to_string()).await
}

#[cfg(test)]
mod tests {
    use ez_protocol::{NodeId, ProvisioningOrderId};

    use super::*;

    fn told(verb: &str, state: State, refusal: Option<&str>) -> ProvisioningRecord {
        let id = uuid::Uuid::from_u128(1);
        ProvisioningRecord {
            id: ProvisioningOrderId::from_uuid(id),
            node: NodeId::from_uuid(id),
            epoch: 1,
            seq: 1,
            instance: InstanceId::from_uuid(id),
            vmid: 1_000,
            generation: 1,
            verb: verb.into(),
            order: None,
            actor: "system".into(),
            state,
            step: None,
            refusal: refusal.map(str::to_owned),
            detail: None,
            class: None,
            facts: None,
            issued_at: UnixMillis(0),
            expires_at: UnixMillis(1),
            queued_at: None,
            accepted_at: None,
            finished_at: Some(UnixMillis(7)),
            attempts: 1,
        }
    }

    #[test]
    fn the_wait_doubles_once_it_has_rung_up_to_six_hours_and_begins_anew_after_a_success() {
        let mut history = vec![told("retire", State::Failed, None), told("retire", State::Succeeded, None)];
        let mut waits = Vec::new();
        for _ in 0..15 {
            history.push(told("purge", State::Failed, None));
            let failures = failures(&history, "purge");
            waits.push(wait(history.last().unwrap(), &failures).as_secs() / 60);
        }
        assert_eq!(waits, [1, 1, 1, 1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360]);
        history.push(told("retire", State::Succeeded, None));
        assert_eq!(failures(&history, "purge"), Failures::default());
    }

    #[test]
    fn what_never_came_to_be_tried_is_no_failure() {
        let history = [
            told("purge", State::Refused, Some("POLICY(limits.purge)")),
            told("purge", State::Expired, None),
            told("purge", State::Superseded, None),
            told("purge", State::Refused, Some("NO_SPACE")),
            told("set_password", State::Failed, None),
        ];
        let found = failures(&history, "purge");
        assert_eq!((found.count, found.since), (1, Some(UnixMillis(7))));
        assert_eq!(wait(&history[1], &found), FIRST_AGAIN);
        assert_eq!(wait(&history[3], &found), FIRST_AGAIN);
        assert_eq!(wait(&told("purge", State::Stuck, None), &found), STUCK_AGAIN_AFTER);
    }
}
