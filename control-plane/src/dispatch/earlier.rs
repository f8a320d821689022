//! Orders from before a node was enrolled again: none of them is taken any more, and what the node held it may have
//! forgotten.

use ez_protocol::{InstanceId, NodeId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    model::{ProvisioningRecord, State},
    record, store,
};
use crate::db::DbError;

/// What a node that lost its journal leaves of an order that it held.
const FORGOTTEN: &str =
    "the node was set up again while this was under way: nobody knows how far it came; look at the server";
/// Of one that it never took.
const VOID: &str = "the node was enrolled again before it took this";

/// Ends what a server's node was told before `epoch` and will not be heard of again: what it never took and, if it
/// `forgot` everything, what it held. Whoever waits for the end of an order hears of it.
///
/// # Errors
/// Those of the database.
pub async fn end_earlier(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: InstanceId,
    (node, epoch): (NodeId, u64),
    forgot: bool,
) -> Result<(), DbError> {
    let earlier = |order: &ProvisioningRecord| order.node == node && order.epoch < epoch;
    for order in store::history_of(tx, instance).await?.into_iter().filter(earlier) {
        let Some(order) = store::to_change(tx, order.id).await? else { continue };
        let (next, why) = match order.state {
            state if state.is_undelivered() => (State::Cancelled, VOID),
            state if state.is_held_by_node() && forgot => (State::Failed, FORGOTTEN),
            _ => continue,
        };
        let Ok(next) = order.state.to(next) else { continue };
        store::end_without_word(tx, at, &order, next, why).await?;
        record::after(tx, at, &order, next, why).await?;
    }
    Ok(())
}
