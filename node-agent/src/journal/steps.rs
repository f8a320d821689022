//! The steps of an order: intent (F2), UPID (F3), result (F4).

use ez_protocol::{InstanceId, ProvisioningOrderId, UnixMillis};
use sqlx::{Row, sqlite::SqliteRow};

use super::{Journal, JournalError, orders::text_enum, outbox, parsed};
use crate::report::EventDraft;

text_enum! {
    /// How far a step has come.
    StepState {
        /// Its intent is durable; the effect may or may not have happened.
        Intent = "intent",
        /// The hypervisor has answered with a task.
        Called = "called",
        /// Its result is durable.
        Done = "done",
        /// It failed for good.
        Failed = "failed",
    }
}

/// One step as it stands in the journal.
#[derive(Debug, Clone)]
pub struct StepRow {
    /// The order.
    pub order_id: ProvisioningOrderId,
    /// 1… forward, negative while undoing.
    pub k: i64,
    /// Its name.
    pub name: String,
    /// How often it has been tried.
    pub attempt: u32,
    /// How far it has come.
    pub state: StepState,
    /// What was intended.
    pub intent_json: String,
    /// The task at work.
    pub upid: Option<String>,
    /// What came of it.
    pub result_json: Option<String>,
    /// The boot during which it was last touched.
    pub boot_id: String,
    /// When it was last touched.
    pub at: UnixMillis,
}

/// A destruction by which an order got stuck and that nobody has seen to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsettled {
    /// The order.
    pub order_id: ProvisioningOrderId,
    /// The task.
    pub upid: String,
    /// What the order said when it got stuck by it, in whichever of its steps.
    pub said: String,
}

pub(super) fn read(row: &SqliteRow) -> Result<StepRow, JournalError> {
    Ok(StepRow {
        order_id: parsed("steps", "order_id", row.try_get("order_id")?)?,
        k: row.try_get("k")?,
        name: row.try_get("name")?,
        attempt: u32::try_from(row.try_get::<i64, _>("attempt")?).unwrap_or(u32::MAX),
        state: parsed("steps", "state", row.try_get("state")?)?,
        intent_json: row.try_get("intent_json")?,
        upid: row.try_get("upid")?,
        result_json: row.try_get("result_json")?,
        boot_id: row.try_get("boot_id")?,
        at: UnixMillis(row.try_get("t")?),
    })
}

/// Steps of one order in the order they were begun.
///
/// # Errors
/// If they cannot be read.
pub async fn list(pool: &sqlx::SqlitePool, id: ProvisioningOrderId) -> Result<Vec<StepRow>, JournalError> {
    sqlx::query("SELECT * FROM steps WHERE order_id = $1 ORDER BY (k < 0), ABS(k)")
        .bind(id.to_string())
        .fetch_all(pool)
        .await?
        .iter()
        .map(read)
        .collect()
}

impl Journal {
    /// Steps of one order.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn steps(&self, id: ProvisioningOrderId) -> Result<Vec<StepRow>, JournalError> {
        list(self.readers(), id).await
    }

    /// Destructions of an instance's VM by which other orders got stuck, oldest first: less those that a person gave up, and
    /// those whose rest a later order has seen to.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn unsettled_destructions(
        &self,
        instance: InstanceId,
        but: ProvisioningOrderId,
    ) -> Result<Vec<Unsettled>, JournalError> {
        let rows = sqlx::query(
            "SELECT s.order_id, s.upid, (SELECT GROUP_CONCAT(t.result_json, ' ') FROM steps t \
             WHERE t.order_id = s.order_id) AS said FROM steps s JOIN orders o ON o.order_id = s.order_id \
             WHERE o.instance_uuid = $1 AND o.order_id <> $2 AND o.state = 'stuck' \
             AND s.name = 'destroy' AND s.upid IS NOT NULL AND s.state <> 'done' \
             AND NOT EXISTS (SELECT 1 FROM requests r WHERE r.order_id = o.order_id AND r.verb = 'abandon' \
             AND r.state = 'done') \
             AND NOT EXISTS (SELECT 1 FROM orders n JOIN steps d ON d.order_id = n.order_id \
             WHERE n.instance_uuid = o.instance_uuid AND n.seq > o.seq AND d.name = 'destroy' AND d.state = 'done') \
             ORDER BY o.seq",
        )
        .bind(instance.to_string())
        .bind(but.to_string())
        .fetch_all(self.readers())
        .await?;
        let one = |row: &SqliteRow| -> Result<Unsettled, JournalError> {
            Ok(Unsettled {
                order_id: parsed("steps", "order_id", row.try_get("order_id")?)?,
                upid: row.try_get("upid")?,
                said: row.try_get::<Option<String>, _>("said")?.unwrap_or_default(),
            })
        };
        rows.iter().map(one).collect()
    }

    /// F2: the intent of a step is durable; a repeated one counts an attempt and forgets the task of
    /// the one before.
    ///
    /// # Errors
    /// If it cannot be written.
    #[expect(clippy::too_many_arguments, reason = "one row, named at the only call site")]
    pub async fn step_intent(
        &self,
        id: ProvisioningOrderId,
        k: i64,
        name: &'static str,
        intent_json: String,
        boot_id: String,
        at: UnixMillis,
        event: Option<EventDraft>,
    ) -> Result<(), JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO steps (order_id, k, name, attempt, state, intent_json, boot_id, t) \
                     VALUES ($1, $2, $3, 1, 'intent', $4, $5, $6) \
                     ON CONFLICT (order_id, k) DO UPDATE SET attempt = steps.attempt + 1, state = 'intent', \
                     intent_json = excluded.intent_json, upid = NULL, boot_id = excluded.boot_id, t = excluded.t",
                )
                .bind(id.to_string())
                .bind(k)
                .bind(name)
                .bind(intent_json)
                .bind(boot_id)
                .bind(at.0)
                .execute(&mut *conn)
                .await?;
                // From the first intent on a VM may exist in part.
                sqlx::query(
                    "UPDATE resources SET phase = 'creating', updated_at = $2 WHERE phase = 'reserved' \
                     AND uuid = (SELECT instance_uuid FROM orders WHERE order_id = $1)",
                )
                .bind(id.to_string())
                .bind(at.0)
                .execute(&mut *conn)
                .await?;
                // Whatever it waited for, its turn has come.
                sqlx::query("DELETE FROM queue_places WHERE order_id = $1")
                    .bind(id.to_string())
                    .execute(&mut *conn)
                    .await?;
                if let Some(event) = event {
                    outbox::push(conn, event).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// F3: the task that carries the step out. One that was found again after a restart may have
    /// no row of its own yet.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn step_called(
        &self,
        id: ProvisioningOrderId,
        k: i64,
        name: &'static str,
        upid: String,
        boot_id: String,
        at: UnixMillis,
    ) -> Result<(), JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO steps (order_id, k, name, attempt, state, intent_json, upid, boot_id, t) \
                     VALUES ($1, $2, $3, 1, 'called', '{}', $4, $5, $6) \
                     ON CONFLICT (order_id, k) DO UPDATE SET state = 'called', upid = excluded.upid, t = excluded.t",
                )
                .bind(id.to_string())
                .bind(k)
                .bind(name)
                .bind(upid)
                .bind(boot_id)
                .bind(at.0)
                .execute(conn)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// The task of a step whose call had failed by all that was known. It changes nothing else of the step.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn step_found(
        &self,
        id: ProvisioningOrderId,
        k: i64,
        upid: String,
    ) -> Result<(), JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query("UPDATE steps SET upid = $3 WHERE order_id = $1 AND k = $2")
                    .bind(id.to_string())
                    .bind(k)
                    .bind(upid)
                    .execute(conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// F4: the result of a step. A step that observation found done already is written whole.
    ///
    /// # Errors
    /// If it cannot be written.
    #[expect(clippy::too_many_arguments, reason = "one row, named at the only two call sites")]
    pub async fn step_result(
        &self,
        id: ProvisioningOrderId,
        k: i64,
        name: &'static str,
        state: StepState,
        result_json: String,
        boot_id: String,
        at: UnixMillis,
        event: Option<EventDraft>,
    ) -> Result<(), JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO steps (order_id, k, name, attempt, state, intent_json, result_json, boot_id, t) \
                     VALUES ($1, $2, $3, 0, $4, '{}', $5, $6, $7) \
                     ON CONFLICT (order_id, k) DO UPDATE SET state = excluded.state, \
                     result_json = excluded.result_json, t = excluded.t",
                )
                .bind(id.to_string())
                .bind(k)
                .bind(name)
                .bind(state.as_str())
                .bind(result_json)
                .bind(boot_id)
                .bind(at.0)
                .execute(&mut *conn)
                .await?;
                if let Some(event) = event {
                    outbox::push(conn, event).await?;
                }
                Ok(())
            })
        })
        .await
    }
}
