//! One Stripe customer per account, and another one when it was deleted there.

use ez_protocol::AccountId;
use serde_json::Value;

use super::{
    BillingError,
    model::CallState,
    outbox::{self, Call},
    store,
    stripe::{self, Metadata},
};
use crate::app::Services;

/// The account's customer at Stripe, made at the first purchase.
pub(super) async fn ensure(app: &Services, account: AccountId, email: &str) -> Result<String, BillingError> {
    let deleted = {
        let mut connection = app.db.read().await?;
        if let Some(known) = store::customer(&mut connection, account).await? {
            return Ok(known);
        }
        store::deleted_customer(&mut connection, account).await?
    };
    let metadata = Metadata::from([
        ("account_id".to_owned(), account.to_string()),
        ("install_id".to_owned(), app.keys.install().to_string()),
    ]);
    let request = stripe::create_customer(email, metadata);
    let call = match deleted {
        // A key of its own: under the first one Stripe repeats the answer about the one that is gone.
        Some(deleted) => Call::next(app, "customer-after", deleted, request).await?,
        None => Call::next(app, "customer", account, request).await?,
    };
    let (mine, install) = (account.to_string(), app.keys.install().to_string());
    let ours = |one: &&Value| {
        one["metadata"]["account_id"] == mine.as_str() && one["metadata"]["install_id"] == install.as_str()
    };
    let found = outbox::make(app, &call, &stripe::list_customers(email), ours).await?;
    let id = found.get("id").and_then(Value::as_str).ok_or(BillingError::Incomplete("id"))?.to_owned();
    let (at, key, json, stripe_id) = (app.clock.now(), call.key, found.to_string(), id.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                store::put_object(tx, &stripe_id, "customer", at, &json).await?;
                store::put_customer(tx, at, account, &stripe_id).await?;
                store::close_call(tx, at, &key, CallState::Done, Some(&stripe_id), None).await
            })
        })
        .await?;
    let mut connection = app.db.read().await?;
    Ok(store::customer(&mut connection, account).await?.unwrap_or(id))
}
