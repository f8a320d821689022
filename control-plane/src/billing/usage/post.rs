//! From the ledger to Stripe: an invoice item, and an invoice of its own where the next one is far.
//!
//! Every step looks before it acts and writes its result together with the end of its call, so a run that dies goes on
//! where it was. A call whose outcome cannot be known is looked up at Stripe by server and month; only one that was not
//! carried out is made again, under the next key.

use std::time::Duration;

use ez_protocol::UnixMillis;
use serde_json::Value;

use super::{
    Bill, NOT_BILLED, WORD,
    model::{BillState, after, begins},
    note, read_key, seen_on, store,
};
use crate::{
    app::{App, Services},
    billing::{
        BillingError,
        dunning::{self, Stand},
        model::CallState,
        outbox::{self, Call},
        store as copy,
        stripe::{self, FaultKind, Metadata},
        subscription::is_over,
        sync,
    },
    fleet::{Severity, alarms},
    jobs::{JobError, JobRun},
    web,
};

/// Brings one bill on; the key is `<server>:<month>`.
pub(in crate::billing) const POST: &str = "billing.traffic_bill";
/// A subscription whose next invoice is further away gets one at once.
const NEXT_INVOICE_WITHIN: Duration = Duration::from_secs(35 * 24 * 60 * 60);
/// The last invoice of a subscription that has ended may take so long.
const LAST_INVOICE_WITHIN: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// The job.
pub(in crate::billing) async fn run_post(app: App, run: JobRun) -> Result<(), JobError> {
    let Some((instance, month)) = read_key(&run.key) else { return Ok(()) };
    // Item, invoice, waiver: each step leaves the bill in a state of its own.
    for _ in 0..3 {
        let bill = {
            let mut connection = app.db.read().await?;
            store::bill(&mut connection, instance, month).await?
        };
        let Some(bill) = bill else { return Ok(()) };
        match step(&app, &bill).await {
            Ok(true) => {}
            Ok(false) => return waits(&app, bill).await,
            Err(BillingError::Db(error)) => return Err(error.into()),
            Err(error) if error.is_passing() => return Err(JobError::retry(error)),
            Err(error) => return refused(&app, &bill, error).await,
        }
    }
    Ok(())
}

/// Nothing came in the way. One that waits for its invoice has had its turn, so that others have theirs.
async fn waits(app: &Services, bill: Bill) -> Result<(), JobError> {
    if bill.state != BillState::Posted {
        return Ok(());
    }
    let at = app.clock.now();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                store::put_off(tx, at, &bill).await?;
                alarms::clear(tx, at, NOT_BILLED, &bill.key()).await
            })
        })
        .await?;
    Ok(())
}

/// Does the next step of a bill; whether there is another.
async fn step(app: &Services, bill: &Bill) -> Result<bool, BillingError> {
    let (subscription, standing) = {
        let mut connection = app.db.read().await?;
        let subscription = copy::subscription_of(&mut connection, bill.order).await?;
        (subscription, dunning::standing_of(&mut connection, bill.order).await?)
    };
    let subscription = subscription.ok_or(BillingError::Unknown("subscription"))?;
    let ended = is_over(&subscription.status) || standing.is_none_or(|standing| standing.stand == Stand::End);
    match bill.state {
        BillState::Free | BillState::Invoiced | BillState::Waived => Ok(false),
        BillState::Wanted if ended => waive(app, bill).await,
        BillState::Wanted => put_item(app, bill, &subscription.stripe_id).await,
        BillState::Posted => {
            let item = bill.item.as_deref().ok_or(BillingError::Unknown("invoice item"))?;
            let far =
                subscription.period_end.is_some_and(|end| end > app.clock.now().plus(NEXT_INVOICE_WITHIN));
            if ended {
                let since = standing.map_or(app.clock.now(), |standing| standing.since);
                return if app.clock.now().since(since) < LAST_INVOICE_WITHIN {
                    look(app, item).await.map(|_| false)
                } else {
                    take_back(app, bill, item).await
                };
            }
            // A draft is an invoice, whether or not its news came through.
            if look(app, item).await? || !far {
                return Ok(false);
            }
            put_invoice(app, bill, &subscription.stripe_id, item).await
        }
    }
}

async fn customer(app: &Services, bill: &Bill) -> Result<String, BillingError> {
    let mut connection = app.db.read().await?;
    copy::customer(&mut connection, bill.account).await?.ok_or(BillingError::Unknown("customer"))
}

/// The call for the item under the bill's present key.
fn item_call(app: &Services, bill: &Bill, customer: &str, subscription: &str) -> Call {
    let metadata = Metadata::from([
        (WORD.to_owned(), bill.key()),
        ("order_id".to_owned(), bill.order.to_string()),
        ("install_id".to_owned(), app.keys.install().to_string()),
    ]);
    let request = stripe::create_invoice_item(&stripe::ItemParts {
        customer,
        subscription,
        amount_minor: bill.amount_minor,
        currency: &bill.currency,
        description: &format!(
            "Traffic above the plan in {}: {} × 100 GB",
            web::written_month(bill.month),
            bill.units
        ),
        period: (begins(bill.month), begins(after(bill.month))),
        metadata: &metadata,
    });
    Call::new("traffic", bill.key(), bill.attempt, request)
}

async fn put_item(app: &Services, bill: &Bill, subscription: &str) -> Result<bool, BillingError> {
    let customer = customer(app, bill).await?;
    let call = item_call(app, bill, &customer, subscription);
    // An earlier key was given up after a refusal; what was sent under it before that may have been carried out.
    let earlier = if bill.attempt > 1 { find(app, &customer, &bill.key()).await? } else { None };
    let answer = match earlier {
        Some(made) => made,
        None => match outbox::send(app, &call).await {
            Err(BillingError::LookingUp) => match find(app, &customer, &bill.key()).await? {
                Some(found) => found,
                None => return again(app, bill, &call, false).await,
            },
            other => other?,
        },
    };
    let id = answer.get("id").and_then(Value::as_str).ok_or(BillingError::Incomplete("id"))?.to_owned();
    let (at, bill, key) = (app.clock.now(), bill.clone(), call.key);
    app.db
        .write(move |tx| {
            Box::pin(async move {
                copy::put_object(tx, &id, "invoiceitem", at, &answer.to_string()).await?;
                if store::advance(tx, at, &bill, BillState::Posted, Some(&id)).await? {
                    note(tx, at, &bill, "posted").await?;
                    alarms::clear(tx, at, NOT_BILLED, &bill.key()).await?;
                }
                copy::close_call(tx, at, &key, CallState::Done, Some(&id), None).await
            })
        })
        .await?;
    Ok(true)
}

/// The item that an earlier call with unknown outcome has made.
async fn find(app: &Services, customer: &str, key: &str) -> Result<Option<Value>, BillingError> {
    let mut after: Option<String> = None;
    loop {
        let request = stripe::list_invoice_items(customer, after.as_deref());
        let page = app.stripe.get(app.entropy.as_ref(), &request).await?;
        let rows = page.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if let Some(found) = rows.iter().find(|row| row["metadata"][WORD] == key) {
            return Ok(Some(found.clone()));
        }
        after = rows.last().and_then(|row| row["id"].as_str()).map(str::to_owned);
        if page["has_more"] != true || after.is_none() {
            return Ok(None);
        }
    }
}

/// It was not carried out: the next run has the next key.
async fn again(app: &Services, bill: &Bill, call: &Call, invoice: bool) -> Result<bool, BillingError> {
    let (at, bill, key) = (app.clock.now(), bill.clone(), call.key.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                if invoice {
                    store::next_invoice_attempt(tx, at, &bill).await?;
                } else {
                    store::next_attempt(tx, at, &bill).await?;
                }
                copy::close_call(tx, at, &key, CallState::Replaced, None, None).await
            })
        })
        .await?;
    Ok(true)
}

/// Looks whether an item is on an invoice; if so, reads that.
async fn look(app: &Services, id: &str) -> Result<bool, BillingError> {
    let item = match app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_invoice_item(id)).await {
        Ok(item) => item,
        Err(fault) if fault.kind == FaultKind::NotFound => return Ok(false),
        Err(fault) => return Err(fault.into()),
    };
    let Some(invoice) = item.get("invoice").and_then(Value::as_str) else { return Ok(false) };
    sync::invoice(app, invoice).await?;
    // An invoice comes with its first lines only.
    if let Some(seen) = item["metadata"][WORD].as_str().and_then(read_key) {
        let (at, id, invoice) = (app.clock.now(), id.to_owned(), invoice.to_owned());
        app.db
            .write(move |tx| {
                Box::pin(async move {
                    if copy::invoice_status(tx, &invoice).await?.as_deref() == Some("void") {
                        return Ok(());
                    }
                    seen_on(tx, at, seen, &id, &invoice).await
                })
            })
            .await?;
    }
    Ok(true)
}

/// The next invoice is far: one is made for what waits.
async fn put_invoice(
    app: &Services,
    bill: &Bill,
    subscription: &str,
    item: &str,
) -> Result<bool, BillingError> {
    let customer = customer(app, bill).await?;
    let request = stripe::create_invoice(&customer, subscription, &bill.key());
    let call = Call::new("traffic-invoice", bill.key(), bill.invoice_attempt, request);
    let answer = match outbox::send(app, &call).await {
        // What a call with unknown outcome has made holds the item.
        Err(BillingError::LookingUp) => {
            return if look(app, item).await? { Ok(false) } else { again(app, bill, &call, true).await };
        }
        Err(BillingError::Stripe(fault)) if fault.kind == FaultKind::Refused => {
            return if look(app, item).await? { Ok(false) } else { Err(fault.into()) };
        }
        other => other?,
    };
    let id = answer.get("id").and_then(Value::as_str).ok_or(BillingError::Incomplete("id"))?.to_owned();
    sync::invoice(app, &id).await?;
    outbox::close(app, &call, CallState::Done, Some(id), None).await?;
    Ok(false)
}

async fn waive(app: &Services, bill: &Bill) -> Result<bool, BillingError> {
    // An earlier run may have made the item and died.
    let customer = {
        let mut connection = app.db.read().await?;
        copy::customer(&mut connection, bill.account).await?
    };
    // With a customer that was deleted all items are gone.
    let found = match &customer {
        Some(customer) => find(app, customer, &bill.key()).await?,
        None => None,
    };
    if let Some(found) = found {
        let (at, bill) = (app.clock.now(), bill.clone());
        let id = found["id"].as_str().map(str::to_owned);
        app.db
            .write(move |tx| {
                Box::pin(async move { store::advance(tx, at, &bill, BillState::Posted, id.as_deref()).await })
            })
            .await?;
        return Ok(true);
    }
    waived(app, bill).await
}

/// The subscription has ended and no invoice has taken the item: it is removed.
async fn take_back(app: &Services, bill: &Bill, item: &str) -> Result<bool, BillingError> {
    if look(app, item).await? {
        return Ok(false);
    }
    match app.stripe.get(app.entropy.as_ref(), &stripe::delete_invoice_item(item)).await {
        Ok(_) => waived(app, bill).await,
        Err(fault) if fault.kind == FaultKind::NotFound => waived(app, bill).await,
        Err(fault) => Err(fault.into()),
    }
}

async fn waived(app: &Services, bill: &Bill) -> Result<bool, BillingError> {
    let (at, bill) = (app.clock.now(), bill.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                if store::advance(tx, at, &bill, BillState::Waived, None).await? {
                    note(tx, at, &bill, "waived").await?;
                    alarms::clear(tx, at, NOT_BILLED, &bill.key()).await?;
                }
                Ok::<_, crate::db::DbError>(())
            })
        })
        .await?;
    Ok(false)
}

/// Stripe said no: a person is asked, and it is tried again after an hour.
async fn refused(app: &Services, bill: &Bill, error: BillingError) -> Result<(), JobError> {
    tracing::error!(%error, traffic.bill = bill.key(), "Stripe does not take a bill");
    let (at, bill): (UnixMillis, Bill) = (app.clock.now(), bill.clone());
    let detail = format!(
        "The traffic of server {} in {} ({}) could not be put on an invoice: {error}. It is tried again every hour.",
        bill.instance,
        bill.month,
        web::written_money(bill.amount_minor, &bill.currency)
    );
    // Only a key that Stripe said no to is spent. With any other fault what was sent under it may have been carried out, and
    // the same key finds that out. It is the item's key; that of an invoice is looked up before the next one is taken.
    let said_no = matches!(&error, BillingError::Stripe(fault) if fault.is_no());
    let spent = said_no && bill.state == BillState::Wanted;
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let key = bill.key();
                let severity = Severity::Warning;
                let alarm =
                    alarms::New { kind: NOT_BILLED, subject: &key, severity, node: None, detail: &detail };
                alarms::hold(tx, at, alarm).await?;
                if spent {
                    store::next_attempt(tx, at, &bill).await
                } else {
                    store::put_off(tx, at, &bill).await
                }
            })
        })
        .await?;
    Ok(())
}
