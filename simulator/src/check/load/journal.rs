//! An agent's journal, read beside the agent that writes it.

use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{LoadError, NodeAccess, hex_hash};
use crate::check::world::{Journal, JournalOrder};

/// Reads the journal, or nothing if the agent has none yet.
pub(super) async fn read(node: &NodeAccess) -> Result<Option<Journal>, LoadError> {
    if !node.journal.exists() {
        return Ok(None);
    }
    let what = || format!("the journal of {}", node.name);
    let options = SqliteConnectOptions::new().filename(&node.journal).read_only(true);
    let mut db = SqliteConnection::connect_with(&options).await.map_err(LoadError::database(what()))?;
    let journal = async {
        let meta = sqlx::query("SELECT journal_id, high_seq FROM meta").fetch_one(&mut db).await?;
        // Of an order that was overtaken the agent keeps the digest of its bytes alone.
        let orders =
            sqlx::query("SELECT order_id, seq, state, accepted_at, envelope, envelope_hash FROM orders")
                .fetch_all(&mut db)
                .await?;
        let tombstones = sqlx::query_scalar("SELECT order_id FROM tombstones").fetch_all(&mut db).await?;
        let resources =
            sqlx::query("SELECT uuid, vmid, generation FROM resources").fetch_all(&mut db).await?;
        Ok(Journal {
            node: node.id.clone(),
            id: meta.try_get(0)?,
            high_seq: meta.try_get(1)?,
            orders: orders
                .iter()
                .map(|r| {
                    Ok(JournalOrder {
                        id: r.try_get(0)?,
                        seq: r.try_get(1)?,
                        state: r.try_get(2)?,
                        accepted_at: r.try_get(3)?,
                        envelope: match r.try_get::<Option<Vec<u8>>, _>(5)? {
                            Some(hash) => data_encoding::HEXLOWER.encode(&hash),
                            None => hex_hash(&r.try_get::<Vec<u8>, _>(4)?),
                        },
                    })
                })
                .collect::<Result<_, sqlx::Error>>()?,
            tombstones,
            resources: resources
                .iter()
                .map(|r| Ok((r.try_get(0)?, r.try_get(1)?, r.try_get(2)?)))
                .collect::<Result<_, sqlx::Error>>()?,
        })
    };
    journal.await.map(Some).map_err(LoadError::database(what()))
}
