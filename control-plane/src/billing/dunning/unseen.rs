//! A subscription of which Stripe says that something is owed, while nothing of it is seen here.
//!
//! What is not known has no day, so no clock can count from it, and its server would be served, or stay off, for ever. For a moment
//! that is ordinary: an invoice that was paid is read before its subscription is. Only what stays so after both were read
//! again rings.

use std::time::Duration;

use ez_protocol::{OrderId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    standing::Status,
    store::{self, Known},
};
use crate::{
    app::Services,
    db::{self, DbError},
    fleet::{Severity, alarms},
};

/// The alarm.
const UNSEEN: &str = "unpaid_unseen";
/// Everything is read again so long after.
const LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);

/// Whether Stripe says that something is owed which we do not see. What is exempt is served whatever is owed, and what the host
/// does not collect is not owed.
fn is_unseen(known: &Known) -> bool {
    let facts = &known.facts;
    let late = matches!(facts.status, Status::PastDue | Status::Unpaid);
    late && facts.unpaid.is_none() && !facts.closed && !facts.exempt && !facts.collection_paused
}

/// Ends the alarm where there is nothing to ask; else gives when everything is to be read again.
pub(super) async fn watch(
    tx: &mut AnyConnection,
    now: UnixMillis,
    known: &Known,
) -> Result<Option<UnixMillis>, DbError> {
    if is_unseen(known) {
        return Ok(Some(now.plus(LOOK_AGAIN)));
    }
    alarms::clear(tx, now, UNSEEN, &known.order.to_string()).await?;
    Ok(None)
}

/// Asks a person, where everything was read just now and it is so still.
pub(super) async fn ring(app: &Services, order: OrderId) -> Result<(), DbError> {
    let unseen = {
        let mut connection = app.db.read().await?;
        store::known(&mut connection, order).await?.is_some_and(|known| is_unseen(&known))
    };
    if !unseen {
        return Ok(());
    }
    let now = app.clock.now();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "checkout", order).await?;
                let Some(known) = store::known(tx, order).await?.filter(is_unseen) else { return Ok(()) };
                let (off, subject) = (known.facts.status == Status::Unpaid, order.to_string());
                let detail = format!(
                    "Stripe says that subscription {} is \"{}\", and no invoice of it that is owed is found there. Its server {} and \
                     no clock of ours ends it. Look at its invoices in Stripe's dashboard: finalize the one that is to be paid, \
                     or cancel the subscription. Everything is read again every hour; this alarm ends by itself.",
                    known.subscription,
                    known.status,
                    if off { "is off" } else { "runs on" }
                );
                let severity = Severity::Warning;
                let alarm =
                    alarms::New { kind: UNSEEN, subject: &subject, severity, node: None, detail: &detail };
                alarms::hold(tx, now, alarm).await.map(|_| ())
            })
        })
        .await
}
