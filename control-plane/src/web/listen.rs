//! The portal's connections: HTTP/1.1, with an end to waiting.
//!
//! `axum::serve` waits for ever for a request's head. Here a connection that does not bring a whole one within
//! [`HEAD`] is closed, and so is one that is kept alive for longer without a request. How long a body may take
//! is the business of what reads it.

use std::{net::SocketAddr, pin::pin, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

/// How long the head of a request may take, from the connection or the answer before.
const HEAD: Duration = Duration::from_secs(30);
/// Out of descriptors: wait for some to come free.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers connections until `stop`, then lets running requests end.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    serve_with(listener, router, stop, HEAD).await;
}

/// The same with another time for the head.
pub(super) async fn serve_with(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    head: Duration,
) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                connections.spawn(visit(stream, peer, router.clone(), stop.clone(), head));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn visit(stream: TcpStream, peer: SocketAddr, router: Router, stop: CancellationToken, head: Duration) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A browser that goes away, or one that was too slow.
        tracing::debug!(%error, "a connection broke off");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    struct Served {
        address: SocketAddr,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    async fn served(head: Duration) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let router = Router::new()
            .route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.ip().to_string()));
        let task = tokio::spawn(serve_with(listener, router, stop.clone(), head));
        Served { address, stop, task }
    }

    async fn all_of(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        // A reset is an end, too.
        let _ended = timeout(SOON, stream.read_to_end(&mut text)).await.expect("the connection stays open");
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_closes_the_connection() {
        let served = served(Duration::from_millis(100)).await;
        for start in ["", "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
            let mut stream = TcpStream::connect(served.address).await.unwrap();
            stream.write_all(start.as_bytes()).await.unwrap();
            let text = all_of(&mut stream).await;
            assert!(!text.contains("200 OK"), "{text}");
        }
        // One that asks is answered, and let go when it asks nothing more.
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let text = all_of(&mut stream).await;
        assert!(text.contains("200 OK") && text.ends_with("127.0.0.1"), "{text}");
    }

    #[tokio::test]
    async fn stopping_lets_idle_connections_go() {
        let served = served(Duration::from_secs(3_600)).await;
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        served.stop.cancel();
        timeout(SOON, served.task).await.expect("serving goes on").unwrap();
        all_of(&mut stream).await;
    }
}
