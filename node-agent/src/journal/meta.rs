//! The one row that says whose journal this is and how far its fences have moved.

use ez_protocol::{NodeId, UnixMillis};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::{Journal, JournalError, parsed, stored, unsigned};

/// The journal's own facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Random, made with the file.
    pub journal_id: Uuid,
    /// This node, once joined.
    pub node: Option<NodeId>,
    /// The epoch of the last enrolment.
    pub epoch: u64,
    /// Orders with this sequence or a lower one are stale.
    pub floor_seq: u64,
    /// The highest accepted sequence.
    pub high_seq: u64,
    /// What the last Welcome gave, to be presented in the next Hello.
    pub ratchet: Option<Vec<u8>>,
    /// Version of the trust document in use.
    pub trust_version: u64,
    /// Starts of the process so far.
    pub report_epoch: u64,
    /// Sequence of the newest event.
    pub last_event_seq: u64,
    /// Events up to this one are acknowledged.
    pub acked_event_seq: u64,
    /// The highest protocol version ever spoken.
    pub proto_floor: u64,
}

fn read(row: &SqliteRow) -> Result<Meta, JournalError> {
    let number = |column: &'static str| -> Result<u64, JournalError> {
        unsigned("meta", column, row.try_get(column).map_err(JournalError::Driver)?)
    };
    let node: Option<String> = row.try_get("node")?;
    Ok(Meta {
        journal_id: parsed("meta", "journal_id", row.try_get("journal_id")?)?,
        node: node.map(|text| parsed("meta", "node", &text)).transpose()?,
        epoch: number("epoch")?,
        floor_seq: number("floor_seq")?,
        high_seq: number("high_seq")?,
        ratchet: row.try_get("ratchet")?,
        trust_version: number("trust_version")?,
        report_epoch: number("report_epoch")?,
        last_event_seq: number("last_event_seq")?,
        acked_event_seq: number("acked_event_seq")?,
        proto_floor: number("proto_floor")?,
    })
}

pub(super) async fn load(conn: &mut SqliteConnection) -> Result<Meta, JournalError> {
    read(&sqlx::query("SELECT * FROM meta WHERE id = 1").fetch_one(conn).await?)
}

/// What the journal knew as another node is over. Sequences are counted by node, so an order of before would stand in the
/// way of one of this node; and its servers are that node's: what is not in the books is not touched. The new name tells
/// the control plane, should this host become that node again, that all this was forgotten.
///
/// What concerns the host and not the node stays: what was destroyed and the circuit over it, what root asked for, used
/// console grants, images.
async fn begin_anew(conn: &mut SqliteConnection, random: [u8; 16]) -> Result<(), JournalError> {
    // Steps and places in a queue go with their orders.
    for over in [
        "DELETE FROM orders",
        "DELETE FROM tombstones",
        "DELETE FROM refused",
        "DELETE FROM outbox",
        "DELETE FROM resources",
        "DELETE FROM departed",
        "DELETE FROM password_resets",
    ] {
        sqlx::query(over).execute(&mut *conn).await?;
    }
    sqlx::query(
        "UPDATE meta SET journal_id = $1, floor_seq = 0, high_seq = 0, ratchet = NULL, last_event_seq = 0, \
         acked_event_seq = 0, final_refusals = 0 WHERE id = 1",
    )
    .bind(uuid::Builder::from_random_bytes(random).into_uuid().to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// Whose journal it is, if it is anybody's yet.
///
/// # Errors
/// If it cannot be read.
pub async fn node(pool: &sqlx::SqlitePool) -> Result<Option<NodeId>, JournalError> {
    let text: Option<Option<String>> =
        sqlx::query_scalar("SELECT node FROM meta WHERE id = 1").fetch_optional(pool).await?;
    text.flatten().map(|text| parsed("meta", "node", &text)).transpose()
}

impl Journal {
    /// Makes the row if it is missing and counts one more start.
    pub(super) async fn begin_epoch(&self, at: UnixMillis, random: [u8; 16]) -> Result<(), JournalError> {
        let id = uuid::Builder::from_random_bytes(random).into_uuid().to_string();
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO meta (id, journal_id, created_at) VALUES (1, $1, $2) ON CONFLICT (id) DO NOTHING",
                )
                .bind(id)
                .bind(at.0)
                .execute(&mut *conn)
                .await?;
                sqlx::query("UPDATE meta SET report_epoch = report_epoch + 1 WHERE id = 1")
                    .execute(&mut *conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// The journal's own facts.
    ///
    /// # Errors
    /// If the row cannot be read.
    pub async fn meta(&self) -> Result<Meta, JournalError> {
        read(&sqlx::query("SELECT * FROM meta WHERE id = 1").fetch_one(self.readers()).await?)
    }

    /// Takes on the identity of an enrolment. A journal of another node is over, and begins anew under a name made of
    /// `random`; of the same node it is kept: sequences go on across epochs.
    ///
    /// # Errors
    /// If it cannot be written, or the epoch would go back.
    pub async fn adopt_identity(
        &self,
        node: NodeId,
        epoch: u64,
        random: [u8; 16],
    ) -> Result<(), JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                let meta = load(conn).await?;
                if meta.node == Some(node) && meta.epoch > epoch {
                    return Err(JournalError::Conflict(format!(
                        "the journal has seen epoch {}, the identity says {epoch}",
                        meta.epoch
                    )));
                }
                if let Some(was) = meta.node.filter(|was| *was != node) {
                    tracing::warn!(%was, now = %node, "this host is another node now: its journal begins anew");
                    begin_anew(conn, random).await?;
                }
                sqlx::query("UPDATE meta SET node = $1, epoch = $2 WHERE id = 1")
                    .bind(node.to_string())
                    .bind(stored(epoch))
                    .execute(&mut *conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// Remembers what a Welcome gave: the next ratchet and the protocol that was agreed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn welcome(&self, ratchet: Vec<u8>, proto: u64) -> Result<(), JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query("UPDATE meta SET ratchet = $1, proto_floor = MAX(proto_floor, $2) WHERE id = 1")
                    .bind(ratchet)
                    .bind(stored(proto))
                    .execute(conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// Remembers the version of the trust document in use.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn trust_version(&self, version: u64) -> Result<(), JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query("UPDATE meta SET trust_version = MAX(trust_version, $1) WHERE id = 1")
                    .bind(stored(version))
                    .execute(conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }
}
