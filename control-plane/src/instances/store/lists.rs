//! SQL over many servers: a statement for all of them, not one for each.

use std::collections::BTreeMap;

use ez_protocol::{AccountId, InstanceId, NodeId};
use sqlx::AnyConnection;

use super::{read, read_action};
use crate::{
    db::{DbError, padded},
    instances::model::{ActionRow, Instance},
};

/// Some servers, up to [`crate::db::MANY`] of them, in no order.
pub(in crate::instances) async fn by_ids(
    connection: &mut AnyConnection,
    ids: &[InstanceId],
) -> Result<Vec<Instance>, DbError> {
    let mut query = sqlx::query(select_instances!(
        "WHERE id IN ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
             $22, $23, $24, $25)"
    ));
    for id in padded(ids) {
        query = query.bind(id);
    }
    query.fetch_all(connection).await?.iter().map(read).collect()
}

/// The actions about an account's servers that have not ended; of one with two, that which began last.
pub(in crate::instances) async fn open_actions(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<BTreeMap<InstanceId, ActionRow>, DbError> {
    let rows = sqlx::query(
        "SELECT a.id, a.instance_id, a.kind, a.about, a.state, a.provisioning_order_id, a.requested_by, a.error,
             a.started_at, a.finished_at
         FROM instance_actions a JOIN instances i ON i.id = a.instance_id
         WHERE i.account_id = $1 AND i.state NOT IN ('released', 'purged') AND a.state = 'running'
         ORDER BY a.started_at, a.id",
    )
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| read_action(row).map(|action| (action.instance, action))).collect()
}

/// The disks of a node's servers that are there or may be, GiB: being built, built and not gone. A clone has taken its disk
/// long before its server is built: to leave it out would count it as somebody else's, and once more among the sold.
pub(in crate::instances) async fn disk_built_on(
    connection: &mut AnyConnection,
    node: NodeId,
) -> Result<i64, DbError> {
    let query = sqlx::query_scalar(
        "SELECT CAST(COALESCE(SUM(disk_gib), 0) AS BIGINT) FROM instances WHERE node_id = $1
             AND state IN ('provisioning', 'needs_operator', 'running', 'stopped', 'retiring', 'retired', 'purging')",
    );
    Ok(query.bind(node.to_string()).fetch_one(connection).await?)
}
