//! Who a peer is: read from the certificate that TLS has checked.

use ez_protocol::{InstallId, NodeId, UnixMillis, trust::parse_agent_uri};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

/// The node behind a connection, and its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Serial number of the certificate, 32 lower-case hexadecimal digits.
    pub serial: String,
    /// End of the certificate.
    pub not_after: UnixMillis,
}

/// Why a certificate names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It does not parse.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// It must carry exactly one name, a URI.
    #[error("the certificate does not carry exactly one URI name")]
    Names,
    /// The name is not that of a node of this installation.
    #[error("the certificate is for another installation or for no node")]
    Foreign,
}

impl Identity {
    /// Reads the identity out of a verified certificate.
    ///
    /// # Errors
    /// [`IdentityError`] for anything but exactly one canonical name of a node of this installation.
    pub fn of(install: InstallId, certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|_| IdentityError::Unreadable)?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| IdentityError::Unreadable)?
            .ok_or(IdentityError::Names)?;
        let [GeneralName::URI(uri)] = names.value.general_names[..] else {
            return Err(IdentityError::Names);
        };
        let (owner, node) = parse_agent_uri(uri).ok_or(IdentityError::Foreign)?;
        if owner != install {
            return Err(IdentityError::Foreign);
        }
        let serial = data_encoding::HEXLOWER.encode(parsed.raw_serial());
        let serial = serial.trim_start_matches('0');
        Ok(Self {
            node,
            serial: format!("{serial:0>32}"),
            not_after: UnixMillis::from_secs(parsed.validity().not_after.timestamp()),
        })
    }
}
