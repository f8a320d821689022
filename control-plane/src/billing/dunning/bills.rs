//! Single invoices that a person is asked about, whatever the clock of their server says.

use ez_protocol::{OrderId, UnixMillis};
use sqlx::AnyConnection;

use crate::{
    billing::{stripe::InvoiceView, usage},
    db::DbError,
    fleet::{Severity, alarms},
    web,
};

/// The alarm about a bill beside the subscription that could not be charged.
const TRAFFIC_UNPAID: &str = "traffic_unpaid";

/// Whether an invoice is a bill beside the subscription: made by hand, as that for a year's traffic is, or of traffic alone.
/// Stripe's word for the subscription stays what it is when nobody pays it, and so does the server.
pub(super) fn is_apart(invoice: &InvoiceView) -> bool {
    invoice.billing_reason.as_deref() == Some("manual") || usage::is_traffic_alone(invoice)
}

/// Holds or ends the alarms about an invoice that was read.
pub(in crate::billing) async fn watch(
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
    let detail = format!(
        "{amount} of order {order}, for traffic or another bill of its own ({}), could not be charged. Nothing is switched off because \
         of it, and its customer has the link to pay. If it is not to be paid, void it or mark it uncollectible in Stripe's \
         dashboard: then this alarm ends.",
        invoice.id
    );
    let severity = Severity::Warning;
    let alarm =
        alarms::New { kind: TRAFFIC_UNPAID, subject: &invoice.id, severity, node: None, detail: &detail };
    alarms::hold(tx, now, alarm).await.map(|_| ())
}
