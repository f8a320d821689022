//! What a person gives: a part of a payment back, or credit for the next invoices.
//!
//! Both carry a reference that the person names. The same reference again is the same gift, whatever happened to the
//! first attempt: it is never given twice.

use ez_protocol::{InstanceId, OrderId};
use serde_json::{Value, json};

use super::{
    BillingError, back, dunning,
    model::CallState,
    outbox::{self, Call},
    refund, store,
    stripe::{self, Metadata},
    wallet,
};
use crate::{app::Services, audit};

/// The longest reference, in characters.
const LONGEST: usize = 60;

/// What is given for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gift {
    /// The server.
    pub instance: InstanceId,
    /// Minor units, more than 0.
    pub amount_minor: i64,
    /// Letters, digits, `-` and `_`, at most 60: a ticket's number, for example.
    pub reference: String,
}

fn check(gift: &Gift) -> Result<(), BillingError> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let fits = (1..=LONGEST).contains(&gift.reference.len()) && gift.reference.chars().all(word);
    if !fits {
        return Err(BillingError::Unfit("the reference: 1 to 60 letters, digits, - and _"));
    }
    if gift.amount_minor < 1 {
        return Err(BillingError::Unfit("the amount: more than 0, in minor units"));
    }
    Ok(())
}

async fn order_of(app: &Services, instance: InstanceId) -> Result<OrderId, BillingError> {
    let mut connection = app.db.read().await?;
    let order = dunning::store::order_of(&mut connection, instance).await?;
    order.ok_or(BillingError::Unknown("subscription"))
}

async fn note(
    app: &Services,
    order: OrderId,
    action: &str,
    gift: &Gift,
    actor: &str,
) -> Result<(), BillingError> {
    let at = app.clock.now();
    let entry = audit::Entry {
        actor: actor.to_owned(),
        action: action.to_owned(),
        subject_kind: "order".to_owned(),
        subject_id: order.to_string(),
        detail: json!({ "amount_minor": gift.amount_minor, "reference": gift.reference }),
    };
    app.db.write(move |tx| Box::pin(async move { audit::record(tx, at, entry).await })).await?;
    Ok(())
}

/// Gives a part of the latest payment for a server back to the card. Once for each reference.
///
/// # Errors
/// [`BillingError::Unfit`] for an amount or reference that cannot be, [`BillingError::Unknown`] when nothing was paid;
/// what Stripe said else, for example that the amount is more than what is left of the payment.
pub async fn refund_part(app: &Services, gift: &Gift, actor: &str) -> Result<(), BillingError> {
    check(gift)?;
    let order = order_of(app, gift.instance).await?;
    note(app, order, "payment.part_refunded", gift, actor).await?;
    let intent = refund::paying_intent(app, order).await?;
    // No `order_id`: that is the word of the refund of a whole order.
    let metadata = Metadata::from([
        ("goodwill".to_owned(), gift.reference.clone()),
        ("install_id".to_owned(), app.keys.install().to_string()),
    ]);
    let request = stripe::create_partial_refund(&intent, gift.amount_minor, metadata);
    let call = Call::new("goodwill", format!("{order}:{}", gift.reference), 1, request);
    let read_at = app.clock.now();
    let answer = match outbox::send(app, &call).await {
        Err(BillingError::LookingUp) => {
            let marked = |row: &&Value| row["metadata"]["goodwill"] == gift.reference.as_str();
            find(app, &stripe::list_refunds_of(&intent), marked).await?
        }
        other => other?,
    };
    let id = answer.get("id").and_then(Value::as_str).map(str::to_owned);
    back::take_refund(app, read_at, answer).await?;
    outbox::close(app, &call, CallState::Done, id, None).await
}

/// Gives the owner of a server credit, which the next invoices use up. Once for each reference.
///
/// # Errors
/// As [`refund_part`].
pub async fn credit(app: &Services, gift: &Gift, actor: &str) -> Result<(), BillingError> {
    check(gift)?;
    let order = order_of(app, gift.instance).await?;
    let (customer, currency) = {
        let mut connection = app.db.read().await?;
        let known =
            store::checkout(&mut connection, order).await?.ok_or(BillingError::Unknown("checkout"))?;
        let customer = store::customer(&mut connection, known.expected.account).await?;
        (customer.ok_or(BillingError::Unknown("customer"))?, known.expected.currency)
    };
    note(app, order, "account.credited", gift, actor).await?;
    let request = stripe::create_credit(&customer, gift.amount_minor, &currency, &gift.reference);
    let call = Call::new("credit", format!("{customer}:{}", gift.reference), 1, request);
    let answer = match outbox::send(app, &call).await {
        Err(BillingError::LookingUp) => {
            let marked = |row: &&Value| row["description"] == gift.reference.as_str();
            find(app, &stripe::list_credits(&customer), marked).await?
        }
        other => other?,
    };
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
    wallet::customer(app, &customer).await
}

/// The row of a list that an earlier call with unknown outcome made.
async fn find(
    app: &Services,
    list: &stripe::Prepared,
    ours: impl Fn(&&Value) -> bool,
) -> Result<Value, BillingError> {
    let list = app.stripe.get(app.entropy.as_ref(), list).await?;
    let rows = list.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    rows.iter().find(ours).cloned().ok_or(BillingError::LookingUp)
}
