//! Customers and their cards, as far as pages and mails show them; and credit, which is a customer's.

use serde_json::Value;

use super::{
    BillingError,
    model::{CallState, EventState},
    outbox::{self, Call},
    store,
    stripe::{self, CustomerView, FaultKind, Metadata, PaymentMethodView},
    sync::view,
};
use crate::{
    app::Services,
    fleet::{Severity, alarms},
};

/// Makes sure that a payment method is in the copy; one that is there is not read again.
pub(super) async fn know(app: &Services, id: &str) -> Result<(), BillingError> {
    let known = {
        let mut connection = app.db.read().await?;
        store::object(&mut connection, id).await?.is_some()
    };
    if known {
        return Ok(());
    }
    match payment_method(app, id).await {
        Err(BillingError::Stripe(fault)) if fault.kind == FaultKind::NotFound => Ok(()),
        other => other,
    }
}

/// Reads a payment method.
pub(super) async fn payment_method(app: &Services, id: &str) -> Result<(), BillingError> {
    let read_at = app.clock.now();
    let value = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_payment_method(id)).await?;
    let method: PaymentMethodView = view(&value)?;
    let now = app.clock.now();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                if store::put_object(tx, &method.id, "payment_method", read_at, &value.to_string()).await? {
                    store::put_card(tx, now, &method).await?;
                }
                store::finish_events(tx, &method.id, read_at, now, EventState::Done).await
            })
        })
        .await?;
    Ok(())
}

/// Whether a customer was deleted at Stripe. It is read again, and one of ours is taken over.
pub(super) async fn is_deleted(app: &Services, id: &str) -> Result<bool, BillingError> {
    match customer(app, id).await {
        Err(BillingError::Stripe(fault)) if fault.kind == FaultKind::NotFound => return Ok(false),
        other => other?,
    }
    let mut connection = app.db.read().await?;
    let copy = store::object(&mut connection, id).await?;
    let read = copy.and_then(|json| serde_json::from_str::<CustomerView>(&json).ok());
    Ok(read.is_some_and(|customer| customer.deleted))
}

/// Reads a customer. Its deletion cancels its subscriptions at Stripe, which is told about each of them; a person
/// hears of it.
pub(super) async fn customer(app: &Services, id: &str) -> Result<(), BillingError> {
    let read_at = app.clock.now();
    let value = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_customer(id)).await?;
    let customer: CustomerView = view(&value)?;
    if let Some(method) = customer.payment_method() {
        know(app, method).await?;
    }
    let now = app.clock.now();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                if store::put_object(tx, &customer.id, "customer", read_at, &value.to_string()).await? {
                    let ours = store::change_customer(tx, &customer).await?;
                    if ours && customer.deleted {
                        let detail = "A customer was deleted in Stripe's dashboard; that cancels what they pay for. Their \
                                      servers run to the end of what is paid, they are told so, and then they end.";
                        let alarm = alarms::New {
                            kind: "customer_deleted",
                            subject: &customer.id,
                            severity: Severity::Warning,
                            node: None,
                            detail,
                        };
                        alarms::hold(tx, now, alarm).await?;
                    }
                }
                store::finish_events(tx, &customer.id, read_at, now, EventState::Done).await
            })
        })
        .await?;
    Ok(())
}

/// Credit to be put on a customer's balance.
pub(super) struct Credit<'a> {
    /// Whose.
    pub(super) customer: &'a str,
    /// Minor units.
    pub(super) amount_minor: i64,
    /// Lower-case ISO code.
    pub(super) currency: &'a str,
    /// What stands beside it at Stripe.
    pub(super) reason: &'a str,
    /// The word of its metadata that says what it is for, and what it says: one of a kind.
    pub(super) mark: (&'static str, String),
}

/// Gives credit, once for each purpose and mark.
pub(super) async fn give(
    app: &Services,
    purpose: &'static str,
    credit: &Credit<'_>,
) -> Result<(), BillingError> {
    let (word, mark) = (credit.mark.0, credit.mark.1.as_str());
    let metadata = Metadata::from([(word.to_owned(), mark.to_owned())]);
    let request = stripe::create_credit(
        credit.customer,
        credit.amount_minor,
        credit.currency,
        credit.reason,
        &metadata,
    );
    let call = Call::next(app, purpose, mark, request).await?;
    let marked = |one: &&Value| one["metadata"][word] == mark;
    let answer = outbox::make(app, &call, &stripe::list_credits(credit.customer), marked).await?;
    let id = answer.get("id").and_then(Value::as_str).ok_or(BillingError::Incomplete("id"))?.to_owned();
    let (at, kept) = (app.clock.now(), id.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                store::put_object(tx, &kept, "customer_balance_transaction", at, &answer.to_string()).await
            })
        })
        .await?;
    outbox::close(app, &call, CallState::Done, Some(id), None).await?;
    customer(app, credit.customer).await
}
