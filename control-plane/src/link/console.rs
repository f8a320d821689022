//! Consoles: a signed grant goes out on a stream of its own, and raw bytes go both ways from then on. The
//! grant was made and signed elsewhere; what the bytes say is nobody's business here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ez_protocol::{
    NodeId,
    frame::{CloseCode, Frame, FrameType, StreamKind},
    message::ConsoleAnswer,
};
use quinn::{Connection, ReadError, RecvStream, VarInt};
use tokio::time::timeout;

use super::{
    endpoint::{STREAM_WINDOW, WINDOW},
    registry::Registry,
    stream::{Reader, StreamError, Writer, parse},
};

/// How long the agent may take to open a console: its host may take ten seconds.
const ANSWER: Duration = Duration::from_secs(20);
/// Bytes that are taken from the stream at once.
const PIECE: usize = 16 * 1024;

/// Why no console was opened.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleFault {
    /// No agent of this node is connected to this process.
    #[error("the node is not connected here")]
    NotHere,
    /// The agent will not; what it said.
    #[error("the node refused: {code} {detail}")]
    Refused {
        /// The refusal's code, as the protocol has them.
        code: String,
        /// One sentence.
        detail: String,
    },
    /// The agent did not answer, or not as it should.
    #[error("the node did not answer: {0}")]
    Silent(String),
}

/// How a console ended, as the agent says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleEnd {
    /// The server was stopped.
    Stopped,
    /// The host's end is gone, though the server runs.
    Gone,
    /// Nobody typed or clicked for too long.
    Idle,
    /// The granted time is over.
    Over,
    /// The connection to the node is gone, or it ended without a reason.
    Lost,
}

impl ConsoleEnd {
    fn of(error: &ReadError) -> Self {
        let ReadError::Reset(code) = error else { return Self::Lost };
        match CloseCode::from_code(code.into_inner()) {
            Some(CloseCode::ConsoleStopped) => Self::Stopped,
            Some(CloseCode::ConsoleGone) => Self::Gone,
            Some(CloseCode::ConsoleIdle) => Self::Idle,
            Some(CloseCode::ConsoleOver) => Self::Over,
            _ => Self::Lost,
        }
    }
}

/// Room for what waits unread of a console: a browser that does not read must not keep the node's events from
/// coming. The connection's window grows with each of its consoles.
#[derive(Debug)]
struct Room {
    connection: Connection,
    consoles: Arc<AtomicU32>,
}

impl Room {
    fn of(connection: Connection, consoles: Arc<AtomicU32>) -> Self {
        let open = consoles.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let room = Self { connection, consoles };
        room.make(open);
        room
    }

    fn make(&self, open: u32) {
        let window = WINDOW.saturating_add(open.saturating_mul(STREAM_WINDOW));
        self.connection.set_receive_window(VarInt::from_u32(window));
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let open = self.consoles.fetch_sub(1, Ordering::Relaxed).saturating_sub(1);
        self.make(open);
    }
}

/// What the host shows.
#[derive(Debug)]
pub struct ConsoleOutput {
    stream: RecvStream,
    _room: Room,
}

impl ConsoleOutput {
    /// The next bytes. May be given up and asked again.
    ///
    /// # Errors
    /// How the console ended.
    pub async fn next(&mut self) -> Result<bytes::Bytes, ConsoleEnd> {
        match self.stream.read_chunk(PIECE, true).await {
            Ok(Some(chunk)) => Ok(chunk.bytes),
            Ok(None) => Err(ConsoleEnd::Lost),
            Err(error) => Err(ConsoleEnd::of(&error)),
        }
    }
}

impl Drop for ConsoleOutput {
    fn drop(&mut self) {
        let _already_over = self.stream.stop(VarInt::from_u32(CloseCode::Finished.code()));
    }
}

/// What the person does. Dropping it ends the console.
pub struct ConsoleInput(Writer);

impl ConsoleInput {
    /// Sends bytes, as fast as the host takes them.
    ///
    /// # Errors
    /// The console ended; its output says how.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), ConsoleEnd> {
        self.0.raw(bytes).await.map_err(|_| ConsoleEnd::Lost)
    }
}

impl std::fmt::Debug for ConsoleInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConsoleInput")
    }
}

impl Registry {
    /// Brings a signed grant to its node and opens what it grants.
    ///
    /// # Errors
    /// See [`ConsoleFault`]; nothing is open then.
    pub async fn open_console(
        &self,
        node: NodeId,
        grant: Vec<u8>,
    ) -> Result<(ConsoleInput, ConsoleOutput), ConsoleFault> {
        let (connection, consoles) = self.connection(node).ok_or(ConsoleFault::NotHere)?;
        let room = Room::of(connection.clone(), consoles);
        let silent = |error: StreamError| ConsoleFault::Silent(error.to_string());
        let (send, recv) = connection.open_bi().await.map_err(|_| silent(StreamError::Broken))?;
        let mut writer = Writer::opening(StreamKind::Console, send).await.map_err(silent)?;
        let mut reader = Reader::new(StreamKind::Console, recv);
        writer.frame(&Frame::raw(FrameType::Envelope, grant)).await.map_err(silent)?;
        let answer = match timeout(ANSWER, reader.next(None)).await {
            Ok(Ok(Some((FrameType::ConsoleAnswer, body)))) => {
                parse::<ConsoleAnswer>(&body).map_err(silent)?
            }
            Ok(Ok(Some((other, _)))) => return Err(silent(StreamError::Unexpected(other))),
            Ok(Ok(None)) => return Err(silent(StreamError::Ended)),
            Ok(Err(fault)) => return Err(silent(fault)),
            Err(_) => {
                reader.stop(CloseCode::Timeout);
                return Err(silent(StreamError::Timeout));
            }
        };
        if answer.code.is_empty() {
            let output = ConsoleOutput { stream: reader.into_raw(), _room: room };
            return Ok((ConsoleInput(writer), output));
        }
        let word = |text: &str, most: usize| text.chars().filter(|c| !c.is_control()).take(most).collect();
        let (code, detail) = (word(&answer.code, 40), word(&answer.detail, 300));
        Err(ConsoleFault::Refused { code, detail })
    }
}
