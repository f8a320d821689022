//! Frames over QUIC streams. Every read has a deadline and a cap that is checked before anything is
//! allocated; every writer resets its stream when it is dropped in the middle, because a silent drop
//! would look like a clean end.

use std::time::Duration;

use ez_protocol::frame::{CloseCode, Frame, FrameError, FrameType, HEADER, Header, StreamKind};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::time::timeout;

/// A header has to come within this time once it is expected.
pub(super) const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// A body has to be whole within this time.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// A close code as QUIC wants it.
pub(super) fn code(code: CloseCode) -> VarInt {
    VarInt::from_u32(code.code())
}

/// Why a stream cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("a frame is too large or cut off: {0}")]
    Frame(#[from] FrameError),
    #[error("nothing came in time")]
    Timeout,
    #[error("frame {0:#06x} is not understood here")]
    Unexpected(u16),
    #[error("a message cannot be read: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("the stream ended")]
    Ended,
    #[error("reading: {0}")]
    Read(#[from] quinn::ReadExactError),
    #[error("writing: {0}")]
    Write(#[from] quinn::WriteError),
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    /// No fault of a stream: a part of the session is gone, and the others would wait for it.
    #[error("a part of this session has panicked")]
    Panicked,
}

impl StreamError {
    /// The code with which the fault is answered.
    pub(super) fn close_code(&self) -> CloseCode {
        match self {
            Self::Frame(error) => error.close_code(),
            Self::Timeout => CloseCode::Timeout,
            Self::Unexpected(_) => CloseCode::Protocol,
            Self::Malformed(_) => CloseCode::Malformed,
            _ => CloseCode::Finished,
        }
    }
}

/// The sending half: writes whole frames.
pub(super) struct Sender {
    kind: StreamKind,
    stream: SendStream,
    finished: bool,
}

impl Sender {
    /// Begins a stream of ours by its kind, so that the peer sees it.
    pub(super) async fn open(kind: StreamKind, stream: SendStream) -> Result<Self, StreamError> {
        let mut sender = Self::answer(kind, stream);
        sender.stream.write_all(&[kind.byte()]).await?;
        Ok(sender)
    }

    /// The answering half of a stream the peer opened.
    pub(super) fn answer(kind: StreamKind, stream: SendStream) -> Self {
        // Only a closed stream refuses a priority; the next write says so better.
        let _ = stream.set_priority(kind.priority());
        Self { kind, stream, finished: false }
    }

    pub(super) async fn send(
        &mut self,
        kind: FrameType,
        message: &impl prost::Message,
    ) -> Result<(), StreamError> {
        self.send_frame(&Frame::new(kind, message)).await
    }

    pub(super) async fn send_frame(&mut self, frame: &Frame) -> Result<(), StreamError> {
        let bytes = frame.encode(self.kind)?;
        Ok(self.stream.write_all(&bytes).await?)
    }

    /// Says that nothing more comes.
    pub(super) fn finish(&mut self) {
        self.finished = self.stream.finish().is_ok();
    }

    /// The stream itself, once frames are over and raw bytes follow.
    pub(super) fn raw(&mut self) -> &mut SendStream {
        &mut self.stream
    }

    /// Ends it at once, and says how.
    pub(super) fn end(&mut self, how: CloseCode) {
        let _ = self.stream.reset(code(how));
        self.finished = true;
    }

    /// Waits until the peer has all of it, or does not want it.
    pub(super) async fn delivered(&mut self) {
        let _ = timeout(BODY_DEADLINE, self.stream.stopped()).await;
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.stream.reset(code(CloseCode::Finished));
        }
    }
}

/// The receiving half: reads whole frames.
pub(super) struct Receiver {
    kind: StreamKind,
    stream: RecvStream,
}

impl Receiver {
    pub(super) fn new(kind: StreamKind, stream: RecvStream) -> Self {
        Self { kind, stream }
    }

    /// The next frame of a type this version knows; optional unknown ones are skipped. `patience`
    /// bounds the wait for its header; `None` waits as long as the connection lives.
    ///
    /// Not to be cancelled and called again: one task owns the stream.
    pub(super) async fn next(&mut self, patience: Option<Duration>) -> Result<Option<Frame>, StreamError> {
        loop {
            let mut header = [0; HEADER];
            let read = self.stream.read_exact(&mut header);
            let read = match patience {
                Some(patience) => timeout(patience, read).await.map_err(|_| StreamError::Timeout)?,
                None => read.await,
            };
            match read {
                Ok(()) => {}
                Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
                Err(quinn::ReadExactError::FinishedEarly(_)) => return Err(FrameError::Truncated.into()),
                Err(error) => return Err(error.into()),
            }
            let header = Header::parse(header, self.kind)?;
            let mut body = vec![0; header.len];
            match timeout(BODY_DEADLINE, self.stream.read_exact(&mut body)).await {
                Err(_) => return Err(StreamError::Timeout),
                Ok(Err(quinn::ReadExactError::FinishedEarly(_))) => return Err(FrameError::Truncated.into()),
                Ok(other) => other?,
            }
            let frame = Frame { code: header.code, body };
            if frame.kind().is_some() {
                return Ok(Some(frame));
            }
            if frame.code < ez_protocol::frame::OPTIONAL_FROM {
                return Err(StreamError::Unexpected(frame.code));
            }
        }
    }

    /// Exactly one frame of this type.
    pub(super) async fn expect(
        &mut self,
        kind: FrameType,
        patience: Duration,
    ) -> Result<Vec<u8>, StreamError> {
        match self.next(Some(patience)).await? {
            Some(frame) if frame.kind() == Some(kind) => Ok(frame.body),
            Some(frame) => Err(StreamError::Unexpected(frame.code)),
            None => Err(StreamError::Ended),
        }
    }

    /// The stream itself, once frames are over and raw bytes follow.
    pub(super) fn raw(&mut self) -> &mut RecvStream {
        &mut self.stream
    }

    /// Says that the rest is not wanted, and why.
    pub(super) fn refuse(&mut self, why: CloseCode) {
        let _ = self.stream.stop(code(why));
    }
}
