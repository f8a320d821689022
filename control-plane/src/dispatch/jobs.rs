//! Jobs of dispatch.

use std::time::Duration;

use crate::{
    app::App,
    dispatch::{images, model::State, record, store},
    jobs::{JobError, JobRegistry, JobRun},
};

/// Names this slice's job handlers.
pub(crate) fn register_jobs(registry: &mut JobRegistry) {
    registry.every("dispatch.expire", Duration::from_secs(5), |app: App, _run: JobRun| expire(app));
}

/// Ends orders that were never accepted: those that never left at their end, the others when the clocks'
/// tolerance is over as well, so that an expired order is one that no node can accept any more.
pub(super) async fn expire(app: App) -> Result<(), JobError> {
    let at = app.clock.now();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                for order in store::overdue(tx, at).await? {
                    // Its node may have accepted it since the list was read.
                    let Some(order) = store::to_change(tx, order.id).await? else { continue };
                    if order.state.to(State::Expired).is_ok() {
                        store::set_state(tx, at, order.id, order.state, State::Expired).await?;
                        record::after(tx, at, &order, State::Expired, "").await?;
                    }
                }
                images::expire(tx, at).await?;
                Ok::<_, crate::db::DbError>(())
            })
        })
        .await?;
    Ok(())
}
