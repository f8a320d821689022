//! Giving the money back, all of it.

use ez_protocol::OrderId;
use serde_json::Value;
use sqlx::AnyConnection;

use super::{
    BillingError, RefundState, back,
    dunning::{self, Disputed},
    model::CallState,
    outbox::{self, Call},
    store,
    stripe::{self, CheckoutSession, FaultKind, InvoiceView, Metadata, SubscriptionView},
    subscription, sync, wallet,
};
use crate::{
    app::Services,
    db::DbError,
    fleet::{Severity, alarms},
    web,
};

/// Ends the order's subscription, then gives back what its purchase took. Safe to repeat; the same refund is never made
/// twice.
///
/// # Errors
/// [`BillingError::Unknown`] when no payment is known that could be given back; what Stripe said else.
pub async fn refund_full(app: &Services, order: OrderId) -> Result<RefundState, BillingError> {
    // The subscription first, so that no renewal follows the refund.
    subscription::cancel_now(app, order).await?;
    let at = app.clock.now();
    app.db.write(move |tx| Box::pin(async move { store::want_refund(tx, at, order).await })).await?;
    let known = {
        let mut connection = app.db.read().await?;
        store::refund(&mut connection, order).await?.ok_or(BillingError::Unknown("refund"))?
    };
    if known.state == RefundState::Succeeded && known.credit_minor.is_some() {
        return Ok(known.state);
    }
    // Nothing can be refunded while a bank has the payment; the news of its decision are in the copy.
    if known.state == RefundState::Wanted && bank_has(app, order).await? {
        return Ok(known.state);
    }
    let invoice = invoice_of(app, order).await?;
    if known.credit_minor.is_none() {
        // Before the money: nothing but a refund can follow any more, and credit does not fail later.
        let given = return_credit(app, "refund-credit", order, &order.to_string(), &invoice).await?;
        app.db
            .write(move |tx| Box::pin(async move { store::put_refund_credit(tx, at, order, given).await }))
            .await?;
    }
    match (known.state, &known.stripe_id) {
        // Somebody gave the money back in Stripe's dashboard before it was counted: only the credit was left to do.
        (RefundState::Succeeded, _) => return Ok(known.state),
        (RefundState::Pending, Some(made)) => return look_again(app, order, made).await,
        _ => {}
    }
    let Some(payment) = payment_of(app, &invoice).await? else {
        return nothing_to_give_back(app, order).await;
    };
    if bank_took(app, &invoice).await? {
        return given_by_bank(app, order, &invoice).await;
    }
    let metadata = Metadata::from([
        ("order_id".to_owned(), order.to_string()),
        ("install_id".to_owned(), app.keys.install().to_string()),
    ]);
    let request = stripe::create_refund(&payment.intent, metadata);
    let call = Call::new("refund", order, known.attempt, request);
    let read_at = app.clock.now();
    let answer = match send(app, &call, &payment, ("order_id", &order.to_string())).await {
        Ok(answer) => answer,
        Err(error) => {
            came_to_nothing(app, order, known.attempt, &call, &error).await?;
            if !error.is_disputed() {
                return Err(error);
            }
            back::disputes_of(app, &payment.intent).await?;
            return Ok(RefundState::Wanted);
        }
    };
    let id = answer.get("id").and_then(Value::as_str).map(str::to_owned);
    let state = back::take_refund(app, read_at, answer).await?.unwrap_or(RefundState::Pending);
    outbox::close(app, &call, CallState::Done, id, None).await?;
    Ok(state)
}

/// Whether a bank has a payment of an order and has not decided: until then nothing of it can be refunded.
///
/// # Errors
/// Those of the query.
pub async fn bank_decides(connection: &mut AnyConnection, order: OrderId) -> Result<bool, DbError> {
    dunning::store::bank_decides(connection, order).await
}

async fn bank_has(app: &Services, order: OrderId) -> Result<bool, BillingError> {
    let mut connection = app.db.read().await?;
    Ok(bank_decides(&mut connection, order).await?)
}

/// Whether the bank has taken the payment of an invoice back for good.
async fn bank_took(app: &Services, invoice: &InvoiceView) -> Result<bool, BillingError> {
    let mut connection = app.db.read().await?;
    let disputed = dunning::store::disputed_payment(&mut connection, &invoice.id).await?;
    Ok(matches!(disputed, Disputed::Lost(_)))
}

/// The bank has given the payment back to its customer: that is what a refund would have done.
async fn given_by_bank(
    app: &Services,
    order: OrderId,
    invoice: &InvoiceView,
) -> Result<RefundState, BillingError> {
    let (at, amount, currency) = (app.clock.now(), invoice.amount_paid, invoice.currency.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let none_of_ours = (None, amount, currency.as_deref());
                store::put_refund(tx, at, order, RefundState::Succeeded, none_of_ours).await
            })
        })
        .await?;
    Ok(RefundState::Succeeded)
}

/// Reads a refund that is on its way once more, whoever made it; gives how the order's stands then.
async fn look_again(app: &Services, order: OrderId, made: &str) -> Result<RefundState, BillingError> {
    back::refund(app, made).await?;
    let mut connection = app.db.read().await?;
    refund_state(&mut connection, order).await?.ok_or(BillingError::Unknown("refund"))
}

/// What a call that made no refund leaves: under its key Stripe repeats that answer for ever, so the next one has another.
async fn came_to_nothing(
    app: &Services,
    order: OrderId,
    attempt: i64,
    call: &Call,
    error: &BillingError,
) -> Result<(), BillingError> {
    let said_no = match error {
        // It may be asked for again once the bank has decided.
        BillingError::Stripe(fault) if fault.is_disputed() => false,
        BillingError::Stripe(fault) if fault.is_no() => true,
        BillingError::LookingUp => false,
        _ => return Ok(()),
    };
    let (at, key) = (app.clock.now(), call.key.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                if said_no {
                    return store::refuse_refund(tx, at, order, attempt).await;
                }
                store::next_refund_attempt(tx, at, order, attempt).await?;
                store::close_call(tx, at, &key, CallState::Replaced, None, None).await
            })
        })
        .await?;
    Ok(())
}

/// Puts back what an invoice took from its customer's balance (credit, or what was too small to be charged and is owed), once
/// for each subject; gives how much that was.
/// What Stripe does not take is a person's to give.
pub(super) async fn return_credit(
    app: &Services,
    purpose: &'static str,
    order: OrderId,
    subject: &str,
    invoice: &InvoiceView,
) -> Result<i64, BillingError> {
    let amount_minor = invoice.taken_from_balance();
    let Some(customer) = invoice.customer.as_deref().filter(|_| amount_minor > 0) else { return Ok(0) };
    let currency = invoice.currency.as_deref().unwrap_or_default();
    let reason = "Credit of a purchase that was given back";
    let mark = ("refund_credit", subject.to_owned());
    let credit = wallet::Credit { customer, amount_minor, currency, reason, mark };
    let fault = match wallet::give(app, purpose, &credit).await {
        Ok(()) => return Ok(amount_minor),
        Err(BillingError::Stripe(fault)) if fault.is_no() => fault,
        Err(other) => return Err(other),
    };
    let detail = format!(
        "Credit of {} that paid for order {order} could not be put back on its customer's balance ({fault}). The money goes back \
         all the same; give the rest in another way.",
        web::written_money(amount_minor, currency)
    );
    let (at, subject) = (app.clock.now(), subject.to_owned());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let severity = Severity::Critical;
                let (kind, subject, detail) = ("credit_not_returned", &subject, &detail);
                alarms::hold(tx, at, alarms::New { kind, subject, severity, node: None, detail }).await
            })
        })
        .await?;
    Ok(0)
}

/// No money was taken (a trial, a code that took all off, credit), so with the subscription it is over.
async fn nothing_to_give_back(app: &Services, order: OrderId) -> Result<RefundState, BillingError> {
    let at = app.clock.now();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let none = (None, Some(0), None);
                store::put_refund(tx, at, order, RefundState::Succeeded, none).await
            })
        })
        .await?;
    Ok(RefundState::Succeeded)
}

/// How the order's refund stands, if there is one.
///
/// # Errors
/// Those of the query.
pub async fn refund_state(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<RefundState>, DbError> {
    Ok(store::refund(connection, order).await?.map(|known| known.state))
}

/// What went back with an order's refund, in minor units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Returned {
    /// Money; nothing where that is not known.
    pub money_minor: Option<i64>,
    /// Credit that had paid.
    pub credit_minor: i64,
    /// The customer's bank has given the money back, and we have sent none.
    pub by_bank: bool,
}

/// How much went back with an order's refund.
///
/// # Errors
/// Those of the queries.
pub async fn returned(connection: &mut AnyConnection, order: OrderId) -> Result<Returned, DbError> {
    let Some(known) = store::refund(connection, order).await? else { return Ok(Returned::default()) };
    // What its invoice took is the whole; the order's refund may be only the last of several parts.
    let whole = store::paid_of_returned(connection, order).await?;
    Ok(Returned {
        money_minor: whole.or(known.amount_minor),
        credit_minor: known.credit_minor.unwrap_or(0),
        by_bank: known.is_by_bank(),
    })
}

/// What is said of a payment that Stripe has not seen.
const OUTSIDE: &str = "this was paid outside Stripe, which cannot give it back: pay it back the way it came";
/// And of one that is several.
const IN_PARTS: &str = "this was paid with several payments: give each of them back in Stripe's dashboard";

/// A payment that can go back.
pub(super) struct Payment {
    /// The payment intent.
    pub(super) intent: String,
    /// What its invoice took in money; minor units.
    pub(super) took_minor: Option<i64>,
}

/// The payment of an invoice that was paid; nothing where no money was taken (a trial, a code that took all off, credit).
pub(super) async fn payment_of(
    app: &Services,
    invoice: &InvoiceView,
) -> Result<Option<Payment>, BillingError> {
    let intent = match intent_of(app, &invoice.id).await {
        Err(BillingError::ByHand(_)) if invoice.amount_paid == Some(0) => return Ok(None),
        other => other?,
    };
    Ok(Some(Payment { intent, took_minor: invoice.amount_paid }))
}

/// The payment intent that paid all of an invoice.
///
/// # Errors
/// [`BillingError::ByHand`] where it was paid outside Stripe, or with more than one payment: what one of several took is not
/// the whole, and to give it back would look as if all were back.
pub(super) async fn intent_of(app: &Services, invoice: &str) -> Result<String, BillingError> {
    let payments = app.stripe.get(app.entropy.as_ref(), &stripe::list_payments_of(invoice)).await?;
    match stripe::paid_by(&payments).as_slice() {
        [Some(intent)] => Ok(intent.clone()),
        [] | [None] => Err(BillingError::ByHand(OUTSIDE)),
        _ => Err(BillingError::ByHand(IN_PARTS)),
    }
}

/// An invoice, if it was paid. A draft, an open or a void one took nothing, whatever sums stand on it: credit that it had used
/// Stripe gives back with its end.
pub(super) async fn paid_invoice(app: &Services, id: &str) -> Result<Option<InvoiceView>, BillingError> {
    let value = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_invoice(id)).await?;
    let invoice: InvoiceView = sync::view(&value)?;
    Ok(Some(invoice).filter(InvoiceView::is_paid))
}

/// The invoice that took what goes back: the purchase's own, or the newest where that took nothing (a trial, a code).
async fn invoice_of(app: &Services, order: OrderId) -> Result<InvoiceView, BillingError> {
    let bought = match purchase_invoice(app, order).await? {
        Some(id) => paid_invoice(app, &id).await?,
        None => None,
    };
    let bought = match bought {
        Some(invoice) if invoice.took_something() => return Ok(invoice),
        other => other,
    };
    let newest = paid_invoice(app, &latest_invoice(app, order).await?).await?;
    let renewed = newest.as_ref().is_some_and(InvoiceView::took_something);
    let taken = if renewed || bought.is_none() { newest } else { bought };
    taken.ok_or(BillingError::Unknown("payment"))
}

/// The invoice that was paid on the order's page, as that page says.
async fn purchase_invoice(app: &Services, order: OrderId) -> Result<Option<String>, BillingError> {
    let mut connection = app.db.read().await?;
    let page = store::checkout(&mut connection, order).await?.and_then(|known| known.session_id);
    let Some(page) = page else { return Ok(None) };
    let copy = store::object(&mut connection, &page).await?;
    let read = copy.and_then(|json| serde_json::from_str::<CheckoutSession>(&json).ok());
    Ok(read.and_then(|page| page.invoice))
}

/// The newest invoice of the order's subscription.
async fn latest_invoice(app: &Services, order: OrderId) -> Result<String, BillingError> {
    let known = {
        let mut connection = app.db.read().await?;
        store::subscription_of(&mut connection, order).await?.ok_or(BillingError::Unknown("subscription"))?
    };
    if let Some(invoice) = known.latest_invoice {
        return Ok(invoice);
    }
    let value =
        app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_subscription(&known.stripe_id)).await?;
    let read: SubscriptionView = sync::view(&value)?;
    read.latest_invoice.ok_or(BillingError::Unknown("invoice"))
}

/// Sends a refund of all of a payment, or finds the one that was made. `mark` is the word of its metadata that says what it
/// is for.
///
/// # Errors
/// [`BillingError::LookingUp`] when it was looked for and is not there: the caller goes on to the next attempt.
pub(super) async fn send(
    app: &Services,
    call: &Call,
    payment: &Payment,
    mark: (&str, &str),
) -> Result<Value, BillingError> {
    match outbox::send(app, call).await {
        Err(BillingError::LookingUp) => look_up(app, payment, mark).await?.ok_or(BillingError::LookingUp),
        Err(BillingError::Stripe(fault)) if fault.kind == FaultKind::Refused => {
            look_up(app, payment, mark).await?.ok_or(BillingError::Stripe(fault))
        }
        other => other,
    }
}

/// Finds the refund that an earlier call with unknown outcome has made: it bears our mark. Where people have given all of the
/// payment back in Stripe's dashboard, theirs counts as ours; a part of it is no refund of the whole.
async fn look_up(
    app: &Services,
    payment: &Payment,
    mark: (&str, &str),
) -> Result<Option<Value>, BillingError> {
    let list = app.stripe.get(app.entropy.as_ref(), &stripe::list_refunds_of(&payment.intent)).await?;
    let rows = list.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let stands = |row: &&Value| !matches!(row["status"].as_str(), Some("failed" | "canceled"));
    let made: Vec<&Value> = rows.iter().filter(stands).collect();
    if let Some(ours) = made.iter().find(|row| row["metadata"][mark.0] == mark.1) {
        return Ok(Some((*ours).clone()));
    }
    // All is back once the last of them is.
    let Some(last) = made.iter().find(|row| row["status"] != "succeeded").or(made.first()) else {
        return Ok(None);
    };
    let returned: i64 = made.iter().filter_map(|row| row["amount"].as_i64()).sum();
    if payment.took_minor.is_none_or(|took| returned < took) {
        return Ok(None);
    }
    let mut adopted = (*last).clone();
    adopted["metadata"][mark.0] = Value::String(mark.1.to_owned());
    Ok(Some(adopted))
}
