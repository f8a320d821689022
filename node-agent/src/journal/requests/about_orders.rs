//! Resuming and abandoning an order: its rows, its event, nothing else.

use ez_protocol::{ProvisioningOrderId, UnixMillis, message::EventKind};
use sqlx::{Row, SqliteConnection};

use super::{
    super::{
        BookEntry, JournalError, OrderRow, OrderState, Phase, StepRow, StepState, Verb, orders, outbox,
        parsed, resources, steps, stored,
    },
    Outcome, RequestRow, Taker,
};
use crate::report::EventDraft;

pub(super) async fn resume(
    conn: &mut SqliteConnection,
    id: ProvisioningOrderId,
    request: &RequestRow,
    at: UnixMillis,
) -> Result<Outcome, JournalError> {
    let Some(order) = orders::find(conn, id).await? else { return Ok(unknown(id)) };
    if order.state != OrderState::Stuck {
        return Ok(Err(format!("the order is {}; only a stuck one can be resumed", order.state)));
    }
    if is_abandoned(conn, id).await? {
        return Ok(Err(
            "the order was abandoned, which is for good: let the control plane send a new one".to_owned()
        ));
    }
    let newer: Option<i64> = sqlx::query(
        "SELECT MAX(generation) AS newest FROM orders WHERE instance_uuid = $1 AND generation > $2 \
         AND verb <> 'action'",
    )
    .bind(order.instance.to_string())
    .bind(stored(order.generation))
    .fetch_one(&mut *conn)
    .await?
    .try_get("newest")?;
    if let Some(newer) = newer {
        let why = format!("generation {newer} was accepted since: resuming would set the server back");
        return Ok(Err(why));
    }
    // Actions leave the generation as it is, and yet the server has lived on: an old restore would take that away.
    if let Some(later) = orders::overtaking(conn, &order).await? {
        return Ok(Err(format!(
            "order {} ({}) was accepted since: resuming {} could undo what the server did after it. Nothing was \
             changed; give it up (`ez-node-agent order abandon {id}`), and if it is still wanted, have it ordered anew",
            later.order_id,
            later.asks(),
            order.asks(),
        )));
    }
    let rows = steps_of(conn, id).await?;
    // What stuck while it took something back goes on taking it back; why it does so stays remembered.
    let undoing = rows.iter().any(|step| step.k < 0);
    let (state, kind) = match undoing {
        true => (OrderState::Undoing, EventKind::Undoing),
        false => (OrderState::Running, EventKind::StepProgress),
    };
    let stuck = |step: &&StepRow| step.state == StepState::Failed && (step.k < 0) == undoing;
    let step = rows.iter().find(stuck).map(|step| step.name.clone()).unwrap_or_default();
    for row in rows.iter().filter(stuck) {
        again(conn, &order, row).await?;
    }
    sqlx::query(
        "UPDATE orders SET state = $2, result = NULL, event_seq = NULL, finished_at = NULL WHERE order_id = $1",
    )
    .bind(id.to_string())
    .bind(state.as_str())
    .execute(&mut *conn)
    .await?;
    let event = event(&order, kind, at).step(&step).detail(by("resumed", request));
    outbox::push(conn, event).await?;
    let at_step = if step.is_empty() { String::new() } else { format!(" at step {step}") };
    Ok(Ok(format!("the order goes on{at_step}, looking first")))
}

/// The step may be tried again. Its intent stays, by which a look tells what came of it; of an action nothing is kept,
/// as with an intent it would never be tried a second time.
async fn again(conn: &mut SqliteConnection, order: &OrderRow, step: &StepRow) -> Result<(), JournalError> {
    let sql = match order.verb {
        Verb::Action => "DELETE FROM steps WHERE order_id = $1 AND k = $2",
        _ => {
            // One attempt is kept: from it an undo knows that something may have been made. What root was told is kept,
            // too: a disk that was named to be freed is not named again. Tries without quorum were taken off the attempts that
            // are forgotten here; taken off those to come, the step would be tried so often more.
            "UPDATE steps SET state = 'intent', attempt = MIN(attempt, 1), \
             intent_json = json_remove(intent_json, '$.without_quorum') WHERE order_id = $1 AND k = $2"
        }
    };
    sqlx::query(sql).bind(order.order_id.to_string()).bind(step.k).execute(conn).await?;
    Ok(())
}

pub(super) async fn abandon(
    conn: &mut SqliteConnection,
    id: ProvisioningOrderId,
    taker: Taker,
    request: &RequestRow,
    at: UnixMillis,
) -> Result<Outcome, JournalError> {
    let Some(order) = orders::find(conn, id).await? else { return Ok(unknown(id)) };
    let said = by("abandoned", request);
    match order.state {
        OrderState::Accepted => {
            let never_made =
                order.verb == Verb::Ensure && phase(conn, &order).await? == Some(Phase::Reserved);
            let gone = BookEntry::Gone { instance: order.instance, generation: order.generation };
            let books = if never_made { gone } else { BookEntry::Nothing };
            end(conn, &order, OrderState::Failed, EventKind::Failed, &said, at).await?;
            resources::apply(conn, books, at).await?;
            Ok(Ok("the order had not begun and ends here; nothing was made".to_owned()))
        }
        OrderState::Running | OrderState::Undoing if taker == Taker::Agent => Ok(Err(format!(
            "the order is {}: stop the agent first (systemctl stop ez-node-agent), then abandon it, then start the agent",
            order.state
        ))),
        OrderState::Stuck if is_abandoned(conn, id).await? => Ok(Err("it was abandoned before".to_owned())),
        OrderState::Running | OrderState::Undoing | OrderState::Stuck => {
            let before = named_by(conn, &order).await?;
            end(conn, &order, OrderState::Stuck, EventKind::Stuck, &said, at).await?;
            let mut outcome = vec![format!(
                "the order will not go on; VM {} and what it is made of are left exactly as they are",
                order.vmid
            )];
            for earlier in &before {
                let said = format!("{said}, with order {id}");
                end(conn, earlier, OrderState::Stuck, EventKind::Stuck, &said, at).await?;
                let with = format!("given up with order {id}, which waited for its disk");
                note(conn, earlier.order_id, request, &with, at).await?;
                outcome.push(format!(
                    "order {}, whose disk it waited for, is given up with it",
                    earlier.order_id
                ));
            }
            Ok(Ok(outcome.join("; ")))
        }
        state => Ok(Err(format!("the order is {state}: there is nothing to abandon"))),
    }
}

/// Earlier stuck orders of the same server whose leftover disks this one waited for, as its text says. Left to themselves
/// each of them would hold up the next order, with a disk that a person has just decided to leave where it is.
async fn named_by(conn: &mut SqliteConnection, order: &OrderRow) -> Result<Vec<OrderRow>, JournalError> {
    let rows = sqlx::query(
        "SELECT o.* FROM orders o WHERE o.instance_uuid = $1 AND o.seq < $2 AND o.state = 'stuck' \
         AND EXISTS (SELECT 1 FROM steps s WHERE s.order_id = o.order_id AND s.name = 'destroy' AND s.state <> 'done') \
         AND NOT EXISTS (SELECT 1 FROM requests r WHERE r.order_id = o.order_id AND r.verb = 'abandon' \
         AND r.state = 'done') ORDER BY o.seq",
    )
    .bind(order.instance.to_string())
    .bind(stored(order.seq))
    .fetch_all(conn)
    .await?;
    let said = order.result.as_deref().unwrap_or_default();
    let mut named = rows.iter().map(orders::read).collect::<Result<Vec<_>, _>>()?;
    named.retain(|earlier| said.contains(&earlier.order_id.to_string()));
    Ok(named)
}

/// The request of an order that a person gave up together with another.
async fn note(
    conn: &mut SqliteConnection,
    id: ProvisioningOrderId,
    request: &RequestRow,
    outcome: &str,
    at: UnixMillis,
) -> Result<(), JournalError> {
    sqlx::query(
        "INSERT INTO requests (verb, order_id, who, reason, asked_at, state, outcome, ended_at) \
         VALUES ('abandon', $1, $2, $3, $4, 'done', $5, $6)",
    )
    .bind(id.to_string())
    .bind(request.who.clone())
    .bind(request.reason.clone())
    .bind(request.asked_at.0)
    .bind(outcome)
    .bind(at.0)
    .execute(conn)
    .await?;
    Ok(())
}

/// F5 of an order that a person ends.
async fn end(
    conn: &mut SqliteConnection,
    order: &OrderRow,
    state: OrderState,
    kind: EventKind,
    said: &str,
    at: UnixMillis,
) -> Result<(), JournalError> {
    orders::transition(conn, order.order_id, state, at).await?;
    let class = if state == OrderState::Stuck { "bug" } else { "retryable" };
    let before: serde_json::Value =
        order.result.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let detail = match before["detail"].as_str() {
        Some(was) if !was.is_empty() => format!("{said}; before: {was}"),
        _ => said.to_owned(),
    };
    let seq = outbox::push(conn, event(order, kind, at).class(class).detail(detail.clone())).await?;
    let result = serde_json::json!({ "class": class, "detail": detail, "facts": before["facts"] });
    sqlx::query("UPDATE orders SET result = $2, event_seq = $3 WHERE order_id = $1")
        .bind(order.order_id.to_string())
        .bind(result.to_string())
        .bind(stored(seq))
        .execute(conn)
        .await?;
    Ok(())
}

fn unknown(id: ProvisioningOrderId) -> Outcome {
    Err(format!("the journal does not know order {id}"))
}

fn event(order: &OrderRow, kind: EventKind, at: UnixMillis) -> EventDraft {
    EventDraft::new(kind, order.order_id, order.instance, order.generation, at)
}

/// `resumed on the host by anna (root): the disk was replaced`.
fn by(what: &str, request: &RequestRow) -> String {
    let who: serde_json::Value = serde_json::from_str(&request.who).unwrap_or_default();
    let name = who["name"].as_str().unwrap_or("somebody");
    let name = match who["sudo"].as_str() {
        Some(person) => format!("{person} ({name})"),
        None => name.to_owned(),
    };
    match request.reason.as_str() {
        "" => format!("{what} on the host by {name}"),
        reason => format!("{what} on the host by {name}: {reason}"),
    }
}

async fn is_abandoned(conn: &mut SqliteConnection, id: ProvisioningOrderId) -> Result<bool, JournalError> {
    let row = sqlx::query(
        "SELECT 1 AS yes FROM requests WHERE order_id = $1 AND verb = 'abandon' AND state = 'done' LIMIT 1",
    )
    .bind(id.to_string())
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}

async fn phase(conn: &mut SqliteConnection, order: &OrderRow) -> Result<Option<Phase>, JournalError> {
    let row = sqlx::query("SELECT phase FROM resources WHERE uuid = $1")
        .bind(order.instance.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|row| parsed("resources", "phase", row.try_get("phase")?)).transpose()
}

async fn steps_of(
    conn: &mut SqliteConnection,
    id: ProvisioningOrderId,
) -> Result<Vec<StepRow>, JournalError> {
    let rows = sqlx::query("SELECT * FROM steps WHERE order_id = $1 ORDER BY (k < 0), ABS(k)")
        .bind(id.to_string())
        .fetch_all(conn)
        .await?;
    rows.iter().map(steps::read).collect()
}
