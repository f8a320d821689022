//! The link server's own certificate. It is made anew when it has a week left, at the handshake that finds it so: a control
//! plane that runs for months without a restart never shows one that has run out.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ez_protocol::{InstallId, UnixMillis};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    KeysError,
    authority::{Authority, BACKDATE, KeyPem, LINK_LIFE},
    files::{random, read, read_pair, write, write_pair},
};
use crate::{clock::Clock, entropy::Entropy};

/// The certificate is made anew when it has less than this left.
const RENEW: Duration = Duration::from_secs(7 * 86_400);
/// After a try that failed, handshakes go on with the old certificate for so long.
const AGAIN: Duration = Duration::from_secs(60);

pub(super) const LINK: &str = "link";
pub(super) const LINK_META: &str = "link.json";

/// Until when the certificate is valid and for which names it was made.
#[derive(serde::Serialize, serde::Deserialize)]
struct Meta {
    names: Vec<String>,
    not_after: UnixMillis,
}

/// Who makes the certificate, and for which names.
pub(super) struct LinkIssuer {
    pub(super) dir: PathBuf,
    pub(super) install: InstallId,
    pub(super) authority: Authority,
    /// The names that were asked for; with none, a certificate is good whatever its names …
    pub(super) names: Vec<String>,
    /// … and a new one is made for these.
    pub(super) fallback: Vec<String>,
}

impl LinkIssuer {
    /// A new certificate, not yet written anywhere.
    fn make(&self, at: UnixMillis, entropy: &dyn Entropy) -> Result<(KeyPem, Meta), KeysError> {
        let names = if self.names.is_empty() { &self.fallback } else { &self.names };
        let (_, pem) = self.authority.issue_link(self.install, names, at, random(entropy))?;
        Ok((pem, Meta { names: names.clone(), not_after: at.plus(LINK_LIFE) }))
    }

    /// Makes the first certificate.
    ///
    /// # Errors
    /// If it cannot be made or written.
    pub(super) fn init(&self, at: UnixMillis, entropy: &dyn Entropy) -> Result<(), KeysError> {
        let (pem, meta) = self.make(at, entropy)?;
        store(&self.dir, &pem, &meta)
    }

    /// The certificate of the directory if it has begun and has more than a week left, else a new one, and its end.
    ///
    /// One that is yet to begin was made while this host's clock was ahead, and no agent takes it before then. A key and a
    /// certificate that do not belong together are what a crash between the two leaves. A new one that cannot be written (keys may lie where nothing can be) is used all the same.
    ///
    /// # Errors
    /// If the one that is there cannot be read, or none be made.
    pub(super) fn pair(
        &self,
        at: UnixMillis,
        entropy: &dyn Entropy,
    ) -> Result<(KeyPem, UnixMillis), KeysError> {
        let meta = read(&self.dir, LINK_META).ok();
        let meta = meta.and_then(|bytes| serde_json::from_slice::<Meta>(&bytes).ok());
        let fits = |m: &Meta| {
            m.not_after > at.plus(RENEW)
                && begins(m.not_after) <= at
                && (self.names.is_empty() || m.names == self.names)
        };
        if let Some(meta) = meta.filter(fits) {
            let pem = read_pair(&self.dir, LINK)?;
            match certified(&pem) {
                Ok(_) => return Ok((pem, meta.not_after)),
                Err(error) => tracing::warn!(%error, "the link's certificate is of no use; it is made anew"),
            }
        }
        let (pem, meta) = self.make(at, entropy)?;
        if let Err(error) = store(&self.dir, &pem, &meta) {
            tracing::warn!(%error, "the link's new certificate is used, but could not be kept");
        }
        Ok((pem, meta.not_after))
    }
}

/// Since when a certificate with this end is valid.
fn begins(not_after: UnixMillis) -> UnixMillis {
    not_after.minus(LINK_LIFE).minus(BACKDATE)
}

fn store(dir: &Path, pem: &KeyPem, meta: &Meta) -> Result<(), KeysError> {
    write_pair(dir, LINK, pem)?;
    write(dir, LINK_META, &serde_json::to_vec(meta).unwrap_or_default())
}

fn certified(pem: &KeyPem) -> Result<CertifiedKey, KeysError> {
    let unreadable =
        |what| move |e: rustls::pki_types::pem::Error| KeysError::Unreadable { what, reason: e.to_string() };
    let certificate = CertificateDer::from_pem_slice(pem.certificate.as_bytes())
        .map_err(unreadable("the link certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).map_err(unreadable("the link key"))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(vec![certificate], key, &provider).map_err(KeysError::Tls)
}

/// What is shown now, since when it is valid, and when to look for the next one.
struct Shown {
    key: Arc<CertifiedKey>,
    begins: UnixMillis,
    renew_at: UnixMillis,
}

/// The certificate as handshakes are given it.
pub(super) struct LinkCertificate {
    issuer: Arc<LinkIssuer>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    shown: Mutex<Shown>,
}

impl LinkCertificate {
    /// # Errors
    /// If there is no certificate to begin with.
    pub(super) fn new(
        issuer: Arc<LinkIssuer>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, KeysError> {
        let shown = Mutex::new(next(&issuer, clock.now(), &*entropy)?);
        Ok(Self { issuer, clock, entropy, shown })
    }

    /// The certificate to show now.
    pub(super) fn current(&self) -> Arc<CertifiedKey> {
        let now = self.clock.now();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        // Before it begins: the clock was ahead when it was made, and has been set right.
        if now >= shown.renew_at || now < shown.begins {
            match next(&self.issuer, now, &*self.entropy) {
                Ok(renewed) => {
                    tracing::info!("the link has a new certificate");
                    *shown = renewed;
                }
                Err(error) => {
                    tracing::error!(%error, "the link's certificate could not be made anew; nodes cannot connect when it has run out");
                    (shown.begins, shown.renew_at) = (now, now.plus(AGAIN));
                }
            }
        }
        shown.key.clone()
    }
}

fn next(issuer: &LinkIssuer, now: UnixMillis, entropy: &dyn Entropy) -> Result<Shown, KeysError> {
    let (pem, not_after) = issuer.pair(now, entropy)?;
    let key = Arc::new(certified(&pem)?);
    Ok(Shown { key, begins: begins(not_after), renew_at: not_after.minus(RENEW) })
}

impl ResolvesServerCert for LinkCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl fmt::Debug for LinkCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkCertificate")
    }
}
