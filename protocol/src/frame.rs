//! Frames on a stream: `len:u32be | type:u16be | body`, with caps checked before allocating.
//!
//! Sans-IO: bytes are pushed in as they arrive, whole frames come out. The first byte of every
//! stream is its [`StreamKind`], which decides the cap.

/// Bytes before the body of a frame.
pub const HEADER: usize = 6;
/// ALPN of the link; the major version of the protocol.
pub const ALPN: &[u8] = b"ez-agent/1";
/// Lowest protocol version this build speaks.
pub const PROTO_MIN: u32 = 1;
/// Highest protocol version this build speaks.
pub const PROTO_MAX: u32 = 1;

/// What a stream is for; its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StreamKind {
    /// Hello, Welcome, time, certificates, acknowledgements. One, opened by the agent, first.
    Control = 0x01,
    /// One provisioning order and its answer. Opened by the server.
    Order = 0x02,
    /// Progress and results. One, opened by the agent.
    Events = 0x03,
    /// One snapshot or delta of states. Opened by the agent.
    State = 0x04,
    /// A batch of samples. Opened by the agent.
    Metrics = 0x05,
    /// A console. Opened by the server.
    Console = 0x06,
    /// Lines of a log. Opened by the server.
    Logs = 0x07,
}

impl StreamKind {
    /// Reads the first byte of a stream.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0x01 => Some(Self::Control),
            0x02 => Some(Self::Order),
            0x03 => Some(Self::Events),
            0x04 => Some(Self::State),
            0x05 => Some(Self::Metrics),
            0x06 => Some(Self::Console),
            0x07 => Some(Self::Logs),
            _ => None,
        }
    }

    /// The first byte.
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// Longest frame body on such a stream, in bytes.
    pub const fn frame_cap(self) -> usize {
        match self {
            Self::Events => 16 * 1024,
            Self::Order => 128 * 1024,
            Self::Metrics => 256 * 1024,
            Self::Control | Self::State | Self::Console | Self::Logs => 64 * 1024,
        }
    }

    /// Priority of such a stream on its connection: higher goes first.
    pub const fn priority(self) -> i32 {
        match self {
            Self::Control => 100,
            Self::Order => 50,
            Self::Events => 40,
            Self::Console => 20,
            Self::State => 10,
            Self::Metrics => -10,
            Self::Logs => -20,
        }
    }
}

macro_rules! frame_types {
    ($($(#[$doc:meta])* $name:ident = $code:literal),+ $(,)?) => {
        /// What a frame's body is. Numbers are never used again for something else.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum FrameType { $($(#[$doc])* $name = $code),+ }

        impl FrameType {
            /// Reads a type; `None` for one this version does not know.
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)+ _ => None }
            }

            /// The number on the wire.
            pub const fn code(self) -> u16 {
                self as u16
            }
        }
    };
}

frame_types! {
    /// [`crate::message::Hello`], agent to server, first.
    Hello = 0x0001,
    /// [`crate::message::Welcome`], server to agent.
    Welcome = 0x0002,
    /// [`crate::message::Ping`], both ways.
    Ping = 0x0003,
    /// [`crate::message::Pong`], both ways.
    Pong = 0x0004,
    /// [`crate::message::Ready`], agent to server: the first Welcome is stored.
    Ready = 0x0005,
    /// [`crate::message::EventAck`], server to agent.
    EventAck = 0x0006,
    /// [`crate::message::StateAck`], server to agent.
    StateAck = 0x0007,
    /// [`crate::message::Resync`], server to agent.
    Resync = 0x0008,
    /// [`crate::message::Drain`], server to agent.
    Drain = 0x0009,
    /// [`crate::message::CertRenew`], agent to server.
    CertRenew = 0x000a,
    /// [`crate::message::CertIssued`], server to agent.
    CertIssued = 0x000b,
    /// An encoded envelope with the next trust document, server to agent.
    TrustUpdate = 0x000c,
    /// An encoded envelope with a provisioning order, an image order or a console grant, server to agent.
    Envelope = 0x0010,
    /// [`crate::message::OrderAnswer`], agent to server.
    OrderAnswer = 0x0011,
    /// [`crate::message::ConsoleAnswer`], agent to server; after it a console's stream carries raw bytes.
    ConsoleAnswer = 0x0012,
    /// [`crate::message::Event`], agent to server.
    Event = 0x0020,
    /// [`crate::message::StateSnapshot`], agent to server.
    StateSnapshot = 0x0030,
    /// [`crate::message::StateDelta`], agent to server.
    StateDelta = 0x0031,
    /// [`crate::message::MetricsBatch`], agent to server.
    Metrics = 0x0040,
    /// [`crate::message::Challenge`], server to agent. An agent that does not know it skips it.
    Challenge = 0x8001,
    /// [`crate::message::ChallengeAnswer`], agent to server.
    ChallengeAnswer = 0x8002,
    /// [`crate::message::MetricsAck`], server to agent. An agent that does not know it skips it.
    MetricsAck = 0x8003,
    /// [`crate::message::TrustTaken`], agent to server, after each `TrustUpdate` that was not refused.
    TrustTaken = 0x8004,
}

/// From this number on an unknown frame type is skipped; below it ends the connection.
pub const OPTIONAL_FROM: u16 = 0x8000;

/// Codes with which a connection or stream is closed. 0 means "unintended" and is never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// Done, nothing wrong.
    Finished = 1,
    /// The peer broke the protocol.
    Protocol = 2,
    /// A frame over its cap.
    FrameTooLarge = 3,
    /// A stream ended inside a frame, or a body could not be read.
    Malformed = 4,
    /// A stream of a kind this side does not know.
    UnknownStream = 5,
    /// Nothing came in time.
    Timeout = 6,
    /// The node's certificate or row was revoked.
    Revoked = 7,
    /// The certificate is about to end: connect again.
    Reauth = 8,
    /// No protocol version in common.
    Version = 9,
    /// The server is going away: connect again later.
    Drain = 10,
    /// Another connection of the same node took over.
    Replaced = 11,
    /// The node is quarantined: its history contradicts what was acknowledged.
    Quarantined = 12,
    /// A console: its server was stopped.
    ConsoleStopped = 13,
    /// A console: the host's end of it is gone, though the server runs.
    ConsoleGone = 14,
    /// A console: nobody typed or clicked for too long.
    ConsoleIdle = 15,
    /// A console: the time it was granted is over.
    ConsoleOver = 16,
}

impl CloseCode {
    /// The number on the wire.
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// Reads a number; `None` for one this version does not know.
    pub const fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            1 => Self::Finished,
            2 => Self::Protocol,
            3 => Self::FrameTooLarge,
            4 => Self::Malformed,
            5 => Self::UnknownStream,
            6 => Self::Timeout,
            7 => Self::Revoked,
            8 => Self::Reauth,
            9 => Self::Version,
            10 => Self::Drain,
            11 => Self::Replaced,
            12 => Self::Quarantined,
            13 => Self::ConsoleStopped,
            14 => Self::ConsoleGone,
            15 => Self::ConsoleIdle,
            16 => Self::ConsoleOver,
            _ => return None,
        })
    }
}

/// Why bytes are no frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header announces more than the stream's cap.
    #[error("a frame of {len} bytes, at most {cap} are allowed")]
    TooLarge {
        /// What the header says.
        len: usize,
        /// What the stream allows.
        cap: usize,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
}

impl FrameError {
    /// The code with which the fault is answered.
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::TooLarge { .. } => CloseCode::FrameTooLarge,
            Self::Truncated => CloseCode::Malformed,
        }
    }
}

/// One whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type's number, which may be one this version does not know.
    pub code: u16,
    /// Its body.
    pub body: Vec<u8>,
}

impl Frame {
    /// A frame with a message as its body.
    pub fn new(kind: FrameType, message: &impl prost::Message) -> Self {
        Self { code: kind.code(), body: message.encode_to_vec() }
    }

    /// A frame with bytes as its body.
    pub fn raw(kind: FrameType, body: Vec<u8>) -> Self {
        Self { code: kind.code(), body }
    }

    /// The type, if this version knows it.
    pub fn kind(&self) -> Option<FrameType> {
        FrameType::from_code(self.code)
    }

    /// The bytes on the wire.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] for a body over the stream's cap.
    pub fn encode(&self, stream: StreamKind) -> Result<Vec<u8>, FrameError> {
        let len = self.body.len();
        let cap = stream.frame_cap();
        let Some(short) = u32::try_from(len).ok().filter(|_| len <= cap) else {
            return Err(FrameError::TooLarge { len, cap });
        };
        let mut out = Vec::with_capacity(HEADER + len);
        out.extend_from_slice(&short.to_be_bytes());
        out.extend_from_slice(&self.code.to_be_bytes());
        out.extend_from_slice(&self.body);
        Ok(out)
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the body, already checked against the cap.
    pub len: usize,
    /// The type's number.
    pub code: u16,
}

impl Header {
    /// Reads a header and refuses what is over the cap, before anything is allocated.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`].
    pub fn parse(bytes: [u8; HEADER], stream: StreamKind) -> Result<Self, FrameError> {
        let [a, b, c, d, e, f] = bytes;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        let cap = stream.frame_cap();
        if len > cap {
            return Err(FrameError::TooLarge { len, cap });
        }
        Ok(Self { len, code: u16::from_be_bytes([e, f]) })
    }
}

/// Cuts a stream's bytes into frames.
#[derive(Debug)]
pub struct Decoder {
    stream: StreamKind,
    buffer: Vec<u8>,
}

impl Decoder {
    /// A decoder for the bytes after the stream's first.
    pub const fn new(stream: StreamKind) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Takes bytes as they arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Hands out the next whole frame, if there is one.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] as soon as a header says so.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let header = Header::parse(*header, self.stream)?;
        let whole = HEADER + header.len;
        if self.buffer.len() < whole {
            return Ok(None);
        }
        let body = self.buffer[HEADER..whole].to_vec();
        self.buffer.drain(..whole);
        Ok(Some(Frame { code: header.code, body }))
    }

    /// Says that the stream has ended.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] if that was inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }
}

#[cfg(test)]
mod tests;
