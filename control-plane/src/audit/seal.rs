//! The chain: giving rows their place, and checking it.

use super::{
    Breach, Verdict,
    model::{GENESIS, chain},
    store,
};
use crate::db::{Db, DbError};

/// Rows chained per transaction.
const BATCH: i64 = 500;

/// Chains rows that wait, oldest first; says how many.
///
/// Two sealers at once cannot fork the chain: a place is unique, so the slower one's transaction fails.
///
/// # Errors
/// Those of the database.
pub async fn seal(db: &Db) -> Result<usize, DbError> {
    let mut connection = db.read().await?;
    if store::count_unsealed(&mut connection).await? == 0 {
        return Ok(0);
    }
    drop(connection);
    db.write(|tx| {
        Box::pin(async move {
            let (mut seq, mut head) = store::head(tx).await?.unwrap_or((0, GENESIS.to_owned()));
            let waiting = store::unsealed(tx, BATCH).await?;
            for (id, entry) in &waiting {
                seq += 1;
                head = chain(&head, seq, entry);
                store::set_place(tx, id, seq, &head).await?;
            }
            Ok(waiting.len())
        })
    })
    .await
}

/// Recomputes the whole chain.
///
/// # Errors
/// Those of the database; a broken chain is a [`Verdict`] with breaches, not an error.
pub async fn verify(db: &Db) -> Result<Verdict, DbError> {
    let mut connection = db.read().await?;
    let mut verdict = Verdict { head: GENESIS.to_owned(), ..Verdict::default() };
    let mut breach = |seq, what| {
        if verdict.breaches.len() < 100 {
            verdict.breaches.push(Breach { seq, what });
        }
    };
    let (mut expected, mut head) = (1, GENESIS.to_owned());
    loop {
        let rows = store::sealed(&mut connection, expected, BATCH).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            if row.seq != expected {
                breach(expected, "a row is missing");
            }
            if chain(&head, row.seq, &row.entry) != row.hash {
                breach(row.seq, "the hash does not fit the entry");
            }
            if !row.columns_fit {
                breach(row.seq, "the columns do not fit the entry");
            }
            // Go on from what is written, so that one change is reported once.
            head = row.hash;
            expected = row.seq + 1;
            verdict.sealed += 1;
        }
    }
    verdict.head = head;
    verdict.unsealed = store::count_unsealed(&mut connection).await?;
    Ok(verdict)
}
