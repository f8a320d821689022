//! SQL of settings, of the orders that change them, and of suspensions.

use std::collections::{BTreeMap, BTreeSet};

use ez_protocol::{AccountId, InstanceId, ProvisioningOrderId, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use super::{Settings, Suspension, Wishes};
use crate::db::{Cols, DbError, one_row, opt_id, padded};

fn text<T: serde::Serialize>(value: &T) -> Result<String, DbError> {
    // Plain data with text keys: it cannot fail, and a failure is no row.
    serde_json::to_string(value).map_err(|_| DbError::Inconsistent {
        table: "instance_settings",
        column: "applied",
        row: "to be written".to_owned(),
    })
}

pub(super) async fn get(connection: &mut AnyConnection, id: InstanceId) -> Result<Option<Wishes>, DbError> {
    let row = sqlx::query(
        "SELECT instance_id, applied, applied_generation, provisioning_order_id, builds, disk_lost, restart_needed
         FROM instance_settings WHERE instance_id = $1",
    )
    .bind(id.to_string())
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read).transpose()
}

/// The same of each server of an account that is not gone; who has no row was never changed.
pub(super) async fn of_account(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<BTreeMap<InstanceId, Wishes>, DbError> {
    let rows = sqlx::query(
        "SELECT s.instance_id, s.applied, s.applied_generation, s.provisioning_order_id, s.builds, s.disk_lost,
             s.restart_needed
         FROM instance_settings s JOIN instances i ON i.id = s.instance_id
         WHERE i.account_id = $1 AND i.state NOT IN ('released', 'purged')",
    )
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((Cols::of("instance_settings", row).id("instance_id")?, read(row)?))).collect()
}

fn read(row: &AnyRow) -> Result<Wishes, DbError> {
    let row = Cols::of("instance_settings", row);
    Ok(Wishes {
        applied: row.json("applied")?,
        generation: row.num("applied_generation")?,
        under_way: row.opt_id("provisioning_order_id")?,
        builds: row.num("builds")?,
        disk_lost: row.flag("disk_lost")?,
        restart_needed: row.flag("restart_needed")?,
        suspension: None,
    })
}

/// Writes what holds and what is under way. The caller holds the server's lock.
pub(in crate::instances) async fn put(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: InstanceId,
    wishes: &Wishes,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "INSERT INTO instance_settings
             (instance_id, applied, applied_generation, suspended, provisioning_order_id, builds, disk_lost,
              restart_needed, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (instance_id) DO UPDATE SET
             applied = excluded.applied, applied_generation = excluded.applied_generation,
             suspended = excluded.suspended, provisioning_order_id = excluded.provisioning_order_id,
             builds = excluded.builds, disk_lost = excluded.disk_lost, restart_needed = excluded.restart_needed,
             updated_at = excluded.updated_at",
    )
    .bind(id.to_string())
    .bind(text(&wishes.applied)?)
    .bind(i64::try_from(wishes.generation).unwrap_or(i64::MAX))
    .bind(i64::from(wishes.applied.suspended))
    .bind(opt_id(wishes.under_way.as_ref()))
    .bind(i64::from(wishes.builds))
    .bind(i64::from(wishes.disk_lost))
    .bind(i64::from(wishes.restart_needed))
    .bind(at.0)
    .execute(tx)
    .await?;
    one_row(done)
}

/// The server was off: what waited for its next start takes effect with it.
pub(in crate::instances) async fn restarted(tx: &mut AnyConnection, id: InstanceId) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE instance_settings SET restart_needed = 0 WHERE instance_id = $1 AND restart_needed = 1",
    )
    .bind(id.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

/// Remembers which settings an order carries.
pub(super) async fn insert_change(
    tx: &mut AnyConnection,
    order: ProvisioningOrderId,
    id: InstanceId,
    settings: &Settings,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO instance_changes (provisioning_order_id, instance_id, settings) VALUES ($1, $2, $3)",
    )
    .bind(order.to_string())
    .bind(id.to_string())
    .bind(text(settings)?)
    .execute(tx)
    .await?;
    Ok(())
}

/// The settings that an order carries, if it is one that changes some.
pub(in crate::instances) async fn change(
    connection: &mut AnyConnection,
    order: ProvisioningOrderId,
) -> Result<Option<Settings>, DbError> {
    let row = sqlx::query(
        "SELECT provisioning_order_id, settings FROM instance_changes WHERE provisioning_order_id = $1",
    )
    .bind(order.to_string())
    .fetch_optional(connection)
    .await?;
    row.map(|row| Cols::of("instance_changes", &row).json("settings")).transpose()
}

/// Which of some orders, up to [`crate::db::MANY`] of them, carry settings.
pub(in crate::instances) async fn changing(
    connection: &mut AnyConnection,
    orders: &[ProvisioningOrderId],
) -> Result<BTreeSet<ProvisioningOrderId>, DbError> {
    let mut query = sqlx::query(
        "SELECT provisioning_order_id FROM instance_changes WHERE provisioning_order_id IN
             ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
             $23, $24, $25)",
    );
    for id in padded(orders) {
        query = query.bind(id);
    }
    let rows = query.fetch_all(connection).await?;
    rows.iter().map(|row| Cols::of("instance_changes", row).id("provisioning_order_id")).collect()
}

pub(in crate::instances) async fn suspension(
    connection: &mut AnyConnection,
    id: InstanceId,
) -> Result<Option<Suspension>, DbError> {
    let row = sqlx::query(
        "SELECT instance_id, suspended, reason, requested_by, requested_at
         FROM instance_suspensions WHERE instance_id = $1",
    )
    .bind(id.to_string())
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read_suspension).transpose()
}

/// The same of each server of an account that is not gone.
pub(super) async fn suspensions_of_account(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<BTreeMap<InstanceId, Suspension>, DbError> {
    let rows = sqlx::query(
        "SELECT s.instance_id, s.suspended, s.reason, s.requested_by, s.requested_at
         FROM instance_suspensions s JOIN instances i ON i.id = s.instance_id
         WHERE i.account_id = $1 AND i.state NOT IN ('released', 'purged')",
    )
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| Ok((Cols::of("instance_suspensions", row).id("instance_id")?, read_suspension(row)?)))
        .collect()
}

fn read_suspension(row: &AnyRow) -> Result<Suspension, DbError> {
    let row = Cols::of("instance_suspensions", row);
    Ok(Suspension {
        suspended: row.flag("suspended")?,
        reason: row.text("reason")?,
        by: row.text("requested_by")?,
        at: row.millis("requested_at")?,
    })
}

/// Which servers of an account are suspended and were told so.
pub(in crate::instances) async fn told_suspended(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<BTreeSet<InstanceId>, DbError> {
    let rows = sqlx::query(
        "SELECT s.instance_id FROM instance_settings s JOIN instances i ON i.id = s.instance_id
         JOIN instance_suspensions w ON w.instance_id = s.instance_id
         WHERE i.account_id = $1 AND s.suspended = 1 AND w.suspended = 1",
    )
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Cols::of("instance_settings", row).id("instance_id")).collect()
}

/// Writes a wish about a suspension over the last one. The caller holds the server's lock.
pub(in crate::instances) async fn put_suspension(
    tx: &mut AnyConnection,
    id: InstanceId,
    wish: &Suspension,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "INSERT INTO instance_suspensions (instance_id, suspended, reason, requested_by, requested_at)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (instance_id) DO UPDATE SET
             suspended = excluded.suspended, reason = excluded.reason, requested_by = excluded.requested_by,
             requested_at = excluded.requested_at",
    )
    .bind(id.to_string())
    .bind(i64::from(wish.suspended))
    .bind(&wish.reason)
    .bind(&wish.by)
    .bind(wish.at.0)
    .execute(tx)
    .await?;
    one_row(done)
}

/// Live servers whose node has yet to be told that they are, or are no longer, suspended, and those that were seen running
/// although it was.
pub(in crate::instances) async fn suspensions_due(
    connection: &mut AnyConnection,
) -> Result<Vec<InstanceId>, DbError> {
    let rows = sqlx::query(
        "SELECT i.id AS id FROM instance_suspensions s
         JOIN instances i ON i.id = s.instance_id
         LEFT JOIN instance_settings t ON t.instance_id = s.instance_id
         WHERE i.state IN ('running', 'stopped')
           AND (s.suspended <> COALESCE(t.suspended, 0)
                OR s.suspended = 1 AND i.observed_state IN ('running', 'paused'))
         ORDER BY s.requested_at, i.id LIMIT 100",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Cols::of("instances", row).id("id")).collect()
}

/// Servers that are retired, or live and held suspended by somebody.
pub(in crate::instances) async fn held_back(
    connection: &mut AnyConnection,
    by: &str,
) -> Result<Vec<InstanceId>, DbError> {
    let rows = sqlx::query(
        "SELECT i.id AS id FROM instances i
         LEFT JOIN instance_suspensions s ON s.instance_id = i.id
         WHERE i.state = 'retired'
            OR i.state IN ('running', 'stopped') AND s.suspended = 1 AND s.requested_by = $1
         ORDER BY COALESCE(s.requested_at, i.retired_at), i.id LIMIT 1000",
    )
    .bind(by)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Cols::of("instances", row).id("id")).collect()
}
