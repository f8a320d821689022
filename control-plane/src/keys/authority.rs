//! The two private certificate authorities and the certificates they issue.
//!
//! One authority signs agents, the other signs link servers, so a certificate of a node can never
//! pose as a server even where a check of the extended key usage was missed. From a node's request
//! *only the public key* is taken: names, usages and constraints it asks for are ignored.

use std::{net::IpAddr, time::Duration};

use ez_protocol::{InstallId, NodeId, UnixMillis, trust::agent_uri};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
    PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::KeysError;

/// How long an authority lives. It is pinned by every node and not yet exchanged under way: it has to outlive the machines.
pub(crate) const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long a node's certificate lives: longer than a holiday week without a control plane, short
/// enough to need no revocation lists.
pub const AGENT_LIFE: Duration = Duration::from_secs(14 * 86_400);
/// How long the link server's certificate lives.
pub(crate) const LINK_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// Certificates begin this much in the past, so that a slightly slow clock does not refuse them.
pub(super) const BACKDATE: Duration = Duration::from_secs(300);

/// The public key of a checked signing request, and nothing else of it.
#[derive(Debug, Clone)]
pub struct RequestedKey {
    spki: Vec<u8>,
}

impl RequestedKey {
    /// Checks the request's own signature and takes its key. P-256 and Ed25519 only.
    ///
    /// # Errors
    /// [`KeysError::BadRequest`] when it does not parse, is not signed by its own key, or the key is of another kind.
    pub fn from_csr(der: &[u8]) -> Result<Self, KeysError> {
        let request = CertificateSigningRequestParams::from_der(&der.into())
            .map_err(|e| KeysError::BadRequest(e.to_string()))?;
        let algorithm = request.public_key.algorithm();
        if algorithm != &PKCS_ECDSA_P256_SHA256 && algorithm != &PKCS_ED25519 {
            return Err(KeysError::BadRequest("the key must be P-256 or Ed25519".into()));
        }
        let spki = request.public_key.subject_public_key_info();
        // Parsed again from its own encoding: the algorithm named beside the signature must be the key's own.
        let parsed =
            SubjectPublicKeyInfo::from_der(&spki).map_err(|e| KeysError::BadRequest(e.to_string()))?;
        drop(parsed);
        Ok(Self { spki })
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo: the key's name in tables.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.spki).into()
    }
}

/// A certificate just issued, with what the database keeps of it.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, DER.
    pub der: Vec<u8>,
    /// Its serial number, 32 lower-case hex digits.
    pub serial: String,
    /// From when it is valid.
    pub not_before: UnixMillis,
    /// Until when it is valid.
    pub not_after: UnixMillis,
}

/// A certificate authority: its certificate and its key.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new self-signed P-256 authority.
    pub(crate) fn create(name: &str, at: UnixMillis, serial: [u8; 16]) -> Result<(Self, KeyPem), KeysError> {
        let key = generate_p256()?;
        let mut params = base(name, at, AUTHORITY_LIFE, serial)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(KeysError::Issue)?;
        let pem = KeyPem { key: key.serialize_pem(), certificate: certificate.pem() };
        let der = certificate.der().clone();
        Ok((Self { certificate: der, issuer: Issuer::new(params, key) }, pem))
    }

    /// Reads an authority that [`Authority::create`] made.
    pub(crate) fn from_pem(pem: &KeyPem) -> Result<Self, KeysError> {
        use rustls_pki_types::pem::PemObject;
        let key = KeyPair::from_pem(&pem.key).map_err(KeysError::Issue)?;
        let certificate = CertificateDer::from_pem_slice(pem.certificate.as_bytes()).map_err(|e| {
            KeysError::Unreadable { what: "an authority's certificate", reason: e.to_string() }
        })?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(KeysError::Issue)?;
        Ok(Self { certificate, issuer })
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Issues a node's certificate: exactly one URI name, for client authentication only.
    ///
    /// # Errors
    /// [`KeysError::Issue`] when the certificate cannot be built.
    pub fn issue_agent(
        &self,
        install: InstallId,
        node: NodeId,
        display: &str,
        key: &RequestedKey,
        at: UnixMillis,
        serial: [u8; 16],
    ) -> Result<Issued, KeysError> {
        let mut params = base(display, at, AGENT_LIFE, serial)?;
        params.subject_alt_names = vec![uri(&agent_uri(install, node))?];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        let key = SubjectPublicKeyInfo::from_der(&key.spki).map_err(KeysError::Issue)?;
        self.sign(&params, &key, at, AGENT_LIFE, serial)
    }

    /// Issues a link server's certificate for `names` (DNS names and IP addresses) with a new key.
    pub(crate) fn issue_link(
        &self,
        install: InstallId,
        names: &[String],
        at: UnixMillis,
        serial: [u8; 16],
    ) -> Result<(Issued, KeyPem), KeysError> {
        let key = generate_p256()?;
        let mut params = base("link", at, LINK_LIFE, serial)?;
        params.subject_alt_names = vec![uri(&format!("spiffe://{install}/link/1"))?];
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(name.as_str().try_into().map_err(KeysError::Issue)?),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        let issued = self.sign(&params, &key, at, LINK_LIFE, serial)?;
        let pem = KeyPem { key: key.serialize_pem(), certificate: pem_certificate(&issued.der) };
        Ok((issued, pem))
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
        at: UnixMillis,
        life: Duration,
        serial: [u8; 16],
    ) -> Result<Issued, KeysError> {
        let certificate = params.signed_by(key, &self.issuer).map_err(KeysError::Issue)?;
        Ok(Issued {
            der: certificate.der().to_vec(),
            serial: serial_text(&positive(serial)),
            not_before: UnixMillis::from_secs(at.minus(BACKDATE).as_secs()),
            not_after: UnixMillis::from_secs(at.plus(life).as_secs()),
        })
    }
}

/// A private key and its certificate as PEM text.
#[derive(Clone)]
pub(crate) struct KeyPem {
    pub(crate) key: String,
    pub(crate) certificate: String,
}

/// How serial numbers are written everywhere: 32 lower-case hex digits.
pub(crate) fn serial_text(serial: &[u8]) -> String {
    let hex = data_encoding::HEXLOWER.encode(serial);
    format!("{hex:0>32}")
}

/// PEM text of a DER certificate.
/// When a certificate ends; nothing if it cannot be read.
pub fn certificate_ends(der: &[u8]) -> Option<UnixMillis> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(UnixMillis::from_secs(parsed.validity().not_after.timestamp()))
}

pub(crate) fn pem_certificate(der: &[u8]) -> String {
    let body = data_encoding::BASE64.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in body.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

// The library draws this key from the same generator TLS uses; keys are the one randomness that is not a parameter.
fn generate_p256() -> Result<KeyPair, KeysError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(KeysError::Issue)
}

/// Serial numbers are positive integers without leading zeros (RFC 5280): the top bits are fixed.
fn positive(mut serial: [u8; 16]) -> [u8; 16] {
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}

fn uri(text: &str) -> Result<SanType, KeysError> {
    Ok(SanType::URI(text.try_into().map_err(KeysError::Issue)?))
}

fn base(
    name: &str,
    at: UnixMillis,
    life: Duration,
    serial: [u8; 16],
) -> Result<CertificateParams, KeysError> {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    let mut params = CertificateParams::default();
    params.not_before = moment(at.minus(BACKDATE))?;
    params.not_after = moment(at.plus(life))?;
    params.serial_number = Some(SerialNumber::from_slice(&positive(serial)));
    params.distinguished_name = subject;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn moment(at: UnixMillis) -> Result<OffsetDateTime, KeysError> {
    OffsetDateTime::from_unix_timestamp(at.as_secs())
        .map_err(|e| KeysError::BadRequest(format!("a time outside the calendar: {e}")))
}
