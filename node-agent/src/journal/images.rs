//! Image orders and how far they are: intent before effect, as with provisioning orders.

use std::time::Duration;

use ez_protocol::{ProvisioningOrderId, UnixMillis, image::ImageOrder};
use sqlx::{Row, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{Journal, JournalError, parsed, stored};
use crate::pve::Vmid;

/// Ended orders are kept this long, so that people can look back.
const KEEP: Duration = Duration::from_secs(90 * 24 * 3_600);

/// Most orders that are held at once, ended ones included: a catalogue has tens of images, and each order may be 128 KiB.
const MOST: i64 = 1_000;

/// An image order on its way into the journal.
#[derive(Debug, Clone)]
pub struct NewImageBuild {
    /// What it says.
    pub order: ImageOrder,
    /// The bytes as they came.
    pub envelope: Vec<u8>,
    /// The signed bytes inside.
    pub payload: Vec<u8>,
    /// SHA-256 of the signed bytes.
    pub payload_hash: [u8; 32],
}

/// An image order in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageBuildRow {
    /// The order.
    pub order_id: ProvisioningOrderId,
    /// The signed bytes.
    pub payload: Vec<u8>,
    /// Catalogue name of the image.
    pub name: String,
    /// Its digest.
    pub digest: String,
    /// `accepted`, `running`, `ready` or `failed`.
    pub state: String,
    /// The step that was begun last.
    pub step: Option<String>,
    /// The VMID that was chosen.
    pub vmid: Option<Vmid>,
    /// The task of the step.
    pub upid: Option<String>,
    /// Why it failed.
    pub detail: Option<String>,
    /// When it was accepted.
    pub accepted_at: UnixMillis,
}

/// What became of an image order at the journal's door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageAdmission {
    /// It is new and durable.
    Accepted,
    /// It is in the journal, in this state.
    Known(String),
    /// Its id is in the journal with another content.
    Conflict,
    /// More orders than any host needs are remembered.
    Full,
}

fn read(row: &SqliteRow) -> Result<ImageBuildRow, JournalError> {
    let vmid: Option<i64> = row.try_get("vmid")?;
    Ok(ImageBuildRow {
        order_id: parsed("image_builds", "order_id", row.try_get("order_id")?)?,
        payload: row.try_get("payload")?,
        name: row.try_get("name")?,
        digest: row.try_get("digest")?,
        state: row.try_get("state")?,
        step: row.try_get("step")?,
        vmid: vmid.and_then(|n| Vmid::try_from(n).ok()),
        upid: row.try_get("upid")?,
        detail: row.try_get("detail")?,
        accepted_at: UnixMillis(row.try_get("accepted_at")?),
    })
}

async fn admit(
    conn: &mut SqliteConnection,
    new: &NewImageBuild,
    at: UnixMillis,
) -> Result<ImageAdmission, JournalError> {
    let id = new.order.order_id.to_string();
    let known = sqlx::query("SELECT payload_hash, state FROM image_builds WHERE order_id = $1")
        .bind(&id)
        .fetch_optional(&mut *conn)
        .await?;
    if let Some(row) = known {
        let hash: Vec<u8> = row.try_get("payload_hash")?;
        return Ok(match hash == new.payload_hash {
            true => ImageAdmission::Known(row.try_get("state")?),
            false => ImageAdmission::Conflict,
        });
    }
    // What could still be delivered again is remembered, whatever its age.
    sqlx::query(
        "DELETE FROM image_builds WHERE state IN ('ready', 'failed') AND updated_at < $1 AND expires_at < $1",
    )
    .bind(at.minus(KEEP).0)
    .execute(&mut *conn)
    .await?;
    let held: i64 =
        sqlx::query("SELECT COUNT(*) FROM image_builds").fetch_one(&mut *conn).await?.try_get(0)?;
    if held >= MOST {
        return Ok(ImageAdmission::Full);
    }
    sqlx::query(
        "INSERT INTO image_builds (order_id, envelope, payload, payload_hash, name, digest, state, expires_at, \
         accepted_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, 'accepted', $7, $8, $8)",
    )
    .bind(id)
    .bind(&new.envelope)
    .bind(&new.payload)
    .bind(new.payload_hash.to_vec())
    .bind(&new.order.image.name)
    .bind(new.order.image.digest.as_str())
    .bind(new.order.exp.0)
    .bind(at.0)
    .execute(conn)
    .await?;
    Ok(ImageAdmission::Accepted)
}

/// Image orders, newest first.
///
/// # Errors
/// If they cannot be read.
pub async fn list(pool: &SqlitePool, limit: i64) -> Result<Vec<ImageBuildRow>, JournalError> {
    let rows = sqlx::query("SELECT * FROM image_builds ORDER BY accepted_at DESC, order_id DESC LIMIT $1")
        .bind(limit)
        .fetch_all(pool)
        .await?;
    rows.iter().map(read).collect()
}

impl Journal {
    /// Takes an image order in, or says that it is there.
    ///
    /// # Errors
    /// If it cannot be written; then nothing is known to be durable.
    pub async fn admit_image(
        &self,
        new: NewImageBuild,
        at: UnixMillis,
    ) -> Result<ImageAdmission, JournalError> {
        self.write(move |conn| Box::pin(async move { admit(conn, &new, at).await })).await
    }

    /// The state of an image order, if it is in the journal.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn image_state(&self, id: ProvisioningOrderId) -> Result<Option<String>, JournalError> {
        let row = sqlx::query("SELECT state FROM image_builds WHERE order_id = $1")
            .bind(id.to_string())
            .fetch_optional(self.readers())
            .await?;
        Ok(row.map(|row| row.try_get("state")).transpose()?)
    }

    /// The oldest image order that has not ended.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn next_image(&self) -> Result<Option<ImageBuildRow>, JournalError> {
        let row = sqlx::query(
            "SELECT * FROM image_builds WHERE state IN ('accepted', 'running') ORDER BY accepted_at, order_id LIMIT 1",
        )
        .fetch_optional(self.readers())
        .await?;
        row.as_ref().map(read).transpose()
    }

    /// Notes the step that is about to begin, before it does.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn image_step(
        &self,
        id: ProvisioningOrderId,
        step: &'static str,
        vmid: Option<Vmid>,
        at: UnixMillis,
    ) -> Result<(), JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE image_builds SET state = 'running', step = $2, vmid = COALESCE($3, vmid), upid = NULL, \
                     updated_at = $4 WHERE order_id = $1",
                )
                .bind(id.to_string())
                .bind(step)
                .bind(vmid.map(|vmid| stored(vmid.into())))
                .bind(at.0)
                .execute(conn)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// Notes the task of the step that was begun.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn image_called(
        &self,
        id: ProvisioningOrderId,
        upid: String,
        at: UnixMillis,
    ) -> Result<(), JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query("UPDATE image_builds SET upid = $2, updated_at = $3 WHERE order_id = $1")
                    .bind(id.to_string())
                    .bind(upid)
                    .bind(at.0)
                    .execute(conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// Notes the end: ready as this template, or why not.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn image_ended(
        &self,
        id: ProvisioningOrderId,
        end: Result<Vmid, String>,
        at: UnixMillis,
    ) -> Result<(), JournalError> {
        let (state, vmid, detail) = match end {
            Ok(vmid) => ("ready", Some(vmid), None),
            Err(why) => ("failed", None, Some(why)),
        };
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE image_builds SET state = $2, vmid = COALESCE($3, vmid), upid = NULL, detail = $4, \
                     updated_at = $5 WHERE order_id = $1",
                )
                .bind(id.to_string())
                .bind(state)
                .bind(vmid.map(|vmid| stored(vmid.into())))
                .bind(detail)
                .bind(at.0)
                .execute(conn)
                .await?;
                Ok(())
            })
        })
        .await
    }
}
