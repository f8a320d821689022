//! HTTP load on connections that are kept: as little work on this side as possible, because both sides
//! share the cores.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::Instant,
};

use crate::samples::Samples;

/// Answers of one run.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Times from when a request was due to the end of its answer.
    pub(crate) times: Samples,
    /// Answers that were not the expected 200.
    pub(crate) refused: usize,
    /// How long it took in seconds.
    pub(crate) seconds: f64,
}

impl Outcome {
    /// Good answers a second.
    pub(crate) fn rate(&self) -> f64 {
        self.times.len() as f64 / self.seconds
    }
}

/// Makes the n-th request: the whole text of it.
pub(crate) type Make = Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>;

/// Every connection sends its next request as soon as the last was answered. What is answered during
/// `warm_up` does not count.
pub(crate) async fn closed(
    to: SocketAddr,
    connections: u64,
    warm_up: Duration,
    lasts: Duration,
    make: Make,
) -> anyhow::Result<Outcome> {
    let begins = Instant::now() + warm_up;
    let ends = begins + lasts;
    let mut tasks = JoinSet::new();
    for place in 0..connections {
        let make = make.clone();
        tasks.spawn(async move {
            let mut connection = Connection::open(to, place).await?;
            let mut outcome = Outcome::default();
            let mut n = place;
            loop {
                let request = make(n);
                n += connections;
                let began = Instant::now();
                if began >= ends {
                    return anyhow::Ok(outcome);
                }
                let status = connection.exchange(&request).await?;
                match status {
                    _ if began < begins => {}
                    200 => outcome.times.add(began.elapsed()),
                    _ => outcome.refused += 1,
                }
            }
        });
    }
    gather(tasks, lasts).await
}

/// So many requests a second in all, whether or not the ones before were answered; times count from when
/// a request was due.
pub(crate) async fn open(
    to: SocketAddr,
    connections: u32,
    rate: u32,
    warm_up: Duration,
    lasts: Duration,
    make: Make,
) -> anyhow::Result<Outcome> {
    let begins = Instant::now() + warm_up;
    let ends = begins + lasts;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for place in 0..connections {
        let make = make.clone();
        tasks.spawn(async move {
            let mut connection = Connection::open(to, place.into()).await?;
            let mut outcome = Outcome::default();
            for n in (place..).step_by(connections as usize) {
                let due = start + Duration::from_secs(1) * n / rate;
                if due >= ends {
                    break;
                }
                let request = make(n.into());
                tokio::time::sleep_until(due).await;
                let status = connection.exchange(&request).await?;
                match status {
                    _ if due < begins => {}
                    200 => outcome.times.add(due.elapsed()),
                    _ => outcome.refused += 1,
                }
            }
            anyhow::Ok(outcome)
        });
    }
    gather(tasks, lasts).await
}

async fn gather(mut tasks: JoinSet<anyhow::Result<Outcome>>, lasts: Duration) -> anyhow::Result<Outcome> {
    let mut all = Outcome { seconds: lasts.as_secs_f64(), ..Outcome::default() };
    while let Some(done) = tasks.join_next().await {
        let part = done??;
        all.times.take(part.times);
        all.refused += part.refused;
    }
    Ok(all)
}

/// One connection, kept alive.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects from an address of its own on this machine's loopback: visitors come from many places.
    async fn open(to: SocketAddr, place: u64) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        let last = u8::try_from(place % 250).unwrap_or(0) + 1;
        socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 9, 0, last)), 0))?;
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(64 * 1024) })
    }

    /// Sends a request, reads the whole answer; its status.
    async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the connection was closed instead of an answer");
            }
            if let Some((status, whole)) = head(&self.buffer)? {
                while self.buffer.len() < whole {
                    if self.stream.read_buf(&mut self.buffer).await? == 0 {
                        bail!("the answer was cut off");
                    }
                }
                return Ok(status);
            }
        }
    }
}

/// Status and whole length of the answer that begins here; nothing while its head is not complete.
fn head(bytes: &[u8]) -> anyhow::Result<Option<(u16, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..end])?;
    let status = text.split(' ').nth(1).context("no status")?.parse()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Ok(Some((status, end + 4 + length.context("an answer without a length")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answers_head_tells_status_and_length() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx: y\r\n\r\nhel";
        assert_eq!(head(answer).unwrap(), Some((200, answer.len() + 2)));
        assert_eq!(head(b"HTTP/1.1 200 OK\r\ncontent-le").unwrap(), None);
        assert!(head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
