//! Looking again at what a server's standing rests on.
//!
//! What cannot be read keeps nothing else from being read and taken over, and is never taken for something that is not there:
//! whoever asked hears of it when the rest is done, and ends nothing. The clock waits for it ([`super::standing`]), a person is
//! told, and it is read again until it can be. A key that Stripe does not take says nothing about any order: one alarm
//! stands for all of them.

use std::time::Duration;

use ez_protocol::{OrderId, UnixMillis};
use serde_json::json;
use sqlx::AnyConnection;

use super::{READ_AGAIN, STAND, Stand, is_waiting, judge, store, unseen};
use crate::{
    app::{App, Services},
    billing::{self, BillingError, inbox, put_off, stripe::FaultKind, sync},
    db::{self, DbError},
    fleet::{Severity, alarms},
    jobs::{self, JobError, JobRun},
};

/// The alarm about an order whose money cannot be read, or about all whose money our key may not read.
const UNREAD: &str = "unpaid_unread";
/// What it is about where it is our key.
const ALL: &str = "stripe";
/// What may pass by itself is told when a step has waited for it so long.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// The job: reads subscription and invoice again, and with them judges.
pub(in crate::billing) async fn run(app: App, run: JobRun) -> Result<(), JobError> {
    let order: OrderId = run.key.parse().map_err(JobError::fail)?;
    match look_again(&app, order).await {
        Ok(()) => Ok(()),
        Err(BillingError::Db(error)) => Err(error.into()),
        Err(error) => {
            unread(&app, order, &error).await?;
            // What does not pass was put off until later.
            if error.is_retryable() { Err(error.into()) } else { Ok(()) }
        }
    }
}

/// Reads what an order's standing rests on again from Stripe; judges, whatever changed.
pub(in crate::billing) async fn look_again(app: &Services, order: OrderId) -> Result<(), BillingError> {
    let known = {
        let mut connection = app.db.read().await?;
        store::known(&mut connection, order).await?
    };
    let Some(known) = known else { return Ok(()) };
    let began = app.clock.now();
    let unpaid = known.facts.unpaid.map(|unpaid| unpaid.invoice);
    let owed = match &unpaid {
        Some(unpaid) => put_off(read_invoice(app, unpaid).await)?,
        None => None,
    };
    let paying = match put_off(sync::subscription(app, &known.subscription).await)? {
        // Whatever else is asked for, it would not come either. A key that may read a part is no such key.
        Some(error) if error.is_locked_out() || error.is_away() => return Err(owed.unwrap_or(error)),
        other => other,
    };
    let newest = put_off(newest_invoice(app, order, unpaid.as_deref()).await)?;
    let unread = owed.or(paying).or(newest);
    let all_read = unread.is_none();
    rejudge(app, order, Look { began, unpaid, all_read }).await?;
    if let Some(error) = unread {
        return Err(error);
    }
    unseen::ring(app, order).await?;
    Ok(())
}

/// A subscription that is well is read without its newest invoice, which may be what pays for the server now. Unless it was
/// read just now, or nothing can become of it any more, it is read as well.
async fn newest_invoice(app: &Services, order: OrderId, just_read: Option<&str>) -> Result<(), BillingError> {
    let newest = {
        let mut connection = app.db.read().await?;
        let known = billing::store::subscription_of(&mut connection, order).await?;
        let Some(newest) = known.and_then(|known| known.latest_invoice) else { return Ok(()) };
        let status = billing::store::invoice_status(&mut connection, &newest).await?;
        if matches!(status.as_deref(), Some("paid" | "void")) || just_read == Some(newest.as_str()) {
            return Ok(());
        }
        newest
    };
    read_invoice(app, &newest).await
}

/// Reads an invoice. What Stripe does not have any more, such as a draft that somebody has deleted, says nothing; what its
/// subscription says is read all the same.
async fn read_invoice(app: &Services, id: &str) -> Result<(), BillingError> {
    match sync::invoice(app, id).await {
        Err(BillingError::Stripe(fault)) if fault.kind == FaultKind::NotFound => Ok(()),
        other => other.map(|_| ()),
    }
}

/// A look at what an order's standing rests on.
struct Look {
    /// When it began: what it read was read then or later.
    began: UnixMillis,
    /// The unpaid invoice that it asked for, if there was one.
    unpaid: Option<String>,
    /// Whether nothing failed.
    all_read: bool,
}

/// Judges an order's standing from the copy as it is.
async fn rejudge(app: &Services, order: OrderId, look: Look) -> Result<(), DbError> {
    let (now, config) = (app.clock.now(), app.config.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "checkout", order).await?;
                judge(tx, &config, now, order).await?;
                if look.all_read { looked(tx, now, order, &look).await } else { Ok(()) }
            })
        })
        .await
}

/// Nothing of a look failed. A step that was due before it and waits all the same waits for something that no look brings:
/// Stripe does not have the invoice any more, or it is no invoice of this subscription there. Nobody would see to it.
async fn looked(tx: &mut AnyConnection, now: UnixMillis, order: OrderId, look: &Look) -> Result<(), DbError> {
    if look.unpaid.is_some() {
        alarms::clear(tx, now, UNREAD, ALL).await?;
    }
    let subject = order.to_string();
    let standing = store::standing(tx, order).await?;
    let waits = standing.filter(|standing| is_waiting(standing.next, look.began));
    let known = store::known(tx, order).await?;
    let (Some(standing), Some(known)) = (waits, known) else {
        return alarms::clear(tx, now, UNREAD, &subject).await;
    };
    let unpaid = known.facts.unpaid.map(|unpaid| unpaid.invoice);
    if unpaid != look.unpaid {
        // Something else is owed now than what was asked for: the next look, which is asked for already, reads that.
        return Ok(());
    }
    let detail = format!(
        "A step of the clock of order {order} is due and cannot be taken: everything was read at Stripe, and its unpaid invoice \
         {} or its subscription {} is not there, or they do not belong together there. Its server {}. Look at both in Stripe's \
         dashboard; if nobody is to pay, cancel the subscription. It is read again at least every hour; this alarm ends by \
         itself.",
        unpaid.unwrap_or_default(),
        known.subscription,
        goes_on(standing.stand)
    );
    hold(tx, now, &subject, &detail).await
}

/// What a server does while it waits.
fn goes_on(stand: Stand) -> &'static str {
    if stand == Stand::Run { "runs on" } else { "stays off" }
}

async fn hold(tx: &mut AnyConnection, now: UnixMillis, subject: &str, detail: &str) -> Result<(), DbError> {
    let alarm = alarms::New { kind: UNREAD, subject, severity: Severity::Critical, node: None, detail };
    alarms::hold(tx, now, alarm).await.map(|_| ())
}

/// The alarm about our key ends when no step has waited for long any more, by whatever way that came.
pub(super) async fn sweep(app: &Services) -> Result<(), DbError> {
    let now = app.clock.now();
    let since = now.minus(PATIENCE);
    let rings = {
        let mut connection = app.db.read().await?;
        alarms::open_subjects(&mut connection, UNREAD).await?.iter().any(|subject| subject == ALL)
    };
    if !rings {
        return Ok(());
    }
    app.db
        .write(move |tx| {
            Box::pin(async move {
                if store::is_any_waiting(tx, since).await? {
                    return Ok(());
                }
                alarms::clear(tx, now, UNREAD, ALL).await
            })
        })
        .await
}

/// What Stripe says of an order cannot be read. What does not pass by itself rings at once and is read again after a while; the
/// rest rings when a step of the clock has waited for long.
async fn unread(app: &Services, order: OrderId, error: &BillingError) -> Result<(), DbError> {
    let (now, passes, why) = (app.clock.now(), error.is_retryable(), inbox::chain(error));
    let locked_out = error.is_locked_out();
    tracing::warn!(order.id = %order, error = %why, "what a standing rests on cannot be read");
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let subject = order.to_string();
                let standing = store::standing(tx, order).await?;
                // What is over waits for nothing.
                let Some(standing) = standing.filter(|standing| standing.stand != Stand::End) else {
                    return alarms::clear(tx, now, UNREAD, &subject).await;
                };
                if !passes {
                    // It has answered, under this key.
                    alarms::clear(tx, now, UNREAD, ALL).await?;
                    jobs::enqueue(tx, STAND, &subject, &json!({}), now.plus(READ_AGAIN)).await?;
                } else if !is_waiting(standing.next, now.minus(PATIENCE)) {
                    return Ok(());
                }
                if locked_out {
                    // It is no order's, and ends for all of them at once.
                    let detail = format!(
                        "Our key may not read what is owed at Stripe: {why}. Steps of the clocks of unpaid invoices are due, and \
                         none is taken before it may: their servers stay as they are. See to STRIPE_SECRET_KEY and its \
                         rights. It is tried again all the time; this alarm ends by itself."
                    );
                    return hold(tx, now, ALL, &detail).await;
                }
                let waits = if is_waiting(standing.next, now) {
                    ", and the step of the clock of its unpaid invoice that is due is not taken before it can"
                } else {
                    ""
                };
                let detail = format!(
                    "What Stripe says of order {order} cannot be read: {why}. Its server {}{waits}. Look at the subscription and \
                     its invoices in Stripe's dashboard, and whether our key may read them. It is read again at least every \
                     hour; this alarm ends by itself.",
                    goes_on(standing.stand)
                );
                hold(tx, now, &subject, &detail).await
            })
        })
        .await
}
