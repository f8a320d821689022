//! What this agent made: one row per instance on this node. Together with the marker in the VM's
//! description this row is what makes a VM ours; without both the agent keeps its hands off.

use ez_protocol::{InstanceId, UnixMillis, order::InstanceSpec};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{Journal, JournalError, orders::text_enum, parsed, stored, unsigned};

text_enum! {
    /// What is known to exist of an instance.
    Phase {
        /// Promised by an accepted order; nothing has been called.
        Reserved = "reserved",
        /// The clone has been called; a VM may exist in part.
        Creating = "creating",
        /// The VM exists.
        Present = "present",
        /// Stopped and kept until it is purged.
        Retired = "retired",
    }
}

/// One instance in the books.
#[derive(Debug, Clone)]
pub struct ResourceRow {
    /// The instance.
    pub instance: InstanceId,
    /// Its VMID; fixed once a clone has succeeded.
    pub vmid: u32,
    /// The highest accepted generation.
    pub generation: u64,
    /// The highest generation that has been carried out.
    pub observed_generation: u64,
    /// Hash of the wanted spec.
    pub spec_hash: Option<Vec<u8>>,
    /// The wanted spec as JSON.
    pub spec_json: Option<String>,
    /// The spec that was carried out last, as JSON.
    pub applied_json: Option<String>,
    /// What the VM's own configuration told of its network when it was taken over, as JSON.
    pub seen_networks: Option<String>,
    /// The marker line written into the VM.
    pub marker: String,
    /// What is known to exist.
    pub phase: Phase,
    /// When it was retired.
    pub retired_at: Option<UnixMillis>,
}

impl ResourceRow {
    /// The spec that was carried out last. `None`: never, or not by this agent.
    pub fn applied(&self) -> Option<InstanceSpec> {
        serde_json::from_str(self.applied_json.as_deref()?).ok()
    }
}

/// The fence of an instance that is gone from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DepartedRow {
    /// Its last generation.
    pub generation: u64,
    /// The VMID it had.
    pub vmid: u32,
}

/// What the end of an order means for the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BookEntry {
    /// Nothing.
    Nothing,
    /// The generation has been carried out and the VM is there.
    Carried {
        /// The instance.
        instance: InstanceId,
        /// The generation.
        generation: u64,
        /// The spec that now applies, if the order had one.
        applied: Option<String>,
    },
    /// The VM is there and is ours; whether it is kept retired, and what was carried out last, stays as it was.
    Adopted {
        /// The instance.
        instance: InstanceId,
        /// The generation.
        generation: u64,
        /// What its configuration tells of its network, as JSON.
        networks: String,
    },
    /// The VM was stopped to be kept.
    Retired {
        /// The instance.
        instance: InstanceId,
        /// The generation.
        generation: u64,
    },
    /// Nothing of the instance is left on this node.
    Gone {
        /// The instance.
        instance: InstanceId,
        /// The generation that may not come back.
        generation: u64,
    },
}

fn read(row: &SqliteRow) -> Result<ResourceRow, JournalError> {
    let number = |column: &'static str| -> Result<u64, JournalError> {
        unsigned("resources", column, row.try_get(column).map_err(JournalError::Driver)?)
    };
    Ok(ResourceRow {
        instance: parsed("resources", "uuid", row.try_get("uuid")?)?,
        vmid: u32::try_from(number("vmid")?).unwrap_or(u32::MAX),
        generation: number("generation")?,
        observed_generation: number("observed_generation")?,
        spec_hash: row.try_get("spec_hash")?,
        spec_json: row.try_get("spec_json")?,
        applied_json: row.try_get("applied_json")?,
        seen_networks: row.try_get("seen_networks")?,
        marker: row.try_get("marker")?,
        phase: parsed("resources", "phase", row.try_get("phase")?)?,
        retired_at: row.try_get::<Option<i64>, _>("retired_at")?.map(UnixMillis),
    })
}

pub(super) async fn all(conn: &mut SqliteConnection) -> Result<Vec<ResourceRow>, JournalError> {
    sqlx::query("SELECT * FROM resources ORDER BY vmid").fetch_all(conn).await?.iter().map(read).collect()
}

pub(super) async fn departed(
    conn: &mut SqliteConnection,
    instance: InstanceId,
) -> Result<Option<DepartedRow>, JournalError> {
    let row = sqlx::query("SELECT generation, vmid FROM departed WHERE uuid = $1")
        .bind(instance.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|row| {
        Ok(DepartedRow {
            generation: unsigned("departed", "generation", row.try_get("generation")?)?,
            vmid: u32::try_from(row.try_get::<i64, _>("vmid")?).unwrap_or(u32::MAX),
        })
    })
    .transpose()
}

/// F1's part in the books: a new instance is reserved, a known one gets its wanted state.
pub(super) async fn promise(
    conn: &mut SqliteConnection,
    order: &super::NewOrder,
    at: UnixMillis,
) -> Result<(), JournalError> {
    if order.reserves {
        sqlx::query(
            "INSERT INTO resources (uuid, vmid, generation, spec_hash, spec_json, marker, phase, created_by, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, 'reserved', $7, $8)",
        )
        .bind(order.instance.to_string())
        .bind(i64::from(order.vmid))
        .bind(stored(order.generation))
        .bind(order.spec_hash.to_vec())
        .bind(order.spec_json.clone())
        .bind(order.marker.clone())
        .bind(order.order_id.to_string())
        .bind(at.0)
        .execute(&mut *conn)
        .await?;
        if order.verb == super::Verb::Ensure {
            act(conn, "create", at).await?;
        }
        return Ok(());
    }
    sqlx::query("UPDATE resources SET generation = MAX(generation, $2), updated_at = $3 WHERE uuid = $1")
        .bind(order.instance.to_string())
        .bind(stored(order.generation))
        .bind(at.0)
        .execute(&mut *conn)
        .await?;
    if let Some(json) = &order.spec_json {
        sqlx::query("UPDATE resources SET spec_hash = $2, spec_json = $3 WHERE uuid = $1")
            .bind(order.instance.to_string())
            .bind(order.spec_hash.to_vec())
            .bind(json.clone())
            .execute(&mut *conn)
            .await?;
    }
    if order.verb == super::Verb::Purge {
        act(conn, "purge", at).await?;
    }
    super::losses::expect(conn, order, at).await
}

async fn act(conn: &mut SqliteConnection, kind: &'static str, at: UnixMillis) -> Result<(), JournalError> {
    sqlx::query("INSERT INTO acts (kind, at) VALUES ($1, $2)").bind(kind).bind(at.0).execute(conn).await?;
    Ok(())
}

/// How many acts of a kind there were since a moment.
pub(super) async fn acts_since(
    conn: &mut SqliteConnection,
    kind: &'static str,
    since: UnixMillis,
) -> Result<u64, JournalError> {
    let count: i64 = sqlx::query("SELECT COUNT(*) FROM acts WHERE kind = $1 AND at > $2")
        .bind(kind)
        .bind(since.0)
        .fetch_one(conn)
        .await?
        .try_get(0)?;
    unsigned("acts", "count", count)
}

pub(super) async fn apply(
    conn: &mut SqliteConnection,
    entry: BookEntry,
    at: UnixMillis,
) -> Result<(), JournalError> {
    match entry {
        BookEntry::Nothing => Ok(()),
        BookEntry::Carried { instance, generation, applied } => {
            sqlx::query(
                "UPDATE resources SET observed_generation = MAX(observed_generation, $2), updated_at = $3, \
                 phase = 'present', retired_at = NULL, applied_json = COALESCE($4, applied_json) WHERE uuid = $1",
            )
            .bind(instance.to_string())
            .bind(stored(generation))
            .bind(at.0)
            .bind(applied)
            .execute(conn)
            .await?;
            Ok(())
        }
        BookEntry::Adopted { instance, generation, networks } => {
            sqlx::query(
                "UPDATE resources SET observed_generation = MAX(observed_generation, $2), updated_at = $3, \
                 seen_networks = $4, phase = CASE WHEN phase = 'retired' THEN phase ELSE 'present' END WHERE uuid = $1",
            )
            .bind(instance.to_string())
            .bind(stored(generation))
            .bind(at.0)
            .bind(networks)
            .execute(conn)
            .await?;
            Ok(())
        }
        BookEntry::Retired { instance, generation } => {
            sqlx::query(
                "UPDATE resources SET observed_generation = MAX(observed_generation, $2), updated_at = $3, \
                 phase = 'retired', retired_at = COALESCE(retired_at, $3) WHERE uuid = $1",
            )
            .bind(instance.to_string())
            .bind(stored(generation))
            .bind(at.0)
            .execute(conn)
            .await?;
            Ok(())
        }
        BookEntry::Gone { instance, generation } => gone(conn, instance, generation, at).await,
    }
}

/// Nothing of the instance is left. If a later ensure has been accepted meanwhile, its reservation
/// stays; else the VMID is free and only the fence remains.
async fn gone(
    conn: &mut SqliteConnection,
    instance: InstanceId,
    generation: u64,
    at: UnixMillis,
) -> Result<(), JournalError> {
    let waiting = sqlx::query(
        "UPDATE resources SET phase = 'reserved', updated_at = $2 WHERE uuid = $1 AND EXISTS (SELECT 1 FROM orders \
         WHERE instance_uuid = $1 AND verb = 'ensure' AND state = 'accepted')",
    )
    .bind(instance.to_string())
    .bind(at.0)
    .execute(&mut *conn)
    .await?
    .rows_affected();
    if waiting > 0 {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO departed (uuid, vmid, generation, gone_at) \
         SELECT uuid, vmid, MAX(generation, $2), $3 FROM resources WHERE uuid = $1 \
         ON CONFLICT (uuid) DO UPDATE SET vmid = excluded.vmid, gone_at = excluded.gone_at, \
         generation = MAX(departed.generation, excluded.generation)",
    )
    .bind(instance.to_string())
    .bind(stored(generation))
    .bind(at.0)
    .execute(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM resources WHERE uuid = $1")
        .bind(instance.to_string())
        .execute(&mut *conn)
        .await?;
    super::resets::forget(conn, instance).await
}

impl Journal {
    /// All instances in the books.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn resources(&self) -> Result<Vec<ResourceRow>, JournalError> {
        let mut conn = self.readers().acquire().await?;
        all(&mut conn).await
    }

    /// One instance.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn resource(&self, instance: InstanceId) -> Result<Option<ResourceRow>, JournalError> {
        sqlx::query("SELECT * FROM resources WHERE uuid = $1")
            .bind(instance.to_string())
            .fetch_optional(self.readers())
            .await?
            .as_ref()
            .map(read)
            .transpose()
    }
}

/// VMIDs in the books, for people.
///
/// # Errors
/// If they cannot be read.
pub async fn vmids(pool: &sqlx::SqlitePool) -> Result<Vec<u32>, JournalError> {
    let rows = sqlx::query("SELECT vmid FROM resources ORDER BY vmid").fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            let vmid = unsigned("resources", "vmid", row.try_get("vmid")?)?;
            Ok(u32::try_from(vmid).unwrap_or(u32::MAX))
        })
        .collect()
}
