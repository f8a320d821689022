//! Other signing keys, without enrolling a node again.
//!
//! A key is exchanged in two steps, each of which makes the next version of the trust document and signs it with a key that
//! the version before trusts: [`prepare`] has agents trust a new key beside the old one, [`switch`] signs with the new one
//! and lets the old one end, after a time or at once. Versions are kept in the key directory, so that an agent that was
//! away for long takes them one after the other, and a join token of before stays good.
//!
//! | file | holds |
//! |---|---|
//! | `trust.<n>.json` | version n of the trust document, byte for byte |
//! | `trust.<n>.dsse` | version n as agents get it: signed by a key that version n − 1 trusts |
//! | `order.next.key`, `trust.next.key` | a key that is prepared and signs nothing yet |
//!
//! Files are written in an order in which a step that dies half-way is done by repeating it.

use std::{fs, path::Path, time::Duration};

use ed25519_dalek::SigningKey;
use ez_protocol::{
    UnixMillis,
    envelope::{Envelope, KeyId, KeyRole, MAX_ENVELOPE, PayloadType},
    trust::{Pin, TrustDocument, TrustDocumentKey},
};

use super::{
    KeysError,
    files::{self, KEY_LIFE, ORDER_KEY, TRUST, TRUST_KEY, file_error, read_seed, seed_text},
};
use crate::entropy::Entropy;

/// How long the key before still counts: longer than any order that it signed.
pub const OVERLAP: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Clocks of agents may be behind by this much.
const BEHIND: Duration = Duration::from_secs(300);

/// A version of the trust document as it travels to agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustUpdate {
    /// Which.
    pub version: u64,
    /// The encoded envelope.
    pub envelope: Vec<u8>,
}

/// The trust document as agents are brought up to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The version that holds.
    pub version: u64,
    /// The first version that trusts the key which signs orders now: an agent before it refuses them.
    pub needed: u64,
    /// The versions after the first, in their order.
    pub updates: Vec<TrustUpdate>,
}

/// A version of before, byte for byte.
pub(super) type Earlier = (Pin, Vec<u8>);

/// What a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The key it was about, hexadecimal.
    pub key: String,
    /// The version of the trust document afterwards.
    pub version: u64,
    /// `false`: all of it had been done before.
    pub fresh: bool,
}

/// One signing key of the trust document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What it signs.
    pub role: KeyRole,
    /// Its id, hexadecimal.
    pub id: String,
    /// Until when it counts.
    pub until: UnixMillis,
    /// How it stands.
    pub place: Place,
}

/// How a signing key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Signs.
    Signs,
    /// Trusted, and signs nothing yet.
    Prepared,
    /// Signed before, and still counts.
    Leaving,
}

fn current_name(role: KeyRole) -> &'static str {
    match role {
        KeyRole::Order => ORDER_KEY,
        KeyRole::Trust => TRUST_KEY,
    }
}

fn next_name(role: KeyRole) -> &'static str {
    match role {
        KeyRole::Order => "order.next.key",
        KeyRole::Trust => "trust.next.key",
    }
}

fn id_of(key: &SigningKey) -> String {
    KeyId::of(&key.verifying_key()).to_hex()
}

fn document(dir: &Path) -> Result<TrustDocument, KeysError> {
    Ok(TrustDocument::from_bytes(&files::read(dir, TRUST)?)?)
}

fn prepared(dir: &Path, role: KeyRole) -> Result<Option<SigningKey>, KeysError> {
    let name = next_name(role);
    if dir.join(name).exists() { read_seed(dir, name).map(Some) } else { Ok(None) }
}

/// Nobody else takes a step meanwhile.
fn alone(dir: &Path) -> Result<fs::File, KeysError> {
    let directory = fs::File::open(dir).map_err(|error| file_error(dir, error))?;
    directory.lock().map_err(|error| file_error(dir, error))?;
    Ok(directory)
}

/// Makes a new key, if none waits, and publishes a trust document that trusts it beside the present one.
///
/// # Errors
/// [`KeysError`]; repeated, it goes on where it was.
pub fn prepare(dir: &Path, role: KeyRole, at: UnixMillis, entropy: &dyn Entropy) -> Result<Step, KeysError> {
    let _alone = alone(dir)?;
    let mut document = document(dir)?;
    let key = match prepared(dir, role)? {
        Some(key) => key,
        None => {
            let key = SigningKey::from_bytes(&files::random(entropy));
            files::write(dir, next_name(role), seed_text(&key).as_bytes())?;
            key
        }
    };
    let id = id_of(&key);
    if document.keys.iter().any(|known| known.id == id) {
        return Ok(Step { key: id, version: document.version, fresh: false });
    }
    let (from, until) = (at.minus(BEHIND), at.plus(KEY_LIFE));
    document.keys.push(TrustDocumentKey::new(&key.verifying_key(), role, from, until));
    let version = publish(dir, document, at)?;
    Ok(Step { key: id, version, fresh: true })
}

/// Signs with the prepared key from now on, and publishes a trust document in which the ones before it end after `overlap`;
/// with no overlap they are not trusted any more at once.
///
/// # Errors
/// [`KeysError::NotPrepared`] when no key waits; [`KeysError`] otherwise. Repeated, it goes on where it was.
pub fn switch(dir: &Path, role: KeyRole, at: UnixMillis, overlap: Duration) -> Result<Step, KeysError> {
    let _alone = alone(dir)?;
    let mut document = document(dir)?;
    let waiting = prepared(dir, role)?;
    if let Some(key) = &waiting {
        // Agents must have been told of it first.
        if !document.keys.iter().any(|known| known.id == id_of(key)) {
            return Err(KeysError::NotPrepared);
        }
        let path = dir.join(next_name(role));
        fs::rename(&path, dir.join(current_name(role))).map_err(|error| file_error(&path, error))?;
        fs::File::open(dir).and_then(|it| it.sync_all()).map_err(|error| file_error(dir, error))?;
    }
    let id = id_of(&read_seed(dir, current_name(role))?);
    let before = document.keys.clone();
    let ends = at.plus(overlap);
    document.keys.retain(|key| key.role != role || key.id == id || !overlap.is_zero());
    for key in document.keys.iter_mut().filter(|key| key.role == role && key.id != id) {
        key.not_after = key.not_after.min(ends);
    }
    let changed = document.keys != before;
    let fresh = waiting.is_some() || changed;
    let leaving = document.keys.iter().any(|key| key.role == role && key.id != id);
    if !fresh && !leaving {
        return Err(KeysError::NotPrepared);
    }
    let version = if changed { publish(dir, document, at)? } else { document.version };
    Ok(Step { key: id, version, fresh })
}

/// Makes a document the one that holds: as the next version, signed, and last of all under the name that counts.
fn publish(dir: &Path, mut document: TrustDocument, at: UnixMillis) -> Result<u64, KeysError> {
    let signer = read_seed(dir, TRUST_KEY)?;
    document.keys.retain(|key| key.not_after > at);
    let old = files::read(dir, TRUST)?;
    files::write(dir, &numbered(document.version, "json"), &old)?;
    document.version += 1;
    let bytes = document.to_bytes()?;
    let envelope = Envelope::sign(&signer, PayloadType::Trust, bytes.clone()).encode();
    if envelope.len() > MAX_ENVELOPE {
        let reason = "it is too large to be sent to agents".to_owned();
        return Err(KeysError::Unreadable { what: "the next trust document", reason });
    }
    files::write(dir, &numbered(document.version, "dsse"), &envelope)?;
    files::write(dir, TRUST, &bytes)?;
    Ok(document.version)
}

fn numbered(version: u64, kind: &str) -> String {
    format!("trust.{version}.{kind}")
}

/// The versions before the present one, and what agents are brought up to date with.
pub(super) fn history(
    dir: &Path,
    now: &TrustDocument,
    order: &SigningKey,
) -> Result<(Vec<Earlier>, Published), KeysError> {
    let id = id_of(order);
    let trusts = |document: &TrustDocument| document.keys.iter().any(|key| key.id == id);
    if !trusts(now) {
        let reason = format!("{TRUST} does not trust it: the directory is put together from two");
        return Err(KeysError::Unreadable { what: ORDER_KEY, reason });
    }
    let (mut earlier, mut needed) = (Vec::new(), now.version);
    for version in (1..now.version).rev() {
        let bytes = files::read(dir, &numbered(version, "json"))?;
        if trusts(&TrustDocument::from_bytes(&bytes)?) {
            needed = version;
        }
        earlier.push((Pin::of(&bytes), bytes));
    }
    let updates = (2..=now.version)
        .map(|version| Ok(TrustUpdate { version, envelope: files::read(dir, &numbered(version, "dsse"))? }));
    let updates = updates.collect::<Result<_, KeysError>>()?;
    Ok((earlier, Published { version: now.version, needed, updates }))
}

/// The signing keys of a directory, orders first, in the order in which they became known.
///
/// # Errors
/// [`KeysError`] when the directory cannot be read.
pub fn held(dir: &Path) -> Result<(u64, Vec<Held>), KeysError> {
    let document = document(dir)?;
    let mut all = Vec::new();
    for role in [KeyRole::Order, KeyRole::Trust] {
        let signs = id_of(&read_seed(dir, current_name(role))?);
        let next = prepared(dir, role)?.as_ref().map(id_of);
        all.extend(document.keys.iter().filter(|key| key.role == role).map(|key| Held {
            role,
            id: key.id.clone(),
            until: key.not_after,
            place: match key.id == signs {
                true => Place::Signs,
                false if next.as_ref() == Some(&key.id) => Place::Prepared,
                false => Place::Leaving,
            },
        }));
    }
    Ok((document.version, all))
}
