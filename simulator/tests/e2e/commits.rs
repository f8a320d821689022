//! A proxy before PostgreSQL that counts commits and kills a process at the n-th.
//!
//! The control plane's commits happen in the server, so no system call of its own marks them; the
//! statement on the wire does. Before it is passed on, nothing of the transaction is durable; after the
//! server has answered and before the answer is passed on, everything is and nobody knows.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// On which side of the commit the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Before,
    After,
}

#[derive(Debug)]
struct Armed {
    left: u32,
    side: Side,
    victim: i64,
}

/// The proxy; it ends with the test.
pub struct CommitProxy {
    pub address: SocketAddr,
    armed: Arc<Mutex<Option<Armed>>>,
}

impl CommitProxy {
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let armed = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&armed);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let armed = Arc::clone(&shared);
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let dead = Arc::new(AtomicBool::new(false));
                    tokio::select! {
                        _ = answers(from_server, to_client, Arc::clone(&dead), Arc::clone(&armed)) => {}
                        _ = questions(from_client, to_server, dead, armed) => {}
                    }
                });
            }
        });
        Self { address, armed }
    }

    /// The `n`-th commit from now on (1 is the next) is the last of `victim`.
    pub fn arm(&self, n: u32, side: Side, victim: i64) {
        *self.armed.lock().unwrap() = Some(Armed { left: n, side, victim });
    }

    /// Counts no more; true if it had struck.
    pub fn disarm(&self) -> bool {
        self.armed.lock().unwrap().take().is_some_and(|armed| armed.left == 0)
    }
}

/// What a commit means now: nothing, death at once, or death with the answer.
fn commit(armed: &Mutex<Option<Armed>>) -> Option<Side> {
    let mut armed = armed.lock().unwrap();
    let armed = armed.as_mut().filter(|armed| armed.left > 0)?;
    armed.left -= 1;
    if armed.left > 0 {
        return None;
    }
    if armed.side == Side::Before {
        kill(armed.victim);
    }
    Some(armed.side)
}

fn kill(victim: i64) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(victim).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Client to server, message by message. The first message has no type byte.
async fn questions(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    dead: Arc<AtomicBool>,
    armed: Arc<Mutex<Option<Armed>>>,
) -> std::io::Result<()> {
    let mut first = true;
    loop {
        let mut head = vec![0; if first { 4 } else { 5 }];
        from.read_exact(&mut head).await?;
        let length = u32::from_be_bytes(head[head.len() - 4..].try_into().unwrap());
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        from.read_exact(&mut body).await?;
        if !first && head[0] == b'Q' && body == b"COMMIT\0" {
            match commit(&armed) {
                Some(Side::Before) => return Ok(()),
                Some(Side::After) => dead.store(true, Ordering::SeqCst),
                None => {}
            }
        }
        first = false;
        to.write_all(&head).await?;
        to.write_all(&body).await?;
    }
}

/// Server to client, as it comes.
async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    dead: Arc<AtomicBool>,
    armed: Arc<Mutex<Option<Armed>>>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        if dead.load(Ordering::SeqCst) {
            if let Some(armed) = armed.lock().unwrap().as_ref() {
                kill(armed.victim);
            }
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
    }
}
