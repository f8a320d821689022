//! Jobs of orders: what billing and instances tell, the look at one order, and the reconciler.

use std::time::Duration;

use ez_protocol::OrderId;
use serde_json::json;

use super::{
    OrderEvent,
    advance::{AdvanceError, advance},
    settle::{self, SettleError},
    store,
};
use crate::{
    app::App,
    billing::{CHECKOUT_EXPIRED, PAYMENT_SETTLED, PAYMENT_SUSPICIOUS, REFUND_SETTLED},
    db::DbError,
    instances::CHANGED,
    jobs::{self, JobError, JobRegistry, JobRun},
};

/// Looks at one order; the key is its id.
pub(super) const ADVANCE: &str = "orders.advance";
const RECONCILE: &str = "orders.reconcile";
/// How often every open order is looked at, whatever was lost.
const RECONCILE_EVERY: Duration = Duration::from_secs(5 * 60);

/// Names this slice's job handlers.
pub(crate) fn register_jobs(registry: &mut JobRegistry) {
    registry.on(PAYMENT_SETTLED, run_settled);
    registry.on(PAYMENT_SUSPICIOUS, run_suspicious);
    registry.on(CHECKOUT_EXPIRED, run_expired);
    registry.on(REFUND_SETTLED, run_refunded);
    registry.on(CHANGED, run_advance);
    registry.on(ADVANCE, run_advance);
    registry.every(RECONCILE, RECONCILE_EVERY, run_reconcile);
}

fn order_of(run: &JobRun) -> Result<OrderId, JobError> {
    run.key.parse().map_err(JobError::fail)
}

async fn run_settled(app: App, run: JobRun) -> Result<(), JobError> {
    let id = order_of(&run)?;
    settle::paid(&app, id).await.map_err(sort)?;
    // The signed order leaves in the same breath; if this is lost, the job that `paid` enqueued does it.
    look(&app, id).await
}

async fn run_suspicious(app: App, run: JobRun) -> Result<(), JobError> {
    settle::suspicious(&app, order_of(&run)?).await.map_err(sort)
}

async fn run_expired(app: App, run: JobRun) -> Result<(), JobError> {
    settle::let_go(&app, order_of(&run)?, OrderEvent::CheckoutExpired, "stripe").await.map_err(sort)
}

async fn run_refunded(app: App, run: JobRun) -> Result<(), JobError> {
    settle::refund_changed(&app, order_of(&run)?).await.map_err(sort)
}

async fn run_advance(app: App, run: JobRun) -> Result<(), JobError> {
    look(&app, order_of(&run)?).await
}

async fn look(app: &App, id: OrderId) -> Result<(), JobError> {
    let again = match advance(app, id).await {
        Ok(again) => again,
        // Somebody moved it in between: look again.
        Err(AdvanceError::Db(DbError::Inconsistent { table, column, row })) => {
            return Err(JobError::fail(DbError::Inconsistent { table, column, row }));
        }
        Err(error) => return Err(JobError::retry(error)),
    };
    if let Some(at) = again.filter(|at| *at > app.clock.now()) {
        app.db
            .write(move |tx| {
                Box::pin(async move {
                    jobs::enqueue(tx, ADVANCE, &id.to_string(), &json!({"order_id": id}), at).await
                })
            })
            .await?;
    }
    Ok(())
}

/// Looks at every open order: a lost signal costs minutes, never an order.
async fn run_reconcile(app: App, _run: JobRun) -> Result<(), JobError> {
    let open = {
        let mut connection = app.db.read().await?;
        store::open(&mut connection).await?
    };
    let now = app.clock.now();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                for id in open {
                    jobs::enqueue(tx, ADVANCE, &id.to_string(), &json!({"order_id": id}), now).await?;
                }
                Ok::<_, JobFailure>(())
            })
        })
        .await
        .map_err(|JobFailure(error)| error.into())
}

/// A database error on its way out of a closure.
struct JobFailure(DbError);

impl From<DbError> for JobFailure {
    fn from(error: DbError) -> Self {
        Self(error)
    }
}

fn sort(error: SettleError) -> JobError {
    match error.into_db() {
        // Moved in between by somebody else: look again.
        Ok(error @ DbError::NotFound) => JobError::retry(error),
        Ok(error) => error.into(),
        // Money is never given up on: it stays in the list of dead jobs until somebody looked.
        Err(other) => JobError::fail(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{instances::InstanceError, orders::OrderError};

    /// A deadlock of PostgreSQL is over a moment later, whether it met the order's row or the server's.
    #[test]
    fn a_database_that_is_away_for_a_moment_kills_no_job_about_money() {
        let ways: [fn(DbError) -> SettleError; 3] = [
            SettleError::Db,
            |error| SettleError::Order(OrderError::Db(error)),
            |error| SettleError::Instance(InstanceError::Db(error)),
        ];
        for way in ways {
            for passing in [DbError::Unavailable("deadlock detected".into()), DbError::NotFound] {
                assert!(matches!(sort(way(passing)), JobError::Retry(_)));
            }
            let wrong = DbError::Inconsistent { table: "orders", column: "state", row: "1".into() };
            assert!(matches!(sort(way(wrong)), JobError::Fail(_)));
        }
    }
}
