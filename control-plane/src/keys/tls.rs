//! TLS settings of the link and of enrolment.
//!
//! Both speak TLS 1.3 only and neither ever resumes a session: a resumed session skips the check of
//! the client's certificate, so an expired or revoked one would be let in again. The link demands a
//! certificate of the agents' authority; enrolment cannot, its visitor does not have one yet.

use std::{fmt, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::UnixTime,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    time_provider::TimeProvider,
};

use super::{Keys, KeysError, link::LinkCertificate};
use crate::{clock::Clock, entropy::Entropy};

/// Certificates are judged by the program's own clock.
struct ByClock(Arc<dyn Clock>);

impl fmt::Debug for ByClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByClock")
    }
}

impl TimeProvider for ByClock {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = u64::try_from(self.0.now().as_secs()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(secs)))
    }
}

impl Keys {
    /// TLS settings of the link: mutual, 1.3 only, no tickets, no early data.
    ///
    /// # Errors
    /// [`KeysError::Tls`] when a key and its certificate do not fit.
    pub fn link_tls(
        &self,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<ServerConfig, KeysError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.agent_authority().certificate().clone()).map_err(KeysError::Tls)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|e| KeysError::Unreadable { what: "the agents' authority", reason: e.to_string() })?;
        let certificate = self.certificate(clock.clone(), entropy)?;
        let mut config = ServerConfig::builder_with_details(provider, Arc::new(ByClock(clock)))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(KeysError::Tls)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![ez_protocol::frame::ALPN.to_vec()];
        never_resume(&mut config);
        Ok(config)
    }

    /// TLS settings of enrolment: the same server identity, no client certificate, HTTP/1.1.
    ///
    /// # Errors
    /// [`KeysError::Tls`] when a key and its certificate do not fit.
    pub fn enrolment_tls(
        &self,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<ServerConfig, KeysError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certificate = self.certificate(clock.clone(), entropy)?;
        let mut config = ServerConfig::builder_with_details(provider, Arc::new(ByClock(clock)))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(KeysError::Tls)?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        never_resume(&mut config);
        Ok(config)
    }

    fn certificate(
        &self,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Arc<LinkCertificate>, KeysError> {
        Ok(Arc::new(LinkCertificate::new(self.link.clone(), clock, entropy)?))
    }
}

fn never_resume(config: &mut ServerConfig) {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
}
