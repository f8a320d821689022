//! TLS towards the control plane: TLS 1.3 only, the pinned link CA as the only root, and, for the
//! very first request, a verifier that accepts any certificate because the answer itself is checked
//! against the pin in the join token.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A CA certificate of the trust document is none.
    #[error("the trust document holds a link CA certificate that cannot be read: {0}")]
    BadCa(#[source] rustls::Error),
    /// There is no CA to trust.
    #[error("the trust document names no link CA")]
    NoCa,
    /// Key and certificate of this node do not go together, or are none.
    #[error("the certificate and key of this node cannot be used: {0}")]
    BadIdentity(#[source] rustls::Error),
    /// The cryptography library refused its own settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[source] rustls::Error),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(link_ca: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for ca in link_ca {
        roots.add(ca.clone()).map_err(TlsError::BadCa)?;
    }
    if roots.is_empty() { Err(TlsError::NoCa) } else { Ok(roots) }
}

/// For the first request of `join` only: encrypts, but believes anybody. What it fetches is compared
/// with the pin, and no secret is sent over it.
///
/// # Errors
/// If TLS cannot be set up.
pub fn unpinned() -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider())))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// For enrolment: the server must chain to the pinned link CA and carry the name that was dialled.
///
/// # Errors
/// If the CA cannot be read.
pub fn pinned(link_ca: &[CertificateDer<'static>]) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .with_root_certificates(roots(link_ca)?)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// For the link: as [`pinned`], with this node's certificate. No tickets, no early data: a resumed
/// session would bypass expiry and revocation.
///
/// # Errors
/// If CA, certificate or key cannot be used.
pub fn mutual(
    link_ca: &[CertificateDer<'static>],
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    alpn: &[u8],
) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .with_root_certificates(roots(link_ca)?)
        .with_client_auth_cert(chain, key)
        .map_err(TlsError::BadIdentity)?;
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
