//! The next certificate: a new key, asked for at half of the old one's life, used on a new
//! connection first and only then put in the place of the old (make before break).

use std::{
    io,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ez_protocol::{UnixMillis, trust::agent_uri};
use rcgen::KeyPair;
use tokio::time::Instant;

use super::{Identity, IdentityError, Pair, enrol::check_certificate, files, load_pair, spki};

/// After a new one no other certificate is asked for this long, on whatever connection: it leads to a new connection, and
/// where it seems to be due at once, that would never end. A request that came to nothing leads nowhere, and is repeated.
const REST: Duration = Duration::from_secs(60 * 60);

/// When the control plane last gave a certificate that was stored, over all connections.
#[derive(Debug, Default)]
pub struct Answered(Mutex<Option<Instant>>);

impl Answered {
    /// One was stored.
    pub fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether that is long enough ago.
    pub fn is_over(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|at| at.elapsed() >= REST)
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

/// Makes a new key and its request.
///
/// # Errors
/// If the key cannot be made.
pub fn prepare() -> Result<Pending, rcgen::Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let csr_pem = csr(&key)?;
    Ok(Pending { key, csr_pem })
}

/// Checks an issued certificate and stores the next pair beside the present one.
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
    let _ = std::fs::remove_file(&cert_path);
    files::write_whole(&key_path, pending.key.serialize_pem().as_bytes(), 0o600)
        .map_err(|source| IdentityError::file(&key_path, source))?;
    files::write_whole(&cert_path, pem.as_bytes(), 0o600)
        .map_err(|source| IdentityError::file(&cert_path, source))?;
    load_pair(&key_path, &cert_path)
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
