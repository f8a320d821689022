//! The way of every POST: written down with its key and exact bytes, sent, answered.

use std::{fmt::Display, time::Duration};

use ez_protocol::UnixMillis;
use serde_json::Value;

use super::{
    BillingError,
    model::CallState,
    store::{self, StoredCall},
    stripe::{FaultKind, Prepared, StripeFault},
};
use crate::app::Services;

/// Stripe keeps idempotency keys for at least 24 h; after this a call is looked up, never sent again.
const KEY_LIFE: Duration = Duration::from_secs(20 * 60 * 60);

/// What was carried out may be missing in Stripe's lists for so long: a call is not given up for it before.
const LISTED_WITHIN: Duration = Duration::from_secs(60);

/// What a call is and whose.
pub(super) struct Call {
    /// `<purpose>:<subject>:<attempt>`
    pub(super) key: String,
    pub(super) purpose: &'static str,
    pub(super) subject: String,
    pub(super) attempt: i64,
    pub(super) request: Prepared,
}

impl Call {
    pub(super) fn new(
        purpose: &'static str,
        subject: impl ToString,
        attempt: i64,
        request: Prepared,
    ) -> Self {
        let subject = subject.to_string();
        Self { key: Self::key_of(purpose, &subject, attempt), purpose, subject, attempt, request }
    }

    /// The key of a call.
    pub(super) fn key_of(purpose: &str, subject: impl Display, attempt: i64) -> String {
        format!("{purpose}:{subject}:{attempt}")
    }

    /// A call whose subject counts no attempts of its own: the one that is not answered yet, or the next after those that
    /// came to nothing.
    pub(super) async fn next(
        app: &Services,
        purpose: &'static str,
        subject: impl ToString,
        request: Prepared,
    ) -> Result<Self, BillingError> {
        let subject = subject.to_string();
        let ended = {
            let mut connection = app.db.read().await?;
            store::ended_calls(&mut connection, purpose, &subject).await?
        };
        Ok(Self::new(purpose, subject, ended + 1, request))
    }
}

/// Sends a call under its key. The same key again sends the bytes that were written down first, so a finished
/// call is replayed. The caller writes the answer down together with [`store::close_call`].
///
/// # Errors
/// [`BillingError::LookingUp`] when the outcome is unknown and only a look-up can tell: the caller looks, then
/// adopts what it found or goes on to the next attempt.
pub(super) async fn send(app: &Services, call: &Call) -> Result<Value, BillingError> {
    let at = app.clock.now();
    let stored = write_down(app, call, at).await?;
    if stored.state == CallState::Done {
        let id = stored.response_id.ok_or(BillingError::Incomplete("the id of an answer"))?;
        let mut connection = app.db.read().await?;
        let json = store::object(&mut connection, &id).await?.ok_or(BillingError::Unknown("copy"))?;
        return serde_json::from_str(&json).map_err(|_| BillingError::Incomplete("a readable copy"));
    }
    if stored.state != CallState::Pending || at.since(stored.created_at) > KEY_LIFE {
        return Err(BillingError::LookingUp);
    }
    let request: Prepared =
        serde_json::from_str(&stored.request).map_err(|_| BillingError::Incomplete("a stored request"))?;
    match app.stripe.post(app.entropy.as_ref(), &call.key, &request).await {
        Ok(answer) => Ok(answer),
        Err(fault) => Err(settle_fault(app, call, fault).await?),
    }
}

/// Writes a call down unless it is; gives what stands there.
async fn write_down(app: &Services, call: &Call, at: UnixMillis) -> Result<StoredCall, BillingError> {
    let text = serde_json::to_string(&call.request).map_err(|_| BillingError::Incomplete("a request"))?;
    let (key, purpose, subject, hash) =
        (call.key.clone(), call.purpose, call.subject.clone(), call.request.hash());
    Ok(app
        .db
        .write(move |tx| {
            Box::pin(async move { store::open_call(tx, at, &key, purpose, &subject, (&text, &hash)).await })
        })
        .await?)
}

/// Has something made once for a subject that counts no attempts of its own ([`Call::next`]): sent, or found in the list of
/// such things, where `ours` knows it.
///
/// # Errors
/// As [`send`]; with [`BillingError::LookingUp`] whoever tries again looks once more, and after a while has the next key.
pub(super) async fn make(
    app: &Services,
    call: &Call,
    list: &Prepared,
    ours: impl Fn(&&Value) -> bool,
) -> Result<Value, BillingError> {
    // Earlier keys were given up; what was sent under them may have been carried out all the same.
    if call.attempt > 1
        && let Some(made) = find(app, list, &ours).await?
    {
        write_down(app, call, app.clock.now()).await?;
        return Ok(made);
    }
    match send(app, call).await {
        Err(BillingError::LookingUp) => look_for(app, call, list, &ours).await,
        other => other,
    }
}

/// The row of a list that an earlier call with unknown outcome made; a call that has none for long is given up.
async fn look_for(
    app: &Services,
    call: &Call,
    list: &Prepared,
    ours: impl Fn(&&Value) -> bool,
) -> Result<Value, BillingError> {
    if let Some(found) = find(app, list, ours).await? {
        return Ok(found);
    }
    let begun = {
        let mut connection = app.db.read().await?;
        store::call_begun(&mut connection, &call.key).await?
    };
    if begun.is_some_and(|begun| app.clock.now().since(begun) >= LISTED_WITHIN) {
        close(app, call, CallState::Replaced, None, None).await?;
    }
    Err(BillingError::LookingUp)
}

async fn find(
    app: &Services,
    list: &Prepared,
    ours: impl Fn(&&Value) -> bool,
) -> Result<Option<Value>, BillingError> {
    let list = app.stripe.get(app.entropy.as_ref(), list).await?;
    let rows = list.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(rows.iter().find(ours).cloned())
}

/// Whether a call was written down before: it may have been carried out.
///
/// # Errors
/// Those of the query.
pub(super) async fn was_begun(app: &Services, call: &Call) -> Result<bool, BillingError> {
    let mut connection = app.db.read().await?;
    Ok(store::call_begun(&mut connection, &call.key).await?.is_some())
}

/// What was sent under a key, if Stripe has done it.
///
/// # Errors
/// Those of the query.
pub(super) async fn answered(app: &Services, key: &str) -> Result<Option<Prepared>, BillingError> {
    let mut connection = app.db.read().await?;
    let sent = store::answered_call(&mut connection, key).await?;
    Ok(sent.and_then(|sent| serde_json::from_str(&sent).ok()))
}

/// Writes a refusal down; says what the caller gets.
async fn settle_fault(app: &Services, call: &Call, fault: StripeFault) -> Result<BillingError, BillingError> {
    if fault.kind == FaultKind::OurMistake {
        tracing::error!(stripe.key = %call.key, "one idempotency key was used for two requests");
    }
    if fault.kind == FaultKind::ServerFailed {
        return Ok(BillingError::LookingUp);
    }
    if fault.is_no() {
        close(app, call, CallState::Refused, None, fault.code.clone()).await?;
    }
    Ok(fault.into())
}

/// Ends a call outside the caller's own write: refused, or replaced by the next attempt.
pub(super) async fn close(
    app: &Services,
    call: &Call,
    state: CallState,
    response: Option<String>,
    error: Option<String>,
) -> Result<(), BillingError> {
    let (at, key) = (app.clock.now(), call.key.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                store::close_call(tx, at, &key, state, response.as_deref(), error.as_deref()).await
            })
        })
        .await?;
    Ok(())
}
