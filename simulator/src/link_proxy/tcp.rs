//! Connections, which carry the enrolment: what a partition or a delay does to them.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{fault::Way, lane::Lane};

/// Bytes passed on at once.
const PIECE: usize = 16 * 1_024;

/// Passes connections on until `stop`.
pub(super) async fn accept(lane: Lane, listener: TcpListener, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                connections.spawn(pass(lane.clone(), stream, peer));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                // Out of file descriptors, most likely: do not spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn pass(lane: Lane, agent: TcpStream, peer: SocketAddr) {
    let ended = async {
        let link = TcpStream::connect(lane.upstream()).await?;
        let (from_agent, to_agent) = agent.into_split();
        let (from_link, to_link) = link.into_split();
        tokio::try_join!(
            pump(&lane, Way::Up, from_agent, to_link),
            pump(&lane, Way::Down, from_link, to_agent),
        )
    };
    if let Err(error) = ended.await {
        tracing::debug!(%peer, %error, "a connection has ended early");
    }
}

/// One direction until its end. What a partition holds back comes when it is over, as TCP has it.
async fn pump(
    lane: &Lane,
    way: Way,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut changes = lane.changes();
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        let delay = lane.network().stream_delay(way);
        tokio::time::sleep(delay).await;
        if lane.network().stream_waits(way) {
            while lane.network().is_cut(way) {
                changes.changed().await.map_err(io::Error::other)?;
            }
        }
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..length]).await?;
    }
}
