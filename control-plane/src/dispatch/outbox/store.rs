//! SQL of the outbox.

use ez_protocol::{NodeId, ProvisioningOrderId, UnixMillis};
use sqlx::AnyConnection;

use crate::{
    db::{Cols, DbError, one_row},
    dispatch::model::Delivery,
};

pub(super) async fn due(
    conn: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    limit: i64,
) -> Result<Vec<Delivery>, DbError> {
    let rows = sqlx::query(
        "SELECT o.id, o.attempts, o.envelope FROM provisioning_orders o
         WHERE o.node_id = $1 AND o.state IN ('signed', 'queued') AND o.next_attempt_at <= $2 AND o.expires_at > $2
         ORDER BY o.seq LIMIT $3",
    )
    .bind(node.to_string())
    .bind(at.0)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("provisioning_orders", row);
            Ok(Delivery {
                id: row.id("id")?,
                attempts: row.num("attempts")?,
                envelope: row.bytes("envelope")?,
            })
        })
        .collect()
}

pub(super) async fn due_nodes(conn: &mut AnyConnection, at: UnixMillis) -> Result<Vec<NodeId>, DbError> {
    let rows = sqlx::query(
        "SELECT DISTINCT node_id FROM provisioning_orders
         WHERE state IN ('signed', 'queued') AND next_attempt_at <= $1 AND expires_at > $1",
    )
    .bind(at.0)
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Cols::of("provisioning_orders", row).id("node_id")).collect()
}

pub(super) async fn leaving(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: ProvisioningOrderId,
    next: UnixMillis,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE provisioning_orders SET state = 'queued', attempts = attempts + 1, next_attempt_at = $1,
             queued_at = COALESCE(queued_at, $2), updated_at = $2
         WHERE id = $3 AND state IN ('signed', 'queued')",
    )
    .bind(next.0)
    .bind(at.0)
    .bind(id.to_string())
    .execute(tx)
    .await?;
    one_row(done)
}

pub(super) async fn due_again(tx: &mut AnyConnection, at: UnixMillis, node: NodeId) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE provisioning_orders SET next_attempt_at = $1
         WHERE node_id = $2 AND state IN ('signed', 'queued') AND next_attempt_at > $1",
    )
    .bind(at.0)
    .bind(node.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn accepted_seq(conn: &mut AnyConnection, node: NodeId, epoch: u64) -> Result<u64, DbError> {
    let row = sqlx::query(
        "SELECT CAST(COALESCE(max(seq), 0) AS BIGINT) AS seq FROM provisioning_orders
         WHERE node_id = $1 AND epoch = $2 AND accepted_at IS NOT NULL",
    )
    .bind(node.to_string())
    .bind(i64::try_from(epoch).unwrap_or(i64::MAX))
    .fetch_one(conn)
    .await?;
    Cols::of("provisioning_orders", &row).num("seq")
}
