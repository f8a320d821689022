//! Storing what came, until it is stored: a deadlock or a database that restarts costs an attempt, not the connection.

use std::time::Duration;

use ez_protocol::NodeId;

use crate::db::DbError;

/// How often it is tried in all.
const ATTEMPTS: u32 = 4;
/// Pause after the first attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(50);

/// Tries again what may work the next time. What is stored must be such that storing it again changes nothing: the outcome
/// of an attempt may be unknown.
pub(super) async fn insist<T, F, W>(node: NodeId, what: &'static str, mut store: F) -> Result<T, DbError>
where
    F: FnMut() -> W,
    W: Future<Output = Result<T, DbError>>,
{
    let mut attempt = 0;
    loop {
        match store().await {
            Err(error) if error.is_transient() && attempt + 1 < ATTEMPTS => {
                tracing::warn!(node.id = %node, what, %error, "it was not stored; trying again");
                tokio::time::sleep(PAUSE * 2_u32.pow(attempt)).await;
                attempt += 1;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_may_work_the_next_time_is_tried_again_and_nothing_else() {
        let node = NodeId::generate(ez_protocol::UnixMillis(1), [1; 10]);
        let mut tries = 0;
        let stored = insist(node, "a report", || {
            tries += 1;
            let came_to = if tries < 3 { Err(DbError::Unavailable("restarts".into())) } else { Ok(tries) };
            std::future::ready(came_to)
        });
        assert_eq!(stored.await.unwrap(), 3);
        let mut tries = 0;
        let refused = insist(node, "a report", || {
            tries += 1;
            std::future::ready(Err::<(), _>(DbError::NotFound))
        });
        assert!(refused.await.is_err());
        assert_eq!(tries, 1);
    }
}
