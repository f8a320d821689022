//! What the node keeps of a server: its snapshots and backups, as the node tells them.
//!
//! Nothing is added or taken away here: after each order about them the node tells the whole list, and the list of
//! the newest order stands.

mod store;

use ez_protocol::{InstanceId, UnixMillis};
use sqlx::AnyConnection;

use crate::{
    db::DbError,
    dispatch::{BackupView, ProvisioningRecord, SnapshotView},
};

/// Word of the list of snapshots.
const SNAPSHOTS: &str = "snapshots";
/// Word of the list of backups.
const BACKUPS: &str = "backups";

/// Takes over the lists that an order's result carries.
pub(super) async fn take_over(
    tx: &mut AnyConnection,
    at: UnixMillis,
    record: &ProvisioningRecord,
) -> Result<(), DbError> {
    let Some(facts) = &record.facts else { return Ok(()) };
    if let Some(snapshots) = &facts.snapshots {
        store::put(tx, at, record.instance, SNAPSHOTS, record.seq, snapshots).await?;
    }
    if let Some(backups) = &facts.backups {
        store::put(tx, at, record.instance, BACKUPS, record.seq, backups).await?;
    }
    Ok(())
}

/// The disk is gone, and its snapshots with it.
pub(super) async fn forget_snapshots(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: InstanceId,
    seq: u64,
) -> Result<(), DbError> {
    store::put(tx, at, id, SNAPSHOTS, seq, &Vec::<SnapshotView>::new()).await
}

/// A server's snapshots, oldest first.
///
/// # Errors
/// Those of the query.
pub async fn snapshots(connection: &mut AnyConnection, id: InstanceId) -> Result<Vec<SnapshotView>, DbError> {
    store::get(connection, id, SNAPSHOTS).await
}

/// A server's backups, newest first.
///
/// # Errors
/// Those of the query.
pub async fn backups(connection: &mut AnyConnection, id: InstanceId) -> Result<Vec<BackupView>, DbError> {
    store::get(connection, id, BACKUPS).await
}
