//! The next certificate: a new key, asked for at half of the old one's life, used on a new
//! connection first and only then put in the place of the old (make before break).
//!
//! What came to nothing is tried again after a growing pause, with what there is of it: the pair that
//! was stored and never welcomed, else the key that was asked with. Only a new key is a new certificate.

use std::{
    io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ez_protocol::{UnixMillis, trust::agent_uri};
use rcgen::KeyPair;
use tokio::time::Instant;

use super::{Identity, IdentityError, Pair, enrol::check_certificate, files, load_pair, spki};

/// After a new one no other certificate is asked for this long, on whatever connection: it leads to a new connection, and
/// where it seems to be due at once, that would never end.
const REST: Duration = Duration::from_secs(60 * 60);
/// First and longest pause after a try that came to nothing; each is twice as long as the one before. A certificate that
/// was asked for has to come within the first.
const PAUSE: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(6 * 60 * 60));
/// After so many tries in vain, hours after the first, what was kept of them seems to be of no use: another key is asked
/// with, and what is stored goes when its certificate is here. A node is given five certificates a day.
const IN_VAIN: u32 = 8;
/// The key whose certificate has been asked for.
pub(super) const ASKED: &str = "asked-key.pem";

/// When the next certificate may be asked for or tried, over all connections.
#[derive(Debug, Default)]
pub struct Renewals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rests_until: Option<Instant>,
    tries: u32,
}

impl Renewals {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One is tried: until it is welcomed it counts as one that came to nothing. True where another key
    /// is to be asked with, whatever was kept of those before.
    pub fn tried(&self, now: Instant) -> bool {
        let mut state = self.state();
        let pause = PAUSE.0.saturating_mul(1 << state.tries.min(16)).min(PAUSE.1);
        state.rests_until = Some(now + pause);
        state.tries = state.tries.saturating_add(1);
        state.tries.is_multiple_of(IN_VAIN)
    }

    /// One was stored.
    pub fn note(&self, now: Instant) {
        self.state().rests_until = Some(now + REST);
    }

    /// The stored one is in use.
    pub fn welcomed(&self) {
        self.state().tries = 0;
    }

    /// How long it is still left alone.
    pub fn rest(&self, now: Instant) -> Duration {
        let until = self.state().rests_until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// Whether the next may be tried.
    pub fn is_over(&self, now: Instant) -> bool {
        self.rest(now).is_zero()
    }
}

/// A request that was sent and waits for its certificate.
#[derive(Debug)]
pub struct Pending {
    key: KeyPair,
    /// The certificate request to send.
    pub csr_pem: String,
}

/// A certificate request that contributes nothing but the public key.
///
/// # Errors
/// If it cannot be made.
pub fn csr(key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.serialize_request(key)?.pem()
}

/// When the pair is to be renewed: half of its life, moved by up to ±10 % by `jitter` (0–1000).
pub fn due(pair: &Pair, jitter: u64) -> UnixMillis {
    let life = pair.not_after.since(pair.not_before);
    let permille = 400 + jitter.min(1_000) / 5;
    pair.not_before.plus(life.mul_f64(f64::from(u32::try_from(permille).unwrap_or(500)) / 1_000.0))
}

/// Makes the next key and its request. It is stored before it is asked with: where the answer was lost or could not be kept,
/// the next try asks with the same one, for which the control plane gives the same certificate and counts none.
///
/// # Errors
/// If the key cannot be made or stored; then nothing must be asked for.
pub fn prepare(dir: &Path) -> Result<Pending, IdentityError> {
    let path = dir.join(ASKED);
    let kept = std::fs::read_to_string(&path).ok().and_then(|pem| KeyPair::from_pem(&pem).ok());
    let failed = |error: rcgen::Error| IdentityError::file(&path, io::Error::other(error));
    let key = match kept {
        Some(key) => key,
        None => {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
            files::write_whole(&path, key.serialize_pem().as_bytes(), 0o600)
                .map_err(|source| IdentityError::file(&path, source))?;
            key
        }
    };
    let csr_pem = csr(&key).map_err(failed)?;
    Ok(Pending { key, csr_pem })
}

/// Whether a key waits for the answer to what was asked with it. A stored pair may be void by then: issuing another certificate
/// ends one that was never used.
pub fn is_asked(dir: &Path) -> bool {
    dir.join(ASKED).exists()
}

/// The key that was asked with is of no use: its certificate is stored, or was refused.
pub fn forget_asked(dir: &Path) {
    let _ = std::fs::remove_file(dir.join(ASKED));
}

/// Checks an issued certificate and stores the next pair beside the present one, in the place of one that waits there.
///
/// # Errors
/// If the certificate does not pass the checks, or cannot be written.
pub fn stage(
    dir: &Path,
    identity: &Identity,
    pending: &Pending,
    pem: &str,
    now: UnixMillis,
) -> Result<Pair, IdentityError> {
    let uri = agent_uri(identity.node.install, identity.node.node);
    let cert_path = dir.join("next-cert.pem");
    check_certificate(&identity.trust, pem, &spki(&pending.key), &uri, now)
        .map_err(|reason| IdentityError::Damaged { path: "the issued certificate".to_owned(), reason })?;
    let key_path = dir.join("next-key.pem");
    // Of a promotion that was cut in the middle the certificate that waits belongs to the key in place, and without it nothing
    // could be loaded any more.
    finish_promotion(dir)?;
    let _ = std::fs::remove_file(&cert_path);
    files::write_whole(&key_path, pending.key.serialize_pem().as_bytes(), 0o600)
        .map_err(|source| IdentityError::file(&key_path, source))?;
    files::write_whole(&cert_path, pem.as_bytes(), 0o600)
        .map_err(|source| IdentityError::file(&cert_path, source))?;
    let pair = load_pair(&key_path, &cert_path)?;
    forget_asked(dir);
    Ok(pair)
}

/// The pair that waits for its first use, if there is one.
pub fn staged(dir: &Path) -> Option<Pair> {
    load_pair(&dir.join("next-key.pem"), &dir.join("next-cert.pem")).ok()
}

/// The next pair has been welcomed: it takes the place of the present one.
///
/// # Errors
/// If a rename fails; [`finish_promotion`] completes it at the next start.
pub fn promote(dir: &Path) -> Result<(), IdentityError> {
    let steps = [("next-key.pem", "key.pem"), ("next-cert.pem", "cert.pem")];
    for (from, to) in steps {
        let (from, to) = (dir.join(from), dir.join(to));
        match files::rename_durably(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|source| IdentityError::file(&to, source))?,
        }
    }
    Ok(())
}

/// Completes a promotion that was cut between its two renames: the key in place then belongs to the
/// certificate that still waits.
///
/// # Errors
/// If the rename fails.
pub fn finish_promotion(dir: &Path) -> Result<(), IdentityError> {
    let next_cert = dir.join("next-cert.pem");
    if dir.join("next-key.pem").exists() || !next_cert.exists() {
        return Ok(());
    }
    if load_pair(&dir.join("key.pem"), &next_cert).is_ok() {
        return promote(dir);
    }
    Ok(())
}
