//! The circuit of the destroy budget. It opens with the first order that is refused for a day's budget (or ten minutes'
//! of purges), and from then on every order that destroys something is refused: an attacker with the signing key could else
//! wipe the fleet at the budget's pace. Only root of this host closes it again ([`super::requests`]), and with it the
//! counts begin anew.

use ez_protocol::{UnixMillis, refusal::RefusalCode};
use sqlx::{Row, SqliteConnection, SqlitePool};

use super::{Journal, JournalError, RefusalNote};

/// How the circuit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circuit {
    /// Since when every order that destroys something is refused.
    pub opened_at: Option<UnixMillis>,
    /// What was destroyed up to here counts no more.
    pub counted_from: UnixMillis,
}

pub(super) async fn load(conn: &mut SqliteConnection) -> Result<Circuit, JournalError> {
    let row = sqlx::query("SELECT opened_at, counted_from FROM circuit WHERE id = 1").fetch_one(conn).await?;
    Ok(Circuit {
        opened_at: row.try_get::<Option<i64>, _>("opened_at")?.map(UnixMillis),
        counted_from: UnixMillis(row.try_get("counted_from")?),
    })
}

/// A refusal is written: if it is the budget's, the circuit is open from now on.
pub(super) async fn note(
    conn: &mut SqliteConnection,
    refusal: &RefusalNote,
    at: UnixMillis,
) -> Result<(), JournalError> {
    if refusal.refusal.code == RefusalCode::CircuitOpen {
        sqlx::query("UPDATE circuit SET opened_at = COALESCE(opened_at, $1) WHERE id = 1")
            .bind(at.0)
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Closes the circuit and begins to count anew; answers since when it was open.
pub(super) async fn reset(
    conn: &mut SqliteConnection,
    at: UnixMillis,
) -> Result<Option<UnixMillis>, JournalError> {
    let before = load(conn).await?;
    sqlx::query("UPDATE circuit SET opened_at = NULL, counted_from = $1 WHERE id = 1")
        .bind(at.0)
        .execute(conn)
        .await?;
    Ok(before.opened_at)
}

/// How the circuit stands, for people.
///
/// # Errors
/// If it cannot be read.
pub async fn show(pool: &SqlitePool) -> Result<Circuit, JournalError> {
    load(&mut *pool.acquire().await?).await
}

impl Journal {
    /// How the circuit stands.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn circuit(&self) -> Result<Circuit, JournalError> {
        show(self.readers()).await
    }
}
