//! Looking again at what a server's standing rests on.
//!
//! What cannot be read keeps nothing else from being read and taken over, and is never taken for something that is not there:
//! whoever asked hears of it when the rest is done, and ends nothing. The clock waits for it ([`super::standing`]), a person is
//! told, and it is read again until it can be.

use std::time::Duration;

use ez_protocol::OrderId;
use serde_json::json;

use super::{READ_AGAIN, STAND, Stand, is_waiting, judge, store, unseen};
use crate::{
    app::{App, Services},
    billing::{self, BillingError, inbox, stripe::FaultKind, sync},
    db::{self, DbError},
    fleet::{Severity, alarms},
    jobs::{self, JobError, JobRun},
};

/// The alarm about an order whose money cannot be read.
const UNREAD: &str = "unpaid_unread";
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
    let unpaid = known.facts.unpaid.map(|unpaid| unpaid.invoice);
    let owed = match &unpaid {
        Some(unpaid) => put_off(read_invoice(app, unpaid).await)?,
        None => None,
    };
    let paying = match put_off(sync::subscription(app, &known.subscription).await)? {
        // Whatever else is asked for, it would not come either.
        Some(error) if error.is_away() => return Err(owed.unwrap_or(error)),
        other => other,
    };
    let newest = put_off(newest_invoice(app, order, unpaid.as_deref()).await)?;
    let unread = owed.or(paying).or(newest);
    rejudge(app, order, unread.is_none()).await?;
    if let Some(error) = unread {
        return Err(error);
    }
    unseen::ring(app, order).await?;
    Ok(())
}

/// What could not be read, to be told when the rest is taken over. Without our database nothing goes on.
fn put_off(read: Result<(), BillingError>) -> Result<Option<BillingError>, BillingError> {
    match read {
        Ok(()) => Ok(None),
        Err(BillingError::Db(error)) => Err(error.into()),
        Err(error) => Ok(Some(error)),
    }
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

/// Judges an order's standing from the copy as it is; `all_read` if nothing of it could not be read.
async fn rejudge(app: &Services, order: OrderId, all_read: bool) -> Result<(), DbError> {
    let (now, config) = (app.clock.now(), app.config.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "checkout", order).await?;
                if all_read {
                    alarms::clear(tx, now, UNREAD, &order.to_string()).await?;
                }
                judge(tx, &config, now, order).await
            })
        })
        .await
}

/// What Stripe says of an order cannot be read. What does not pass by itself rings at once and is read again after a while; the
/// rest rings when a step of the clock has waited for long.
async fn unread(app: &Services, order: OrderId, error: &BillingError) -> Result<(), DbError> {
    let (now, passes, why) = (app.clock.now(), error.is_retryable(), inbox::chain(error));
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
                    jobs::enqueue(tx, STAND, &subject, &json!({}), now.plus(READ_AGAIN)).await?;
                } else if !is_waiting(standing.next, now.minus(PATIENCE)) {
                    return Ok(());
                }
                let detail = format!(
                    "What Stripe says of order {order} cannot be read: {why}. Its server {}, and no step of the clock of an unpaid \
                     invoice is taken before it can. Look at the subscription and its invoices in Stripe's dashboard, and \
                     whether our key may read them. It is read again at least every hour; this alarm ends by itself.",
                    if standing.stand == Stand::Run { "runs on" } else { "stays off" }
                );
                let severity = Severity::Critical;
                let alarm =
                    alarms::New { kind: UNREAD, subject: &subject, severity, node: None, detail: &detail };
                alarms::hold(tx, now, alarm).await.map(|_| ())
            })
        })
        .await
}
