//! What an audit row says, and the bytes its hash covers.

use ez_protocol::{AuditId, UnixMillis};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// One change: who did what to what.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `user:<id>`, `staff:<id>`, `node:<id>`, `stripe` or `system`.
    pub actor: String,
    /// `subject.verb`, for example `order.paid`.
    pub action: String,
    /// The noun of the subject: `order`, `instance`, `node`, …
    pub subject_kind: String,
    /// The subject's id.
    pub subject_id: String,
    /// What else matters. Never a secret.
    pub detail: Value,
}

/// The form that is stored and hashed.
#[derive(Serialize)]
struct Exact<'a> {
    id: AuditId,
    at: UnixMillis,
    actor: &'a str,
    action: &'a str,
    subject_kind: &'a str,
    subject_id: &'a str,
    detail: &'a Value,
}

impl Entry {
    /// The bytes that are stored and hashed; made once, never again.
    pub(super) fn exact(&self, id: AuditId, at: UnixMillis) -> String {
        let Self { actor, action, subject_kind, subject_id, detail } = self;
        let exact = Exact { id, at, actor, action, subject_kind, subject_id, detail };
        serde_json::to_string(&exact).unwrap_or_default()
    }
}

/// What the first row is chained to.
pub(super) const GENESIS: &str = "ez-audit:v1";

/// The hash of a row: over the previous row's hash, its place and its exact bytes.
pub(super) fn chain(previous: &str, seq: i64, entry: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(previous.as_bytes());
    hash.update(b"\n");
    hash.update(seq.to_string().as_bytes());
    hash.update(b"\n");
    hash.update(entry.as_bytes());
    data_encoding::HEXLOWER.encode(&hash.finalize())
}

/// A row as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// When it happened.
    pub at: UnixMillis,
    /// What happened.
    pub entry: Entry,
}

/// Where the chain does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Breach {
    /// The place in the chain.
    pub seq: i64,
    /// What is wrong there.
    pub what: &'static str,
}

/// What a check of the chain found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Rows in the chain.
    pub sealed: i64,
    /// Rows that wait for the chain; nothing proves yet that they were not changed.
    pub unsealed: i64,
    /// The hash of the last row: write it down elsewhere to notice a chain that was made anew.
    pub head: String,
    /// Where it does not hold, at most 100.
    pub breaches: Vec<Breach>,
}
