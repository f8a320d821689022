//! Break-glass: what root of this host asks of the agent. The asking is durable before anything happens, and what happens
//! is one transaction with the end of the request: a crash at any line leaves it either asked or done, never between.
//!
//! The command is another process than the agent. While the agent runs, the command only writes the request into the
//! journal (SQLite lets one write at a time) and the agent takes it up within a second; while it does not, the command
//! holds the agent's lock and carries it out by itself. Requests that nobody took up in time are void: a command that was
//! forgotten must not act a week later.
//!
//! | verb | takes | does |
//! |---|---|---|
//! | `resume` | a stuck order that no later one of its server overtook | lets it go on where it stuck, looking first |
//! | `abandon` | a stuck order | leaves everything as it is, for good |
//! | | | the same of earlier stuck ones whose leftover disks it named |
//! | | one that has not begun | ends it; nothing was made |
//! | | one at work, only while the agent is stopped | the order is stuck, for good |
//! | `unlock` | – | closes the destroy budget's circuit, counts what is destroyed from now on |
//!
//! None of them touches a VM. The control plane hears of the first two by events of the order.

mod about_orders;
#[cfg(test)]
mod tests;

use std::time::Duration;

use ez_protocol::{ProvisioningOrderId, UnixMillis};
use sqlx::{Connection as _, Row, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{Journal, JournalError, OrderRow, circuit, orders::text_enum, parsed};

/// A request that nobody took up for so long is void.
const LIFE: Duration = Duration::from_secs(600);

text_enum! {
    /// What is asked.
    RequestVerb {
        /// Let a stuck order go on.
        Resume = "resume",
        /// Give an order up, leave everything as it is.
        Abandon = "abandon",
        /// Close the destroy budget's circuit.
        Unlock = "unlock",
    }
}

text_enum! {
    /// Where a request stands.
    RequestState {
        /// Durable, not taken up.
        Asked = "asked",
        /// Carried out.
        Done = "done",
        /// It could not be; the outcome says why.
        Refused = "refused",
        /// Nobody took it up in time.
        Expired = "expired",
    }
}

/// A request as it is asked.
#[derive(Debug, Clone)]
pub struct NewRequest {
    /// What.
    pub verb: RequestVerb,
    /// The order, for what is about one.
    pub order: Option<ProvisioningOrderId>,
    /// Who, as JSON.
    pub who: String,
    /// Why; may be empty.
    pub reason: String,
}

/// A request as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRow {
    /// Its number.
    pub n: i64,
    /// What.
    pub verb: RequestVerb,
    /// The order.
    pub order: Option<ProvisioningOrderId>,
    /// Who, as JSON.
    pub who: String,
    /// Why.
    pub reason: String,
    /// When it was asked.
    pub asked_at: UnixMillis,
    /// Where it stands.
    pub state: RequestState,
    /// One sentence, once it ended.
    pub outcome: Option<String>,
    /// When it ended.
    pub ended_at: Option<UnixMillis>,
}

fn read(row: &SqliteRow) -> Result<RequestRow, JournalError> {
    let order: Option<String> = row.try_get("order_id")?;
    Ok(RequestRow {
        n: row.try_get("n")?,
        verb: parsed("requests", "verb", row.try_get("verb")?)?,
        order: order.map(|text| parsed("requests", "order_id", &text)).transpose()?,
        who: row.try_get("who")?,
        reason: row.try_get("reason")?,
        asked_at: UnixMillis(row.try_get("asked_at")?),
        state: parsed("requests", "state", row.try_get("state")?)?,
        outcome: row.try_get("outcome")?,
        ended_at: row.try_get::<Option<i64>, _>("ended_at")?.map(UnixMillis),
    })
}

/// Writes a request into the journal of a running agent; answers its number. Durable when it returns.
///
/// # Errors
/// If it cannot be written.
pub async fn ask(path: &std::path::Path, request: NewRequest, at: UnixMillis) -> Result<i64, JournalError> {
    let mut conn = SqliteConnection::connect_with(&super::options(path)).await?;
    let n = insert(&mut conn, &request, at).await?;
    conn.close().await?;
    Ok(n)
}

async fn insert(
    conn: &mut SqliteConnection,
    request: &NewRequest,
    at: UnixMillis,
) -> Result<i64, JournalError> {
    let row = sqlx::query(
        "INSERT INTO requests (verb, order_id, who, reason, asked_at, state) VALUES ($1, $2, $3, $4, $5, 'asked') \
         RETURNING n",
    )
    .bind(request.verb.as_str())
    .bind(request.order.map(|id| id.to_string()))
    .bind(request.who.clone())
    .bind(request.reason.clone())
    .bind(at.0)
    .fetch_one(conn)
    .await?;
    Ok(row.try_get("n")?)
}

/// One request.
///
/// # Errors
/// If it cannot be read.
pub async fn show(pool: &SqlitePool, n: i64) -> Result<Option<RequestRow>, JournalError> {
    let row = sqlx::query("SELECT * FROM requests WHERE n = $1").bind(n).fetch_optional(pool).await?;
    row.as_ref().map(read).transpose()
}

/// The newest requests first.
///
/// # Errors
/// If they cannot be read.
pub async fn list(pool: &SqlitePool, limit: i64) -> Result<Vec<RequestRow>, JournalError> {
    let rows =
        sqlx::query("SELECT * FROM requests ORDER BY n DESC LIMIT $1").bind(limit).fetch_all(pool).await?;
    rows.iter().map(read).collect()
}

/// What was asked about one order, oldest first.
///
/// # Errors
/// If it cannot be read.
pub async fn about(pool: &SqlitePool, id: ProvisioningOrderId) -> Result<Vec<RequestRow>, JournalError> {
    let rows = sqlx::query("SELECT * FROM requests WHERE order_id = $1 ORDER BY n")
        .bind(id.to_string())
        .fetch_all(pool)
        .await?;
    rows.iter().map(read).collect()
}

/// Whose hands a request is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taker {
    /// The agent, whose actors may be at work.
    Agent,
    /// A command that holds the agent's lock: nothing is at work.
    Alone,
}

/// A request that has ended, and the order that has to go on because of it.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The request.
    pub request: RequestRow,
    /// The order to let run again.
    pub resumed: Option<OrderRow>,
}

impl Journal {
    /// Writes a request; for a command that holds the agent's lock.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn ask(&self, request: NewRequest, at: UnixMillis) -> Result<i64, JournalError> {
        self.write(move |conn| Box::pin(async move { insert(conn, &request, at).await })).await
    }

    /// Takes up every request that was asked, oldest first, each in one transaction of its own.
    ///
    /// # Errors
    /// If the journal cannot be read or written; what was not taken up stays asked.
    pub async fn take_requests(&self, taker: Taker, at: UnixMillis) -> Result<Vec<Taken>, JournalError> {
        let rows = sqlx::query("SELECT * FROM requests WHERE state = 'asked' ORDER BY n")
            .fetch_all(self.readers())
            .await?;
        let mut taken = Vec::new();
        for row in &rows {
            let n = read(row)?.n;
            let one = self.write(move |conn| Box::pin(async move { take(conn, n, taker, at).await })).await?;
            taken.extend(one);
        }
        Ok(taken)
    }
}

/// What became of a request: done or refused, with one sentence.
type Outcome = Result<String, String>;

async fn take(
    conn: &mut SqliteConnection,
    n: i64,
    taker: Taker,
    at: UnixMillis,
) -> Result<Option<Taken>, JournalError> {
    let row = sqlx::query("SELECT * FROM requests WHERE n = $1 AND state = 'asked'")
        .bind(n)
        .fetch_optional(&mut *conn)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let request = read(&row)?;
    let mut resumed = None;
    // A clock that went back makes a request of the future: as void as an old one.
    let (state, outcome) = if at.since(request.asked_at) > LIFE || request.asked_at > at.plus(LIFE) {
        (RequestState::Expired, Err("nobody took it up within ten minutes".to_owned()))
    } else {
        let outcome = match (request.verb, request.order) {
            (RequestVerb::Unlock, _) => unlock(conn, at).await?,
            (RequestVerb::Resume, Some(id)) => {
                let outcome = about_orders::resume(conn, id, &request, at).await?;
                if outcome.is_ok() {
                    resumed = super::orders::find(conn, id).await?;
                }
                outcome
            }
            (RequestVerb::Abandon, Some(id)) => about_orders::abandon(conn, id, taker, &request, at).await?,
            (_, None) => Err("it names no order".to_owned()),
        };
        (if outcome.is_ok() { RequestState::Done } else { RequestState::Refused }, outcome)
    };
    let (Ok(said) | Err(said)) = outcome;
    sqlx::query("UPDATE requests SET state = $2, outcome = $3, ended_at = $4 WHERE n = $1")
        .bind(n)
        .bind(state.as_str())
        .bind(said.clone())
        .bind(at.0)
        .execute(conn)
        .await?;
    Ok(Some(Taken {
        request: RequestRow { state, outcome: Some(said), ended_at: Some(at), ..request },
        resumed,
    }))
}

async fn unlock(conn: &mut SqliteConnection, at: UnixMillis) -> Result<Outcome, JournalError> {
    Ok(Ok(match circuit::reset(conn, at).await? {
        Some(_) => "the circuit is closed; what is destroyed is counted from now on".to_owned(),
        None => "the circuit was closed already; what is destroyed is counted from now on".to_owned(),
    }))
}
