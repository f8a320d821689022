//! Money that buys nothing: it came on a second page of an order that is paid already, or for a service that had ended
//! for good. Found, told, given back.
//!
//! It is never kept silently (I6). Finding it writes a row, an audit row, an alarm and the job that ends the
//! second subscription and gives the money back; each is done once however often the payment is announced. The
//! order's own payment, subscription and refund are not touched.

mod store;

use std::time::Duration;

use ez_protocol::{OrderId, UnixMillis};
use serde_json::{Value, json};
use sqlx::AnyConnection;

use super::{
    BillingError, RefundState, back, dunning,
    model::CallState,
    outbox::{self, Call},
    refund,
    stripe::{
        self, CheckoutSession, FaultKind, InvoiceView, Metadata, RefundView, StripeFault, SubscriptionView,
    },
    sync,
};
use crate::{
    app::{App, Services},
    audit,
    db::DbError,
    fleet::{Severity, alarms},
    jobs::{self, JobError, JobRun},
};

/// Gives one back; the key is the page's id.
pub(super) const GIVE_BACK: &str = "billing.give_back";
/// The alarm about one that is not given back yet.
const ALARM: &str = "paid_twice";
/// The word of a refund's metadata that names the page.
const SESSION: &str = "surplus_session";
/// A refund that is on its way is looked at again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(5 * 60);
/// One that Stripe could not make is tried again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// The alarm about one for a service that was over.
const ALARM_LATE: &str = "paid_after_end";

/// A payment that is not owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Surplus {
    /// The page it was paid on; or the invoice, where that was of a service that was over.
    pub(super) session: String,
    pub(super) order: OrderId,
    pub(super) subscription: Option<String>,
    pub(super) invoice: Option<String>,
    pub(super) state: RefundState,
    pub(super) attempt: i64,
    pub(super) refund: Option<String>,
}

/// Whether a subscription began with a second payment.
pub(super) async fn began(connection: &mut AnyConnection, subscription: &str) -> Result<bool, DbError> {
    store::is_surplus(connection, subscription).await
}

/// Writes a second payment down and has it given back; nothing happens when it is known.
pub(super) async fn found(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    session: &CheckoutSession,
    subscription: Option<&SubscriptionView>,
) -> Result<(), DbError> {
    let invoice = session.invoice.clone().or_else(|| subscription.and_then(|s| s.latest_invoice.clone()));
    let surplus = Surplus {
        session: session.id.clone(),
        order,
        subscription: session.subscription.clone(),
        invoice,
        state: RefundState::Wanted,
        attempt: 1,
        refund: None,
    };
    if !store::insert(tx, at, &surplus, session.amount_total, session.currency.as_deref()).await? {
        return Ok(());
    }
    tracing::error!(order.id = %order, stripe.session = %session.id, "an order was paid twice; the second payment goes back");
    let detail = format!(
        "Order {order} was paid on a second page as well ({}). That payment is being given back.",
        session.id
    );
    raise(tx, at, ALARM, &session.id, &detail).await?;
    // A dispute or a warning that was told before has switched the server off, and has nothing to do with it.
    if surplus.invoice.is_some() {
        jobs::enqueue(tx, dunning::STAND, &order.to_string(), &json!({}), at).await?;
    }
    note(
        tx,
        at,
        order,
        "payment.surplus_found",
        json!({"session": session.id, "amount_minor": session.amount_total}),
    )
    .await?;
    jobs::enqueue(tx, GIVE_BACK, &session.id, &Value::Null, at).await
}

/// Looks whether an invoice was paid when its service had ended for good, for time after that end; if so, that is written down
/// once and goes back.
///
/// What was used before the end is owed whatever came after: what had waited for an invoice (traffic, an item made by hand, the
/// rest of a plan change) comes with the end of the period on a last one, which Stripe charges an hour later. So its lines
/// decide. Two kinds of invoices they say nothing about: what a purchase began with is owed, and the order's own; what a change
/// of plan was to cost at once buys nothing once the service is over, since an unpaid change is not carried out.
pub(super) async fn late(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    invoice: &InvoiceView,
) -> Result<bool, DbError> {
    let paid = invoice.amount_paid.filter(|paid| *paid > 0 && invoice.is_paid());
    let reason = invoice.billing_reason.as_deref();
    let owed = matches!(reason, None | Some("subscription_create" | "manual"));
    let (Some(paid), Some(paid_at), Some(subscription), false) =
        (paid, invoice.paid_at(), invoice.subscription_id(), owed)
    else {
        return Ok(false);
    };
    let Some(ended) = ended_at(tx, subscription).await? else { return Ok(false) };
    // Stripe counts whole seconds: within the same one, what was paid counts as paid before.
    let ended = ended.as_secs();
    let was_used = reason != Some("subscription_update") && !invoice.buys_time_after(ended);
    if paid_at <= ended || was_used {
        return Ok(false);
    }
    let surplus = Surplus {
        session: invoice.id.clone(),
        order,
        // The order's own: it has ended, and its books stay.
        subscription: None,
        invoice: Some(invoice.id.clone()),
        state: RefundState::Wanted,
        attempt: 1,
        refund: None,
    };
    if store::insert(tx, at, &surplus, Some(paid), invoice.currency.as_deref()).await? {
        tracing::warn!(order.id = %order, stripe.invoice = %invoice.id, "an invoice was paid after its service had ended; it goes back");
        let detail = format!(
            "Invoice {} of order {order} was paid after the service had ended. That payment is being given back.",
            invoice.id
        );
        raise(tx, at, ALARM_LATE, &invoice.id, &detail).await?;
        let detail = json!({"invoice": invoice.id, "amount_minor": paid});
        note(tx, at, order, "payment.surplus_found", detail).await?;
        jobs::enqueue(tx, GIVE_BACK, &invoice.id, &Value::Null, at).await?;
    }
    Ok(true)
}

/// When the service of a subscription ended for good: by us, or at Stripe otherwise than by Stripe giving up on a charge
/// that failed or is disputed, which a payment or the bank still mends.
async fn ended_at(connection: &mut AnyConnection, subscription: &str) -> Result<Option<UnixMillis>, DbError> {
    if let Some(closed) = dunning::store::closed_at(connection, subscription).await? {
        return Ok(Some(closed));
    }
    // Nobody wished its end: what is owed for it is asked for, and a payment keeps its server.
    if dunning::store::is_done(connection, &dunning::store::orphan_key(subscription)).await? {
        return Ok(None);
    }
    let Some(copy) = super::store::object(connection, subscription).await? else { return Ok(None) };
    let copy: Value = serde_json::from_str(&copy).unwrap_or_default();
    let reason = copy["cancellation_details"]["reason"].as_str();
    let gave_up = matches!(reason, Some("payment_failed" | "payment_disputed"));
    let over = copy["status"] == "canceled" && !gave_up;
    Ok(copy["ended_at"].as_i64().filter(|_| over).map(UnixMillis::from_secs))
}

async fn raise(
    tx: &mut AnyConnection,
    at: UnixMillis,
    kind: &str,
    session: &str,
    detail: &str,
) -> Result<(), DbError> {
    let alarm = alarms::New { kind, subject: session, severity: Severity::Critical, node: None, detail };
    alarms::raise(tx, at, alarm).await
}

async fn note(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    action: &str,
    detail: Value,
) -> Result<(), DbError> {
    let entry = audit::Entry {
        actor: "stripe".to_owned(),
        action: action.to_owned(),
        subject_kind: "order".to_owned(),
        subject_id: order.to_string(),
        detail,
    };
    audit::record(tx, at, entry).await
}

/// The job: whatever is left to do about one.
pub(super) async fn run_give_back(app: App, run: JobRun) -> Result<(), JobError> {
    let again = match give_back(&app, &run.key).await {
        Ok(Outcome::Refund(RefundState::Succeeded)) => return Ok(()),
        Ok(Outcome::Refund(RefundState::Wanted | RefundState::Pending)) => LOOK_AGAIN,
        Ok(Outcome::Refund(RefundState::Failed)) => TRY_AGAIN,
        // The news of its decision come sooner.
        Ok(Outcome::BankDecides) => TRY_AGAIN,
        // A person's to give back; the alarm says so until they have closed it.
        Err(BillingError::ByHand(why)) => {
            let words =
                format!("A payment that is not owed ({}) cannot be given back from here: {why}.", run.key);
            return Ok(ring(&app, &run.key, words).await?);
        }
        // A key that is wrong for a minute ends nothing: the money is still to go back.
        Err(BillingError::Stripe(fault)) if fault.is_locked_out() => {
            locked_out(&app, &run.key, &fault).await?;
            LOOK_AGAIN
        }
        Err(error) => return Err(error.into()),
    };
    let (session, at) = (run.key, app.clock.now().plus(again));
    app.db
        .write(move |tx| {
            Box::pin(async move { jobs::enqueue(tx, GIVE_BACK, &session, &Value::Null, at).await })
        })
        .await?;
    Ok(())
}

/// Our key does not open Stripe: the alarm says so until the money is back.
async fn locked_out(app: &Services, session: &str, fault: &StripeFault) -> Result<(), DbError> {
    tracing::error!(stripe.session = session, stripe.fault = %fault, "a payment cannot be given back with our key");
    let words = format!(
        "A payment that is not owed ({session}) is not given back yet: Stripe does not take our key ({fault}). It is tried again \
         every five minutes; see to STRIPE_SECRET_KEY."
    );
    ring(app, session, words).await
}

/// The alarm about one says something else from now on.
async fn ring(app: &Services, session: &str, words: String) -> Result<(), DbError> {
    let (at, session) = (app.clock.now(), session.to_owned());
    let alarm = if is_late(&session) { ALARM_LATE } else { ALARM };
    app.db.write(move |tx| Box::pin(async move { raise(tx, at, alarm, &session, &words).await })).await
}

/// How one stands after a look.
enum Outcome {
    /// By its refund.
    Refund(RefundState),
    /// A bank has the payment and has not decided: nothing can be refunded, and it may go back without us.
    BankDecides,
}

/// Ends the second subscription and gives its payment back. Safe to repeat.
async fn give_back(app: &Services, session: &str) -> Result<Outcome, BillingError> {
    let known = load(app, session).await?;
    match (known.state, &known.refund) {
        (RefundState::Succeeded, _) => return Ok(Outcome::Refund(known.state)),
        (RefundState::Pending, Some(refund)) => {
            back::refund(app, refund).await?;
            return Ok(Outcome::Refund(load(app, session).await?.state));
        }
        (RefundState::Failed, _) => next_attempt(app, &known).await?,
        (RefundState::Wanted | RefundState::Pending, _) => {}
    }
    let known = load(app, session).await?;
    end_subscription(app, &known).await?;
    let invoice = known.invoice.as_deref().ok_or(BillingError::Unknown("invoice"))?;
    let invoice = refund::paid_invoice(app, invoice).await?.ok_or(BillingError::Unknown("payment"))?;
    refund::return_credit(app, "surplus-credit", known.order, session, &invoice).await?;
    let Some(payment) = refund::payment_of(app, &invoice).await? else {
        return is_over(app, &known).await;
    };
    match disputed_payment(app, &invoice.id).await? {
        dunning::Disputed::Lost(_) => return is_over(app, &known).await,
        dunning::Disputed::Open(_) => return Ok(Outcome::BankDecides),
        dunning::Disputed::No => {}
    }
    // No `order_id`: that is the word of the order's own refund.
    let metadata = Metadata::from([
        (SESSION.to_owned(), known.session.clone()),
        ("surplus_of".to_owned(), known.order.to_string()),
        ("install_id".to_owned(), app.keys.install().to_string()),
    ]);
    let request = stripe::create_refund(&payment.intent, metadata);
    let call = Call::new("surplus", &known.session, known.attempt, request);
    let mark = (SESSION, known.session.as_str());
    let read_at = app.clock.now();
    let answer = match refund::send(app, &call, &payment, mark).await {
        // Told by the refusal before any news of it came.
        Err(error) if error.is_disputed() => {
            next_attempt(app, &known).await?;
            back::disputes_of(app, &payment.intent).await?;
            return match disputed_payment(app, &invoice.id).await? {
                dunning::Disputed::Lost(_) => is_over(app, &known).await,
                dunning::Disputed::Open(_) | dunning::Disputed::No => Ok(Outcome::BankDecides),
            };
        }
        Err(BillingError::Stripe(fault)) if fault.is_no() => {
            return refused(app, session).await.map(Outcome::Refund);
        }
        Err(BillingError::LookingUp) => {
            outbox::close(app, &call, CallState::Replaced, None, None).await?;
            next_attempt(app, &known).await?;
            return Err(BillingError::LookingUp);
        }
        other => other?,
    };
    let id = answer.get("id").and_then(Value::as_str).map(str::to_owned);
    let view: RefundView = sync::view(&answer)?;
    if is_late(session) {
        back::take_refund(app, read_at, answer).await?;
    } else {
        take(app, read_at, session, &view, &answer).await?;
    }
    outbox::close(app, &call, CallState::Done, id, None).await?;
    Ok(Outcome::Refund(load(app, session).await?.state))
}

async fn disputed_payment(app: &Services, invoice: &str) -> Result<dunning::Disputed, BillingError> {
    let mut connection = app.db.read().await?;
    Ok(dunning::store::disputed_payment(&mut connection, invoice).await?)
}

/// A bank says how it stands with the payment of an invoice: whether that is one which is not owed. What waits for the bank is
/// looked at again.
pub(super) async fn disputed(
    tx: &mut AnyConnection,
    at: UnixMillis,
    invoice: &str,
    wakes: bool,
) -> Result<bool, DbError> {
    let sessions = store::of_invoice(tx, invoice).await?;
    for session in sessions.iter().filter(|_| wakes) {
        jobs::enqueue(tx, GIVE_BACK, session, &Value::Null, at).await?;
    }
    Ok(!sessions.is_empty())
}

/// What was tried made no refund, and never will under its key.
async fn next_attempt(app: &Services, known: &Surplus) -> Result<(), BillingError> {
    let (at, id, attempt) = (app.clock.now(), known.session.clone(), known.attempt);
    app.db.write(move |tx| Box::pin(async move { store::next_attempt(tx, at, &id, attempt).await })).await?;
    Ok(())
}

/// Stripe said no: it rings, and is tried again as one that failed.
async fn refused(app: &Services, session: &str) -> Result<RefundState, BillingError> {
    let (now, session) = (app.clock.now(), session.to_owned());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                match store::set_state(tx, now, &session, RefundState::Failed, None).await? {
                    Some(known) => told(tx, now, &known, RefundState::Failed).await,
                    None => Ok(()),
                }
            })
        })
        .await?;
    Ok(RefundState::Failed)
}

/// Nothing is left to give back: the page took no money (a trial, a code that took all off, credit), or the bank has taken it.
async fn is_over(app: &Services, known: &Surplus) -> Result<Outcome, BillingError> {
    let (now, session) = (app.clock.now(), known.session.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                match store::set_state(tx, now, &session, RefundState::Succeeded, None).await? {
                    Some(known) => told(tx, now, &known, RefundState::Succeeded).await,
                    None => Ok(()),
                }
            })
        })
        .await?;
    Ok(Outcome::Refund(RefundState::Succeeded))
}

async fn load(app: &Services, session: &str) -> Result<Surplus, BillingError> {
    let mut connection = app.db.read().await?;
    store::get(&mut connection, session).await?.ok_or(BillingError::Unknown("surplus payment"))
}

async fn end_subscription(app: &Services, known: &Surplus) -> Result<(), BillingError> {
    let Some(subscription) = &known.subscription else { return Ok(()) };
    match app.stripe.get(app.entropy.as_ref(), &stripe::cancel_subscription(subscription)).await {
        Ok(_) => Ok(()),
        // It has ended already.
        Err(fault) if matches!(fault.kind, FaultKind::NotFound | FaultKind::Refused) => Ok(()),
        Err(fault) => Err(fault.into()),
    }
}

/// The page or invoice a refund belongs to, if it gives a surplus payment back.
pub(super) fn session_of(refund: &RefundView) -> Option<&str> {
    refund.metadata.get(SESSION).map(String::as_str)
}

/// Takes over a refund that was read at `read_at`.
pub(super) async fn take(
    app: &Services,
    read_at: UnixMillis,
    session: &str,
    refund: &RefundView,
    value: &Value,
) -> Result<(), BillingError> {
    let state = RefundState::of(refund);
    let (now, session, json, refund) =
        (app.clock.now(), session.to_owned(), value.to_string(), refund.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                if super::store::put_object(tx, &refund.id, "refund", read_at, &json).await?
                    && let Some(known) = store::set_state(tx, now, &session, state, Some(&refund.id)).await?
                {
                    told(tx, now, &known, state).await?;
                }
                super::store::finish_events(tx, &refund.id, read_at, now, super::model::EventState::Done)
                    .await
            })
        })
        .await?;
    Ok(())
}

/// Whether that is an invoice of the order's own subscription: its refund stands in the order's books as any other.
pub(super) fn is_late(session: &str) -> bool {
    session.starts_with("in_")
}

/// Takes over how the refund of such an invoice stands; the caller has written the copy.
pub(super) async fn late_refund_read(
    tx: &mut AnyConnection,
    at: UnixMillis,
    invoice: &str,
    state: RefundState,
    refund: &str,
) -> Result<(), DbError> {
    match store::set_state(tx, at, invoice, state, Some(refund)).await? {
        Some(known) => told(tx, at, &known, state).await,
        None => Ok(()),
    }
}

/// What a change of a refund means for people.
async fn told(
    tx: &mut AnyConnection,
    at: UnixMillis,
    known: &Surplus,
    state: RefundState,
) -> Result<(), DbError> {
    let detail = json!({"session": known.session});
    let (alarm, what) = if is_late(&known.session) { (ALARM_LATE, "late") } else { (ALARM, "second") };
    match state {
        RefundState::Succeeded => {
            alarms::clear(tx, at, alarm, &known.session).await?;
            note(tx, at, known.order, "payment.surplus_returned", detail).await
        }
        RefundState::Failed => {
            let words = format!(
                "The {what} payment of order {} ({}) could not be given back; it is tried again every day.",
                known.order, known.session
            );
            raise(tx, at, alarm, &known.session, &words).await?;
            note(tx, at, known.order, "payment.surplus_not_returned", detail).await?;
            jobs::enqueue(tx, GIVE_BACK, &known.session, &Value::Null, at.plus(TRY_AGAIN)).await
        }
        RefundState::Wanted | RefundState::Pending => Ok(()),
    }
}
