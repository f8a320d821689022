//! Life in the inbox: what cannot be processed is parked and tried again, an operator replays, old bytes go.

mod store;

use std::{collections::HashSet, time::Duration};

use ez_protocol::UnixMillis;
use serde_json::{Value, json};
use sqlx::AnyConnection;

use super::{
    BillingError,
    jobs::SYNC,
    model::{EventState, Source},
    store as billing_store,
};
use crate::{
    app::{App, Services},
    audit,
    db::DbError,
    fleet::{Severity, alarms},
    jobs,
};

/// The alarm about events that cannot be processed.
const PARKED: &str = "payment_news_parked";
/// The alarm about genuine events that were set aside.
const SET_ASIDE: &str = "webhook_set_aside";
/// It ends when none came for so long.
const QUIET: Duration = Duration::from_secs(24 * 60 * 60);
/// The first pause after which parked events are tried again; each one after is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// And the longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// News that nobody has taken over for so long has lost its job.
const STRANDED_AFTER: Duration = Duration::from_secs(10 * 60);
/// News that is looked at together; in one sweep little more than as many objects are taken up again.
const BATCH: u8 = 200;
/// And so much news is looked at in one sweep, unless more came at one moment; the next one goes on behind it.
const MOST_LOOKED: usize = 2_000;
/// The cursor of that.
const STRANDED: &str = "stranded";
/// Where it begins: before all news.
const BEGIN: UnixMillis = UnixMillis(0);

/// An event as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxEvent {
    /// `evt_…`
    pub id: String,
    /// Stripe's type.
    pub kind: String,
    /// What it is about, if it could be read.
    pub object: Option<String>,
    /// Where it came from.
    pub source: Source,
    /// How far it is.
    pub state: EventState,
    /// What went wrong.
    pub error: Option<String>,
    /// How often it could not be processed.
    pub attempts: i64,
    /// When it came.
    pub received_at: UnixMillis,
    /// Whether its object can be read again.
    pub replayable: bool,
}

/// Why an event was not replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// There is none of this id.
    #[error("there is no event of this id")]
    Unknown,
    /// It names nothing that could be read again.
    #[error("this event names no object that is read again from Stripe; there is nothing to replay")]
    Nothing,
    /// The database.
    #[error("reading or writing the inbox")]
    Db(#[from] DbError),
}

/// The inbox: what failed first, then the newest; at most `limit`.
///
/// # Errors
/// Those of the query.
pub async fn inbox(connection: &mut AnyConnection, limit: i64) -> Result<Vec<InboxEvent>, DbError> {
    store::inbox(connection, limit).await
}

/// How many events there are in each state.
///
/// # Errors
/// Those of the query.
pub async fn inbox_counts(connection: &mut AnyConnection) -> Result<Vec<(EventState, i64)>, DbError> {
    store::inbox_counts(connection).await
}

/// Has an event's object read again from Stripe, whatever became of the event before. What follows from the object
/// happens once, however often that is done.
///
/// # Errors
/// [`ReplayError`]; nothing was changed.
pub async fn replay(app: &Services, id: &str, actor: &str) -> Result<(), ReplayError> {
    let (at, id, actor) = (app.clock.now(), id.to_owned(), actor.to_owned());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some((event, kind)) = store::event(tx, &id).await? else {
                    return Err(ReplayError::Unknown);
                };
                let (true, Some(object), Some(kind)) = (event.replayable, event.object, kind) else {
                    return Err(ReplayError::Nothing);
                };
                store::receive_again(tx, &id).await?;
                let entry = audit::Entry {
                    actor,
                    action: "billing.event_replayed".to_owned(),
                    subject_kind: "event".to_owned(),
                    subject_id: id,
                    detail: json!({ "object": object, "was": event.state }),
                };
                audit::record(tx, at, entry).await?;
                let payload = json!({ "kind": kind, "parked": true });
                Ok(jobs::enqueue(tx, SYNC, &object, &payload, at).await?)
            })
        })
        .await
}

/// Whether news about an object waits to be taken over.
pub(super) async fn waits(app: &Services, object: &str) -> Result<bool, DbError> {
    let mut connection = app.db.read().await?;
    store::waits(&mut connection, object).await
}

/// What is known about an object cannot be taken over: its events wait, a person is told, and it is tried again. Where none of
/// them waits it was taken over, and what could not be read beside it has news or a clock of its own.
pub(super) async fn park(app: &App, kind: &str, object: &str, error: &BillingError) -> Result<(), DbError> {
    let (now, kind, object) = (app.clock.now(), kind.to_owned(), object.to_owned());
    // The error of a call names kinds and codes, never what Stripe wrote.
    let why = chain(error);
    tracing::error!(stripe.object = %object, error = %why, "what Stripe says cannot be taken over");
    app.db
        .write(move |tx| {
            Box::pin(async move {
                if !store::waits(tx, &object).await? {
                    return alarms::clear(tx, now, PARKED, &object).await;
                }
                let attempts = store::park_events(tx, &object, &why).await?;
                let doubled = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
                let pause = (FIRST_PAUSE * 2_u32.pow(doubled)).min(LONGEST_PAUSE);
                let detail = format!(
                    "News about {object} cannot be taken over: {why}. It is tried again; nothing is lost."
                );
                let severity = Severity::Critical;
                let alarm =
                    alarms::New { kind: PARKED, subject: &object, severity, node: None, detail: &detail };
                alarms::hold(tx, now, alarm).await?;
                let payload = json!({ "kind": kind, "parked": true });
                jobs::enqueue(tx, SYNC, &object, &payload, now.plus(pause)).await
            })
        })
        .await
}

/// An error and its causes, one line.
pub(super) fn chain(error: &BillingError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// A genuine event was set aside, for a person to look at: an operator hears of it.
pub(super) async fn set_aside(tx: &mut AnyConnection, at: UnixMillis, why: &str) -> Result<(), DbError> {
    let detail = format!(
        "A webhook that is signed with our secret is not taken over: {why}. It is kept, and nothing was done. Look at the \
         inbox and at the endpoint in Stripe's dashboard."
    );
    let alarm = alarms::New {
        kind: SET_ASIDE,
        subject: "stripe",
        severity: Severity::Critical,
        node: None,
        detail: &detail,
    };
    alarms::hold(tx, at, alarm).await.map(|_| ())
}

/// What was parked has been taken over.
pub(super) async fn unpark(app: &Services, object: &str, payload: &Value) -> Result<(), DbError> {
    if payload.get("parked").and_then(Value::as_bool) != Some(true) {
        return Ok(());
    }
    let (now, object) = (app.clock.now(), object.to_owned());
    app.db.write(move |tx| Box::pin(async move { alarms::clear(tx, now, PARKED, &object).await })).await
}

/// What lost its job, and alarms about what was taken over meanwhile, by whichever way.
pub(super) async fn sweep(app: &Services) -> Result<(), DbError> {
    take_up(app).await?;
    let quiet_since = app.clock.now().minus(QUIET);
    app.db
        .write(move |tx| {
            Box::pin(async move {
                if store::was_set_aside_since(tx, quiet_since).await? {
                    return Ok(());
                }
                alarms::clear(tx, quiet_since.plus(QUIET), SET_ASIDE, "stripe").await
            })
        })
        .await?;
    let over: Vec<String> = {
        let mut connection = app.db.read().await?;
        let mut over = Vec::new();
        for object in alarms::open_subjects(&mut connection, PARKED).await? {
            if !store::is_parked(&mut connection, &object).await? {
                over.push(object);
            }
        }
        over
    };
    let now = app.clock.now();
    for object in over {
        app.db
            .write(move |tx| Box::pin(async move { alarms::clear(tx, now, PARKED, &object).await }))
            .await?;
    }
    Ok(())
}

/// News that waits for a reading and has no job any more. The clocks of two processes differ: by that of the one that read the
/// object, an event that the other took in a moment before may have come afterwards.
async fn take_up(app: &Services) -> Result<(), DbError> {
    let now = app.clock.now();
    let from = {
        let mut connection = app.db.read().await?;
        billing_store::cursor(&mut connection, STRANDED).await?.unwrap_or(BEGIN)
    };
    let (found, reached) = stranded(app, from, now.minus(STRANDED_AFTER)).await?;
    for (object, kind) in found {
        app.db
            .write(move |tx| {
                Box::pin(async move { jobs::enqueue(tx, SYNC, &object, &json!({ "kind": kind }), now).await })
            })
            .await?;
    }
    if reached == from {
        return Ok(());
    }
    app.db
        .write(move |tx| Box::pin(async move { billing_store::set_cursor(tx, now, STRANDED, reached).await }))
        .await
}

/// Objects, with their kinds, of which news came after one time and before another, and which no job will read; and behind which
/// time the next look goes on. A job that is to come keeps its time, since it may wait for Stripe; one that was given up is a
/// person's, and would only be given up again. Neither hides what is behind it. While Stripe is away all news waits: then one
/// look sees a part of it, and the looks after it the rest.
async fn stranded(
    app: &Services,
    from: UnixMillis,
    before: UnixMillis,
) -> Result<(Vec<(String, String)>, UnixMillis), DbError> {
    let mut connection = app.db.read().await?;
    let (mut found, mut known, mut looked) = (Vec::new(), HashSet::new(), 0);
    let mut after = (UnixMillis(from.0 + 1), String::new());
    loop {
        let seen = (after.0, after.1.as_str());
        let page = store::waiting_since(&mut connection, before, seen, i64::from(BATCH)).await?;
        let Some(last) = page.last() else { return Ok((found, BEGIN)) };
        after = (last.since, last.event.clone());
        looked += page.len();
        for waiting in page {
            if known.insert(waiting.object.clone())
                && !jobs::is_there(&mut connection, SYNC, &waiting.object).await?
            {
                found.push((waiting.object, waiting.kind));
            }
        }
        // There may be more of the same moment. What was found has a job then; what has one is passed by in one look.
        let reached = UnixMillis(after.0.0 - 1).max(from);
        if found.len() >= usize::from(BATCH) || (looked >= MOST_LOOKED && reached > from) {
            return Ok((found, reached));
        }
    }
}

/// Throws the bytes of old events away; what kind they were, and what became of them, stays.
pub(super) async fn redact(app: &Services) -> Result<(), DbError> {
    let now = app.clock.now();
    let before = now.minus(app.config.billing.keep_events);
    let gone =
        app.db.write(move |tx| Box::pin(async move { store::redact_events(tx, now, before).await })).await?;
    if gone > 0 {
        tracing::info!(events = gone, "the bytes of old events were thrown away");
    }
    Ok(())
}
