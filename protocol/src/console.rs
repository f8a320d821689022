//! The console grant: a signed leave to look at one running instance's screen or serial line, once, now.
//!
//! It lives a minute and opens one console: its nonce is burnt in the node's journal before anything is
//! opened. It changes nothing about the instance, so it has neither sequence nor generation. What it opens
//! lasts at most [`LONGEST_CONSOLE`], and shorter if the grant says so. Strict JSON like the provisioning
//! order, with a payload type of its own: neither can be taken for the other.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    ConsoleId, InstallId, UnixMillis,
    order::{Audience, Cause, InstanceRef, InvalidText, PayloadError, checked_text},
};

/// Longest payload in bytes.
pub const MAX_GRANT_PAYLOAD: usize = 2 * 1024;
/// The longest life of a grant until it is used.
pub const GRANT_LIFE: Duration = Duration::from_secs(60);
/// The longest time an opened console stays open.
pub const LONGEST_CONSOLE: Duration = Duration::from_secs(2 * 60 * 60);

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsoleKind {
    /// The graphical screen: RFB 3.8, security type None.
    Vnc,
    /// The first serial line: bytes from the guest as they are; to the guest the messages
    /// `0:<length>:<bytes>`, `1:<columns>:<rows>:` and `2`.
    Serial,
}

impl ConsoleKind {
    /// Every kind there is.
    pub const ALL: [Self; 2] = [Self::Vnc, Self::Serial];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vnc => "vnc",
            Self::Serial => "serial",
        }
    }
}

impl fmt::Display for ConsoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no kind of console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a console is of kind vnc or serial")]
pub struct UnknownConsoleKind;

impl FromStr for ConsoleKind {
    type Err = UnknownConsoleKind;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(UnknownConsoleKind)
    }
}

/// 128 random bits that make a grant one of a kind: 32 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Nonce(String);

checked_text!(Nonce, "a nonce of 32 lower-case hexadecimal digits", |text| {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
});

impl Nonce {
    /// The nonce of these random bytes.
    pub fn of(random: [u8; 16]) -> Self {
        Self(data_encoding::HEXLOWER.encode(&random))
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Leave to open one console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleGrant {
    /// What it opens; both sides name it in their logs.
    pub console_id: ConsoleId,
    /// Burnt at the node before anything is opened.
    pub nonce: Nonce,
    /// The installation that gives it.
    pub install: InstallId,
    /// The one node that may open it.
    pub aud: Audience,
    /// When it was given.
    pub iat: UnixMillis,
    /// Not after.
    pub exp: UnixMillis,
    /// Whose console.
    pub instance: InstanceRef,
    /// Which one.
    pub kind: ConsoleKind,
    /// How long it may stay open, seconds.
    pub max_secs: u32,
    /// Who asked; logged, never decided upon.
    pub cause: Cause,
}

impl ConsoleGrant {
    /// The bytes to sign. Called once, by whoever gives the grant.
    ///
    /// # Errors
    /// What [`ConsoleGrant::from_bytes`] would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PayloadError> {
        let bytes = serde_json::to_vec(self).map_err(|e| PayloadError::Unreadable(e.to_string()))?;
        Self::from_bytes(&bytes)?;
        Ok(bytes)
    }

    /// Reads verified bytes, strictly.
    ///
    /// # Errors
    /// Anything that is not exactly what this version understands.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PayloadError> {
        if bytes.len() > MAX_GRANT_PAYLOAD {
            return Err(PayloadError::TooLarge(bytes.len()));
        }
        if bytes.first() != Some(&b'{') || bytes.last() != Some(&b'}') {
            return Err(PayloadError::NotAnObject);
        }
        let grant: Self =
            serde_json::from_slice(bytes).map_err(|e| PayloadError::Unreadable(e.to_string()))?;
        grant.check()?;
        Ok(grant)
    }

    /// The rules that types alone do not express.
    fn check(&self) -> Result<(), PayloadError> {
        let most = i64::MAX >> 10;
        if self.aud.epoch == 0 || self.aud.epoch > most.unsigned_abs() {
            return Err(PayloadError::OutOfRange("aud.epoch"));
        }
        if self.iat.0 <= 0 || self.exp.0 > most || self.exp <= self.iat {
            return Err(PayloadError::OutOfRange("exp"));
        }
        if !(100..=999_999_999).contains(&self.instance.vmid) {
            return Err(PayloadError::OutOfRange("instance.vmid"));
        }
        if self.max_secs == 0 || u64::from(self.max_secs) > LONGEST_CONSOLE.as_secs() {
            return Err(PayloadError::OutOfRange("max_secs"));
        }
        self.cause.check()
    }
}

#[cfg(test)]
mod tests;
