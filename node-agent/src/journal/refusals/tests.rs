//! However many orders are refused, each is noted in the same time, and what must be remembered is.

use std::time::Duration;

use ez_protocol::refusal::RefusalCode;

use super::*;
use crate::{
    entropy::{Entropy as _, SeededEntropy},
    testing::{Books, NOW, node_id},
};

fn refusal(n: u64, is_final: bool, keep_until: UnixMillis) -> RefusalNote {
    let mut tail = [0; 10];
    tail[2..].copy_from_slice(&n.to_be_bytes());
    RefusalNote {
        order_id: Some(ProvisioningOrderId::generate(NOW, tail)),
        seq: Some(n),
        payload_hash: is_final.then_some([7; 32]),
        keep_until,
        refusal: Refusal::new(RefusalCode::Stale, "a test"),
    }
}

#[tokio::test]
async fn the_final_ones_are_counted_right_and_none_is_forgotten_before_its_time() {
    let books = Books::quick(None).await;
    let story = books.journal.write(move |conn| {
        Box::pin(async move {
            let chance = SeededEntropy::new(3);
            let (mut said, mut at) = (Vec::new(), NOW);
            for n in 0..4_000 {
                at = NOW.plus(Duration::from_secs(n));
                let keep_until = at.plus(Duration::from_secs(chance.up_to(3_000)));
                let one = refusal(n, chance.up_to(2) > 0, keep_until);
                assert!(note(conn, &one, at).await?);
                if chance.up_to(9) == 0 {
                    assert!(note(conn, &one, at).await?, "it comes again");
                }
                said.push(one);
                if n % 100 == 0 {
                    let all = sqlx::query("SELECT COUNT(*) FROM refused WHERE final = 1");
                    let real: i64 = all.fetch_one(&mut *conn).await?.try_get(0)?;
                    assert_eq!(finals(conn).await?, real, "after {n}");
                }
            }
            for one in said.iter().filter(|one| one.keep_until >= at) {
                let (Some(id), Some(hash)) = (one.order_id, one.payload_hash) else { continue };
                assert!(final_one(conn, id, &hash).await?.is_some(), "{one:?}");
            }
            let beyond = "SELECT COUNT(*) FROM refused WHERE n <= (SELECT MAX(n) FROM refused) - 1000 \
                          AND (final = 0 OR keep_until < $1)";
            let left: i64 = sqlx::query(beyond).bind(at.0).fetch_one(conn).await?.try_get(0)?;
            assert_eq!(left, 0, "the ring has forgotten the others");
            Ok(())
        })
    });
    story.await.unwrap();
}

/// A counter of what is not there any more would leave a host that changes its node no room for refusals of its own.
#[tokio::test]
async fn a_host_that_becomes_another_node_counts_none_of_what_it_forgot() {
    let books = Books::quick(None).await;
    let journal = &books.journal;
    journal.adopt_identity(node_id(), 3, [1; 16]).await.unwrap();
    let counted = async || {
        let both = journal.write(|conn| {
            Box::pin(async move {
                let all = sqlx::query("SELECT COUNT(*) FROM refused WHERE final = 1");
                let real: i64 = all.fetch_one(&mut *conn).await?.try_get(0)?;
                Ok((finals(conn).await?, real))
            })
        });
        both.await.unwrap()
    };
    for n in 0..3 {
        journal.note_refusal(refusal(n, true, NOW.plus(Duration::from_secs(60))), NOW).await.unwrap();
    }
    assert_eq!(counted().await, (3, 3));
    let other = ez_protocol::NodeId::generate(NOW, [9; 10]);
    journal.adopt_identity(other, 1, [2; 16]).await.unwrap();
    assert_eq!(counted().await, (0, 0));
    journal.note_refusal(refusal(7, true, NOW.plus(Duration::from_secs(60))), NOW).await.unwrap();
    assert_eq!(counted().await, (1, 1));
}

/// A hostile sender chooses ids, contents and their number.
#[tokio::test]
async fn noting_a_refusal_never_reads_all_the_others() {
    let books = Books::quick(None).await;
    for (sql, way) in [
        (OF_PAYLOAD, "refused_by_payload (order_id=? AND payload_hash=?)"),
        (OVER, "refused_by_end (final=? AND keep_until<?)"),
        (PASSED, "refused_by_end (final=?"),
        (PASSED_FINAL, "refused_by_end (final=? AND keep_until<?)"),
    ] {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let plan = sqlx::query(explain).fetch_all(books.journal.readers()).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|step| step.try_get("detail").unwrap()).collect();
        assert!(steps.iter().any(|step| step.contains(way)), "{sql}: {steps:?}");
        assert!(!steps.iter().any(|step| step.starts_with("SCAN")), "{sql}: {steps:?}");
    }
}
