//! Golden vectors and properties of envelopes.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;

const HEX: data_encoding::Encoding = data_encoding::HEXLOWER;

fn signer(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn trusted(seed: u8, role: KeyRole) -> TrustedKey {
    let key = signer(seed).verifying_key();
    TrustedKey { key, role, not_before: UnixMillis(1_000), not_after: UnixMillis(2_000) }
}

const NOW: UnixMillis = UnixMillis(1_500);

/// One committed vector: whoever writes another agent can check itself against it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Vector {
    name: String,
    seed_hex: String,
    payload_type: String,
    payload: String,
    pae_hex: String,
    key_id_hex: String,
    signature_hex: String,
    envelope_hex: String,
}

fn vector(name: &str, payload: Vec<u8>) -> Vector {
    let key = signer(42);
    let envelope = Envelope::sign(&key, PayloadType::Order, payload.clone());
    let (key_id, signature) = envelope.signatures()[0];
    Vector {
        name: name.to_owned(),
        seed_hex: HEX.encode(&[42; 32]),
        payload_type: PayloadType::Order.as_str().to_owned(),
        pae_hex: HEX.encode(&pae(PayloadType::Order.as_str(), &payload)),
        payload: String::from_utf8(payload).unwrap(),
        key_id_hex: key_id.to_hex(),
        signature_hex: HEX.encode(&signature),
        envelope_hex: HEX.encode(&envelope.encode()),
    }
}

#[test]
fn the_golden_vectors_are_what_this_version_writes_and_reads() {
    use crate::order::{Action, Empty, Op, ProvisioningOrder, SnapshotName, tests};
    let written: Vec<Vector> = [
        ("ensure", Op::Ensure(Box::new(tests::spec()))),
        ("action", Op::Action(Action::Reboot {})),
        ("retire", Op::Retire(Empty {})),
        ("purge", Op::Purge(Empty {})),
        ("adopt", Op::Adopt(Empty {})),
        ("ensure_full", Op::Ensure(Box::new(tests::full_spec()))),
        (
            "snapshot",
            Op::Action(Action::SnapshotCreate { name: SnapshotName::parse("before-upgrade").unwrap() }),
        ),
    ]
    .into_iter()
    .map(|(name, op)| vector(name, tests::order(op).to_bytes().unwrap()))
    .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/orders.json");
    if std::env::var_os("EZ_WRITE_GOLDEN").is_some() {
        std::fs::write(path, serde_json::to_string_pretty(&written).unwrap() + "\n").unwrap();
    }
    let golden: Vec<Vector> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(written, golden, "the wire format changed: old agents could not read it");
    let keys = [TrustedKey { not_after: UnixMillis(i64::MAX), ..trusted(42, KeyRole::Order) }];
    for vector in golden {
        let bytes = HEX.decode(vector.envelope_hex.as_bytes()).unwrap();
        let verified = Envelope::decode(&bytes).unwrap().verify(PayloadType::Order, &keys, NOW).unwrap();
        assert_eq!(verified.payload, vector.payload.as_bytes());
        assert!(ProvisioningOrder::from_bytes(&verified.payload).is_ok(), "{}", vector.name);
    }
}

#[test]
fn the_pre_authentication_encoding_is_the_published_one() {
    let published = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world";
    assert_eq!(pae("http://example.com/HelloWorld", b"hello world"), published);
}

#[test]
fn only_a_valid_key_of_the_right_role_is_believed() {
    use EnvelopeError::*;
    let envelope = Envelope::sign(&signer(1), PayloadType::Order, b"{}".to_vec());
    let verify = |keys: &[TrustedKey], now| envelope.verify(PayloadType::Order, keys, now).map(|v| v.key);
    let right = trusted(1, KeyRole::Order);
    assert_eq!(verify(&[right], NOW), Ok(KeyId::of(&right.key)));
    assert_eq!(verify(&[trusted(2, KeyRole::Order), right], NOW), Ok(KeyId::of(&right.key)));
    assert_eq!(verify(&[], NOW), Err(BadSignature));
    assert_eq!(verify(&[trusted(2, KeyRole::Order)], NOW), Err(BadSignature));
    assert_eq!(verify(&[trusted(1, KeyRole::Trust)], NOW), Err(WrongRole));
    assert_eq!(verify(&[right], UnixMillis(999)), Err(BadSignature));
    assert_eq!(verify(&[right], UnixMillis(2_001)), Err(BadSignature));
    let as_trust = envelope.verify(PayloadType::Trust, &[right], NOW);
    assert_eq!(as_trust, Err(WrongType(PayloadType::Order.as_str().to_owned())));
}

#[test]
fn the_key_id_inside_an_envelope_decides_nothing() {
    let mut envelope = Envelope::sign(&signer(1), PayloadType::Order, b"{}".to_vec());
    envelope.signatures[0].0 = KeyId::of(&signer(2).verifying_key());
    assert!(envelope.verify(PayloadType::Order, &[trusted(1, KeyRole::Order)], NOW).is_ok());
    assert!(envelope.verify(PayloadType::Order, &[trusted(2, KeyRole::Order)], NOW).is_err());
}

#[test]
fn envelopes_without_or_with_too_many_signatures_are_malformed() {
    let good = Envelope::sign(&signer(1), PayloadType::Order, b"{}".to_vec());
    for count in [0, 5] {
        let wrong = Envelope { signatures: vec![good.signatures[0]; count], ..good.clone() };
        assert!(matches!(Envelope::decode(&wrong.encode()), Err(EnvelopeError::Malformed(_))));
    }
    assert!(matches!(Envelope::decode(&vec![0; MAX_ENVELOPE + 1]), Err(EnvelopeError::Malformed(_))));
}

proptest! {
    #[test]
    fn any_payload_survives(payload in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let envelope = Envelope::sign(&signer(3), PayloadType::Order, payload.clone());
        let read = Envelope::decode(&envelope.encode()).unwrap();
        prop_assert_eq!(&read, &envelope);
        let verified = read.verify(PayloadType::Order, &[trusted(3, KeyRole::Order)], NOW).unwrap();
        prop_assert_eq!(verified.payload, payload);
    }

    #[test]
    fn no_changed_byte_is_verified_as_something_else(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let payload = b"{\"a\":1}".to_vec();
        let envelope = Envelope::sign(&signer(3), PayloadType::Order, payload.clone());
        let mut bytes = envelope.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(read) = Envelope::decode(&bytes)
            && let Ok(verified) = read.verify(PayloadType::Order, &[trusted(3, KeyRole::Order)], NOW)
        {
            prop_assert_eq!(verified.payload, payload);
        }
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        let _ = Envelope::decode(&bytes);
    }
}
