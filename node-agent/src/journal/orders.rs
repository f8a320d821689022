//! Accepted provisioning orders and what became of them.

use data_encoding::HEXLOWER;
use ez_protocol::{InstanceId, ProvisioningOrderId, UnixMillis, order::ProvisioningOrder};
use sha2::{Digest as _, Sha256};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{Journal, JournalError, outbox, parsed, stored, unsigned};
use crate::report::EventDraft;

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// As it stands in the journal.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = ();
            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $($text => Ok(Self::$variant),)+ _ => Err(()) }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(super) use text_enum;

text_enum! {
    /// What an order asks for, without its body.
    Verb {
        /// The full desired state of one instance.
        Ensure = "ensure",
        /// Something done at most once.
        Action = "action",
        /// Stop and keep.
        Retire = "retire",
        /// Remove for good.
        Purge = "purge",
        /// Take an existing VM into the books.
        Adopt = "adopt",
    }
}

text_enum! {
    /// Where an accepted order stands.
    OrderState {
        /// In the books, not begun.
        Accepted = "accepted",
        /// At work.
        Running = "running",
        /// Taking back what it created.
        Undoing = "undoing",
        /// Done as ordered.
        Succeeded = "succeeded",
        /// Ended without success; nothing was created, or what existed before still does.
        Failed = "failed",
        /// Ended without success and nothing of it is left: a fence.
        Undone = "undone",
        /// Neither finished nor undone; needs an operator.
        Stuck = "stuck",
        /// A later generation made it pointless before it began.
        Superseded = "superseded",
        /// Called off before it began.
        Cancelled = "cancelled",
    }
}

impl OrderState {
    /// True once nothing further will happen.
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Accepted | Self::Running | Self::Undoing)
    }

    /// True if `next` may follow.
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Accepted => matches!(
                next,
                Self::Running
                    | Self::Superseded
                    | Self::Cancelled
                    | Self::Failed
                    | Self::Undone
                    | Self::Stuck
            ),
            Self::Running => {
                matches!(next, Self::Undoing | Self::Succeeded | Self::Failed | Self::Stuck | Self::Undone)
            }
            Self::Undoing => matches!(next, Self::Undone | Self::Stuck),
            _ => false,
        }
    }
}

/// What is written at F1.
#[derive(Debug, Clone)]
pub struct NewOrder {
    /// Identity of the order.
    pub order_id: ProvisioningOrderId,
    /// Its sequence at this node.
    pub seq: u64,
    /// The exact bytes received.
    pub envelope: Vec<u8>,
    /// The signed bytes inside.
    pub payload: Vec<u8>,
    /// SHA-256 of the payload bytes.
    pub payload_hash: [u8; 32],
    /// The instance.
    pub instance: InstanceId,
    /// The VMID named by the order.
    pub vmid: u32,
    /// The generation.
    pub generation: u64,
    /// What is asked for.
    pub verb: Verb,
    /// Hash of what is wished, by which equal generations are compared.
    pub spec_hash: [u8; 32],
    /// The wished spec as JSON, for an ensure.
    pub spec_json: Option<String>,
    /// The marker of a VM made by this order.
    pub marker: String,
    /// Last moment to begin.
    pub expires_at: UnixMillis,
    /// True if accepting reserves a new resource row.
    pub reserves: bool,
    /// What it takes away for good.
    pub loss: super::Loss,
}

/// An accepted order.
#[derive(Debug, Clone)]
pub struct OrderRow {
    /// Identity of the order.
    pub order_id: ProvisioningOrderId,
    /// Its sequence.
    pub seq: u64,
    /// The exact bytes received; empty once they were let go.
    pub envelope: Vec<u8>,
    /// The signed bytes inside; empty once they were let go.
    pub payload: Vec<u8>,
    /// SHA-256 of the payload bytes.
    pub payload_hash: Vec<u8>,
    /// The instance.
    pub instance: InstanceId,
    /// The VMID.
    pub vmid: u32,
    /// The generation.
    pub generation: u64,
    /// What is asked for.
    pub verb: Verb,
    /// Hash of what is wished.
    pub spec_hash: Vec<u8>,
    /// Where it stands.
    pub state: OrderState,
    /// Facts or failure as JSON, once terminal.
    pub result: Option<String>,
    /// The event with the result.
    pub event_seq: Option<u64>,
    /// Last moment to begin.
    pub expires_at: UnixMillis,
    /// When it was accepted.
    pub accepted_at: UnixMillis,
    /// When it began.
    pub started_at: Option<UnixMillis>,
    /// When it ended.
    pub finished_at: Option<UnixMillis>,
    /// When its bytes were let go early (see `shed`); `None`: they are here.
    pub shed_at: Option<UnixMillis>,
    /// What it asked for, kept when they were.
    asked: Option<String>,
    /// SHA-256 of the envelope, likewise.
    envelope_hash: Option<Vec<u8>>,
}

impl OrderRow {
    /// What it asks for, in the word that people see: of an action which one it is.
    pub fn asks(&self) -> &str {
        match &self.asked {
            Some(word) => word,
            None => ProvisioningOrder::from_bytes(&self.payload)
                .map_or(self.verb.as_str(), |order| order.op.verb()),
        }
    }

    /// Since when it waits for root of this host, if it does.
    pub fn stuck_since(&self) -> Option<UnixMillis> {
        (self.state == OrderState::Stuck).then(|| self.finished_at.unwrap_or(self.accepted_at))
    }

    /// What root of this host can do about one that is stuck. It ends by nothing else but a later order.
    pub fn way_out(&self) -> String {
        let (id, command) = (self.order_id, "ez-node-agent order");
        format!(
            "{command} show {id} tells why; {command} resume {id} lets it go on once that is mended, {command} abandon {id} \
             ends it and leaves all as it is"
        )
    }

    /// SHA-256 of the bytes that were received, hexadecimal.
    pub fn envelope_sha256(&self) -> String {
        match &self.envelope_hash {
            Some(hash) => HEXLOWER.encode(hash),
            None => HEXLOWER.encode(&Sha256::digest(&self.envelope)),
        }
    }
}

pub(super) fn read(row: &SqliteRow) -> Result<OrderRow, JournalError> {
    let number = |column: &'static str| -> Result<u64, JournalError> {
        unsigned("orders", column, row.try_get(column).map_err(JournalError::Driver)?)
    };
    let maybe = |column: &'static str| -> Result<Option<UnixMillis>, JournalError> {
        Ok(row.try_get::<Option<i64>, _>(column)?.map(UnixMillis))
    };
    Ok(OrderRow {
        order_id: parsed("orders", "order_id", row.try_get("order_id")?)?,
        seq: number("seq")?,
        envelope: row.try_get("envelope")?,
        payload: row.try_get("payload")?,
        payload_hash: row.try_get("payload_hash")?,
        instance: parsed("orders", "instance_uuid", row.try_get("instance_uuid")?)?,
        vmid: u32::try_from(number("vmid")?).unwrap_or(u32::MAX),
        generation: number("generation")?,
        verb: parsed("orders", "verb", row.try_get("verb")?)?,
        spec_hash: row.try_get("spec_hash")?,
        state: parsed("orders", "state", row.try_get("state")?)?,
        result: row.try_get("result")?,
        event_seq: row.try_get::<Option<i64>, _>("event_seq")?.map(i64::unsigned_abs),
        expires_at: UnixMillis(row.try_get("expires_at")?),
        accepted_at: UnixMillis(row.try_get("accepted_at")?),
        started_at: maybe("started_at")?,
        finished_at: maybe("finished_at")?,
        shed_at: maybe("shed_at")?,
        asked: row.try_get("asks")?,
        envelope_hash: row.try_get("envelope_hash")?,
    })
}

/// The row of one order.
pub(super) async fn find(
    conn: &mut SqliteConnection,
    id: ProvisioningOrderId,
) -> Result<Option<OrderRow>, JournalError> {
    sqlx::query("SELECT * FROM orders WHERE order_id = $1")
        .bind(id.to_string())
        .fetch_optional(conn)
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// Writes an order as accepted.
pub(super) async fn insert(
    conn: &mut SqliteConnection,
    order: &NewOrder,
    at: UnixMillis,
) -> Result<(), JournalError> {
    sqlx::query(
        "INSERT INTO orders (order_id, seq, envelope, payload_hash, instance_uuid, vmid, generation, verb, spec_hash, \
         state, expires_at, accepted_at, payload) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'accepted', $10, $11, $12)",
    )
    .bind(order.order_id.to_string())
    .bind(stored(order.seq))
    .bind(order.envelope.clone())
    .bind(order.payload_hash.to_vec())
    .bind(order.instance.to_string())
    .bind(i64::from(order.vmid))
    .bind(stored(order.generation))
    .bind(order.verb.as_str())
    .bind(order.spec_hash.to_vec())
    .bind(order.expires_at.0)
    .bind(at.0)
    .bind(order.payload.clone())
    .execute(&mut *conn)
    .await?;
    sqlx::query("UPDATE meta SET high_seq = MAX(high_seq, $1) WHERE id = 1")
        .bind(stored(order.seq))
        .execute(conn)
        .await?;
    Ok(())
}

/// The newest order of the same instance that was accepted after this one, whatever became of it.
pub(super) async fn overtaking(
    conn: &mut SqliteConnection,
    order: &OrderRow,
) -> Result<Option<OrderRow>, JournalError> {
    sqlx::query(
        "SELECT * FROM orders WHERE instance_uuid = $1 AND order_id <> $2 AND (seq > $3 OR accepted_at > $4) \
         ORDER BY seq DESC LIMIT 1",
    )
    .bind(order.instance.to_string())
    .bind(order.order_id.to_string())
    .bind(stored(order.seq))
    .bind(order.accepted_at.0)
    .fetch_optional(conn)
    .await?
    .as_ref()
    .map(read)
    .transpose()
}

/// Moves an order on; refuses a transition that may not be.
pub(super) async fn transition(
    conn: &mut SqliteConnection,
    id: ProvisioningOrderId,
    to: OrderState,
    at: UnixMillis,
) -> Result<(), JournalError> {
    let row = find(conn, id).await?.ok_or_else(|| JournalError::Conflict(format!("no order {id}")))?;
    if row.state == to {
        return Ok(());
    }
    if !row.state.may_become(to) {
        return Err(JournalError::Conflict(format!("order {id} is {} and cannot become {to}", row.state)));
    }
    let started = row.started_at.or((to == OrderState::Running).then_some(at));
    sqlx::query("UPDATE orders SET state = $2, started_at = $3, finished_at = $4 WHERE order_id = $1")
        .bind(id.to_string())
        .bind(to.as_str())
        .bind(started.map(|t| t.0))
        .bind(to.is_terminal().then_some(at.0))
        .execute(conn)
        .await?;
    Ok(())
}

impl Journal {
    /// One order.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn order(&self, id: ProvisioningOrderId) -> Result<Option<OrderRow>, JournalError> {
        let mut conn = self.readers().acquire().await?;
        find(&mut conn, id).await
    }

    /// Orders that are not over, in the order of their sequence.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn open_orders(&self) -> Result<Vec<OrderRow>, JournalError> {
        list_open(self.readers()).await
    }

    /// The highest generation of an accepted ensure, retire or purge of one instance that came
    /// after sequence `seq`: what makes an order not yet begun pointless.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn newer_generation(
        &self,
        instance: InstanceId,
        generation: u64,
    ) -> Result<Option<u64>, JournalError> {
        let newest: Option<i64> = sqlx::query(
            "SELECT MAX(generation) AS newest FROM orders WHERE instance_uuid = $1 AND generation > $2 \
             AND verb <> 'action'",
        )
        .bind(instance.to_string())
        .bind(stored(generation))
        .fetch_one(self.readers())
        .await?
        .try_get("newest")?;
        newest.map(|n| unsigned("orders", "generation", n)).transpose()
    }

    /// The order begins (or begins to be undone), with the event that says so.
    ///
    /// # Errors
    /// If it cannot be written or may not begin.
    pub async fn begin_order(
        &self,
        id: ProvisioningOrderId,
        to: OrderState,
        at: UnixMillis,
        event: Option<EventDraft>,
    ) -> Result<(), JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                transition(conn, id, to, at).await?;
                if let Some(event) = event {
                    outbox::push(conn, event).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// F5: the final state, its result and its event in one transaction, and what it means for the
    /// books.
    ///
    /// # Errors
    /// If it cannot be written or may not end so.
    pub async fn finish_order(
        &self,
        id: ProvisioningOrderId,
        to: OrderState,
        at: UnixMillis,
        result: String,
        event: EventDraft,
        books: super::resources::BookEntry,
    ) -> Result<(), JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                transition(conn, id, to, at).await?;
                let event_seq = outbox::push(conn, event).await?;
                sqlx::query("UPDATE orders SET result = $2, event_seq = $3 WHERE order_id = $1")
                    .bind(id.to_string())
                    .bind(result)
                    .bind(stored(event_seq))
                    .execute(&mut *conn)
                    .await?;
                super::losses::settle(conn, id).await?;
                super::resources::apply(conn, books, at).await
            })
        })
        .await
    }
}

/// One order, for people.
///
/// # Errors
/// If it cannot be read.
pub async fn show(
    pool: &sqlx::SqlitePool,
    id: ProvisioningOrderId,
) -> Result<Option<OrderRow>, JournalError> {
    find(&mut *pool.acquire().await?, id).await
}

/// The newest orders first, for people.
///
/// # Errors
/// If they cannot be read.
pub async fn list(pool: &sqlx::SqlitePool, limit: i64) -> Result<Vec<OrderRow>, JournalError> {
    sqlx::query("SELECT * FROM orders ORDER BY seq DESC LIMIT $1")
        .bind(limit)
        .fetch_all(pool)
        .await?
        .iter()
        .map(read)
        .collect()
}

/// Orders that are not over, for people.
///
/// # Errors
/// If they cannot be read.
pub async fn list_open(pool: &sqlx::SqlitePool) -> Result<Vec<OrderRow>, JournalError> {
    sqlx::query("SELECT * FROM orders WHERE state IN ('accepted', 'running', 'undoing') ORDER BY seq")
        .fetch_all(pool)
        .await?
        .iter()
        .map(read)
        .collect()
}

/// What is at work or stuck, less what somebody gave up and what a later order made good, for people: a later
/// generation, and behind a stuck action, which is resumed no more, whatever came after it.
///
/// # Errors
/// If they cannot be read.
pub async fn waiting_for_a_person(pool: &sqlx::SqlitePool) -> Result<Vec<OrderRow>, JournalError> {
    sqlx::query(
        "SELECT * FROM orders o WHERE state IN ('accepted', 'running', 'undoing', 'stuck') \
         AND NOT EXISTS (SELECT 1 FROM requests r WHERE r.order_id = o.order_id AND r.verb = 'abandon' \
         AND r.state = 'done') \
         AND NOT EXISTS (SELECT 1 FROM orders n WHERE n.instance_uuid = o.instance_uuid \
         AND n.state = 'succeeded' AND (n.generation > o.generation \
         OR (o.verb = 'action' AND o.state = 'stuck' AND n.seq > o.seq))) ORDER BY seq",
    )
    .fetch_all(pool)
    .await?
    .iter()
    .map(read)
    .collect()
}
