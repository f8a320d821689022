//! The inbox: a delivery is judged genuine, stored and answered. Nothing else.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::AnyConnection;

use ez_protocol::UnixMillis;

use super::{
    jobs::SYNC,
    model::{EventState, Source},
    store::{self, StoredEvent},
    stripe::{self, EventEnvelope, Verdict},
};
use crate::{app::Services, db::DbError, jobs};

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// Stored, durable.
    Stored,
    /// It was here already.
    Known,
    /// Not signed with any of our secrets: nothing was stored.
    Forged,
    /// Signed with one of our secrets but too old or too new: nothing was stored.
    Stale,
}

/// Takes a delivery in. `header` is the value of `Stripe-Signature`.
///
/// # Errors
/// Only when the database cannot promise to keep the event; Stripe will deliver it again.
pub async fn intake(app: &Services, body: &[u8], header: Option<&str>) -> Result<Intake, DbError> {
    let at = app.clock.now();
    let (Ok(text), Some(header)) = (std::str::from_utf8(body), header) else {
        return Ok(Intake::Forged);
    };
    let secrets: Vec<String> =
        app.config.stripe.webhook_secrets.iter().map(|s| s.expose().to_owned()).collect();
    match stripe::judge(text, header, &secrets, at) {
        Verdict::Forged => return Ok(Intake::Forged),
        Verdict::Stale => {
            tracing::error!(
                "a correctly signed webhook is more than 300 s off: is this machine's clock right?"
            );
            return Ok(Intake::Stale);
        }
        Verdict::Genuine => {}
    }
    let event = judged(text, Source::Webhook, app.stripe.livemode());
    let stored = app.db.write(move |tx| Box::pin(async move { keep(tx, at, &event).await })).await?;
    Ok(if stored { Intake::Stored } else { Intake::Known })
}

/// Reads the envelope of a genuine event and says what is to become of it.
pub(super) fn judged(text: &str, source: Source, livemode: bool) -> StoredEvent {
    let raw = text.as_bytes().to_vec();
    let envelope = serde_json::from_str::<Value>(text).ok().as_ref().and_then(EventEnvelope::read);
    let Some(envelope) = envelope else {
        tracing::error!("a genuine webhook has no id: stored as failed");
        let id = format!("raw:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(&raw)));
        let envelope = EventEnvelope {
            id,
            kind: "unreadable".to_owned(),
            object_id: None,
            object_kind: None,
            created: 0,
            livemode: None,
            api_version: None,
            account: None,
        };
        let error = Some("no id".to_owned());
        return StoredEvent { envelope, source, raw, state: EventState::Failed, error };
    };
    let foreign = envelope.account.is_some() || envelope.livemode.is_some_and(|live| live != livemode);
    let state = match (&envelope.object_id, &envelope.object_kind) {
        _ if foreign => EventState::Ignored,
        (Some(_), Some(_)) => EventState::Received,
        _ => EventState::Ignored,
    };
    StoredEvent { envelope, source, raw, state, error: None }
}

/// Stores an event and asks for its object to be read; `false` if it was there.
pub(super) async fn keep(
    tx: &mut AnyConnection,
    at: UnixMillis,
    event: &StoredEvent,
) -> Result<bool, DbError> {
    if !store::insert_event(tx, at, event).await? {
        return Ok(false);
    }
    if let (EventState::Received, Some(id), Some(kind)) =
        (event.state, &event.envelope.object_id, &event.envelope.object_kind)
    {
        jobs::enqueue(tx, SYNC, id, &json!({"kind": kind}), at).await?;
    }
    Ok(true)
}
