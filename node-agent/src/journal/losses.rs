//! What orders take away: disks that others replace, and snapshots and backups that are removed. A thief of the signing
//! key must not do to a whole fleet by rebuilding it what the budget for purges forbids.
//!
//! An order counts from its acceptance on, because what waits may all be carried out; once it has ended it counts only if
//! one of its steps has taken something away. The day's budget is one of *servers*: whoever rebuilds one server again and
//! again has harmed one.

#[cfg(test)]
mod tests;

use std::time::Duration;

use ez_protocol::{InstanceId, ProvisioningOrderId, UnixMillis};
use sqlx::{Row, SqliteConnection};

use super::{Circuit, JournalError, NewOrder, unsigned};

/// The weight of a whole disk; a snapshot or backup weighs one.
pub const DISK: u64 = 4;

/// What an order takes away for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Loss {
    /// Nothing.
    #[default]
    Nothing,
    /// A snapshot or a backup.
    Copy,
    /// What is on a server's disk.
    Disk,
}

impl Loss {
    const fn weight(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Copy => 1,
            Self::Disk => DISK,
        }
    }
}

/// What was taken away lately, as seen from one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Disks replaced in the last hour.
    pub hour: u64,
    /// Those of this server among them.
    pub here_hour: u64,
    /// What the other servers lost in the last 24 h, in quarters of a disk; of each server at most one disk.
    pub others_day: u64,
    /// The same of this server.
    pub here_day: u64,
}

impl Losses {
    /// What all servers will have lost in a day once this one has lost that too, in quarters of a disk.
    pub fn day_with(&self, loss: Loss) -> u64 {
        self.others_day + (self.here_day + loss.weight()).min(DISK)
    }
}

/// Steps whose effect cannot be taken back.
const TAKING: &[&str] = &["destroy", "roll_back", "restore", "drop_snapshot", "remove_backup"];

/// F1's part: the order counts until it is known to have touched nothing.
pub(super) async fn expect(
    conn: &mut SqliteConnection,
    order: &NewOrder,
    at: UnixMillis,
) -> Result<(), JournalError> {
    if order.loss == Loss::Nothing {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO acts (kind, at, instance_uuid, order_id, weight) VALUES ('replace', $1, $2, $3, $4)",
    )
    .bind(at.0)
    .bind(order.instance.to_string())
    .bind(order.order_id.to_string())
    .bind(i64::try_from(order.loss.weight()).unwrap_or(i64::MAX))
    .execute(conn)
    .await?;
    Ok(())
}

/// F5's part: an order that ended before anything was taken away was only an attempt.
pub(super) async fn settle(conn: &mut SqliteConnection, id: ProvisioningOrderId) -> Result<(), JournalError> {
    let steps = sqlx::query("SELECT name, state, upid FROM steps WHERE order_id = $1 AND k > 0")
        .bind(id.to_string())
        .fetch_all(&mut *conn)
        .await?;
    for step in steps {
        let (name, state): (String, String) = (step.try_get("name")?, step.try_get("state")?);
        let began = step.try_get::<Option<String>, _>("upid")?.is_some();
        // A call that Proxmox refused began no task; one whose answer was lost may have.
        if TAKING.contains(&name.as_str()) && (began || state != "failed") {
            return Ok(());
        }
    }
    sqlx::query("DELETE FROM acts WHERE order_id = $1 AND kind = 'replace'")
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// What the intake has to know; what root of this host has let through by `unlock` counts no more.
pub(super) async fn load(
    conn: &mut SqliteConnection,
    instance: InstanceId,
    circuit: &Circuit,
    at: UnixMillis,
) -> Result<Losses, JournalError> {
    let since = |hours: u64| at.minus(Duration::from_secs(3600 * hours)).max(circuit.counted_from).0;
    let hour = sqlx::query(
        "SELECT COUNT(*) AS n, COALESCE(SUM(instance_uuid = $2), 0) AS here FROM acts \
         WHERE kind = 'replace' AND weight >= 4 AND at > $1",
    )
    .bind(since(1))
    .bind(instance.to_string())
    .fetch_one(&mut *conn)
    .await?;
    let day = sqlx::query(
        "SELECT COALESCE(SUM(CASE WHEN who = $2 THEN 0 ELSE lost END), 0) AS others,
             COALESCE(SUM(CASE WHEN who = $2 THEN lost ELSE 0 END), 0) AS here
         FROM (SELECT COALESCE(instance_uuid, rowid) AS who, MIN($3, SUM(weight)) AS lost FROM acts
             WHERE kind = 'replace' AND at > $1 GROUP BY COALESCE(instance_uuid, rowid))",
    )
    .bind(since(24))
    .bind(instance.to_string())
    .bind(i64::try_from(DISK).unwrap_or(i64::MAX))
    .fetch_one(conn)
    .await?;
    Ok(Losses {
        hour: unsigned("acts", "n", hour.try_get("n")?)?,
        here_hour: unsigned("acts", "here", hour.try_get("here")?)?,
        others_day: unsigned("acts", "others", day.try_get("others")?)?,
        here_day: unsigned("acts", "here", day.try_get("here")?)?,
    })
}
