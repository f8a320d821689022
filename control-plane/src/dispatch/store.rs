//! SQL of dispatch.

use ez_protocol::{
    InstanceId, NodeId, ProvisioningOrderId, UnixMillis,
    message::Event,
    order::{CLOCK_TOLERANCE, InstanceRef, ProvisioningOrder},
};
use sqlx::{
    Any, AnyConnection,
    any::{AnyArguments, AnyRow},
    query::Query,
};

use super::{
    Filter,
    model::{ProvisioningRecord, State},
    record::{facts, text},
};
use crate::db::{self, Cols, DbError, one_row, opt_id};

/// All columns but the bytes, with what follows. One text for each question: a condition that a NULL parameter
/// switches off would read the whole table for a single row.
macro_rules! select_records {
    ($rest:literal) => {
        concat!(
            "SELECT id, node_id, epoch, seq, instance_id, vmid, generation, verb, order_id, actor, state, step,
                 refusal, detail, class, facts, issued_at, expires_at, queued_at, accepted_at, finished_at, attempts
             FROM provisioning_orders ",
            $rest
        )
    };
}

async fn all(
    conn: &mut AnyConnection,
    query: Query<'_, Any, AnyArguments>,
) -> Result<Vec<ProvisioningRecord>, DbError> {
    query.fetch_all(conn).await?.iter().map(build).collect()
}

fn build(row: &AnyRow) -> Result<ProvisioningRecord, DbError> {
    let row = Cols::of("provisioning_orders", row);
    let facts = match row.get::<Option<String>>("facts")? {
        Some(_) => Some(row.json("facts")?),
        None => None,
    };
    Ok(ProvisioningRecord {
        id: row.id("id")?,
        node: row.id("node_id")?,
        epoch: row.num("epoch")?,
        seq: row.num("seq")?,
        instance: row.id("instance_id")?,
        vmid: row.num("vmid")?,
        generation: row.num("generation")?,
        verb: row.text("verb")?,
        order: row.opt_id("order_id")?,
        actor: row.text("actor")?,
        state: row.get("state")?,
        step: row.get("step")?,
        refusal: row.get("refusal")?,
        detail: row.get("detail")?,
        class: row.get("class")?,
        facts,
        issued_at: row.millis("issued_at")?,
        expires_at: row.millis("expires_at")?,
        queued_at: row.opt_millis("queued_at")?,
        accepted_at: row.opt_millis("accepted_at")?,
        finished_at: row.opt_millis("finished_at")?,
        attempts: row.num("attempts")?,
    })
}

pub(super) async fn by_id(
    conn: &mut AnyConnection,
    id: ProvisioningOrderId,
) -> Result<Option<ProvisioningRecord>, DbError> {
    let query = sqlx::query(select_records!("WHERE id = $1")).bind(id.to_string());
    Ok(all(conn, query).await?.pop())
}

/// Some orders, up to [`db::MANY`] of them, in no order.
pub(super) async fn by_ids(
    conn: &mut AnyConnection,
    ids: &[ProvisioningOrderId],
) -> Result<Vec<ProvisioningRecord>, DbError> {
    let mut query = sqlx::query(select_records!(
        "WHERE id IN ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
             $22, $23, $24, $25)"
    ));
    for id in db::padded(ids) {
        query = query.bind(id);
    }
    all(conn, query).await
}

/// The order, and nobody else changes it until this transaction ends.
pub(super) async fn to_change(
    tx: &mut AnyConnection,
    id: ProvisioningOrderId,
) -> Result<Option<ProvisioningRecord>, DbError> {
    db::lock(tx, "provisioning_order", id).await?;
    by_id(tx, id).await
}

pub(super) async fn latest_for(
    conn: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Option<ProvisioningRecord>, DbError> {
    let query =
        sqlx::query(select_records!("WHERE instance_id = $1 ORDER BY issued_at DESC, id DESC LIMIT 1"));
    Ok(all(conn, query.bind(instance.to_string())).await?.pop())
}

pub(super) async fn history_of(
    conn: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Vec<ProvisioningRecord>, DbError> {
    let query =
        sqlx::query(select_records!("WHERE instance_id = $1 ORDER BY issued_at DESC, id DESC LIMIT 1000"));
    let mut history = all(conn, query.bind(instance.to_string())).await?;
    history.reverse();
    Ok(history)
}

/// The orders to make an instance like something that are not known to have come to nothing, newest first. Over a
/// server's life there may be thousands that did: they must not hide the one that did not.
pub(super) async fn ensures_of(
    conn: &mut AnyConnection,
    at: UnixMillis,
    instance: InstanceId,
) -> Result<Vec<ProvisioningRecord>, DbError> {
    let query = sqlx::query(select_records!(
        "WHERE instance_id = $1 AND verb = 'ensure'
             AND state NOT IN ('failed', 'undone', 'refused', 'superseded')
             AND (state NOT IN ('signed', 'queued', 'cancelled', 'expired') OR expires_at >= $2)
             AND (state NOT IN ('cancelled', 'expired') OR attempts > 0)
         ORDER BY issued_at DESC, id DESC LIMIT 500"
    ));
    all(conn, query.bind(instance.to_string()).bind(at.minus(CLOCK_TOLERANCE).0)).await
}

pub(super) async fn list(
    conn: &mut AnyConnection,
    filter: &Filter,
) -> Result<Vec<ProvisioningRecord>, DbError> {
    let limit = if filter.limit > 0 { filter.limit } else { 200 };
    let query = sqlx::query(select_records!(
        "WHERE (CAST($1 AS TEXT) IS NULL OR node_id = $1)
             AND ($2 = 0 OR state IN ('signed', 'queued', 'accepted', 'running', 'stuck'))
         ORDER BY issued_at DESC, id DESC LIMIT $3"
    ));
    let node = opt_id(filter.node.as_ref());
    all(conn, query.bind(node).bind(i64::from(filter.open)).bind(limit)).await
}

pub(super) async fn overdue(
    conn: &mut AnyConnection,
    at: UnixMillis,
) -> Result<Vec<ProvisioningRecord>, DbError> {
    let query = sqlx::query(select_records!(
        "WHERE state IN ('signed', 'queued') AND ((attempts = 0 AND expires_at < $1) OR expires_at < $2)
         ORDER BY issued_at DESC, id DESC LIMIT 500"
    ));
    all(conn, query.bind(at.0).bind(at.minus(CLOCK_TOLERANCE).0)).await
}

pub(super) async fn waiting(conn: &mut AnyConnection) -> Result<(u64, Option<UnixMillis>), DbError> {
    let row = sqlx::query(
        "SELECT count(*) AS waiting, CAST(min(issued_at) AS BIGINT) AS oldest FROM provisioning_orders
         WHERE state IN ('signed', 'queued')",
    )
    .fetch_one(conn)
    .await?;
    let row = Cols::of("provisioning_orders", &row);
    Ok((row.num("waiting")?, row.opt_millis("oldest")?))
}

pub(super) async fn by_cause(
    conn: &mut AnyConnection,
    instance: InstanceId,
    verb: &str,
    cause: &str,
) -> Result<Option<ProvisioningOrderId>, DbError> {
    let row = sqlx::query(
        "SELECT provisioning_order_id FROM provisioning_causes
         WHERE instance_id = $1 AND verb = $2 AND cause_key = $3",
    )
    .bind(instance.to_string())
    .bind(verb.to_owned())
    .bind(cause.to_owned())
    .fetch_optional(conn)
    .await?;
    row.map(|row| Cols::of("provisioning_causes", &row).id("provisioning_order_id")).transpose()
}

pub(super) async fn insert_cause(
    tx: &mut AnyConnection,
    instance: InstanceId,
    verb: &str,
    cause: &str,
    id: ProvisioningOrderId,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO provisioning_causes (instance_id, verb, cause_key, provisioning_order_id)
         VALUES ($1, $2, $3, $4)",
    )
    .bind(instance.to_string())
    .bind(verb.to_owned())
    .bind(cause.to_owned())
    .bind(id.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn generation_of(
    conn: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Option<u64>, DbError> {
    let row = sqlx::query("SELECT instance_id, generation FROM instance_generations WHERE instance_id = $1")
        .bind(instance.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|row| Cols::of("instance_generations", &row).num("generation")).transpose()
}

/// The newest generation of an instance that its node has taken, which is the one the node goes by.
pub(super) async fn generation_at_node(
    conn: &mut AnyConnection,
    instance: InstanceId,
    node: NodeId,
) -> Result<Option<u64>, DbError> {
    let row = sqlx::query(
        "SELECT generation FROM provisioning_orders
         WHERE instance_id = $1 AND node_id = $2 AND verb IN ('ensure', 'retire', 'purge', 'adopt')
           AND accepted_at IS NOT NULL
         ORDER BY generation DESC LIMIT 1",
    )
    .bind(instance.to_string())
    .bind(node.to_string())
    .fetch_optional(conn)
    .await?;
    row.map(|row| Cols::of("provisioning_orders", &row).num("generation")).transpose()
}

/// Raises an instance's generation; never lowers it (I9).
pub(super) async fn set_generation(
    tx: &mut AnyConnection,
    instance: InstanceRef,
    generation: u64,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "INSERT INTO instance_generations (instance_id, generation, vmid) VALUES ($1, $2, $3)
         ON CONFLICT (instance_id) DO UPDATE SET generation = excluded.generation, vmid = excluded.vmid
         WHERE instance_generations.generation < excluded.generation",
    )
    .bind(instance.uuid.to_string())
    .bind(signed(generation))
    .bind(i64::from(instance.vmid))
    .execute(tx)
    .await?;
    one_row(done)
}

async fn succeeded(conn: &mut AnyConnection, instance: InstanceId, verb: &str) -> Result<bool, DbError> {
    let row = sqlx::query(
        "SELECT id FROM provisioning_orders WHERE instance_id = $1 AND verb = $2 AND state = 'succeeded' LIMIT 1",
    )
    .bind(instance.to_string())
    .bind(verb.to_owned())
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}

pub(super) async fn was_built(conn: &mut AnyConnection, instance: InstanceId) -> Result<bool, DbError> {
    succeeded(conn, instance, "ensure").await
}

pub(super) async fn was_retired(conn: &mut AnyConnection, instance: InstanceId) -> Result<bool, DbError> {
    succeeded(conn, instance, "retire").await
}

/// The next number of a node's sequence; it only rises, over all epochs (I9).
pub(super) async fn next_seq(tx: &mut AnyConnection, node: NodeId) -> Result<u64, DbError> {
    let row = sqlx::query(
        "INSERT INTO node_sequences (node_id, next_seq) VALUES ($1, 2)
         ON CONFLICT (node_id) DO UPDATE SET next_seq = node_sequences.next_seq + 1
         RETURNING next_seq - 1 AS seq",
    )
    .bind(node.to_string())
    .fetch_one(tx)
    .await?;
    Cols::of("node_sequences", &row).num("seq")
}

pub(super) async fn count_since(
    conn: &mut AnyConnection,
    since: UnixMillis,
    node: Option<NodeId>,
    instance: Option<InstanceId>,
    verb: Option<&str>,
) -> Result<u64, DbError> {
    let row = sqlx::query(
        "SELECT count(*) AS n FROM provisioning_orders WHERE issued_at > $1
         AND (CAST($2 AS TEXT) IS NULL OR node_id = $2) AND (CAST($3 AS TEXT) IS NULL OR instance_id = $3)
         AND (CAST($4 AS TEXT) IS NULL OR verb = $4)",
    )
    .bind(since.0)
    .bind(opt_id(node.as_ref()))
    .bind(opt_id(instance.as_ref()))
    .bind(verb.map(str::to_owned))
    .fetch_one(conn)
    .await?;
    Cols::of("provisioning_orders", &row).num("n")
}

/// Purges that a node has taken since, or may still take.
pub(super) async fn purges_taken_since(
    conn: &mut AnyConnection,
    since: UnixMillis,
    node: NodeId,
) -> Result<u64, DbError> {
    let row = sqlx::query(
        "SELECT count(*) AS n FROM provisioning_orders WHERE node_id = $1 AND verb = 'purge'
         AND (state IN ('signed', 'queued')
             OR (state NOT IN ('refused', 'cancelled') AND COALESCE(accepted_at, finished_at, expires_at) > $2))",
    )
    .bind(node.to_string())
    .bind(since.0)
    .fetch_one(conn)
    .await?;
    Cols::of("provisioning_orders", &row).num("n")
}

/// What one server's order took away, or may still take away, as a node counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) instance: InstanceId,
    /// In quarters of a disk.
    pub(super) weight: u64,
    /// When the node took it; for one that is on its way the last moment at which it may.
    pub(super) at: UnixMillis,
}

/// What was taken away on a node since, the earliest first. A node counts what it accepted when it did, so what is on its
/// way counts as well, however long ago it was issued.
pub(super) async fn taken_away_since(
    conn: &mut AnyConnection,
    since: UnixMillis,
    node: NodeId,
) -> Result<Vec<Taken>, DbError> {
    let rows = sqlx::query(
        "SELECT instance_id, takes_away, COALESCE(accepted_at, finished_at, expires_at) AS taken_at
         FROM provisioning_orders WHERE node_id = $1 AND takes_away > 0
         AND state NOT IN ('refused', 'cancelled')
         AND (state IN ('signed', 'queued') OR COALESCE(accepted_at, finished_at, expires_at) > $2)
         ORDER BY taken_at",
    )
    .bind(node.to_string())
    .bind(since.0)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("provisioning_orders", row);
            Ok(Taken {
                instance: row.id("instance_id")?,
                weight: row.num("takes_away")?,
                at: row.millis("taken_at")?,
            })
        })
        .collect()
}

/// The build of a server's disk that its node was told last and has taken.
pub(super) async fn build_at_node(
    conn: &mut AnyConnection,
    instance: InstanceId,
    node: NodeId,
) -> Result<Option<u32>, DbError> {
    let row = sqlx::query(
        "SELECT build FROM provisioning_orders WHERE instance_id = $1 AND node_id = $2 AND build IS NOT NULL
         AND accepted_at IS NOT NULL ORDER BY seq DESC LIMIT 1",
    )
    .bind(instance.to_string())
    .bind(node.to_string())
    .fetch_optional(conn)
    .await?;
    row.map(|row| Cols::of("provisioning_orders", &row).num("build")).transpose()
}

/// Servers that were built on a node and are not about to be gone.
pub(super) async fn servers_of(conn: &mut AnyConnection, node: NodeId) -> Result<u64, DbError> {
    let row = sqlx::query(
        "SELECT count(DISTINCT instance_id) AS n FROM provisioning_orders WHERE node_id = $1 AND verb = 'ensure'
         AND state = 'succeeded' AND instance_id NOT IN (SELECT instance_id FROM provisioning_orders WHERE node_id = $1
             AND verb = 'purge' AND state NOT IN ('refused', 'cancelled', 'expired', 'failed', 'undone'))",
    )
    .bind(node.to_string())
    .fetch_one(conn)
    .await?;
    Cols::of("provisioning_orders", &row).num("n")
}

pub(super) async fn insert(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: &ProvisioningOrder,
    envelope: Vec<u8>,
    takes_away: u64,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO provisioning_orders (id, node_id, epoch, seq, instance_id, vmid, generation, verb, spec_hash,
             order_id, actor, envelope, state, issued_at, expires_at, attempts, next_attempt_at, updated_at, takes_away, build)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 0, $14, $14, $16, $17)",
    )
    .bind(order.order_id.to_string())
    .bind(order.aud.node.to_string())
    .bind(signed(order.aud.epoch))
    .bind(signed(order.seq))
    .bind(order.instance.uuid.to_string())
    .bind(i64::from(order.instance.vmid))
    .bind(signed(order.generation))
    .bind(order.op.verb().to_owned())
    .bind(data_encoding::HEXLOWER.encode(&order.op.spec_hash()))
    .bind(opt_id(order.cause.order.as_ref()))
    .bind(order.cause.actor.clone())
    .bind(envelope)
    .bind(State::Signed)
    .bind(at.0)
    .bind(order.exp.0)
    .bind(signed(takes_away))
    .bind(match &order.op {
        ez_protocol::order::Op::Ensure(spec) => Some(i64::from(spec.build)),
        _ => None,
    })
    .execute(tx)
    .await?;
    Ok(())
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) async fn set_state(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: ProvisioningOrderId,
    before: State,
    after: State,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE provisioning_orders SET state = $1, updated_at = $2, finished_at = CASE WHEN $3 = 1 THEN CAST($2 AS BIGINT) END
         WHERE id = $4 AND state = $5",
    )
    .bind(after)
    .bind(at.0)
    .bind(i64::from(after.is_final()))
    .bind(id.to_string())
    .bind(before)
    .execute(tx)
    .await?;
    one_row(done)
}

/// Ends an order of which its node says nothing.
pub(super) async fn end_without_word(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: &ProvisioningRecord,
    next: State,
    why: &str,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE provisioning_orders SET state = $1, detail = $2, finished_at = $3, updated_at = $3
         WHERE id = $4 AND state = $5",
    )
    .bind(next)
    .bind(why.to_owned())
    .bind(at.0)
    .bind(order.id.to_string())
    .bind(order.state)
    .execute(tx)
    .await?;
    one_row(done)
}

pub(super) async fn accept(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: &ProvisioningRecord,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE provisioning_orders SET state = 'accepted', accepted_at = $1, finished_at = NULL, updated_at = $1
         WHERE id = $2 AND state = $3",
    )
    .bind(at.0)
    .bind(order.id.to_string())
    .bind(order.state)
    .execute(tx)
    .await?;
    one_row(done)
}

pub(super) async fn refuse(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: &ProvisioningRecord,
    refusal: &str,
    detail: &str,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE provisioning_orders SET state = 'refused', refusal = $1, detail = $2, finished_at = $3, updated_at = $3
         WHERE id = $4 AND state = $5",
    )
    .bind(refusal.to_owned())
    .bind(detail.to_owned())
    .bind(at.0)
    .bind(order.id.to_string())
    .bind(order.state)
    .execute(tx)
    .await?;
    one_row(done)
}

pub(super) async fn apply_event(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: &ProvisioningRecord,
    next: State,
    event: &Event,
) -> Result<(), DbError> {
    let given = |words: &str| (!words.is_empty()).then(|| text(words));
    let facts = facts(event).and_then(|facts| serde_json::to_string(&facts).ok());
    let done = sqlx::query(
        "UPDATE provisioning_orders SET state = $1, updated_at = $2, accepted_at = COALESCE(accepted_at, $2),
             finished_at = CASE WHEN $3 = 1 THEN CAST($2 AS BIGINT) END, step = COALESCE($4, step), detail = COALESCE($5, detail),
             class = COALESCE($6, class), facts = COALESCE($7, facts)
         WHERE id = $8 AND state = $9",
    )
    .bind(next)
    .bind(at.0)
    .bind(i64::from(next.is_final()))
    .bind(given(&event.step))
    .bind(given(&event.detail))
    .bind(given(&event.class))
    .bind(facts)
    .bind(order.id.to_string())
    .bind(order.state)
    .execute(tx)
    .await?;
    one_row(done)
}
