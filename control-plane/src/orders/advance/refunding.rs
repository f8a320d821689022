//! The money goes back, and what may exist of the server ends.

use ez_protocol::{OrderId, UnixMillis};

use super::{AdvanceError, REFUND_AGAIN};
use crate::{
    app::Services,
    billing::{self, RefundState},
    dispatch,
    fleet::{self, Release},
    instances::{self, InstanceState},
    orders::{model::OrderState, settle, store},
};

/// Gives the money back and ends what may exist of the server; both are repeated until they are done.
pub(super) async fn refunding(
    app: &Services,
    now: UnixMillis,
    id: OrderId,
) -> Result<Option<UnixMillis>, AdvanceError> {
    end_server(app, now, id).await?;
    match billing::refund_full(app, id).await {
        Ok(RefundState::Succeeded | RefundState::Failed) => {
            settle::refund_changed(app, id).await?;
            Ok(Some(now))
        }
        Ok(RefundState::Wanted | RefundState::Pending) => Ok(Some(now.plus(REFUND_AGAIN))),
        // A wrong key of ours is no reason to stop: a person mends it, and then the money goes back.
        Err(error) if error.is_retryable() => {
            tracing::warn!(order.id = %id, error = %error, "a refund did not work out yet");
            Ok(Some(now.plus(REFUND_AGAIN)))
        }
        Err(error) => {
            tracing::error!(order.id = %id, error = %error, "a refund is not possible");
            settle::refund_impossible(app, id).await?;
            Ok(Some(now))
        }
    }
}

/// Ends the server of an order whose money goes back: what may exist is retired, what cannot exist is let go.
async fn end_server(app: &Services, now: UnixMillis, id: OrderId) -> Result<(), AdvanceError> {
    let (keys, entropy) = (app.keys.clone(), app.entropy.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(order) = store::get_to_change(tx, id).await? else { return Ok(()) };
                if order.state != OrderState::Refunding {
                    return Ok(());
                }
                let Some(instance) = instances::get_to_change(tx, order.instance).await? else {
                    return Ok(());
                };
                // Every order to build it counts: a retry leaves the ones before it with the node.
                let fenced = instance.state == InstanceState::NeedsOperator
                    && dispatch::builds_at(tx, now, instance.id, instance.node).await?.is_fenced();
                if fenced {
                    fleet::release(tx, now, instance.id, Release::Gone).await?;
                    let instance = instances::attempt_fenced(tx, now, instance, None, "system").await?;
                    instances::give_up_place(tx, now, instance, Release::Gone, "system").await?;
                    return Ok(());
                }
                instances::end(tx, &keys, now, entropy.as_ref(), instance, "system").await?;
                Ok(())
            })
        })
        .await
}
