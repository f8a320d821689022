//! Refusals, in a ring of the last thousand.
//!
//! A verified order that was refused stays refused: were it accepted at a second delivery, the
//! control plane, which took the refusal as a fence, could have built the server elsewhere.

#[cfg(test)]
mod tests;

use ez_protocol::{ProvisioningOrderId, UnixMillis, refusal::Refusal};
use sqlx::{Row, SqliteConnection, SqlitePool};

use super::{Journal, JournalError, parsed, stored, unsigned};

/// How many refusals are kept at least.
const RING: i64 = 1_000;

/// How many final ones are remembered at most. No host refuses so many orders in two days; beyond it a refusal is not
/// noted and so not said either, and the order runs out unanswered.
const FINAL: i64 = 100_000;

/// The final refusal of one payload.
const OF_PAYLOAD: &str = "SELECT code, rule, detail FROM refused WHERE order_id = $1 AND payload_hash = $2 AND final = 1 \
     ORDER BY n LIMIT 1";
/// Final ones that need not be remembered any more.
const OVER: &str = "DELETE FROM refused WHERE final = 1 AND keep_until < $1";
/// What the ring forgets. As one statement it would look at each final one, of which there may be many.
const PASSED: &str = "DELETE FROM refused WHERE final = 0 AND n <= (SELECT MAX(n) FROM refused) - $1";
const PASSED_FINAL: &str = "DELETE FROM refused WHERE final = 1 AND keep_until < $2 \
     AND n <= (SELECT MAX(n) FROM refused) - $1";

/// A refusal as it is noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalNote {
    /// The order, if its signature was good and it could be read.
    pub order_id: Option<ProvisioningOrderId>,
    /// Its sequence, likewise.
    pub seq: Option<u64>,
    /// Code, rule and one sentence for people, without anything secret.
    pub refusal: Refusal,
    /// SHA-256 of the payload whose signature was good: the refusal is final for it.
    pub payload_hash: Option<[u8; 32]>,
    /// Until when a final refusal must be remembered.
    pub keep_until: UnixMillis,
}

/// A refusal as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// When it was refused.
    pub at: UnixMillis,
    /// The order, if known.
    pub order_id: Option<ProvisioningOrderId>,
    /// Its sequence, if known.
    pub seq: Option<u64>,
    /// The stable code.
    pub code: String,
    /// The rule of the policy file, if one refused.
    pub rule: Option<String>,
    /// One sentence.
    pub detail: String,
}

/// Writes one refusal and lets the ring forget the oldest. False if there is no room to remember a final one: then it may
/// not be said.
pub(super) async fn note(
    conn: &mut SqliteConnection,
    refusal: &RefusalNote,
    at: UnixMillis,
) -> Result<bool, JournalError> {
    // Once is enough to remember a final one, however often it is delivered: such rows outlive the ring, and whoever
    // holds one signed order could fill the disk with them.
    if let (Some(id), Some(hash)) = (refusal.order_id, &refusal.payload_hash) {
        if final_one(conn, id, hash).await?.is_some() {
            return Ok(true);
        }
        if finals(conn).await? >= FINAL {
            let over = sqlx::query(OVER).bind(at.0).execute(&mut *conn).await?.rows_affected();
            count(conn, -stored(over)).await?;
            if finals(conn).await? >= FINAL {
                return Ok(false);
            }
        }
    }
    sqlx::query(
        "INSERT INTO refused (at, order_id, seq, code, rule, detail, final, payload_hash, keep_until) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(at.0)
    .bind(refusal.order_id.map(|id| id.to_string()))
    .bind(refusal.seq.map(stored))
    .bind(refusal.refusal.code.as_str())
    .bind(refusal.refusal.rule.clone())
    .bind(refusal.refusal.detail.clone())
    .bind(i64::from(refusal.payload_hash.is_some()))
    .bind(refusal.payload_hash.map(|hash| hash.to_vec()))
    .bind(refusal.keep_until.0)
    .execute(&mut *conn)
    .await?;
    sqlx::query(PASSED).bind(RING).execute(&mut *conn).await?;
    let gone = sqlx::query(PASSED_FINAL).bind(RING).bind(at.0).execute(&mut *conn).await?.rows_affected();
    count(conn, i64::from(refusal.payload_hash.is_some()) - stored(gone)).await?;
    Ok(true)
}

/// How many final ones are remembered.
async fn finals(conn: &mut SqliteConnection) -> Result<i64, JournalError> {
    Ok(sqlx::query("SELECT final_refusals FROM meta WHERE id = 1").fetch_one(conn).await?.try_get(0)?)
}

/// So many final ones more, in the transaction that adds or removes them.
async fn count(conn: &mut SqliteConnection, more: i64) -> Result<(), JournalError> {
    if more != 0 {
        sqlx::query("UPDATE meta SET final_refusals = final_refusals + $1 WHERE id = 1")
            .bind(more)
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// The final refusal of exactly this payload, if there was one.
pub(super) async fn final_one(
    conn: &mut SqliteConnection,
    id: ProvisioningOrderId,
    payload_hash: &[u8; 32],
) -> Result<Option<Refusal>, JournalError> {
    let row =
        sqlx::query(OF_PAYLOAD).bind(id.to_string()).bind(payload_hash.to_vec()).fetch_optional(conn).await?;
    row.map(|row| {
        Ok(Refusal {
            code: parsed("refused", "code", row.try_get("code")?)?,
            rule: row.try_get("rule")?,
            detail: row.try_get("detail")?,
        })
    })
    .transpose()
}

/// The newest refusals first.
///
/// # Errors
/// If they cannot be read.
pub async fn list(pool: &SqlitePool, limit: i64) -> Result<Vec<RefusedRow>, JournalError> {
    let rows =
        sqlx::query("SELECT * FROM refused ORDER BY n DESC LIMIT $1").bind(limit).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            let id: Option<String> = row.try_get("order_id")?;
            let seq: Option<i64> = row.try_get("seq")?;
            Ok(RefusedRow {
                at: UnixMillis(row.try_get("at")?),
                order_id: id.map(|text| parsed("refused", "order_id", &text)).transpose()?,
                seq: seq.map(|n| unsigned("refused", "seq", n)).transpose()?,
                code: row.try_get("code")?,
                rule: row.try_get("rule")?,
                detail: row.try_get("detail")?,
            })
        })
        .collect()
}

impl Journal {
    /// Notes a refusal that was decided before the journal was asked (bad signature and the like).
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn note_refusal(&self, refusal: RefusalNote, at: UnixMillis) -> Result<(), JournalError> {
        self.write(move |conn| Box::pin(async move { note(conn, &refusal, at).await.map(|_noted| ()) })).await
    }
}
