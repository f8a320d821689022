//! Whether a server is served, by our own clock and Stripe's facts; and what its owner is told.
//!
//! One function, [`judge`], looks at the copy and the time, writes the *standing* of a server and does once whatever
//! follows from it: letters, an audit row, the job that tells `instances`, the job that looks again when the next
//! step is due. Everything that changes the copy calls it in the same transaction, so a standing is never older
//! than the copy. Before a step of the clock is taken, subscription and invoice are read again from Stripe, and a step that
//! is due waits for that reading: a server is never switched off, let alone ended, because the copy is behind.
//!
//! `instances` follows the standing, whatever the news said, and compares it with its servers all the time. Each
//! step can be taken back by a payment until the disk is removed.

mod bills;
mod checked;
mod exempt;
mod letters;
mod look;
pub(super) mod remind;
mod standing;
pub(super) mod store;
mod unseen;

use std::time::Duration;

use ez_protocol::{AccountId, InstanceId, OrderId, UnixMillis};
use serde_json::json;
use sqlx::AnyConnection;

use self::standing::{Judgement, Status};
use super::{
    announce,
    documents::{self, Document},
    stripe::{InvoiceView, RefundView, SubscriptionView},
};
use crate::{
    app::Services,
    audit,
    config::Config,
    db::DbError,
    fleet::{Severity, alarms},
    jobs, notify, web,
};

pub(super) use bills::{gone, watch};
pub(super) use checked::WARNED;
pub use checked::{CheckError, check_warning};
pub use exempt::{ExemptError, exempt, unexempt};
pub use letters::{
    AddressNeeded, CardExpiring, PaymentFailed, PaymentNeedsYou, PaymentReceipt, RefundFailed, RefundSent,
    RenewalSoon, ServerEnds, ServerLapses, ServerRestored, ServerSuspended, ServerWillBeDeleted,
};
pub(super) use look::{look_again, run};
pub(super) use standing::Disputed;
pub use standing::{Stand, Step, Why};
pub use store::Card;

/// Looks at one subscription again; the key is the order's id.
pub(super) const STAND: &str = "billing.stand";
/// What a step of the clock waits for, and could not be read, is read again so long after.
const READ_AGAIN: Duration = Duration::from_secs(60 * 60);
/// The alarm about a status that Stripe has and we do not know.
const UNKNOWN_STATUS: &str = "unknown_subscription_status";

/// The alarm about Stripe cancelling what it could not charge.
const STRIPE_CANCELS: &str = "stripe_cancels_unpaid";

/// The alarm about Stripe cancelling what is disputed.
const STRIPE_CANCELS_DISPUTED: &str = "stripe_cancels_disputed";

/// The alarm about a server that runs, and for which nobody is charged any more.
const UNCHARGED: &str = "exempt_uncharged";

/// What the money says about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The purchase.
    pub order: OrderId,
    /// The server.
    pub instance: InstanceId,
    /// Whose it is.
    pub account: AccountId,
    /// Whether it is served.
    pub stand: Stand,
    /// Why.
    pub why: Why,
    /// Since when.
    pub since: UnixMillis,
    /// What comes next, and when.
    pub next: Option<(Step, UnixMillis)>,
}

/// The colour of a standing.
pub(super) fn tone(stand: Stand, why: Why) -> &'static str {
    match (stand, why) {
        (Stand::Run, Why::Paid) => "good",
        (Stand::Run, Why::Exempt) => "info",
        (Stand::Run, _) => "wait",
        (Stand::Suspend, _) => "bad",
        (Stand::End, _) => "idle",
    }
}

impl Standing {
    /// Its colour.
    pub fn tone(&self) -> &'static str {
        tone(self.stand, self.why)
    }

    /// Whether there is nothing that its owner should do.
    pub fn is_well(&self) -> bool {
        self.stand == Stand::Run && matches!(self.why, Why::Paid | Why::Exempt)
    }
}

/// What the money says about the server of an order; nothing before it was paid.
///
/// # Errors
/// Those of the query.
pub async fn standing_of(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<Standing>, DbError> {
    store::standing(connection, order).await
}

/// The standings that a server may not have followed: all that are suspended, and those that ended after a time, the longest
/// first. All of them: whoever is left out stays as it is for ever.
///
/// # Errors
/// Those of the query.
pub async fn standings_to_follow(
    connection: &mut AnyConnection,
    ended_after: UnixMillis,
) -> Result<Vec<Standing>, DbError> {
    store::to_follow(connection, ended_after).await
}

/// Whether a payment of an account is disputed at its bank and not decided: it buys nothing more until it is.
///
/// # Errors
/// Those of the query.
pub async fn is_disputing(connection: &mut AnyConnection, account: AccountId) -> Result<bool, DbError> {
    store::is_disputing(connection, account).await
}

/// Judges a server's standing anew and does what follows. The caller's transaction holds the order's checkout.
pub(super) async fn judge(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    order: OrderId,
) -> Result<(), DbError> {
    let Some(known) = store::known(tx, order).await? else { return Ok(()) };
    let before = store::standing(tx, order).await?;
    let judged = standing::judge(&known.facts, &config.billing, now);
    if judged.notice {
        tell_deletion(tx, config, now, &known, &judged).await?;
    }
    let same = before.as_ref().is_some_and(|b| (b.stand, b.why) == (judged.stand, judged.why));
    let since = before.as_ref().filter(|_| same).map_or(now, |before| before.since);
    if before.as_ref().is_none_or(|before| !same || before.next != judged.next) {
        store::put_standing(tx, now, &known, &judged, since).await?;
    }
    if known.facts.closed {
        bills::ended(tx, now, &known.subscription).await?;
    }
    unknown_status(tx, now, &known).await?;
    stripe_gave_up(tx, now, &known).await?;
    runs_for_nothing(tx, now, &known, &judged).await?;
    // That a server that was paid runs is no news.
    if !same && (before.is_some() || judged.stand != Stand::Run) {
        changed(tx, config, now, &known, before.as_ref(), &judged).await?;
    }
    let remind = remind::remind(tx, config, now, &known, &judged).await?;
    let look = unseen::watch(tx, now, &known).await?;
    // It is read at once; whoever has just done so in vain comes back later.
    let is_news = before.is_none_or(|before| (before.stand, before.next) != (judged.stand, judged.next));
    let again = is_waiting(judged.next, now).then_some(if is_news { now } else { now.plus(READ_AGAIN) });
    let next = judged.next.map(|(_, at)| at);
    let wake = [next, remind, look].into_iter().flatten().filter(|at| *at > now).chain(again).min();
    if let Some(wake) = wake {
        jobs::enqueue(tx, STAND, &order.to_string(), &json!({}), wake).await?;
    }
    Ok(())
}

/// Whether a step of the clock of an unpaid invoice is due and waits for a reading of its day.
fn is_waiting(next: Option<(Step, UnixMillis)>, now: UnixMillis) -> bool {
    let waits = |(step, at): (Step, UnixMillis)| {
        at <= now && matches!(step, Step::Suspend | Step::Notice | Step::Retire)
    };
    next.is_some_and(waits)
}

/// What follows from another standing.
async fn changed(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    known: &store::Known,
    before: Option<&Standing>,
    judged: &Judgement,
) -> Result<(), DbError> {
    let entry = audit::Entry {
        actor: "billing".to_owned(),
        action: format!("billing.{}", judged.stand),
        subject_kind: "instance".to_owned(),
        subject_id: known.instance.to_string(),
        detail: json!({
            "why": judged.why, "status": known.status, "subscription": known.subscription,
            "from": before.map(|before| before.stand),
        }),
    };
    audit::record(tx, now, entry).await?;
    let was = before.map_or(Stand::Run, |before| before.stand);
    if was != judged.stand {
        let link = config.http.page("/billing");
        let server = known.description.clone();
        match judged.stand {
            Stand::Suspend if was == Stand::Run => {
                let letter = ServerSuspended { server, why: judged.why.as_str().to_owned(), link };
                notify::send(tx, now, &known.email, &letter).await?;
            }
            Stand::Run => {
                // Stripe may have given up meanwhile: then what was paid for is served, and no more.
                let end = judged.next.filter(|(step, _)| *step == Step::End);
                let until = end.map(|(_, at)| web::written_date(at)).unwrap_or_default();
                notify::send(tx, now, &known.email, &ServerRestored { server, until, link }).await?;
            }
            Stand::Suspend | Stand::End => {}
        }
        tracing::info!(order.id = %known.order, billing.stand = %judged.stand, billing.why = %judged.why, "a standing changed");
    }
    announce::standing(tx, now, known.order).await
}

/// The notice that a server will be deleted; once for each unpaid invoice.
async fn tell_deletion(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    known: &store::Known,
    judged: &Judgement,
) -> Result<(), DbError> {
    let (Some(unpaid), Some((_, on))) = (&known.facts.unpaid, judged.next) else { return Ok(()) };
    if !store::first_time(tx, now, known.order, &store::notice_key(&unpaid.invoice)).await? {
        return Ok(());
    }
    let link = config.http.page("/billing");
    let (since, on) = (web::written_date(unpaid.since), web::written_date(on));
    let letter = ServerWillBeDeleted { server: known.description.clone(), since, on, link };
    notify::send(tx, now, &known.email, &letter).await
}

/// Stripe is set to cancel what it could not charge, or what is disputed. Our clock goes on all the same, and the bank's
/// decision counts, but then what is paid for is served and nothing renews it: a person is asked to change the setting, once
/// for each subscription.
async fn stripe_gave_up(
    tx: &mut AnyConnection,
    now: UnixMillis,
    known: &store::Known,
) -> Result<(), DbError> {
    let key = format!("gave-up:{}", known.subscription);
    let (unpaid, disputed) = (known.facts.ended_unpaid, known.facts.ended_by_dispute);
    if !(unpaid || disputed) || !store::first_time(tx, now, known.order, &key).await? {
        return Ok(());
    }
    let (kind, detail) = if disputed {
        let detail = format!(
            "Stripe cancelled subscription {} because a payment of it is disputed. {}; if it decides for you, the server is \
             served to the end of what is paid, and nothing renews it. In Stripe's \
             dashboard, in the settings of Billing, choose that a subscription is left as it is when a payment is disputed; \
             we suspend and end disputed servers ourselves.",
            known.subscription,
            if known.facts.exempt {
                "Its server is exempt and runs until the bank has decided, and no longer than what is paid"
            } else {
                "Its server is off until the bank has decided"
            }
        );
        (STRIPE_CANCELS_DISPUTED, detail)
    } else {
        let detail = format!(
            "Stripe cancelled subscription {} because its charge failed too often. Who pays now gets the paid period and no \
             renewal. In Stripe's dashboard, under Billing, Subscriptions, Manage failed payments, choose that it is left past \
             due after the last try; we end unpaid servers by our own clock.",
            known.subscription
        );
        (STRIPE_CANCELS, detail)
    };
    let severity = Severity::Warning;
    let alarm = alarms::New { kind, subject: "stripe", severity, node: None, detail: &detail };
    alarms::hold(tx, now, alarm).await.map(|_| ())
}

/// An exempt server whose subscription Stripe has ended without anybody's wish runs on, for ever and for nothing: a person is
/// told for as long as that is so.
async fn runs_for_nothing(
    tx: &mut AnyConnection,
    now: UnixMillis,
    known: &store::Known,
    judged: &Judgement,
) -> Result<(), DbError> {
    let subject = known.order.to_string();
    let over = matches!(known.facts.status, Status::Canceled | Status::Expired);
    if !(over && judged.why == Why::Exempt && judged.next.is_none()) {
        return alarms::clear(tx, now, UNCHARGED, &subject).await;
    }
    let detail = format!(
        "Server {} is exempt from suspension, and its subscription {} has ended at Stripe without anybody's wish: it runs, and \
         nobody is charged for it. Have its owner order another and delete this one, or take the exemption back: then it ends as \
         any other does.",
        known.instance, known.subscription
    );
    let severity = Severity::Warning;
    let alarm = alarms::New { kind: UNCHARGED, subject: &subject, severity, node: None, detail: &detail };
    alarms::hold(tx, now, alarm).await.map(|_| ())
}

/// A status we do not know keeps the server on and asks a person.
async fn unknown_status(
    tx: &mut AnyConnection,
    now: UnixMillis,
    known: &store::Known,
) -> Result<(), DbError> {
    let subject = known.order.to_string();
    if known.facts.status != Status::Unknown {
        return alarms::clear(tx, now, UNKNOWN_STATUS, &subject).await;
    }
    let detail = format!(
        "Stripe says that subscription {} is \"{}\", a word this version does not know. Its server runs on; look at it in Stripe's dashboard.",
        known.subscription, known.status
    );
    let severity = Severity::Warning;
    let alarm =
        alarms::New { kind: UNKNOWN_STATUS, subject: &subject, severity, node: None, detail: &detail };
    alarms::hold(tx, now, alarm).await.map(|_| ())
}

/// What an invoice that was read means for its owner: a receipt, or a link to pay. Each once.
pub(super) async fn invoice_read(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    order: OrderId,
    invoice: &InvoiceView,
    needs_a_step: bool,
) -> Result<(), DbError> {
    let Some(known) = store::known(tx, order).await? else { return Ok(()) };
    let amount = |minor: i64| web::written_money(minor, invoice.currency.as_deref().unwrap_or_default());
    // It is paid within days, as long as Stripe's own link is good.
    let link = invoice.hosted_invoice_url.clone().unwrap_or_else(|| config.http.page("/billing"));
    let server = known.description.clone();
    // The first payment has its own confirmation.
    let first = invoice.billing_reason.as_deref().is_none_or(|reason| reason == "subscription_create");
    let tried = invoice.attempt_count.unwrap_or(0) > 0;
    // Where nobody tries to collect, it is late once our clock counts from it.
    let counts = known.facts.unpaid.as_ref().is_some_and(|unpaid| unpaid.invoice == invoice.id);
    let news = match invoice.status.as_deref() {
        Some("paid") if !first && invoice.amount_paid.unwrap_or(0) > 0 => "receipt",
        Some("open") if needs_a_step => "needs_you",
        Some("open") if tried || counts => "failed",
        _ => return Ok(()),
    };
    // A plan change that waits for its payment writes its own letter: nothing is switched off because of it.
    let changes = invoice.billing_reason.as_deref() == Some("subscription_update");
    if news != "receipt" && changes && super::change::open_change(tx, order).await?.is_some() {
        return Ok(());
    }
    if !store::first_time(tx, now, order, &format!("{news}:{}", invoice.id)).await? {
        return Ok(());
    }
    let owed = amount(invoice.amount_remaining.unwrap_or(0));
    match news {
        "receipt" => {
            let (amount, number) = (amount(invoice.amount_paid.unwrap_or(0)), invoice.number.clone());
            // A receipt is kept for longer than Stripe's link is good.
            let link = config.http.page(&documents::path_of(&invoice.id, Document::Page));
            let letter = PaymentReceipt { server, amount, number: number.unwrap_or_default(), link };
            notify::send(tx, now, &known.email, &letter).await
        }
        "needs_you" => {
            notify::send(tx, now, &known.email, &PaymentNeedsYou { server, amount: owed, link }).await
        }
        _ => {
            let until = invoice.due_at().map_or(now, UnixMillis::from_secs).plus(config.billing.grace);
            // What is to end a pause finds the server switched off.
            let paused = known.facts.status == Status::Paused;
            let apart = bills::is_apart(invoice);
            // And nothing switches an exempt one off.
            let stays = paused || apart || known.facts.exempt;
            let until = if stays { String::new() } else { web::written_date(until) };
            let off = paused && !apart && !known.facts.exempt;
            let letter =
                PaymentFailed { server, amount: owed, until, late: !tried, paused: off, apart, link };
            notify::send(tx, now, &known.email, &letter).await
        }
    }
}

/// Money went back: its owner is told, once. Orders that were never built tell it themselves.
pub(super) async fn refund_read(
    tx: &mut AnyConnection,
    now: UnixMillis,
    order: OrderId,
    refund: &RefundView,
) -> Result<(), DbError> {
    let Some(known) = store::known(tx, order).await? else { return Ok(()) };
    if store::first_time(tx, now, order, &format!("refund:{}", refund.id)).await? {
        let currency = refund.currency.as_deref().unwrap_or_default();
        let amount = web::written_money(refund.amount.unwrap_or(0), currency);
        let letter = RefundSent { server: known.description.clone(), amount };
        notify::send(tx, now, &known.email, &letter).await?;
    }
    Ok(())
}

/// Money that was on its way did not arrive: its owner is told, once.
pub(super) async fn refund_failed(
    tx: &mut AnyConnection,
    now: UnixMillis,
    order: OrderId,
    refund: &RefundView,
) -> Result<(), DbError> {
    let Some(known) = store::known(tx, order).await? else { return Ok(()) };
    if store::first_time(tx, now, order, &format!("refund-failed:{}", refund.id)).await? {
        let currency = refund.currency.as_deref().unwrap_or_default();
        let amount = web::written_money(refund.amount.unwrap_or(0), currency);
        let letter = RefundFailed { server: known.description.clone(), amount };
        notify::send(tx, now, &known.email, &letter).await?;
    }
    Ok(())
}

/// A subscription has ended with its customer, whom somebody deleted at Stripe. That is no wish for its server: it is told
/// before it ends. Noted once.
pub(super) async fn orphaned(
    tx: &mut AnyConnection,
    now: UnixMillis,
    order: OrderId,
    subscription: &SubscriptionView,
) -> Result<(), DbError> {
    if !store::first_time(tx, now, order, &store::orphan_key(&subscription.id)).await? {
        return Ok(());
    }
    let entry = audit::Entry {
        actor: "stripe".to_owned(),
        action: "billing.customer_deleted".to_owned(),
        subject_kind: "order".to_owned(),
        subject_id: order.to_string(),
        detail: json!({ "subscription": subscription.id, "customer": subscription.customer }),
    };
    audit::record(tx, now, entry).await?;
    Ok(())
}

/// A subscription is to end with its period, or no longer.
pub(super) async fn end_read(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    order: OrderId,
) -> Result<(), DbError> {
    let Some(known) = store::known(tx, order).await? else { return Ok(()) };
    let Some(on) = known.facts.cancel_at.filter(|_| known.facts.status == Status::Active) else {
        return Ok(());
    };
    if store::first_time(tx, now, order, &format!("ends:{}:{}", known.subscription, on.0)).await? {
        let link = config.http.page("/billing");
        let letter = ServerEnds { server: known.description.clone(), on: web::written_date(on), link };
        notify::send(tx, now, &known.email, &letter).await?;
    }
    Ok(())
}

/// Steps whose job was lost: a lost message costs time, never a step. Also the numbers of the standings.
pub(super) async fn sweep(app: &Services) -> Result<(), DbError> {
    look::sweep(app).await?;
    let now = app.clock.now();
    let (overdue, counted) = {
        let mut connection = app.db.read().await?;
        (store::overdue(&mut connection, now).await?, store::counted(&mut connection).await?)
    };
    for (stand, many) in counted {
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::gauge!("ez_billing_standings", "stand" => stand.as_str()).set(many as f64);
    }
    for order in overdue {
        // A job that is there keeps its time: it waits for Stripe.
        if is_asked(app, order).await? {
            continue;
        }
        app.db
            .write(move |tx| {
                Box::pin(async move { jobs::enqueue(tx, STAND, &order.to_string(), &json!({}), now).await })
            })
            .await?;
    }
    Ok(())
}

async fn is_asked(app: &Services, order: OrderId) -> Result<bool, DbError> {
    let mut connection = app.db.read().await?;
    jobs::is_asked(&mut connection, STAND, &order.to_string()).await
}
