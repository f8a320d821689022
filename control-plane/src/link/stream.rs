//! Frames over QUIC streams, with caps and deadlines.
//!
//! One task owns each stream: quinn's reads and writes are not cancel-safe. A sender that is dropped in
//! the middle resets its stream; otherwise the peer would see an ordinary end.

use std::time::Duration;

use ez_protocol::frame::{
    CloseCode, Frame, FrameError, FrameType, HEADER, Header, OPTIONAL_FROM, StreamKind,
};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::time::timeout;

/// How long the first byte and a frame's header may take once something is expected.
pub(super) const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// How long a frame's body may take.
pub(super) const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// Why a stream or the connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("nothing came in time")]
    Timeout,
    #[error("the stream ended")]
    Ended,
    #[error("the peer broke off")]
    Broken,
    #[error("unknown frame type {0:#06x}")]
    UnknownFrame(u16),
    #[error("a {0:?} frame does not belong here")]
    Unexpected(FrameType),
    #[error("a body cannot be read")]
    Malformed,
    #[error("the stream carries more than it may")]
    TooMuch,
    #[error("what came could not be stored: {0}")]
    Store(#[from] crate::db::DbError),
}

impl StreamError {
    /// The code the fault is answered with.
    pub(super) fn code(&self) -> CloseCode {
        match self {
            Self::Frame(fault) => fault.close_code(),
            Self::Timeout | Self::Store(_) => CloseCode::Timeout,
            Self::Ended | Self::Broken => CloseCode::Finished,
            Self::UnknownFrame(_) | Self::Unexpected(_) => CloseCode::Protocol,
            Self::Malformed => CloseCode::Malformed,
            Self::TooMuch => CloseCode::FrameTooLarge,
        }
    }

    /// Faults that show a peer of another protocol end the connection; the others cost their stream only.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(self, Self::UnknownFrame(_) | Self::Frame(FrameError::TooLarge { .. }))
    }
}

/// The reading end of a stream.
pub(super) struct Reader {
    kind: StreamKind,
    stream: RecvStream,
}

/// The first byte of a stream; `None` is one of a kind this version does not know.
pub(super) async fn kind_of(stream: &mut RecvStream) -> Result<Option<StreamKind>, StreamError> {
    let mut first = [0; 1];
    match timeout(HEADER_DEADLINE, stream.read_exact(&mut first)).await {
        Ok(Ok(())) => Ok(StreamKind::from_byte(first[0])),
        Ok(Err(_)) => Err(StreamError::Broken),
        Err(_) => Err(StreamError::Timeout),
    }
}

impl Reader {
    /// A reader for what follows the kind.
    pub(super) fn new(kind: StreamKind, stream: RecvStream) -> Self {
        Self { kind, stream }
    }

    /// The next frame of a known type; `None` at a clean end. Without a deadline for the header the stream
    /// may stay silent for as long as the connection lives.
    pub(super) async fn next(
        &mut self,
        header_deadline: Option<Duration>,
    ) -> Result<Option<(FrameType, Vec<u8>)>, StreamError> {
        loop {
            let mut header = [0; HEADER];
            let first = async {
                // The first byte alone tells a clean end from one inside a frame.
                match self.stream.read(&mut header[..1]).await {
                    Ok(Some(_)) => Ok(true),
                    Ok(None) => Ok(false),
                    Err(_) => Err(StreamError::Broken),
                }
            };
            let more = match header_deadline {
                Some(limit) => timeout(limit, first).await.map_err(|_| StreamError::Timeout)??,
                None => first.await?,
            };
            if !more {
                return Ok(None);
            }
            self.exact(&mut header[1..], HEADER_DEADLINE).await?;
            let parsed = Header::parse(header, self.kind)?;
            let mut body = vec![0; parsed.len];
            self.exact(&mut body, BODY_DEADLINE).await?;
            match FrameType::from_code(parsed.code) {
                Some(kind) => return Ok(Some((kind, body))),
                None if parsed.code >= OPTIONAL_FROM => {}
                None => return Err(StreamError::UnknownFrame(parsed.code)),
            }
        }
    }

    async fn exact(&mut self, into: &mut [u8], limit: Duration) -> Result<(), StreamError> {
        match timeout(limit, self.stream.read_exact(into)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(quinn::ReadExactError::FinishedEarly(_))) => Err(FrameError::Truncated.into()),
            Ok(Err(_)) => Err(StreamError::Broken),
            Err(_) => Err(StreamError::Timeout),
        }
    }

    /// The stream itself, where frames are over and raw bytes follow.
    pub(super) fn into_raw(self) -> RecvStream {
        self.stream
    }

    /// Tells the peer that nothing more is read here.
    pub(super) fn stop(&mut self, code: CloseCode) {
        let _already_over = self.stream.stop(VarInt::from_u32(code.code()));
    }
}

/// Reads a message's body.
pub(super) fn parse<M: prost::Message + Default>(body: &[u8]) -> Result<M, StreamError> {
    M::decode(body).map_err(|_| StreamError::Malformed)
}

/// The writing end of a stream. Dropped before [`Writer::finish`], it resets the stream.
pub(super) struct Writer {
    kind: StreamKind,
    stream: SendStream,
    finished: bool,
}

impl Writer {
    /// Answers on a stream the peer opened.
    pub(super) fn answering(kind: StreamKind, stream: SendStream) -> Self {
        let _lost_with_the_stream = stream.set_priority(kind.priority());
        Self { kind, stream, finished: false }
    }

    /// Begins a stream of ours: the kind goes first, before that the peer does not see it.
    pub(super) async fn opening(kind: StreamKind, stream: SendStream) -> Result<Self, StreamError> {
        let mut writer = Self::answering(kind, stream);
        writer.bytes(&[kind.byte()]).await?;
        Ok(writer)
    }

    /// Sends a message.
    pub(super) async fn send(
        &mut self,
        kind: FrameType,
        message: &impl prost::Message,
    ) -> Result<(), StreamError> {
        self.frame(&Frame::new(kind, message)).await
    }

    /// Sends a frame.
    pub(super) async fn frame(&mut self, frame: &Frame) -> Result<(), StreamError> {
        let bytes = frame.encode(self.kind)?;
        self.bytes(&bytes).await
    }

    /// Sends raw bytes, where frames are over.
    pub(super) async fn raw(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.bytes(bytes).await
    }

    async fn bytes(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        match timeout(BODY_DEADLINE, self.stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(StreamError::Broken),
            Err(_) => Err(StreamError::Timeout),
        }
    }

    /// Ends the stream cleanly.
    pub(super) fn finish(&mut self) {
        self.finished = self.stream.finish().is_ok();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            let _already_over = self.stream.reset(VarInt::from_u32(CloseCode::Timeout.code()));
        }
    }
}
