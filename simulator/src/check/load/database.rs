//! The control plane's books.

use sqlx::{AnyConnection, Connection as _, Row as _, any::AnyRow};

use super::{LoadError, hex_hash};
use crate::check::world::*;

/// A node without a live process behind its session for this long is not online.
const ONLINE_MS: i64 = 45_000;

/// Reads the tables the invariants are about.
pub(super) async fn read(url: &str, world: &mut World) -> Result<(), LoadError> {
    sqlx::any::install_default_drivers();
    let fault = || LoadError::database("the control plane's database");
    let mut db = AnyConnection::connect(url).await.map_err(fault())?;
    let db = &mut db;
    world.orders = rows(db, "SELECT id, instance_id, state, paid_at, updated_at FROM orders", |r| {
        Ok(Order {
            id: r.try_get(0)?,
            instance: r.try_get(1)?,
            state: r.try_get(2)?,
            paid_at: r.try_get(3)?,
            updated_at: r.try_get(4)?,
        })
    })
    .await?;
    world.transitions = rows(db, "SELECT order_id, to_state, at FROM order_transitions", |r| {
        Ok(Transition { order: r.try_get(0)?, to: r.try_get(1)?, at: r.try_get(2)? })
    })
    .await?;
    world.instances = rows(
        db,
        "SELECT i.id, i.order_id, i.state, i.observed_state, i.updated_at,
                CASE WHEN s.suspended = 1 AND t.suspended = 1 THEN t.updated_at END,
                i.plan_code, i.vcpu, i.memory_mib, i.disk_gib
         FROM instances i
         LEFT JOIN instance_suspensions s ON s.instance_id = i.id
         LEFT JOIN instance_settings t ON t.instance_id = i.id",
        |r| {
            Ok(Instance {
                id: r.try_get(0)?,
                order: r.try_get(1)?,
                state: r.try_get(2)?,
                observed_state: r.try_get(3)?,
                updated_at: r.try_get(4)?,
                suspended_at: r.try_get(5)?,
                plan: r.try_get(6)?,
                size: [r.try_get(7)?, r.try_get(8)?, r.try_get(9)?],
            })
        },
    )
    .await?;
    fleet(db, world).await?;
    dispatch(db, world).await?;
    world.audit = rows(
        db,
        "SELECT id, at, subject_kind, subject_id, entry, seq, hash FROM audit
         ORDER BY CASE WHEN seq IS NULL THEN 1 ELSE 0 END, seq, id",
        |r| {
            Ok(Audit {
                id: r.try_get(0)?,
                at: r.try_get(1)?,
                subject_kind: r.try_get(2)?,
                subject: r.try_get(3)?,
                entry: r.try_get(4)?,
                seq: r.try_get(5)?,
                hash: r.try_get(6)?,
            })
        },
    )
    .await?;
    world.jobs = rows(db, "SELECT kind, key, run_at, attempts, dead_at, last_error FROM jobs", |r| {
        Ok(Job {
            name: format!("{} {}", r.try_get::<String, _>(0)?, r.try_get::<String, _>(1)?),
            run_at: r.try_get(2)?,
            attempts: r.try_get(3)?,
            dead: r.try_get::<Option<i64>, _>(4)?.is_some(),
            error: r.try_get(5)?,
        })
    })
    .await?;
    world.unsent_mail = rows(db, "SELECT id, created_at FROM mail_outbox WHERE sent_at IS NULL", |r| {
        Ok((r.try_get(0)?, r.try_get(1)?))
    })
    .await?;
    money(db, world).await
}

async fn fleet(db: &mut AnyConnection, world: &mut World) -> Result<(), LoadError> {
    world.placements =
        rows(db, "SELECT instance_id, node_id, vmid, vcpu, memory_mib, disk_gib FROM placements", |r| {
            Ok(Placement {
                instance: r.try_get(0)?,
                node: r.try_get(1)?,
                vmid: r.try_get(2)?,
                vcpu: r.try_get(3)?,
                memory_mib: r.try_get(4)?,
                disk_gib: r.try_get(5)?,
            })
        })
        .await?;
    world.addresses = rows(db, "SELECT address, state, instance_id FROM addresses", |r| {
        Ok(Address { address: r.try_get(0)?, state: r.try_get(1)?, instance: r.try_get(2)? })
    })
    .await?;
    world.capacity = rows(
        db,
        "SELECT node_id, vcpu_capacity, memory_mib_capacity, disk_gib_capacity, vcpu_sold, memory_mib_sold,
                disk_gib_sold
         FROM node_capacity",
        |r| {
            Ok(Capacity {
                node: r.try_get(0)?,
                capacity: [r.try_get(1)?, r.try_get(2)?, r.try_get(3)?],
                sold: [r.try_get(4)?, r.try_get(5)?, r.try_get(6)?],
            })
        },
    )
    .await?;
    let now = world.now;
    world.nodes = rows(
        db,
        "SELECT n.id, n.name, n.state, n.journal_id, n.acked_event_seq, p.beat_at
         FROM nodes n
         LEFT JOIN node_sessions s ON s.node_id = n.id
         LEFT JOIN link_processes p ON p.id = s.process",
        |r| {
            Ok(Node {
                id: r.try_get(0)?,
                name: r.try_get(1)?,
                state: r.try_get(2)?,
                journal: r.try_get(3)?,
                acked: r.try_get(4)?,
                online: r.try_get::<Option<i64>, _>(5)?.is_some_and(|beat| now - beat < ONLINE_MS),
            })
        },
    )
    .await?;
    Ok(())
}

async fn dispatch(db: &mut AnyConnection, world: &mut World) -> Result<(), LoadError> {
    world.provisioning = rows(
        db,
        "SELECT o.id, o.node_id, o.seq, o.instance_id, o.generation, o.state, o.issued_at, o.updated_at, o.envelope,
             CASE WHEN o.epoch < n.epoch THEN 1 ELSE 0 END,
             CASE WHEN o.epoch < n.epoch AND NOT EXISTS (SELECT 1 FROM provisioning_events e
                     WHERE e.provisioning_order_id = o.id AND e.journal = n.journal_id)
                 AND (n.previous_journal_id <> n.journal_id OR EXISTS (SELECT 1 FROM provisioning_events e
                     WHERE e.provisioning_order_id = o.id)) THEN 1 ELSE 0 END
         FROM provisioning_orders o LEFT JOIN nodes n ON n.id = o.node_id",
        |r| {
            Ok(Provisioning {
                id: r.try_get(0)?,
                node: r.try_get(1)?,
                seq: r.try_get(2)?,
                instance: r.try_get(3)?,
                generation: r.try_get(4)?,
                state: r.try_get(5)?,
                issued_at: r.try_get(6)?,
                updated_at: r.try_get(7)?,
                envelope: hex_hash(&r.try_get::<Vec<u8>, _>(8)?),
                earlier: r.try_get::<i64, _>(9)? == 1,
                // Who told of it tells which journal knew it: only the last journal but one is remembered.
                forgotten: r.try_get::<i64, _>(10)? == 1,
            })
        },
    )
    .await?;
    world.events = rows(db, "SELECT journal, event_seq FROM provisioning_events", |r| {
        Ok((r.try_get(0)?, r.try_get(1)?))
    })
    .await?;
    world.generations = rows(db, "SELECT instance_id, generation FROM instance_generations", |r| {
        Ok((r.try_get(0)?, r.try_get(1)?))
    })
    .await?;
    Ok(())
}

async fn money(db: &mut AnyConnection, world: &mut World) -> Result<(), LoadError> {
    world.inbox = rows(db, "SELECT id FROM stripe_events", |r| r.try_get(0)).await?;
    world.mirror = rows(
        db,
        "SELECT s.stripe_id, s.order_id, s.status, s.updated_at, s.stripe_price_id,
                CASE WHEN h.stand = 'run' THEN 1 ELSE 0 END AS served
         FROM billing_subscriptions s LEFT JOIN billing_standings h ON h.order_id = s.order_id",
        |r| {
            Ok(MirrorSubscription {
                id: r.try_get(0)?,
                order: r.try_get(1)?,
                status: r.try_get(2)?,
                updated_at: r.try_get(3)?,
                price: r.try_get(4)?,
                served: r.try_get::<i64, _>(5)? == 1,
            })
        },
    )
    .await?;
    let asked = "SELECT subject FROM alarms WHERE kind IN ('plan_not_followed', 'resize_late') AND cleared_at IS NULL";
    world.asked_about = rows(db, asked, |r| r.try_get(0)).await?;
    // Also where an operator has closed it since.
    let told = "SELECT subject FROM alarms WHERE kind = 'subscription_not_one_server'";
    world.told_not_one = rows(db, told, |r| r.try_get(0)).await?;
    // What went back for an invoice, whoever sent it; and what an order's own refund gave that names none.
    world.refunds = rows(
        db,
        "SELECT order_id, amount_minor, state FROM billing_returns
         UNION ALL
         SELECT r.order_id, r.amount_minor, r.state FROM billing_refunds r
         WHERE r.stripe_id IS NOT NULL
               AND NOT EXISTS (SELECT 1 FROM billing_returns b WHERE b.stripe_id = r.stripe_id)",
        |r| Ok((r.try_get(0)?, r.try_get::<Option<i64>, _>(1)?.unwrap_or(0), r.try_get(2)?)),
    )
    .await?;
    world.traffic = rows(
        db,
        "SELECT instance_id, month, amount_minor, state, item_id, updated_at FROM traffic_bills
         WHERE state <> 'free'",
        |r| {
            Ok(TrafficBill {
                key: format!("{}:{}", r.try_get::<String, _>(0)?, r.try_get::<i64, _>(1)?),
                amount: r.try_get(2)?,
                state: r.try_get(3)?,
                item: r.try_get(4)?,
                updated_at: r.try_get(5)?,
            })
        },
    )
    .await?;
    world.surplus =
        rows(db, "SELECT order_id, subscription_id, state, updated_at FROM billing_surplus", |r| {
            Ok(Surplus {
                order: r.try_get(0)?,
                subscription: r.try_get(1)?,
                state: r.try_get(2)?,
                updated_at: r.try_get(3)?,
            })
        })
        .await?;
    world.purchases = rows(
        db,
        "SELECT order_id, amount_minor, setup_minor, CAST(trial_days AS BIGINT), discount_minor, tax_minor, paid_minor
         FROM billing_checkouts WHERE state = 'settled'",
        |r| {
            let trial: i64 = r.try_get(3)?;
            let due = r.try_get::<i64, _>(2)? + if trial > 0 { 0 } else { r.try_get::<i64, _>(1)? };
            let paid = r.try_get::<Option<i64>, _>(6)?.unwrap_or(due);
            Ok((r.try_get(0)?, Purchase { due, discount: r.try_get(4)?, tax: r.try_get(5)?, paid }))
        },
    )
    .await?;
    world.mirror_invoices = rows(
        db,
        "SELECT stripe_id, status, total_minor, paid_minor FROM billing_invoices WHERE status = 'paid'",
        |r| {
            Ok(Invoice {
                id: r.try_get(0)?,
                status: r.try_get(1)?,
                total: r.try_get(2)?,
                paid: r.try_get(3)?,
                ..Invoice::default()
            })
        },
    )
    .await?;
    world.given_credits = rows(
        db,
        "SELECT 'refund_credit:' || order_id, credit_minor, updated_at FROM billing_refunds WHERE credit_minor > 0
         UNION ALL
         SELECT 'goodwill:' || order_id || ':credit:' || reference, amount_minor, updated_at FROM billing_gifts
         WHERE kind = 'credit' AND state = 'done'",
        |r| Ok(Credit { mark: r.try_get(0)?, amount: r.try_get(1)?, at: r.try_get(2)? }),
    )
    .await?;
    world.closed =
        rows(db, "SELECT cause_key, done_at FROM billing_steps WHERE cause_key LIKE 'closed:%'", |r| {
            Ok((r.try_get::<String, _>(0)?.trim_start_matches("closed:").to_owned(), r.try_get(1)?))
        })
        .await?;
    Ok(())
}

async fn rows<T>(
    db: &mut AnyConnection,
    sql: &'static str,
    read: impl Fn(&AnyRow) -> Result<T, sqlx::Error>,
) -> Result<Vec<T>, LoadError> {
    let fault = || LoadError::database(format!("`{sql}`"));
    let found = sqlx::query(sql).fetch_all(db).await.map_err(fault())?;
    found.iter().map(read).collect::<Result<_, _>>().map_err(fault())
}
