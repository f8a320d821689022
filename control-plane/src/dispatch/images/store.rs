//! SQL of image orders.

use ez_protocol::{NodeId, ProvisioningOrderId, UnixMillis, image::ImageOrder, order::CLOCK_TOLERANCE};
use sqlx::{AnyConnection, any::AnyRow};

use super::{ImageRecord, ImageState};
use crate::{
    db::{Cols, DbError, one_row},
    dispatch::model::Delivery,
};

fn read(row: &AnyRow) -> Result<ImageRecord, DbError> {
    let row = Cols::of("image_orders", row);
    Ok(ImageRecord {
        id: row.id("id")?,
        node: row.id("node_id")?,
        image: row.text("image_code")?,
        version: row.text("version")?,
        digest: row.text("digest")?,
        state: row.get("state")?,
        step: row.get("step")?,
        detail: row.get("detail")?,
        issued_at: row.millis("issued_at")?,
        updated_at: row.millis("updated_at")?,
    })
}

pub(super) async fn by_id(
    conn: &mut AnyConnection,
    id: ProvisioningOrderId,
) -> Result<Option<ImageRecord>, DbError> {
    let row = sqlx::query(
        "SELECT id, node_id, image_code, version, digest, state, step, detail, issued_at, updated_at
         FROM image_orders WHERE id = $1",
    )
    .bind(id.to_string())
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(read).transpose()
}

pub(super) async fn list(
    conn: &mut AnyConnection,
    node: Option<NodeId>,
    limit: i64,
) -> Result<Vec<ImageRecord>, DbError> {
    let rows = sqlx::query(
        "SELECT id, node_id, image_code, version, digest, state, step, detail, issued_at, updated_at
         FROM image_orders WHERE CAST($1 AS TEXT) IS NULL OR node_id = $1
         ORDER BY issued_at DESC, id DESC LIMIT $2",
    )
    .bind(node.map(|node| node.to_string()))
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter().map(read).collect()
}

/// An order for this digest on this node that has not ended and whose time is not over.
pub(super) async fn open_for(
    conn: &mut AnyConnection,
    node: NodeId,
    digest: &str,
    at: UnixMillis,
) -> Result<Option<ProvisioningOrderId>, DbError> {
    let row = sqlx::query(
        "SELECT id FROM image_orders
         WHERE node_id = $1 AND digest = $2 AND state IN ('signed', 'queued', 'accepted', 'running')
             AND expires_at > $3
         ORDER BY issued_at LIMIT 1",
    )
    .bind(node.to_string())
    .bind(digest.to_owned())
    .bind(at.0)
    .fetch_optional(conn)
    .await?;
    row.map(|row| Cols::of("image_orders", &row).id("id")).transpose()
}

pub(super) async fn insert(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: &ImageOrder,
    envelope: Vec<u8>,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO image_orders (id, node_id, epoch, image_code, version, digest, url, actor, envelope, state,
             issued_at, expires_at, attempts, next_attempt_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'signed', $10, $11, 0, $10, $10)",
    )
    .bind(order.order_id.to_string())
    .bind(order.aud.node.to_string())
    .bind(i64::try_from(order.aud.epoch).unwrap_or(i64::MAX))
    .bind(order.image.name.clone())
    .bind(order.image.version.clone())
    .bind(order.image.digest.to_string())
    .bind(order.image.url.to_string())
    .bind(order.cause.actor.clone())
    .bind(envelope)
    .bind(at.0)
    .bind(order.exp.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn due(
    conn: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    limit: i64,
) -> Result<Vec<Delivery>, DbError> {
    let rows = sqlx::query(
        "SELECT id, attempts, envelope FROM image_orders
         WHERE node_id = $1 AND state IN ('signed', 'queued') AND next_attempt_at <= $2 AND expires_at > $2
         ORDER BY issued_at LIMIT $3",
    )
    .bind(node.to_string())
    .bind(at.0)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("image_orders", row);
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
        "SELECT DISTINCT node_id FROM image_orders
         WHERE state IN ('signed', 'queued') AND next_attempt_at <= $1 AND expires_at > $1",
    )
    .bind(at.0)
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Cols::of("image_orders", row).id("node_id")).collect()
}

pub(super) async fn leaving(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: ProvisioningOrderId,
    next: UnixMillis,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "UPDATE image_orders SET state = 'queued', attempts = attempts + 1, next_attempt_at = $1, updated_at = $2
         WHERE id = $3 AND state IN ('signed', 'queued')",
    )
    .bind(next.0)
    .bind(at.0)
    .bind(id.to_string())
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn due_again(tx: &mut AnyConnection, at: UnixMillis, node: NodeId) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE image_orders SET next_attempt_at = $1
         WHERE node_id = $2 AND state IN ('signed', 'queued') AND next_attempt_at > $1",
    )
    .bind(at.0)
    .bind(node.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn set(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: ProvisioningOrderId,
    state: ImageState,
    step: Option<String>,
    detail: Option<String>,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE image_orders SET state = $2, step = $3, detail = $4, updated_at = $5
         WHERE id = $1 AND state NOT IN ('ready', 'failed', 'refused', 'expired')",
    )
    .bind(id.to_string())
    .bind(state)
    .bind(step)
    .bind(detail)
    .bind(at.0)
    .execute(tx)
    .await?;
    one_row(done)
}

/// Orders that no node has accepted and none can any more.
pub(super) async fn overdue(conn: &mut AnyConnection, at: UnixMillis) -> Result<Vec<ImageRecord>, DbError> {
    let rows = sqlx::query(
        "SELECT id, node_id, image_code, version, digest, state, step, detail, issued_at, updated_at
         FROM image_orders WHERE state IN ('signed', 'queued') AND expires_at < $1
         ORDER BY issued_at LIMIT 100",
    )
    .bind(at.minus(CLOCK_TOLERANCE).0)
    .fetch_all(conn)
    .await?;
    rows.iter().map(read).collect()
}
