//! Stories of the audit log, on both databases.

use ez_protocol::UnixMillis;
use serde_json::json;

use super::{Breach, Entry, history, model::chain, record, seal, unsealed, verify};
use crate::db::{Db, DbError, testing::each_database};

fn entry(subject: &str) -> Entry {
    Entry {
        actor: "system".into(),
        action: "thing.changed".into(),
        subject_kind: "thing".into(),
        subject_id: subject.into(),
        detail: json!({ "z": 1, "a": "\u{fffd}\" line\nbreak" }),
    }
}

async fn write_down(db: &Db, at: i64, subject: &'static str) {
    db.write::<_, DbError, _>(move |tx| {
        Box::pin(async move { record(tx, UnixMillis(at), entry(subject)).await })
    })
    .await
    .unwrap();
}

async fn tamper(db: &Db, sql: &'static str) {
    db.write::<_, DbError, _>(move |tx| {
        Box::pin(async move {
            let done = sqlx::query(sql).execute(tx).await?;
            assert_eq!(done.rows_affected(), 1, "{sql}");
            Ok(())
        })
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn rows_are_written_unchained_and_sealed_in_order() {
    each_database(async |db| {
        for (at, subject) in [(10, "a"), (20, "b"), (30, "a")] {
            write_down(&db, at, subject).await;
        }
        let before = verify(&db).await.unwrap();
        assert_eq!((before.sealed, before.unsealed), (0, 3));
        assert_eq!(seal(&db).await.unwrap(), 3);
        assert_eq!(seal(&db).await.unwrap(), 0);
        write_down(&db, 40, "c").await;
        let verdict = verify(&db).await.unwrap();
        assert_eq!((verdict.sealed, verdict.unsealed, verdict.breaches.len()), (3, 1, 0));
        let mut connection = db.read().await.unwrap();
        assert_eq!(unsealed(&mut connection).await.unwrap(), 1);
        let of_a = history(&mut connection, "thing", "a").await.unwrap();
        drop(connection);
        assert_eq!(of_a.iter().map(|row| row.at.0).collect::<Vec<_>>(), [10, 30]);
        assert_eq!(of_a[0].entry, entry("a"));
        assert_eq!(seal(&db).await.unwrap(), 1);
        assert_ne!(verify(&db).await.unwrap().head, verdict.head);
    })
    .await;
}

#[tokio::test]
async fn the_chain_shows_every_kind_of_change() {
    let sealed = async |db: &Db| {
        for (at, subject) in [(10, "a"), (20, "b"), (30, "c")] {
            write_down(db, at, subject).await;
        }
        assert_eq!(seal(db).await.unwrap(), 3);
        assert_eq!(verify(db).await.unwrap().breaches, []);
    };
    let found = [
        ("UPDATE audit SET entry = '{}' WHERE seq = 2", 2),
        ("UPDATE audit SET actor = 'nobody' WHERE seq = 2", 2),
        ("UPDATE audit SET hash = 'x' WHERE seq = 2", 2),
        ("DELETE FROM audit WHERE seq = 2", 2),
        ("DELETE FROM audit WHERE seq = 1", 1),
    ];
    each_database(async |db| {
        for (change, place) in found {
            sealed(&db).await;
            tamper(&db, change).await;
            let verdict = verify(&db).await.unwrap();
            assert_eq!(
                verdict.breaches.first().map(|b: &Breach| b.seq),
                Some(place),
                "{change}: {verdict:?}"
            );
            db.write::<_, DbError, _>(|tx| {
                Box::pin(async move {
                    sqlx::query("DELETE FROM audit").execute(tx).await?;
                    Ok(())
                })
            })
            .await
            .unwrap();
        }
    })
    .await;
}

#[test]
fn a_hash_depends_on_everything_it_covers() {
    let base = chain("p", 1, "e");
    for other in [chain("q", 1, "e"), chain("p", 2, "e"), chain("p", 1, "f")] {
        assert_ne!(base, other);
    }
}
