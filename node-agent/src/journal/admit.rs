//! F1: everything the intake has to know about an order, its verdict and the write, in one
//! transaction, so that two deliveries at the same moment cannot both be accepted.

use std::time::Duration;

use ez_protocol::{InstanceId, ProvisioningOrderId, UnixMillis, refusal::Refusal};
use sqlx::{Row, SqliteConnection};

use super::{
    DepartedRow, Journal, JournalError, Losses, NewOrder, OrderRow, OrderState, RefusalNote, ResourceRow,
    circuit, confirm, losses, meta, orders, outbox, parsed, refusals, resources, stored, unsigned,
};
use crate::report::EventDraft;

/// What is asked of the journal about an order.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// The order.
    pub order_id: ProvisioningOrderId,
    /// Its sequence.
    pub seq: u64,
    /// SHA-256 of its payload.
    pub payload_hash: [u8; 32],
    /// Its instance.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: u64,
}

/// An order the journal knows, whole or as a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Identity of the order.
    pub order_id: ProvisioningOrderId,
    /// SHA-256 of its payload.
    pub payload_hash: Vec<u8>,
    /// Hash of what it wished; not kept in a tombstone.
    pub spec_hash: Option<Vec<u8>>,
    /// Where it stands.
    pub state: OrderState,
    /// Its result, once terminal.
    pub result: Option<String>,
}

impl From<OrderRow> for Known {
    fn from(row: OrderRow) -> Self {
        Self {
            order_id: row.order_id,
            payload_hash: row.payload_hash,
            spec_hash: Some(row.spec_hash),
            state: row.state,
            result: row.result,
        }
    }
}

/// What the journal says about an order and its surroundings.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The order itself, if it is known.
    pub known: Option<Known>,
    /// The refusal, if exactly this payload was refused before.
    pub refused_before: Option<Refusal>,
    /// Sequences at or below it are stale.
    pub floor_seq: u64,
    /// The order that has this sequence.
    pub seq_owner: Option<ProvisioningOrderId>,
    /// The newest order that set this instance's wanted state to exactly this generation.
    pub at_generation: Option<Known>,
    /// Every instance in the books.
    pub resources: Vec<ResourceRow>,
    /// The fence of this instance, if it left this node.
    pub departed: Option<DepartedRow>,
    /// Creates accepted in the last ten minutes (the policy file bounds rates).
    pub creates_10min: u64,
    /// Creates accepted in the last 60 s.
    pub creates_minute: u64,
    /// Creates accepted in the last 24 h.
    pub creates_day: u64,
    /// Purges accepted in the last ten minutes, and since root of this host began the count anew.
    pub purges_10min: u64,
    /// Purges accepted in the last 24 h, likewise.
    pub purges_day: u64,
    /// What servers have lost lately, and since root of this host began the count anew.
    pub losses: Losses,
    /// Since when the destroy budget's circuit is open.
    pub circuit_open: Option<UnixMillis>,
    /// Orders accepted in the last hour.
    pub orders_hour: u64,
    /// Those of this instance among them.
    pub orders_here_hour: u64,
    /// Events that wait for their acknowledgement.
    pub outbox_len: u64,
    /// What the journal holds, without what it has freed and will use again.
    pub journal_bytes: u64,
}

/// The intake's verdict.
#[derive(Debug, Clone)]
pub enum Admission {
    /// Write it; the event says so to the control plane.
    Accept(Box<NewOrder>, EventDraft),
    /// It is known, or changes nothing: here is how it stands.
    Duplicate(Known),
    /// It is refused; noted for good.
    Refuse(RefusalNote),
}

async fn facts(conn: &mut SqliteConnection, q: Question, at: UnixMillis) -> Result<Facts, JournalError> {
    let meta = meta::load(conn).await?;
    let circuit = circuit::load(conn).await?;
    let minutes = |n: u64| at.minus(Duration::from_secs(60 * n));
    let counted = |n: u64| minutes(n).max(circuit.counted_from);
    let same_spec = sqlx::query(
        "SELECT * FROM orders WHERE instance_uuid = $1 AND generation = $2 \
         AND verb <> 'action' ORDER BY seq DESC LIMIT 1",
    )
    .bind(q.instance.to_string())
    .bind(stored(q.generation))
    .fetch_optional(&mut *conn)
    .await?
    .as_ref()
    .map(orders::read)
    .transpose()?;
    let outbox_len: i64 =
        sqlx::query("SELECT COUNT(*) FROM outbox").fetch_one(&mut *conn).await?.try_get(0)?;
    let orders = sqlx::query(
        "SELECT COUNT(*) AS n, COALESCE(SUM(instance_uuid = $2), 0) AS here FROM orders WHERE accepted_at > $1",
    )
    .bind(minutes(60).0)
    .bind(q.instance.to_string())
    .fetch_one(&mut *conn)
    .await?;
    let bytes: i64 = sqlx::query(
        "SELECT (n.page_count - f.freelist_count) * s.page_size \
         FROM pragma_page_count n, pragma_freelist_count f, pragma_page_size s",
    )
    .fetch_one(&mut *conn)
    .await?
    .try_get(0)?;
    Ok(Facts {
        known: known(conn, q.order_id).await?,
        refused_before: refusals::final_one(conn, q.order_id, &q.payload_hash).await?,
        floor_seq: meta.floor_seq,
        seq_owner: seq_owner(conn, q.seq).await?,
        at_generation: same_spec.map(Known::from),
        resources: resources::all(conn).await?,
        departed: resources::departed(conn, q.instance).await?,
        creates_minute: resources::acts_since(conn, "create", minutes(1)).await?,
        creates_10min: resources::acts_since(conn, "create", minutes(10)).await?,
        creates_day: resources::acts_since(conn, "create", minutes(24 * 60)).await?,
        losses: losses::load(conn, q.instance, &circuit, at).await?,
        purges_10min: resources::acts_since(conn, "purge", counted(10)).await?,
        purges_day: resources::acts_since(conn, "purge", counted(24 * 60)).await?,
        circuit_open: circuit.opened_at,
        orders_hour: unsigned("orders", "n", orders.try_get("n")?)?,
        orders_here_hour: unsigned("orders", "here", orders.try_get("here")?)?,
        outbox_len: unsigned("outbox", "count", outbox_len)?,
        journal_bytes: unsigned("journal", "bytes", bytes)?,
    })
}

async fn known(conn: &mut SqliteConnection, id: ProvisioningOrderId) -> Result<Option<Known>, JournalError> {
    if let Some(row) = orders::find(conn, id).await? {
        return Ok(Some(row.into()));
    }
    let row = sqlx::query("SELECT payload_hash, state, result FROM tombstones WHERE order_id = $1")
        .bind(id.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|row| {
        Ok(Known {
            order_id: id,
            payload_hash: row.try_get("payload_hash")?,
            spec_hash: None,
            state: parsed("tombstones", "state", row.try_get("state")?)?,
            result: row.try_get("result")?,
        })
    })
    .transpose()
}

async fn seq_owner(
    conn: &mut SqliteConnection,
    seq: u64,
) -> Result<Option<ProvisioningOrderId>, JournalError> {
    let owner: Option<String> = sqlx::query(
        "SELECT order_id FROM orders WHERE seq = $1 UNION ALL SELECT order_id FROM tombstones WHERE seq = $1 LIMIT 1",
    )
    .bind(stored(seq))
    .fetch_optional(conn)
    .await?
    .map(|row| row.try_get("order_id"))
    .transpose()?;
    owner.map(|text| parsed("orders", "order_id", &text)).transpose()
}

impl Journal {
    /// Reads the facts, lets `judge` decide and carries the verdict out, all in one transaction.
    /// When the answer is here, it is durable.
    ///
    /// # Errors
    /// If the journal cannot be read or written; then nothing may be answered at all.
    pub async fn admit<J>(
        &self,
        question: Question,
        at: UnixMillis,
        judge: J,
    ) -> Result<Admission, JournalError>
    where
        J: FnOnce(&Facts) -> Admission + Send + 'static,
    {
        let admitted = self.write(move |conn| {
            Box::pin(async move {
                let facts = facts(conn, question, at).await?;
                let verdict = judge(&facts);
                let mut durable = true;
                match &verdict {
                    Admission::Accept(order, event) => {
                        orders::insert(conn, order, at).await?;
                        resources::promise(conn, order, at).await?;
                        let said = outbox::push(conn, event.clone()).await?;
                        confirm::expect(conn, order.order_id, said).await?;
                    }
                    Admission::Duplicate(_) => {}
                    Admission::Refuse(note) => {
                        durable = refusals::note(conn, note, at).await?;
                        circuit::note(conn, note, at).await?;
                    }
                }
                Ok(durable.then_some(verdict))
            })
        });
        let full =
            || JournalError::Conflict("no more refusals can be remembered: this one is not said".to_owned());
        admitted.await?.ok_or_else(full)
    }
}
