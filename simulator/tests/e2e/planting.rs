//! The checker is shown a running system in which each invariant was broken by hand, one after the
//! other, and must name each.

use std::time::Duration;

use serde_json::Value;
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};

use crate::{
    purchase::buy,
    support::{Database, Demo, until},
};

/// A statement against the control plane's database that breaks one invariant, and the one that
/// mends it again.
struct Plant {
    invariant: &'static str,
    break_it: &'static str,
    mend_it: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checker_names_each_planted_violation() {
    let Some(demo) = Demo::start("planted violations", Database::Sqlite, 2).await else { return };
    let (_, server) = buy(&demo, "web-1", "fsn").await;
    demo.check().await;
    let books = Books(demo.state()["database_url"].as_str().unwrap().to_owned());
    let plants = [
        Plant {
            invariant: "I2",
            break_it: "UPDATE orders SET state = 'cancelled', updated_at = 1700000000000",
            mend_it: "UPDATE orders SET state = 'fulfilled'",
        },
        Plant {
            invariant: "I3",
            break_it: "UPDATE orders SET state = 'provisioning', paid_at = 1700000000000",
            mend_it: "UPDATE orders SET state = 'fulfilled'",
        },
        Plant {
            invariant: "I4",
            break_it: "UPDATE addresses SET state = 'quarantine' WHERE state = 'held'",
            mend_it: "UPDATE addresses SET state = 'held' WHERE state = 'quarantine'",
        },
        Plant {
            invariant: "I6",
            break_it: "UPDATE billing_subscriptions SET status = 'past_due', updated_at = 1700000000000",
            mend_it: "UPDATE billing_subscriptions SET status = 'active'",
        },
        Plant {
            invariant: "I7",
            break_it: "UPDATE audit SET entry = entry || ' ' WHERE seq = 1",
            mend_it: "UPDATE audit SET entry = rtrim(entry) WHERE seq = 1",
        },
        Plant {
            invariant: "I8",
            break_it: "UPDATE nodes SET acked_event_seq = acked_event_seq + 1000",
            mend_it: "UPDATE nodes SET acked_event_seq = acked_event_seq - 1000",
        },
        Plant {
            invariant: "I9",
            break_it: "UPDATE instance_generations SET generation = generation - 1",
            mend_it: "UPDATE instance_generations SET generation = generation + 1",
        },
        Plant {
            invariant: "I10",
            break_it: "UPDATE node_capacity SET vcpu_sold = vcpu_sold + 1",
            mend_it: "UPDATE node_capacity SET vcpu_sold = vcpu_sold - 1",
        },
        Plant {
            invariant: "I12",
            break_it: "INSERT INTO jobs (kind, key, payload, run_at, attempts, dead_at, created_at)
                       VALUES ('planted', 'planted', '{}', 1700000000000, 1, 1700000000000, 1700000000000)",
            mend_it: "DELETE FROM jobs WHERE kind = 'planted'",
        },
    ];
    for plant in plants {
        books.execute(plant.break_it).await;
        names(&demo, plant.invariant).await;
        books.execute(plant.mend_it).await;
    }
    // I11: somebody logs the Stripe key.
    let log = demo.path("logs/planted.log");
    std::fs::write(&log, demo.state()["stripe"]["secret_key"].as_str().unwrap()).unwrap();
    names(&demo, "I11").await;
    std::fs::remove_file(&log).unwrap();
    // I1 and I5: an administrator copies our marker onto a VM of his own, on the other node.
    let marker = marker_of(&demo, &server).await;
    let other = demo.host(1);
    other.create_vm(900, &marker).await;
    let found = names(&demo, "I1").await;
    assert!(found.contains(&"I5".to_owned()), "{found:?}");
    other.delete_vm(900).await;
    until("the system to be whole again", Duration::from_secs(30), || async {
        demo.run_check().await.status.success().then_some(())
    })
    .await;
    demo.stop().await;
}

/// Runs the checker and fails unless it names the invariant; gives all it names.
async fn names(demo: &Demo, invariant: &str) -> Vec<String> {
    let found: Vec<String> =
        demo.violations().await.iter().filter_map(|v| v["invariant"].as_str().map(str::to_owned)).collect();
    assert!(
        found.iter().any(|name| name == invariant),
        "{invariant} was broken, the checker names {found:?}"
    );
    found
}

async fn marker_of(demo: &Demo, server: &Value) -> String {
    let id = server["id"].as_str().unwrap();
    for index in 0..2 {
        if let Some(marker) = demo.host(index).marker_containing(id).await {
            return marker;
        }
    }
    panic!("no VM carries the marker of server {id}");
}

/// The control plane's database, written behind its back.
struct Books(String);

impl Books {
    async fn execute(&self, sql: &'static str) {
        sqlx::any::install_default_drivers();
        // SQLite waits five seconds for its writer unless told otherwise, which is ample.
        let mut db = AnyConnection::connect(&self.0).await.unwrap();
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut db).await.unwrap();
        assert!(done.rows_affected() > 0, "nothing was changed by {sql}");
    }
}
