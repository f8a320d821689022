//! The way of every POST: written down with its key and exact bytes, sent, answered.

use std::time::Duration;

use serde_json::Value;

use super::{
    BillingError,
    model::CallState,
    store,
    stripe::{FaultKind, Prepared, StripeFault},
};
use crate::app::Services;

/// Stripe keeps idempotency keys for at least 24 h; after this a call is looked up, never sent again.
const KEY_LIFE: Duration = Duration::from_secs(20 * 60 * 60);

/// What a call is and whose.
pub(super) struct Call {
    /// `<purpose>:<subject>:<attempt>`
    pub(super) key: String,
    pub(super) purpose: &'static str,
    pub(super) subject: String,
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
        Self { key: format!("{purpose}:{subject}:{attempt}"), purpose, subject, request }
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
    let text = serde_json::to_string(&call.request).map_err(|_| BillingError::Incomplete("a request"))?;
    let (key, purpose, subject, hash) =
        (call.key.clone(), call.purpose, call.subject.clone(), call.request.hash());
    let stored = app
        .db
        .write(move |tx| {
            Box::pin(async move { store::open_call(tx, at, &key, purpose, &subject, (&text, &hash)).await })
        })
        .await?;
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

/// The row of a list that an earlier call with unknown outcome made.
///
/// # Errors
/// [`BillingError::LookingUp`] if there is none: whoever tries again has the next key.
pub(super) async fn look_for(
    app: &Services,
    call: &Call,
    list: &Prepared,
    ours: impl Fn(&&Value) -> bool,
) -> Result<Value, BillingError> {
    let list = app.stripe.get(app.entropy.as_ref(), list).await?;
    let rows = list.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if let Some(found) = rows.iter().find(ours) {
        return Ok(found.clone());
    }
    close(app, call, CallState::Replaced, None, None).await?;
    Err(BillingError::LookingUp)
}

/// Whether a call was written down before: it may have been carried out.
///
/// # Errors
/// Those of the query.
pub(super) async fn was_begun(app: &Services, call: &Call) -> Result<bool, BillingError> {
    let mut connection = app.db.read().await?;
    Ok(store::is_call(&mut connection, &call.key).await?)
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
