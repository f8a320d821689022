use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use ez_protocol::{
    NodeId, UnixMillis,
    envelope::{Envelope, KeyId, KeyRole, PayloadType},
    trust::parse_agent_uri,
};

use super::{authority::serial_text, *};
use crate::entropy::SeededEntropy;

const AT: UnixMillis = UnixMillis(1_790_000_000_000);

fn options() -> InitOptions {
    InitOptions { names: vec!["localhost".into(), "127.0.0.1".into()], port: 7443 }
}

#[test]
fn keys_are_made_once_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("keys");
    let entropy = SeededEntropy::new(1);
    assert!(matches!(load(&home, &[], &entropy), Err(KeysError::Missing(_))));
    let pin = init(&home, &options(), AT, &entropy).unwrap();
    assert!(matches!(init(&home, &options(), AT, &entropy), Err(KeysError::Exists(_))));
    let keys = load(&home, &options().names, &entropy).unwrap();
    assert_eq!(keys.pin(), pin);
    let document = keys.trust().unwrap();
    assert_eq!(document.link, ["localhost:7443", "127.0.0.1:7443"]);
    let signed = Envelope::sign(keys.order_key(), PayloadType::Order, b"{}".to_vec());
    assert!(signed.verify(PayloadType::Order, &document.trusted_keys().unwrap(), AT).is_ok());
    assert!(signed.verify(PayloadType::Trust, &document.trusted_keys().unwrap(), AT).is_err());
    for entry in std::fs::read_dir(&home).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }
}

#[test]
fn whatever_is_left_of_keys_is_never_overwritten() {
    let whole = tempfile::tempdir().unwrap();
    let entropy = SeededEntropy::new(1);
    init(whole.path(), &options(), AT, &entropy).unwrap();
    load(whole.path(), &[], &entropy).unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(whole.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 11, "{names:?}");
    for name in names {
        // A directory in which this file alone is left of all.
        let left = tempfile::tempdir().unwrap();
        let path = left.path().join(&name);
        std::fs::copy(whole.path().join(&name), &path).unwrap();
        let before = std::fs::read(&path).unwrap();
        let refused = init(left.path(), &options(), AT, &entropy).unwrap_err();
        assert!(
            matches!(&refused, KeysError::Exists(what) if *what == path.display().to_string()),
            "{refused}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(std::fs::read_dir(left.path()).unwrap().count(), 1, "{name:?}");
    }
}

#[test]
fn keys_that_others_may_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let entropy = SeededEntropy::new(1);
    init(dir.path(), &options(), AT, &entropy).unwrap();
    let key = dir.path().join("order.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(load(dir.path(), &[], &entropy), Err(KeysError::Exposed { mode: 0o640, .. })));
}

#[test]
fn the_link_certificate_is_renewed_before_it_ends_and_when_names_change() {
    let dir = tempfile::tempdir().unwrap();
    let entropy = SeededEntropy::new(1);
    init(dir.path(), &options(), AT, &entropy).unwrap();
    let at_day = |day: u64| AT.plus(std::time::Duration::from_secs(day * 86_400));
    let certificate = |names: &[String], day| {
        load(dir.path(), names, &entropy).unwrap().link.pair(at_day(day), &entropy).unwrap().0.certificate
    };
    let first = certificate(&options().names, 0);
    assert_eq!(certificate(&options().names, 22), first);
    assert_eq!(certificate(&[], 22), first);
    let second = certificate(&options().names, 24);
    assert_ne!(second, first);
    assert_ne!(certificate(&["other.example".to_owned()], 24), second);
}

#[test]
fn a_link_that_runs_for_months_never_shows_a_certificate_that_has_run_out() {
    let dir = tempfile::tempdir().unwrap();
    let entropy = Arc::new(SeededEntropy::new(1));
    init(dir.path(), &options(), AT, &*entropy).unwrap();
    let clock = Arc::new(crate::clock::ManualClock::at(AT));
    let issuer = load(dir.path(), &options().names, &*entropy).unwrap().link;
    let shown = link::LinkCertificate::new(issuer, clock.clone(), entropy).unwrap();
    let end = |at: UnixMillis| {
        clock.set(at);
        let certificate = shown.current();
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate.cert[0]).unwrap();
        UnixMillis::from_secs(parsed.validity().not_after.timestamp())
    };
    let day = |day: u64| AT.plus(std::time::Duration::from_secs(day * 86_400));
    let mut ends = std::collections::BTreeSet::new();
    for n in 0..=100 {
        let until = end(day(n));
        assert!(until > day(n + 6), "day {n}: until {until:?}");
        ends.insert(until);
    }
    assert!(ends.len() < 7, "{} certificates in a hundred days", ends.len());
    // Keys that lie where nothing can be written: it is used all the same.
    drop(dir);
    assert!(end(day(130)) > day(150));
}

#[test]
fn a_link_certificate_made_while_the_clock_was_ahead_is_made_anew_once_it_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let entropy = Arc::new(SeededEntropy::new(1));
    let tomorrow = AT.plus(std::time::Duration::from_secs(86_400));
    init(dir.path(), &options(), tomorrow, &*entropy).unwrap();
    let begins = |der: &[u8]| {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).unwrap();
        UnixMillis::from_secs(parsed.validity().not_before.timestamp())
    };
    let clock = Arc::new(crate::clock::ManualClock::at(tomorrow));
    let issuer = || load(dir.path(), &options().names, &*entropy).unwrap().link;
    let running = link::LinkCertificate::new(issuer(), clock.clone(), entropy.clone()).unwrap();
    assert!(begins(&running.current().cert[0]) > AT);
    clock.set(AT);
    assert!(begins(&running.current().cert[0]) <= AT, "while it runs");
    // As one that is started after the correction finds it.
    issuer().init(tomorrow, &*entropy).unwrap();
    let started = link::LinkCertificate::new(issuer(), clock, entropy.clone()).unwrap();
    assert!(begins(&started.current().cert[0]) <= AT, "at its start");
}

#[test]
fn a_link_key_without_its_certificate_is_no_end() {
    let dir = tempfile::tempdir().unwrap();
    let entropy = SeededEntropy::new(1);
    init(dir.path(), &options(), AT, &entropy).unwrap();
    let issuer = load(dir.path(), &options().names, &entropy).unwrap().link;
    let path = dir.path().join("link.key.pem");
    let key = std::fs::read(&path).unwrap();
    issuer.init(AT, &entropy).unwrap();
    // The disk has the key of one and the certificate of the other: a crash lay between.
    std::fs::write(&path, key).unwrap();
    let clock = Arc::new(crate::clock::ManualClock::at(AT));
    link::LinkCertificate::new(issuer, clock, Arc::new(entropy)).unwrap();
}

#[test]
fn only_the_key_of_a_request_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let entropy = SeededEntropy::new(1);
    init(dir.path(), &options(), AT, &entropy).unwrap();
    let keys = load(dir.path(), &[], &entropy).unwrap();
    let own = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut wish = rcgen::CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    wish.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    wish.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let csr = wish.serialize_request(&own).unwrap();
    let key = RequestedKey::from_csr(csr.der()).unwrap();
    let node = NodeId::generate(AT, [1; 10]);
    let issued =
        keys.agent_authority().issue_agent(keys.install(), node, "fsn-1", &key, AT, [7; 16]).unwrap();

    let (_, parsed) = x509_parser::parse_x509_certificate(&issued.der).unwrap();
    let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
    let [x509_parser::extensions::GeneralName::URI(uri)] = names[..] else { panic!("{names:?}") };
    assert_eq!(parse_agent_uri(uri), Some((keys.install(), node)));
    assert!(!parsed.is_ca());
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    assert_eq!(serial_text(&parsed.tbs_certificate.serial.to_bytes_be()), issued.serial);
    assert_eq!(parsed.validity().not_after.timestamp() * 1_000, issued.not_after.0);
}

#[test]
fn a_request_not_signed_by_its_own_key_is_refused() {
    let own = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let wish = rcgen::CertificateParams::default();
    let mut der = wish.serialize_request(&own).unwrap().der().to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    assert!(RequestedKey::from_csr(&der).is_err());
    assert!(RequestedKey::from_csr(b"").is_err());
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(RequestedKey::from_csr(wish.serialize_request(&p384).unwrap().der()).is_err());
}

/// An agent's view: the document it believes, taken one version after the other as agents take them.
fn follows(from: &TrustDocument, published: &Published, at: UnixMillis) -> TrustDocument {
    let mut believed = from.clone();
    for update in published.updates.iter().filter(|update| update.version > from.version) {
        let trusted = believed.trusted_keys().unwrap();
        let envelope = Envelope::decode(&update.envelope).unwrap();
        let verified = envelope.verify(PayloadType::Trust, &trusted, at).unwrap();
        let next = TrustDocument::from_bytes(&verified.payload).unwrap();
        assert_eq!((next.version, next.install), (believed.version + 1, believed.install));
        believed = next;
    }
    believed
}

#[test]
fn keys_are_exchanged_and_agents_of_any_version_follow() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let entropy = SeededEntropy::new(1);
    init(home, &options(), AT, &entropy).unwrap();
    let now = || load(home, &[], &entropy).unwrap();
    let first = now();
    assert_eq!((first.published().version, first.published().needed), (1, 1));
    let mut believed = vec![first.trust().unwrap()];
    let day = |n: u64| AT.plus(std::time::Duration::from_secs(n * 86_400));
    let orders = |keys: &Keys| Envelope::sign(keys.order_key(), PayloadType::Order, b"{}".to_vec());
    let old_order = orders(&first);
    assert!(matches!(switch(home, KeyRole::Order, AT, OVERLAP), Err(KeysError::NotPrepared)));
    for (n, role) in [(1, KeyRole::Order), (2, KeyRole::Trust), (3, KeyRole::Order), (4, KeyRole::Trust)] {
        let made = prepare(home, role, day(20 * n), &entropy).unwrap();
        assert!(made.fresh);
        let again = prepare(home, role, day(20 * n), &entropy).unwrap();
        assert_eq!((again.key.clone(), again.version, again.fresh), (made.key.clone(), made.version, false));
        // Nothing is signed with it yet.
        let keys = now();
        assert_ne!(KeyId::of(&keys.order_key().verifying_key()).to_hex(), made.key);
        believed.push(keys.trust().unwrap());
        let switched = switch(home, role, day(20 * n + 1), OVERLAP).unwrap();
        assert_eq!((switched.key, switched.version), (made.key, made.version + 1));
        // Said again while the old key is leaving, it is done; afterwards nothing waits.
        assert!(!switch(home, role, day(20 * n + 2), OVERLAP).unwrap().fresh);
        believed.push(now().trust().unwrap());
    }
    let keys = now();
    assert_eq!((keys.published().version, keys.published().needed), (9, 6));
    let (at, holds) = (day(82), keys.trust().unwrap());
    for held in &believed {
        // Wherever it was left behind, it comes to the same.
        assert_eq!(follows(held, keys.published(), at), holds);
    }
    let trusted = holds.trusted_keys().unwrap();
    assert!(orders(&keys).verify(PayloadType::Order, &trusted, at).is_ok());
    assert!(old_order.verify(PayloadType::Order, &trusted, at).is_err());
    // Tokens of before are good: their document is still there.
    assert_eq!(keys.trust_document_of(first.pin()), Some(first.trust_document()));
    assert_eq!(keys.trust_document_of(keys.pin()), Some(keys.trust_document()));
    assert_eq!(keys.trust_document_of(Pin([0; 32])), None);
}

#[test]
fn the_key_before_counts_for_a_while_or_not_at_all() {
    let entropy = SeededEntropy::new(2);
    let moment = AT.plus(std::time::Duration::from_secs(3_600));
    for (overlap, then, later) in [(OVERLAP, true, false), (std::time::Duration::ZERO, false, false)] {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &options(), AT, &entropy).unwrap();
        let old = load(dir.path(), &[], &entropy).unwrap();
        let signed = Envelope::sign(old.order_key(), PayloadType::Order, b"{}".to_vec());
        prepare(dir.path(), KeyRole::Order, moment, &entropy).unwrap();
        switch(dir.path(), KeyRole::Order, moment, overlap).unwrap();
        let trusted = load(dir.path(), &[], &entropy).unwrap().trust().unwrap().trusted_keys().unwrap();
        let good = |at| signed.verify(PayloadType::Order, &trusted, at).is_ok();
        let week = std::time::Duration::from_secs(7 * 86_400 + 1);
        assert_eq!((good(moment.plus(overlap / 2)), good(moment.plus(week))), (then, later));
    }
}

#[test]
fn a_step_that_died_half_way_is_done_by_repeating_it() {
    let entropy = SeededEntropy::new(3);
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    init(home, &options(), AT, &entropy).unwrap();
    let loads = || load(home, &[], &entropy).unwrap();
    // Died with the key made and nothing published.
    std::fs::copy(home.join("order.key"), home.join("kept.key")).unwrap();
    let made = prepare(home, KeyRole::Order, AT, &entropy).unwrap();
    std::fs::copy(home.join("trust.1.json"), home.join("trust.json")).unwrap();
    assert_eq!(loads().trust_version(), 1);
    assert!(matches!(switch(home, KeyRole::Order, AT, OVERLAP), Err(KeysError::NotPrepared)));
    assert_eq!(prepare(home, KeyRole::Order, AT, &entropy).unwrap(), made);
    // Died after the key was changed and before the document was.
    std::fs::rename(home.join("order.next.key"), home.join("order.key")).unwrap();
    assert_eq!(loads().published().needed, 2, "orders wait until nodes believe the second version");
    assert_eq!(switch(home, KeyRole::Order, AT, OVERLAP).unwrap().version, 3);
    assert_eq!(loads().trust_version(), 3);
    // Keys of two directories are not one.
    std::fs::copy(home.join("kept.key"), home.join("order.key")).unwrap();
    let (_, held) = held(home).unwrap();
    assert_eq!(held.iter().filter(|key| key.place == Place::Leaving).count(), 1);
    switch(home, KeyRole::Order, AT, std::time::Duration::ZERO).unwrap();
    let other = tempfile::tempdir().unwrap();
    init(other.path(), &options(), AT, &SeededEntropy::new(4)).unwrap();
    std::fs::copy(other.path().join("order.key"), home.join("order.key")).unwrap();
    assert!(matches!(load(home, &[], &entropy), Err(KeysError::Unreadable { what: "order.key", .. })));
}
