//! Each cluster has its own certificate authority, each node a certificate from it, as after
//! `pvecm updatecerts`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::state::sha256_hex;

/// A certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Making one failed.
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A file could not be read or written.
    #[error("certificate file {0}: {1}")]
    File(PathBuf, std::io::Error),
    /// A file does not hold what it should.
    #[error("certificate file {0}: {1}")]
    Parse(PathBuf, rustls_pki_types::pem::Error),
    /// rustls refused it.
    #[error("certificate: {0}")]
    Use(#[from] rustls::Error),
}

/// What a node serves.
pub(crate) struct NodeTls {
    pub(crate) config: Arc<rustls::ServerConfig>,
    /// SHA-256 of the certificate, upper-case hex with colons.
    pub(crate) fingerprint: String,
}

fn read(file: &Path) -> Result<String, TlsError> {
    std::fs::read_to_string(file).map_err(|e| TlsError::File(file.into(), e))
}

fn write(file: &Path, text: &str) -> Result<(), TlsError> {
    let temporary = file.with_extension("tmp");
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, file))
        .map_err(|e| TlsError::File(file.into(), e))
}

fn ca_params(cluster: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "Proxmox Virtual Environment");
    params.distinguished_name.push(DnType::OrganizationName, "PVE Cluster Manager CA");
    params.distinguished_name.push(DnType::OrganizationalUnitName, cluster);
    params
}

/// Path of the cluster's CA certificate.
pub(crate) fn ca_file(directory: &Path) -> PathBuf {
    directory.join("pve-root-ca.pem")
}

/// SHA-256 of a certificate, upper-case hex with colons.
fn fingerprint(der: &[u8]) -> String {
    let hash = sha256_hex(der).to_uppercase();
    let pairs = hash.as_bytes().chunks(2).map(|c| String::from_utf8_lossy(c).into_owned());
    pairs.collect::<Vec<_>>().join(":")
}

/// The same for a certificate's PEM text; empty if it holds none.
pub(crate) fn fingerprint_of(pem: &str) -> String {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_or_else(|_| String::new(), |der| fingerprint(&der))
}

/// The certificate of `node`, made at the first start and kept.
pub(crate) fn node(directory: &Path, cluster: &str, node: &str) -> Result<NodeTls, TlsError> {
    let (ca_pem, ca_key) = (ca_file(directory), directory.join("pve-root-ca.key"));
    let issuer = if ca_pem.exists() && ca_key.exists() {
        rcgen::Issuer::from_ca_cert_pem(&read(&ca_pem)?, KeyPair::from_pem(&read(&ca_key)?)?)?
    } else {
        let key = KeyPair::generate()?;
        write(&ca_key, &key.serialize_pem())?;
        let ca = CertifiedIssuer::self_signed(ca_params(cluster), key)?;
        write(&ca_pem, &ca.pem())?;
        rcgen::Issuer::from_ca_cert_pem(&read(&ca_pem)?, KeyPair::from_pem(&read(&ca_key)?)?)?
    };
    let (pem, key) = (directory.join(format!("{node}-ssl.pem")), directory.join(format!("{node}-ssl.key")));
    if !(pem.exists() && key.exists()) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            SanType::DnsName("localhost".try_into()?),
            SanType::DnsName(node.try_into()?),
        ];
        params.distinguished_name.push(DnType::OrganizationalUnitName, "PVE Cluster Node");
        params.distinguished_name.push(DnType::CommonName, format!("{node}.example.test"));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let pair = KeyPair::generate()?;
        let certificate = params.signed_by(&pair, &issuer)?;
        write(&key, &pair.serialize_pem())?;
        write(&pem, &certificate.pem())?;
    }
    let certificate = CertificateDer::from_pem_file(&pem).map_err(|e| TlsError::Parse(pem.clone(), e))?;
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|e| TlsError::Parse(key.clone(), e))?;
    let fingerprint = fingerprint(&certificate);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], private)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(NodeTls { config: Arc::new(config), fingerprint })
}
