//! Money that goes back: refunds, whoever made them, and payments that a bank takes back.
//!
//! Neither names the subscription it is about. The way there: payment intent, the invoice it paid, the
//! subscription of that invoice.

use ez_protocol::{OrderId, UnixMillis};
use serde_json::{Value, json};
use sqlx::AnyConnection;

use super::{
    BillingError, announce, dunning, goodwill, inbox,
    model::{EventState, RefundState},
    store,
    stripe::{self, DisputeView, RefundView, SubscriptionView, page_of},
    subscription, surplus,
    sync::{self, ignore, is_foreign, view},
};
use crate::{
    app::Services,
    audit,
    db::{self, DbError},
    fleet::{Severity, alarms},
    web,
};

/// The alarm about a dispute that somebody has to answer.
const DISPUTED: &str = "payment_disputed";

/// The alarm about money that did not arrive.
const REFUND_FAILED: &str = "refund_failed";

/// What a payment paid for.
struct Paid {
    order: OrderId,
    invoice: String,
}

/// The order and the invoice that an intent paid, if they are ours.
async fn paid_by(app: &Services, intent: &str) -> Result<Option<Paid>, BillingError> {
    let payments = app.stripe.get(app.entropy.as_ref(), &stripe::list_payments_by(intent)).await?;
    let Some(invoice) = stripe::invoice_of(&payments) else { return Ok(None) };
    let (order, unread) = sync::take_invoice(app, &invoice).await?;
    if let Some(order) = order {
        if let Some(error) = unread {
            // Whose it is is known; another invoice of its subscription holds up neither a refund nor a dispute.
            tracing::warn!(order.id = %order, error = %inbox::chain(&error), "not all of its subscription can be read");
        }
        return Ok(Some(Paid { order, invoice }));
    }
    // Before its page was read, only the subscription itself says whose it is.
    let value = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_invoice(&invoice)).await?;
    let read: stripe::InvoiceView = view(&value)?;
    let Some(subscription) = read.subscription_id() else { return Ok(None) };
    let value = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_subscription(subscription)).await?;
    let subscription: SubscriptionView = view(&value)?;
    let order = subscription.metadata.get("order_id").and_then(|id| id.parse().ok());
    Ok(order.filter(|_| !is_foreign(app, &subscription.metadata)).map(|order| Paid { order, invoice }))
}

/// Something was refunded of a charge: reads its refunds.
pub(super) async fn charge(app: &Services, id: &str) -> Result<(), BillingError> {
    let read_at = app.clock.now();
    let value = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_charge(id)).await?;
    if let Some(intent) = value.get("payment_intent").and_then(Value::as_str) {
        let list = app.stripe.get(app.entropy.as_ref(), &stripe::list_refunds_of(intent)).await?;
        for made in page_of::<RefundView>(&list) {
            refund(app, &made.id).await?;
        }
    }
    let (id, now) = (id.to_owned(), app.clock.now());
    app.db
        .write(move |tx| {
            Box::pin(async move { store::finish_events(tx, &id, read_at, now, EventState::Done).await })
        })
        .await?;
    Ok(())
}

/// Reads a refund.
pub(super) async fn refund(app: &Services, id: &str) -> Result<(), BillingError> {
    let read_at = app.clock.now();
    let value = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_refund(id)).await?;
    take_refund(app, read_at, value).await.map(|_| ())
}

/// Takes over a refund that was read at `read_at`; gives how it stands, if it is ours.
pub(super) async fn take_refund(
    app: &Services,
    read_at: UnixMillis,
    value: Value,
) -> Result<Option<RefundState>, BillingError> {
    let refund: RefundView = view(&value)?;
    if is_foreign(app, &refund.metadata) {
        ignore(app, &refund.id, read_at).await?;
        return Ok(None);
    }
    let late = surplus::session_of(&refund).filter(|session| surplus::is_late(session)).map(str::to_owned);
    if let Some(session) = surplus::session_of(&refund).filter(|_| late.is_none()) {
        surplus::take(app, read_at, session, &refund, &value).await?;
        return Ok(None);
    }
    let paid = match &refund.payment_intent {
        Some(intent) => paid_by(app, intent).await?,
        None => None,
    };
    // The order's own refund names it; one from Stripe's dashboard names nothing, and may count as the order's all the same.
    let named = match refund.metadata.get("order_id").and_then(|id| id.parse::<OrderId>().ok()) {
        Some(order) => Some(order),
        None => {
            let mut connection = app.db.read().await?;
            store::refunded_by(&mut connection, &refund.id).await?
        }
    };
    let Some(order) = named.or(paid.as_ref().map(|paid| paid.order)) else {
        ignore(app, &refund.id, read_at).await?;
        return Ok(None);
    };
    let state = RefundState::of(&refund);
    // What it gives back may have been paid for a period that is past: the one that runs is read before it is judged.
    if paid.is_some() && state == RefundState::Succeeded {
        match subscription::look_before_end(app, order).await {
            // The money went back, whatever else of the order cannot be read.
            Err(error) if !error.is_retryable() && !matches!(error, BillingError::Db(_)) => {
                tracing::error!(order.id = %order, %error, "what pays for a server cannot be read before its refund is booked");
            }
            other => other?,
        }
    }
    let (now, config) = (app.clock.now(), app.config.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "checkout", order).await?;
                if store::put_object(tx, &refund.id, "refund", read_at, &value.to_string()).await? {
                    if let Some(paid) = &paid {
                        let news = dunning::store::put_return(tx, now, order, &paid.invoice, &refund).await?;
                        // The letter of a purchase that came to nothing is its order's.
                        if news && named.is_none() && state == RefundState::Succeeded {
                            dunning::refund_read(tx, now, order, &refund).await?;
                        }
                        // The order's own is told below; a late payment's is tried again.
                        if news && named.is_none() && late.is_none() && state == RefundState::Failed {
                            refund_failed(tx, now, order, &refund, &value).await?;
                        }
                    }
                    if let Some(invoice) = &late {
                        surplus::late_refund_read(tx, now, invoice, state, &refund.id).await?;
                    }
                    if named.is_some() {
                        order_refund_read(tx, now, order, &refund, &value).await?;
                    }
                }
                dunning::judge(tx, &config, now, order).await?;
                store::finish_events(tx, &refund.id, read_at, now, EventState::Done).await
            })
        })
        .await?;
    Ok(Some(state))
}

/// Takes over how the refund of a purchase stands.
async fn order_refund_read(
    tx: &mut AnyConnection,
    now: UnixMillis,
    order: OrderId,
    refund: &RefundView,
    value: &Value,
) -> Result<(), DbError> {
    let state = RefundState::of(refund);
    let known = store::refund(tx, order).await?;
    if known.as_ref().is_some_and(|known| is_overtaken(known, refund)) {
        return Ok(());
    }
    let fails_late =
        state == RefundState::Failed && known.is_some_and(|known| known.state == RefundState::Succeeded);
    let made = (Some(refund.id.as_str()), refund.amount, refund.currency.as_deref());
    if !store::put_refund(tx, now, order, state, made).await? {
        return Ok(());
    }
    // The order has ended and was told as returned: nothing moves any more, so this is told here.
    if fails_late {
        refund_failed(tx, now, order, refund, value).await?;
    }
    match state {
        RefundState::Succeeded | RefundState::Failed => announce::refund(tx, now, order, state).await,
        RefundState::Wanted | RefundState::Pending => Ok(()),
    }
}

/// Whether a refund says nothing about how the order's stands: an attempt that failed is read again with every news of its
/// charge, also when another one has followed it.
fn is_overtaken(known: &store::KnownRefund, refund: &RefundView) -> bool {
    let same = known.stripe_id.as_deref() == Some(refund.id.as_str());
    let failed = RefundState::of(refund) == RefundState::Failed;
    match known.state {
        // The one that is written down had failed before another was wanted.
        RefundState::Wanted => failed && same,
        RefundState::Pending => failed && !same && known.stripe_id.is_some(),
        RefundState::Succeeded => !same,
        RefundState::Failed => false,
    }
}

/// Money that was said to be on its way did not arrive, maybe weeks later: a person pays it in another way, and everybody who
/// was told otherwise is told.
async fn refund_failed(
    tx: &mut AnyConnection,
    now: UnixMillis,
    order: OrderId,
    refund: &RefundView,
    value: &Value,
) -> Result<(), DbError> {
    if let Some(reference) = refund.metadata.get("goodwill") {
        goodwill::refund_failed(tx, now, order, reference).await?;
    }
    let why =
        value.get("failure_reason").and_then(Value::as_str).unwrap_or("no reason given").replace('_', " ");
    let amount =
        web::written_money(refund.amount.unwrap_or(0), refund.currency.as_deref().unwrap_or_default());
    let detail = format!(
        "A refund of {amount} for order {order} ({}) did not arrive: {why}. The money is back in your Stripe balance, and its \
         customer was told. Give it as credit, or pay it in another way.",
        refund.id
    );
    let entry = audit::Entry {
        actor: "stripe".to_owned(),
        action: "payment.refund_failed".to_owned(),
        subject_kind: "order".to_owned(),
        subject_id: order.to_string(),
        detail: json!({ "refund": refund.id, "amount_minor": refund.amount, "why": why }),
    };
    audit::record(tx, now, entry).await?;
    let severity = Severity::Critical;
    let alarm =
        alarms::New { kind: REFUND_FAILED, subject: &refund.id, severity, node: None, detail: &detail };
    alarms::hold(tx, now, alarm).await?;
    dunning::refund_failed(tx, now, order, refund).await
}

/// The payment of an order went back before it was counted: what is left of the order ends as after its own refund.
pub(super) async fn first_payment_returned(
    tx: &mut AnyConnection,
    now: UnixMillis,
    order: OrderId,
) -> Result<(), DbError> {
    store::put_refund(tx, now, order, RefundState::Succeeded, (None, None, None)).await?;
    announce::refund(tx, now, order, RefundState::Succeeded).await
}

/// Reads a dispute.
pub(super) async fn dispute(app: &Services, id: &str) -> Result<(), BillingError> {
    let read_at = app.clock.now();
    let value = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_dispute(id)).await?;
    take_dispute(app, read_at, view(&value)?, value, Asks::News).await.map(|_| ())
}

/// Reads a card network's warning that a payment is fraud. Until somebody has acted on it, it is a dispute that has
/// not come yet; once the payment is refunded or disputed, that says the rest. It is acted on before anybody asks how much it
/// is about: its charge may not be there to be read.
pub(super) async fn early_warning(app: &Services, id: &str) -> Result<(), BillingError> {
    let read_at = app.clock.now();
    let value = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_early_warning(id)).await?;
    let open = value.get("actionable").and_then(Value::as_bool) != Some(false);
    let as_dispute = json!({
        "id": id, "status": if open { "early_warning" } else { "prevented" }, "reason": value.get("fraud_type"),
        "payment_intent": value.get("payment_intent"), "created": value.get("created"),
    });
    if !take_dispute(app, read_at, view(&as_dispute)?, value.clone(), Asks::Warning).await? {
        return Ok(());
    }
    let charged = warned_charge(app, &value).await?;
    let (id, now) = (id.to_owned(), app.clock.now());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                if let Some((minor, currency)) = &charged {
                    dunning::store::put_charged(tx, now, &id, *minor, currency).await?;
                }
                store::finish_events(tx, &id, read_at, now, EventState::Done).await
            })
        })
        .await?;
    Ok(())
}

/// How much was charged by the charge that a warning is about, and in which currency: the warning itself does not say. What
/// passes is asked again with the news of the warning, which is acted on already. One that cannot be had is done without; the
/// page then shows what its invoice was paid with.
async fn warned_charge(app: &Services, warning: &Value) -> Result<Option<(i64, String)>, BillingError> {
    let Some(id) = warning.get("charge").and_then(Value::as_str) else { return Ok(None) };
    let charge = match app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_charge(id)).await {
        Ok(charge) => charge,
        Err(fault) if fault.is_passing() => return Err(fault.into()),
        Err(fault) => {
            tracing::warn!(stripe.charge = id, %fault, "the charge of a fraud warning cannot be read");
            return Ok(None);
        }
    };
    let amount = charge.get("amount").and_then(Value::as_i64);
    let currency = charge.get("currency").and_then(Value::as_str).map(str::to_owned);
    Ok(amount.zip(currency))
}

/// Reads the disputes of a payment, of which a refund has told before any news did.
pub(super) async fn disputes_of(app: &Services, intent: &str) -> Result<(), BillingError> {
    let read_at = app.clock.now();
    let list = app.stripe.get(app.entropy.as_ref(), &stripe::list_disputes_of(intent)).await?;
    let rows = list.get("data").and_then(Value::as_array).cloned().unwrap_or_default();
    for value in rows {
        // Whoever asks is the one that waits for the bank: it is not woken by its own question.
        take_dispute(app, read_at, view(&value)?, value, Asks::Refund).await?;
    }
    Ok(())
}

/// Who has a dispute read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// News of it.
    News,
    /// News of a warning, which is not done with it.
    Warning,
    /// A refund that waits for what the bank says.
    Refund,
}

/// Takes over a dispute that was read at `read_at`; gives whether it is ours.
async fn take_dispute(
    app: &Services,
    read_at: UnixMillis,
    dispute: DisputeView,
    value: Value,
    asks: Asks,
) -> Result<bool, BillingError> {
    let paid = match &dispute.payment_intent {
        Some(intent) => paid_by(app, intent).await?,
        None => None,
    };
    let Some(paid) = paid else {
        ignore(app, &dispute.id, read_at).await?;
        return Ok(false);
    };
    let (now, config) = (app.clock.now(), app.config.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "checkout", paid.order).await?;
                let newer =
                    store::put_object(tx, &dispute.id, "dispute", read_at, &value.to_string()).await?;
                if newer {
                    dunning::store::put_dispute(tx, now, paid.order, Some(&paid.invoice), &dispute).await?;
                }
                dunning::judge(tx, &config, now, paid.order).await?;
                let surplus = surplus::disputed(tx, now, &paid.invoice, asks != Asks::Refund).await?;
                // After the judgement, since it says what became of the server. Whoever read it later has asked, or knows
                // that there is nothing to ask any more.
                if newer {
                    let stand = dunning::standing_of(tx, paid.order).await?.map(|standing| standing.stand);
                    let stand = stand.filter(|_| !surplus);
                    if dunning::store::is_checked(tx, &dispute.id).await? {
                        silence(tx, now, &dispute.id).await?;
                    } else {
                        ask_a_person(tx, now, &dispute, stand, surplus).await?;
                    }
                }
                if asks == Asks::Warning {
                    return Ok(());
                }
                store::finish_events(tx, &dispute.id, read_at, now, EventState::Done).await
            })
        })
        .await?;
    Ok(true)
}

/// Nobody need look at a dispute or a warning any more. Earlier versions rang for a warning as for a dispute.
pub(super) async fn silence(tx: &mut AnyConnection, now: UnixMillis, id: &str) -> Result<(), DbError> {
    alarms::clear(tx, now, dunning::WARNED, id).await?;
    alarms::clear(tx, now, DISPUTED, id).await
}

/// A dispute that can be answered, or a warning of one, is an alarm for as long as there is something to do about it.
async fn ask_a_person(
    tx: &mut AnyConnection,
    now: UnixMillis,
    dispute: &DisputeView,
    stand: Option<dunning::Stand>,
    surplus: bool,
) -> Result<(), DbError> {
    let (id, status) = (&dispute.id, dispute.status.as_deref());
    let warns = status == Some("early_warning");
    if !warns && !matches!(status, Some("needs_response" | "warning_needs_response")) {
        return silence(tx, now, id).await;
    }
    if warns {
        // What an earlier version rang for it.
        alarms::clear(tx, now, DISPUTED, id).await?;
    }
    let why = dispute.reason.as_deref().unwrap_or("no reason given").replace('_', " ");
    let server = match stand {
        Some(dunning::Stand::Suspend) => "Its server is suspended.",
        Some(dunning::Stand::Run) => "Its server runs on: it is exempt from suspension.",
        Some(dunning::Stand::End) => "The service of its server has ended.",
        None if surplus => {
            "It was not owed, so no server is affected; if the bank keeps it, it counts as given back."
        }
        None => "Its server is not served yet.",
    };
    let (kind, detail) = if warns {
        let detail = format!(
            "A card network calls a payment fraud ({why}), and its bank will probably take it back. {server} There is nothing \
             to answer at Stripe: look at the payment there and refund it, or mark the warning ({id}) as checked under Billing."
        );
        (dunning::WARNED, detail)
    } else {
        let detail = format!(
            "The bank of a customer takes a payment back ({why}). {server} Answer it in Stripe's dashboard."
        );
        (DISPUTED, detail)
    };
    let severity = Severity::Critical;
    let alarm = alarms::New { kind, subject: id, severity, node: None, detail: &detail };
    alarms::hold(tx, now, alarm).await.map(|_| ())
}
