//! The inbox: a delivery is judged genuine, stored and answered. Nothing else.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::AnyConnection;

use ez_protocol::UnixMillis;

use super::{
    inbox,
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
        Verdict::Stale => return Ok(Intake::Stale),
        Verdict::Genuine => {}
    }
    let mut event = judged(text, Source::Webhook, app.stripe.livemode());
    event.signature = Some(header.chars().take(1_000).collect());
    let stored = app.db.write(move |tx| Box::pin(async move { keep(tx, at, &event).await })).await?;
    Ok(if stored { Intake::Stored } else { Intake::Known })
}

/// Whether objects of this kind are read again from Stripe at all.
pub(super) fn is_known_kind(object: &str) -> bool {
    const KINDS: [&str; 9] = [
        "checkout.session",
        "subscription",
        "invoice",
        "refund",
        "dispute",
        "charge",
        "customer",
        "payment_method",
        "radar.early_fraud_warning",
    ];
    KINDS.contains(&object)
}

/// Whether an event means that its object is read again from Stripe; see [`super::sync`]. Of customers, cards and
/// charges only changes matter: each purchase makes all three, and the subscription leads to them.
fn is_read_again(event: &str, object: &str) -> bool {
    match object {
        "checkout.session"
        | "subscription"
        | "invoice"
        | "refund"
        | "dispute"
        | "radar.early_fraud_warning" => true,
        "charge" => event == "charge.refunded",
        "customer" => matches!(event, "customer.updated" | "customer.deleted"),
        "payment_method" => event != "payment_method.attached",
        _ => false,
    }
}

/// Reads the envelope of a genuine event and says what is to become of it. What it says is not trusted to be
/// well-formed: what cannot be stored or read again is set aside for a person, with its bytes, and answered as
/// stored, or Stripe would deliver it for days.
pub(super) fn judged(text: &str, source: Source, livemode: bool) -> StoredEvent {
    let raw = text.as_bytes().to_vec();
    let envelope = serde_json::from_str::<Value>(text).ok().as_ref().and_then(EventEnvelope::read);
    let Some(mut envelope) = envelope.filter(|envelope| is_word(&envelope.id)) else {
        tracing::error!("a genuine webhook has no usable id: set aside");
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
        let error = Some("no id that could be one of Stripe's".to_owned());
        return StoredEvent { envelope, source, raw, signature: None, state: EventState::Failed, error };
    };
    let mut wrong = Vec::new();
    if !is_word(&envelope.kind) {
        "unreadable".clone_into(&mut envelope.kind);
        wrong.push("type");
    }
    if envelope.api_version.take_if(|version| !is_word(version)).is_some() {
        wrong.push("api_version");
    }
    if envelope.object_kind.take_if(|kind| !is_word(kind)).is_some() {
        wrong.push("object type");
    }
    let read_again = envelope.object_kind.as_deref().is_some_and(|kind| is_read_again(&envelope.kind, kind));
    // Ids that people give (coupons, products) may be any text; those of what we read stand in Stripe's addresses.
    let has_id = envelope.object_id.is_some();
    let usable = |id: &str| if read_again { is_object_id(id) } else { is_word(id) };
    if envelope.object_id.take_if(|id| !usable(id)).is_some() && (read_again || !wrong.is_empty()) {
        wrong.push("object id");
    }
    // Signed with our secret, and not for us: somebody has to look at the endpoint. Nothing of it is taken over.
    if envelope.account.is_some() {
        wrong.push("for us but for a connected account");
    }
    if envelope.livemode.is_some_and(|live| live != livemode) {
        wrong.push(if livemode { "live but of test mode" } else { "of test mode but live" });
    }
    let state = match (&envelope.object_id, &envelope.object_kind) {
        _ if !wrong.is_empty() => EventState::Failed,
        // Kinds that decide nothing here are not read again, so there is nothing to do for them.
        (Some(_), Some(_)) if read_again => EventState::Received,
        _ => EventState::Ignored,
    };
    let error = (!wrong.is_empty()).then(|| format!("not of Stripe's form: {}", wrong.join(", ")));
    if state == EventState::Failed {
        tracing::error!(
            event.id = envelope.id,
            event.has_object = has_id,
            why = error,
            "a genuine webhook cannot be processed: set aside; compare it with Stripe's dashboard"
        );
    }
    StoredEvent { envelope, source, raw, signature: None, state, error }
}

/// Short, printable and without spaces.
fn is_word(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What may stand in a path of Stripe's API.
fn is_object_id(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
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
    if event.state == EventState::Failed {
        inbox::set_aside(tx, at, event.error.as_deref().unwrap_or_default()).await?;
    }
    if let (EventState::Received, Some(id), Some(kind)) =
        (event.state, &event.envelope.object_id, &event.envelope.object_kind)
    {
        jobs::enqueue(tx, SYNC, id, &json!({"kind": kind}), at).await?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        app::job_registry,
        billing::stripe::testing::sign,
        clock::ManualClock,
        db::{Cols, Db, testing::each_database},
    };

    fn event(id: &str, kind: &str, object: &str, object_id: &str, version: &str) -> String {
        let object = json!({"id": object_id, "object": object});
        json!({
            "id": id, "object": "event", "type": kind, "api_version": version, "created": 1,
            "livemode": false, "data": {"object": object},
        })
        .to_string()
    }

    async fn counted(db: &Db, sql: &'static str) -> i64 {
        let mut connection = db.read().await.unwrap();
        let row = sqlx::query(sql).fetch_one(&mut *connection).await.unwrap();
        Cols::of("stripe_events", &row).num("n").unwrap()
    }

    #[tokio::test]
    async fn a_genuine_event_that_cannot_be_processed_is_kept_and_set_aside() {
        each_database(async |db| {
            let clock = Arc::new(ManualClock::at(UnixMillis(1_790_000_000_000)));
            let app = Services::for_tests(db.clone(), clock);
            let secret = app.config.stripe.webhook_secrets[0].expose().to_owned();
            let (kind, session, long) =
                ("checkout.session.completed", "checkout.session", "x".repeat(100_000));
            let (nul, version) = ("a\0b", "2025-10-29.clover");
            let bodies = [
                event(nul, kind, session, "cs_1", version),
                event("evt_1", nul, session, "cs_1", version),
                event("evt_2", kind, nul, "cs_1", version),
                event("evt_3", kind, session, nul, version),
                event("evt_4", kind, session, "cs_1", nul),
                event("evt_5", kind, session, "cs_?expand=1", version),
                event("evt_6", kind, session, "../customers", version),
                event("evt_7", kind, session, &format!("cs_{long}"), version),
                event(&long, kind, session, "cs_1", version),
                event("evt_8", &long, session, "cs_1", version),
            ];
            for body in &bodies {
                let header = sign(body, &secret, app.clock.now());
                let first = intake(&app, body.as_bytes(), Some(&header)).await.unwrap();
                let again = intake(&app, body.as_bytes(), Some(&header)).await.unwrap();
                assert_eq!((first, again), (Intake::Stored, Intake::Known), "{body:.200}");
            }
            crate::jobs::drain(&app, &job_registry()).await.unwrap();
            let failed = "SELECT count(*) AS n FROM stripe_events WHERE state = 'failed'";
            assert_eq!(counted(&db, failed).await, i64::try_from(bodies.len()).unwrap());
            let jobs = "SELECT count(*) AS n FROM jobs WHERE kind = 'billing.sync'";
            assert_eq!(counted(&db, jobs).await, 0, "nothing is asked of Stripe");
            // What people name themselves is nothing of ours, whatever it looks like.
            let coupon = event("evt_9", "coupon.created", "coupon", "Summer sale 50 %", version);
            let header = sign(&coupon, &secret, app.clock.now());
            assert_eq!(intake(&app, coupon.as_bytes(), Some(&header)).await.unwrap(), Intake::Stored);
            assert_eq!(counted(&db, failed).await, i64::try_from(bodies.len()).unwrap());
        })
        .await;
    }
}
