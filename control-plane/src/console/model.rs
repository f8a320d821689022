//! Consoles as they are kept, why there is none, and how one ends.

use ez_protocol::{AccountId, ConsoleId, InstanceId, UnixMillis, console::ConsoleKind};

use super::Holder;
use crate::{
    db::{DbError, text_enum},
    link::{ConsoleEnd, ConsoleFault},
};

/// A console whose ticket was redeemed, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// Its id; the node's log names it too.
    pub id: ConsoleId,
    /// The server.
    pub instance: InstanceId,
    /// Whose it is.
    pub account: AccountId,
    /// Screen or serial line.
    pub kind: ConsoleKind,
    /// Who looks, as the audit names them.
    pub actor: String,
    /// With what they came.
    pub holder: Holder,
    /// When it was opened.
    pub opened_at: Option<UnixMillis>,
}

/// Why there is no ticket.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The server is not there yet, or not any more.
    #[error("this server has no console: it is not in service")]
    Ended,
    /// Its service is suspended.
    #[error("this server is suspended; its console opens again once the service is resumed")]
    Suspended,
    /// It is off.
    #[error("this server is off; start it first")]
    NotRunning,
    /// Its node takes no orders.
    #[error(
        "the host of this server is not reachable; the server itself may run. Try again in a few minutes"
    )]
    NodeAway,
    /// The database, or no such server.
    #[error("the database failed")]
    Db(#[from] DbError),
}

impl Refusal {
    /// The stable word: text `console-end-<word>`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Ended => "deleted",
            Self::Suspended => "suspended",
            Self::NotRunning => "not_running",
            Self::NodeAway => "node_away",
            Self::Db(_) => "failed",
        }
    }
}

text_enum! {
    /// How a console ended, or why it did not open: text `console-end-<word>`.
    pub enum End {
        /// The person left.
        Left = "left",
        /// The server was stopped.
        Stopped = "stopped",
        /// The host's end is gone, though the server runs.
        Gone = "gone",
        /// Nobody typed or clicked for too long.
        Idle = "idle",
        /// It was open for as long as it may.
        Over = "over",
        /// The connection to the host is gone.
        Lost = "lost",
        /// The session was ended, or the API token revoked.
        LoggedOut = "logged_out",
        /// The service was suspended.
        Suspended = "suspended",
        /// The server was deleted.
        Deleted = "deleted",
        /// The host is not connected, or not in service.
        NodeAway = "node_away",
        /// The host is connected to another process of the control plane.
        Elsewhere = "elsewhere",
        /// The server is off.
        NotRunning = "not_running",
        /// As many consoles as may be are open.
        TooMany = "too_many",
        /// The host's owner does not allow consoles.
        NotAllowed = "not_allowed",
        /// The host could not open it, or refused for a reason of its own.
        Failed = "failed",
        /// This process of the control plane stops.
        Restart = "restart",
    }
}

impl From<ConsoleEnd> for End {
    fn from(end: ConsoleEnd) -> Self {
        match end {
            ConsoleEnd::Stopped => Self::Stopped,
            ConsoleEnd::Gone => Self::Gone,
            ConsoleEnd::Idle => Self::Idle,
            ConsoleEnd::Over => Self::Over,
            ConsoleEnd::Lost => Self::Lost,
        }
    }
}

impl From<&ConsoleFault> for End {
    fn from(fault: &ConsoleFault) -> Self {
        match fault {
            ConsoleFault::NotHere => Self::NodeAway,
            ConsoleFault::Silent(_) => Self::Failed,
            ConsoleFault::Refused { code, .. } => match code.as_str() {
                "NOT_RUNNING" => Self::NotRunning,
                "TOO_MANY" => Self::TooMany,
                "POLICY" => Self::NotAllowed,
                "UNKNOWN_INSTANCE" => Self::Gone,
                _ => Self::Failed,
            },
        }
    }
}
