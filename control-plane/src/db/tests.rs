//! Stories of the write path, on both databases where it makes sense.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use futures::future::join_all;
use sqlx::AnyConnection;
use tokio::sync::oneshot;

use super::{
    Backend, Cols, ConflictKind, Db, DbError, Topic, begin_step, database_now, keep_step, open::Target,
    row_randomness, testing::each_database, undo_step,
};

async fn table(db: &Db) {
    run(
        db,
        "CREATE TABLE things (id TEXT PRIMARY KEY, n BIGINT NOT NULL CHECK (n < 100), raw BYTEA, maybe TEXT)",
    )
    .await
    .unwrap();
}

async fn run(db: &Db, sql: &'static str) -> Result<u64, DbError> {
    db.write(move |tx| Box::pin(async move { Ok(sqlx::query(sql).execute(tx).await?.rows_affected()) })).await
}

async fn insert(tx: &mut AnyConnection, id: &str, n: i64) -> Result<(), DbError> {
    sqlx::query("INSERT INTO things (id, n) VALUES ($1, $2)").bind(id).bind(n).execute(tx).await?;
    Ok(())
}

async fn add(db: &Db, id: &'static str, n: i64) -> Result<(), DbError> {
    db.write(move |tx| Box::pin(async move { insert(tx, id, n).await })).await
}

async fn ids(db: &Db) -> Vec<String> {
    let mut connection = db.read().await.unwrap();
    sqlx::query_scalar("SELECT id FROM things ORDER BY id").fetch_all(&mut *connection).await.unwrap()
}

/// Occupies the only writer until told to go, so that what follows has to gather in one batch.
async fn hold(db: &Db) -> (oneshot::Sender<()>, tokio::task::JoinHandle<Result<(), DbError>>) {
    let (entered, inside) = oneshot::channel();
    let (go, wait) = oneshot::channel::<()>();
    let db = db.clone();
    let task = tokio::spawn(async move {
        db.write(move |_tx| {
            Box::pin(async move {
                entered.send(()).unwrap();
                wait.await.unwrap();
                Ok(())
            })
        })
        .await
    });
    inside.await.unwrap();
    (go, task)
}

#[tokio::test]
async fn what_was_written_is_read_afterwards() {
    each_database(async |db| {
        table(&db).await;
        add(&db, "a", 1).await.unwrap();
        assert_eq!(ids(&db).await, ["a"]);
        assert_eq!(db.pending().await.unwrap().0, Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn constraints_are_told_apart() {
    each_database(async |db| {
        table(&db).await;
        add(&db, "a", 1).await.unwrap();
        let twice = add(&db, "a", 1).await.unwrap_err();
        assert!(twice.is_unique(), "{twice:?}");
        let check = add(&db, "b", 100).await.unwrap_err();
        assert!(matches!(check, DbError::Conflict { kind: ConflictKind::Check, .. }), "{check:?}");
        let null = run(&db, "INSERT INTO things (id) VALUES ('c')").await.unwrap_err();
        assert!(matches!(null, DbError::Conflict { kind: ConflictKind::Other, .. }), "{null:?}");
        let wrong = run(&db, "INSERT INTO nothing VALUES (1)").await.unwrap_err();
        assert!(matches!(wrong, DbError::Driver(_)), "{wrong:?}");
        assert_eq!(ids(&db).await, ["a"]);
    })
    .await;
}

#[tokio::test]
async fn a_step_is_taken_back_alone() {
    each_database(async |db| {
        table(&db).await;
        let neighbour = add(&db, "neighbour", 1);
        let steps = db.write::<_, DbError, _>(|tx| {
            Box::pin(async move {
                insert(tx, "before", 1).await?;
                begin_step(tx).await?;
                insert(tx, "undone", 1).await?;
                undo_step(tx).await?;
                begin_step(tx).await?;
                insert(tx, "kept", 1).await?;
                keep_step(tx).await?;
                insert(tx, "after", 1).await
            })
        });
        let (neighbour, steps) = futures::join!(neighbour, steps);
        neighbour.unwrap();
        steps.unwrap();
        assert_eq!(ids(&db).await, ["after", "before", "kept", "neighbour"]);
        // The whole takes the step with it.
        let failed = db.write::<(), DbError, _>(|tx| {
            Box::pin(async move {
                begin_step(tx).await?;
                insert(tx, "gone", 1).await?;
                Err(DbError::NotFound)
            })
        });
        assert!(matches!(failed.await, Err(DbError::NotFound)));
        assert_eq!(ids(&db).await, ["after", "before", "kept", "neighbour"]);
    })
    .await;
}

#[tokio::test]
async fn readers_cannot_write() {
    each_database(async |db| {
        table(&db).await;
        let mut connection = db.read().await.unwrap();
        assert!(insert(&mut connection, "a", 1).await.is_err());
        drop(connection);
        assert_eq!(ids(&db).await, Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn writes_that_wait_together_share_one_commit() {
    let (db, _directory) = super::testing::sqlite().await;
    table(&db).await;
    let (go, held) = hold(&db).await;
    let before = (db.counters().commits.load(Relaxed), db.counters().units.load(Relaxed));
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let waiting: Vec<_> = names
        .into_iter()
        .map(|id| {
            tokio::spawn({
                let db = db.clone();
                async move { add(&db, id, 1).await }
            })
        })
        .collect();
    // Give every task a turn to queue its write while the writer is busy.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    go.send(()).unwrap();
    held.await.unwrap().unwrap();
    for result in join_all(waiting).await {
        result.unwrap().unwrap();
    }
    let commits = db.counters().commits.load(Relaxed) - before.0;
    let units = db.counters().units.load(Relaxed) - before.1;
    assert_eq!((commits, units), (2, 9), "the held one, then eight in one");
    assert_eq!(ids(&db).await, names);
}

#[tokio::test]
async fn a_failing_and_a_panicking_write_take_back_only_their_own() {
    let (db, _directory) = super::testing::sqlite().await;
    table(&db).await;
    add(&db, "taken", 1).await.unwrap();
    let (go, held) = hold(&db).await;
    let good = |id| {
        tokio::spawn({
            let db = db.clone();
            async move { add(&db, id, 1).await }
        })
    };
    let before = good("before");
    let failing = tokio::spawn({
        let db = db.clone();
        async move {
            db.write::<(), DbError, _>(|tx| {
                Box::pin(async move {
                    insert(tx, "half", 1).await?;
                    insert(tx, "taken", 1).await
                })
            })
            .await
        }
    });
    let panicking = tokio::spawn({
        let db = db.clone();
        async move {
            db.write::<(), DbError, _>(|tx| {
                Box::pin(async move {
                    insert(tx, "doomed", 1).await?;
                    panic!("on purpose")
                })
            })
            .await
        }
    });
    let after = good("later");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    go.send(()).unwrap();
    held.await.unwrap().unwrap();
    before.await.unwrap().unwrap();
    after.await.unwrap().unwrap();
    assert!(failing.await.unwrap().unwrap_err().is_unique());
    let panicked = panicking.await.unwrap().unwrap_err();
    assert!(matches!(&panicked, DbError::Panicked(text) if text == "on purpose"), "{panicked:?}");
    assert_eq!(ids(&db).await, ["before", "later", "taken"]);
}

#[tokio::test]
async fn a_write_alone_takes_back_everything_too() {
    each_database(async |db| {
        table(&db).await;
        let failed = db
            .write::<(), DbError, _>(|tx| {
                Box::pin(async move {
                    insert(tx, "a", 1).await?;
                    Err(DbError::NotFound)
                })
            })
            .await;
        assert!(matches!(failed, Err(DbError::NotFound)));
        let panicked = db
            .write::<(), DbError, _>(|tx| {
                Box::pin(async move {
                    insert(tx, "b", 1).await?;
                    panic!("on purpose")
                })
            })
            .await;
        assert!(matches!(panicked, Err(DbError::Panicked(_))));
        add(&db, "c", 1).await.unwrap();
        assert_eq!(ids(&db).await, ["c"]);
    })
    .await;
}

#[tokio::test]
async fn when_the_transaction_dies_nobody_is_told_done() {
    let (db, _directory) = super::testing::sqlite().await;
    table(&db).await;
    let (go, held) = hold(&db).await;
    let first = tokio::spawn({
        let db = db.clone();
        async move { add(&db, "first", 1).await }
    });
    // What a full disk does: the whole transaction is gone in the middle of a batch.
    let killer = tokio::spawn({
        let db = db.clone();
        async move { run(&db, "ROLLBACK").await }
    });
    let last = tokio::spawn({
        let db = db.clone();
        async move { add(&db, "last", 1).await }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    go.send(()).unwrap();
    held.await.unwrap().unwrap();
    for told in [first.await.unwrap().err(), last.await.unwrap().err(), killer.await.unwrap().err()] {
        assert!(matches!(told, Some(DbError::Unavailable(_))), "{told:?}");
    }
    assert_eq!(db.counters().faults.load(Relaxed), 1);
    // A fresh connection serves the next.
    add(&db, "next", 1).await.unwrap();
    assert_eq!(ids(&db).await, ["next"]);
}

#[tokio::test]
async fn wake_ups_ring_after_the_commit_only() {
    each_database(async |db| {
        table(&db).await;
        let silent = db
            .write::<(), DbError, _>(|_tx| {
                Box::pin(async move {
                    super::wake_after_commit(Topic::Dispatch);
                    Err(DbError::NotFound)
                })
            })
            .await;
        assert!(silent.is_err());
        db.write::<(), DbError, _>(|tx| {
            Box::pin(async move {
                super::wake_after_commit(Topic::Jobs);
                insert(tx, "a", 1).await
            })
        })
        .await
        .unwrap();
        db.wake().jobs.notified().await;
        let waited = tokio::time::timeout(Duration::from_millis(20), db.wake().dispatch.notified()).await;
        assert!(waited.is_err(), "a write that failed woke somebody");
    })
    .await;
}

#[tokio::test]
async fn bytes_nulls_and_odd_values() {
    each_database(async |db| {
        table(&db).await;
        db.write::<(), DbError, _>(|tx| {
            Box::pin(async move {
                sqlx::query("INSERT INTO things (id, n, raw, maybe) VALUES ($1, $2, $3, $4)")
                    .bind("a")
                    .bind(2_i64)
                    .bind(vec![0_u8, 255])
                    .bind(None::<String>)
                    .execute(tx)
                    .await?;
                Ok(())
            })
        })
        .await
        .unwrap();
        let mut connection = db.read().await.unwrap();
        let row = sqlx::query("SELECT * FROM things").fetch_one(&mut *connection).await.unwrap();
        let row = Cols::of("things", &row);
        assert_eq!(row.bytes("raw").unwrap(), [0, 255]);
        assert_eq!(row.opt_id::<ez_protocol::NodeId>("maybe").unwrap(), None);
        assert_eq!(row.num::<u8>("n").unwrap(), 2);
        let odd = row.flag("n").unwrap_err();
        assert!(
            matches!(&odd, DbError::Inconsistent { table: "things", column: "n", row } if row == "a"),
            "{odd:?}"
        );
        let odd = row.id::<ez_protocol::NodeId>("id").unwrap_err();
        assert!(matches!(odd, DbError::Inconsistent { .. }), "{odd:?}");
    })
    .await;
}

#[tokio::test]
async fn the_database_has_a_clock_and_dice() {
    each_database(async |db| {
        let mut connection = db.read().await.unwrap();
        let now = database_now(&mut connection).await.unwrap();
        assert!(now.0 > 1_700_000_000_000 && now.0 < 4_000_000_000_000, "{now}");
        let one = row_randomness(&mut connection).await.unwrap();
        assert_ne!(one, row_randomness(&mut connection).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn sqlite_connections_are_durable_and_checked() {
    let (db, _directory) = super::testing::sqlite().await;
    assert_eq!(db.backend(), Backend::Sqlite);
    let settings = db
        .write::<_, DbError, _>(|tx| {
            Box::pin(async move {
                let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *tx).await?;
                let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *tx).await?;
                let keys: i64 = sqlx::query_scalar("PRAGMA foreign_keys").fetch_one(&mut *tx).await?;
                Ok((journal, synchronous, keys))
            })
        })
        .await
        .unwrap();
    assert_eq!(settings, ("wal".to_owned(), 2, 1));
}

#[tokio::test]
async fn addresses_we_cannot_use_are_refused() {
    for url in [
        "sqlite::memory:",
        "mysql://x",
        "",
        "sqlite:x?mode=memory",
        "sqlite:",
        "sqlite://",
        "sqlite:?mode=rw",
    ] {
        let refused = Db::open(url).await.map(|_| ());
        assert!(matches!(refused, Err(DbError::Unavailable(_))), "{url}: {refused:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_at_once_and_why() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let began = tokio::time::Instant::now();
    let refused =
        Db::open(&format!("postgres://ez:hidden@127.0.0.1:{port}/ez")).await.unwrap_err().to_string();
    assert!(refused.contains("refused") && !refused.contains("hidden"), "{refused}");
    assert!(began.elapsed() < std::time::Duration::from_secs(8), "no waiting for a pool");
}

#[tokio::test]
async fn no_pool_has_the_drivers_upkeep_task_which_can_spin_for_ever() {
    for address in ["sqlite:a.sqlite", "postgres://127.0.0.1/a"] {
        let target = Target::parse(address).unwrap();
        for pool in [target.readers(), target.writers()] {
            let options = pool.options();
            assert_eq!((options.get_max_lifetime(), options.get_idle_timeout()), (None, None), "{address}");
            assert_eq!(options.get_min_connections(), 0, "{address}");
        }
    }
}
