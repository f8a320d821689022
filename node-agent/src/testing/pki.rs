//! Two authorities, certificates of both kinds, and a control plane of a few lines.

use std::{net::IpAddr, sync::Arc};

use data_encoding::BASE64;
use ez_protocol::{
    UnixMillis,
    envelope::KeyRole,
    frame::ALPN,
    trust::{TrustDocument, TrustDocumentKey, agent_uri},
};
use quinn::{Endpoint, ServerConfig, crypto::rustls::QuicServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

use super::{NOW, install, node_id, order_key, trust_key};
use crate::{
    config::Config,
    identity::{self, Identity, NodeFile, files},
};

/// One authority.
pub(crate) struct Authority {
    pub(crate) der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { der, issuer: Issuer::new(params, key) }
    }

    /// A certificate for a public key; valid now, and past the half of its life.
    pub(crate) fn issue(
        &self,
        key: &impl rcgen::PublicKeyData,
        san: SanType,
        usage: ExtendedKeyUsagePurpose,
    ) -> rcgen::Certificate {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(1971, 1, 1), rcgen::date_time_ymd(2049, 1, 1));
        params.subject_alt_names = vec![san];
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.signed_by(key, &self.issuer).unwrap()
    }
}

/// An installation's authorities.
pub(crate) struct Pki {
    pub(crate) agents: Authority,
    pub(crate) links: Authority,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self { agents: Authority::new("agents"), links: Authority::new("links") }
    }

    /// Its trust document, with the link at this address.
    pub(crate) fn trust(&self, link: &str) -> TrustDocument {
        let year = 365 * 24 * 3_600_000;
        let (from, until) = (UnixMillis(NOW.0 - 60 * year), UnixMillis(NOW.0 + year));
        let of = |key: ed25519_dalek::SigningKey, role| {
            TrustDocumentKey::new(&key.verifying_key(), role, from, until)
        };
        TrustDocument {
            version: 1,
            install: install(),
            agent_ca: vec![BASE64.encode(&self.agents.der)],
            link_ca: vec![BASE64.encode(&self.links.der)],
            keys: vec![of(order_key(), KeyRole::Order), of(trust_key(), KeyRole::Trust)],
            link: vec![link.to_owned()],
            min_proto: 1,
        }
    }

    /// This node's certificate over a key.
    pub(crate) fn agent_pem(&self, key: &impl rcgen::PublicKeyData) -> String {
        let uri = SanType::URI(agent_uri(install(), node_id()).try_into().unwrap());
        self.agents.issue(key, uri, ExtendedKeyUsagePurpose::ClientAuth).pem()
    }

    /// Joins: writes an identity whose trust document leads to `link` where a configuration wants it, and reads it.
    pub(crate) fn join(&self, config: &Config, link: &str) -> Identity {
        let dir = config.identity_dir();
        files::private_dir(&dir).unwrap();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let node = NodeFile {
            install: install(),
            node: node_id(),
            name: "fsn-1".to_owned(),
            epoch: 3,
            joined_at: NOW,
        };
        files::write_whole(&dir.join("key.pem"), key.serialize_pem().as_bytes(), 0o600).unwrap();
        std::fs::write(dir.join("cert.pem"), self.agent_pem(&key)).unwrap();
        std::fs::write(dir.join("node.json"), serde_json::to_vec(&node).unwrap()).unwrap();
        std::fs::write(config.trust_file(), self.trust(link).to_bytes().unwrap()).unwrap();
        identity::load(config).unwrap()
    }

    fn server_identity(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let san = SanType::IpAddress(IpAddr::from([127, 0, 0, 1]));
        let cert = self.links.issue(&key, san, ExtendedKeyUsagePurpose::ServerAuth).der().clone();
        (cert, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    /// TLS for enrolment: no client certificate.
    pub(crate) fn enrolment_tls(&self) -> rustls::ServerConfig {
        let (cert, key) = self.server_identity();
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .unwrap()
    }

    /// A QUIC endpoint as the control plane has it: client certificates mandatory, no tickets.
    pub(crate) fn endpoint(&self) -> Endpoint {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.agents.der.clone()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let (cert, key) = self.server_identity();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(vec![cert], key)
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.send_tls13_tickets = 0;
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap()
    }
}
