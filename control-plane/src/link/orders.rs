//! Sending orders: stored bytes out, answers back. One stream for each delivery.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ez_protocol::{
    ProvisioningOrderId,
    frame::{CloseCode, Frame, FrameType, StreamKind},
    message::OrderAnswer,
};
use tokio::{task::JoinSet, time::timeout};

use super::{
    connection::Peer,
    part::Panicked,
    stream::{Reader, StreamError, Writer, parse},
};
use crate::{
    db::DbError,
    dispatch::{self, Delivery},
    fleet::sessions::{self, Standing},
};

/// Deliveries at once.
const IN_FLIGHT: usize = 8;
/// How long the agent may take to journal an order and answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Why no more orders are sent here.
pub(super) enum Stop {
    Revoked,
    Replaced,
    /// A delivery did; which of them is not known, nor what it left behind.
    Panicked(Panicked),
}

/// Sends this node's orders for as long as the connection holds its session.
pub(super) async fn run(peer: &Arc<Peer>, quarantined: bool) -> Result<Stop, StreamError> {
    let mut flying = JoinSet::new();
    let mut ids: HashSet<ProvisioningOrderId> = HashSet::new();
    if quarantined {
        tracing::warn!(node.id = %peer.identity.node, "a quarantined node gets no orders");
    }
    loop {
        match Box::pin(send_due(peer, &mut flying, &mut ids)).await {
            Ok(None) => {}
            Ok(Some(stop)) => return Ok(stop),
            Err(error) => tracing::warn!(node.id = %peer.identity.node, %error, "orders could not be sent"),
        }
        tokio::select! {
            () = peer.orders.notified() => {}
            Some(done) = flying.join_next() => {
                let done: Result<ProvisioningOrderId, _> = done;
                match done {
                    Ok(id) => drop(ids.remove(&id)),
                    // It comes again on the next connection.
                    Err(_) => return Ok(Stop::Panicked(Panicked::told(peer.identity.node, "a delivery"))),
                }
            }
        }
    }
}

/// Starts deliveries of what is due, up to the limit; first asks whether this connection may.
async fn send_due(
    peer: &Arc<Peer>,
    flying: &mut JoinSet<ProvisioningOrderId>,
    ids: &mut HashSet<ProvisioningOrderId>,
) -> Result<Option<Stop>, DbError> {
    let free = IN_FLIGHT.saturating_sub(flying.len());
    if free == 0 {
        return Ok(None);
    }
    let (app, node) = (&peer.shared.app, peer.identity.node);
    let at = app.clock.now();
    let mut conn = app.db.read().await?;
    match sessions::standing(&mut conn, at, node, &peer.id, &peer.identity.serial).await? {
        Standing::Served => {}
        Standing::Quarantined => return Ok(None),
        Standing::Replaced => return Ok(Some(Stop::Replaced)),
        Standing::Revoked => return Ok(Some(Stop::Revoked)),
    }
    let due = dispatch::due(&mut conn, at, node, i64::try_from(IN_FLIGHT).unwrap_or(8)).await?;
    drop(conn);
    let batch: Vec<Delivery> = due.into_iter().filter(|d| !ids.contains(&d.id)).take(free).collect();
    if batch.is_empty() {
        return Ok(None);
    }
    // That the bytes may have left is durable before they do: an order that never left is fenced at once.
    let leaving: Vec<_> = batch.iter().map(|d| (d.id, d.attempts)).collect();
    let gone: Vec<ProvisioningOrderId> = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let mut gone = Vec::new();
                for (id, attempts) in leaving {
                    match dispatch::leaving(tx, at, id, attempts).await {
                        Ok(()) => gone.push(id),
                        // Cancelled in between.
                        Err(DbError::NotFound) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(gone)
            })
        })
        .await?;
    for delivery in batch.into_iter().filter(|d| gone.contains(&d.id)) {
        ids.insert(delivery.id);
        let peer = peer.clone();
        flying.spawn(async move {
            let id = delivery.id;
            if let Err(error) = deliver(&peer, delivery).await {
                tracing::warn!(provisioning_order.id = %id, node.id = %peer.identity.node, %error, "a delivery failed; it comes again");
            }
            id
        });
    }
    Ok(None)
}

async fn deliver(peer: &Peer, delivery: Delivery) -> Result<(), StreamError> {
    let (send, recv) = peer.connection.open_bi().await.map_err(|_| StreamError::Broken)?;
    let mut writer = Writer::opening(StreamKind::Order, send).await?;
    let mut reader = Reader::new(StreamKind::Order, recv);
    writer.frame(&Frame::raw(FrameType::Envelope, delivery.envelope)).await?;
    writer.finish();
    let answer = match timeout(ANSWER, reader.next(None)).await {
        Ok(Ok(Some((FrameType::OrderAnswer, body)))) => parse::<OrderAnswer>(&body)?,
        Ok(Ok(Some((other, _)))) => return Err(StreamError::Unexpected(other)),
        Ok(Ok(None)) => return Err(StreamError::Ended),
        Ok(Err(fault)) => return Err(fault),
        Err(_) => {
            reader.stop(CloseCode::Timeout);
            return Err(StreamError::Timeout);
        }
    };
    let (app, node, id) = (&peer.shared.app, peer.identity.node, delivery.id);
    let at = app.clock.now();
    app.db
        .write(move |tx| Box::pin(async move { dispatch::record_answer(tx, at, node, id, &answer).await }))
        .await?;
    Ok(())
}
