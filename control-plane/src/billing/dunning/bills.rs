//! Single invoices that a person is asked about, whatever the clock of their server says.

use ez_protocol::{OrderId, UnixMillis};
use sqlx::AnyConnection;

use super::{AddressNeeded, store};
use crate::{
    app::Services,
    billing::{stripe::InvoiceView, usage},
    config::Config,
    db::DbError,
    fleet::{Severity, alarms},
    notify, web,
};

/// The alarm about a bill beside the subscription that could not be charged.
const TRAFFIC_UNPAID: &str = "traffic_unpaid";
/// The alarm about an invoice that Stripe cannot make final.
const NOT_FINAL: &str = "invoice_not_final";

/// Whether an invoice is a bill beside the subscription: made by hand, as that for a year's traffic is, or of traffic alone.
/// Stripe's word for the subscription stays what it is when nobody pays it, and so does the server.
pub(super) fn is_apart(invoice: &InvoiceView) -> bool {
    invoice.billing_reason.as_deref() == Some("manual") || usage::is_traffic_alone(invoice)
}

/// Holds or ends the alarms about an invoice that was read; who can mend it is told.
pub(in crate::billing) async fn watch(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    order: OrderId,
    invoice: &InvoiceView,
) -> Result<(), DbError> {
    unpaid(tx, now, order, invoice).await?;
    not_final(tx, config, now, order, invoice).await
}

/// A bill beside the subscription that could not be charged.
async fn unpaid(
    tx: &mut AnyConnection,
    now: UnixMillis,
    order: OrderId,
    invoice: &InvoiceView,
) -> Result<(), DbError> {
    let due = invoice.amount_remaining.unwrap_or(0);
    let tried = invoice.status.as_deref() == Some("open") && invoice.attempt_count.unwrap_or(0) > 0;
    if !(is_apart(invoice) && tried && due > 0) {
        return alarms::clear(tx, now, TRAFFIC_UNPAID, &invoice.id).await;
    }
    let amount = web::written_money(due, invoice.currency.as_deref().unwrap_or_default());
    let what = if usage::is_traffic_alone(invoice) { "traffic" } else { "an invoice made by hand" };
    let detail = format!(
        "{amount} for {what} of order {order} could not be charged ({}). Nothing is switched off because of it, and its customer has \
         the link to pay. If it is not to be paid, void it or mark it uncollectible in Stripe's dashboard: then this alarm ends.",
        invoice.id
    );
    let severity = Severity::Warning;
    let alarm =
        alarms::New { kind: TRAFFIC_UNPAID, subject: &invoice.id, severity, node: None, detail: &detail };
    alarms::hold(tx, now, alarm).await.map(|_| ())
}

/// A draft that Stripe could not make final charges nobody, and its server is served for nothing: an operator is asked, and its
/// customer, once, where an address is what lacks.
async fn not_final(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    order: OrderId,
    invoice: &InvoiceView,
) -> Result<(), DbError> {
    let known = store::known(tx, order).await?;
    // Nobody is to be charged for the time after an end; what was used before it still is.
    let over = known.as_ref().is_some_and(|known| known.facts.closed) && !usage::is_traffic_alone(invoice);
    let Some(why) = invoice.not_final().filter(|_| !over) else {
        return alarms::clear(tx, now, NOT_FINAL, &invoice.id).await;
    };
    let detail = format!(
        "Stripe could not make invoice {} of order {order} final: {} Nobody is charged for it, and the server is served all the \
         same. When the cause is mended, finalize the invoice in Stripe's dashboard, if Stripe has not by itself.",
        invoice.id,
        sentence(&why.message)
    );
    let severity = Severity::Critical;
    let alarm = alarms::New { kind: NOT_FINAL, subject: &invoice.id, severity, node: None, detail: &detail };
    alarms::hold(tx, now, alarm).await?;
    if !why.lacks_address {
        return Ok(());
    }
    let Some(known) = known else { return Ok(()) };
    if store::first_time(tx, now, order, &format!("address:{}", invoice.id)).await? {
        let letter = AddressNeeded { server: known.description, link: config.http.page("/billing") };
        notify::send(tx, now, &known.email, &letter).await?;
    }
    Ok(())
}

/// The service of a subscription is over for good: what was to be charged for the time after is nobody's business any more.
pub(super) async fn ended(
    tx: &mut AnyConnection,
    now: UnixMillis,
    subscription: &str,
) -> Result<(), DbError> {
    for draft in store::drafts(tx, subscription).await? {
        alarms::clear(tx, now, NOT_FINAL, &draft).await?;
    }
    Ok(())
}

/// Stripe does not have an invoice any more: a draft was deleted, and nothing is to be done about it.
pub(in crate::billing) async fn gone(app: &Services, invoice: &str) -> Result<(), DbError> {
    let (now, invoice) = (app.clock.now(), invoice.to_owned());
    app.db.write(move |tx| Box::pin(async move { alarms::clear(tx, now, NOT_FINAL, &invoice).await })).await
}

/// Words of Stripe's with the stop at their end that they may lack.
fn sentence(words: &str) -> String {
    if words.ends_with(['.', '!', '?']) { words.to_owned() } else { format!("{words}.") }
}
