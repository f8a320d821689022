//! What a grant is and what is none.

use proptest::prelude::*;

use super::*;
use crate::{
    InstanceId, NodeId,
    envelope::{Envelope, EnvelopeError, KeyRole, PayloadType, TrustedKey},
};

fn id(n: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(0x0193_5000_0000_7000_8000_0000_0000_0000 + n)
}

fn grant() -> ConsoleGrant {
    ConsoleGrant {
        console_id: ConsoleId::from_uuid(id(1)),
        nonce: Nonce::of([0xa5; 16]),
        install: InstallId::from_uuid(id(2)),
        aud: Audience { node: NodeId::from_uuid(id(3)), epoch: 1 },
        iat: UnixMillis(1_795_000_000_000),
        exp: UnixMillis(1_795_000_060_000),
        instance: InstanceRef { uuid: InstanceId::from_uuid(id(4)), vmid: 10_001 },
        kind: ConsoleKind::Vnc,
        max_secs: 7_200,
        cause: Cause { order: None, actor: "user:ada".into() },
    }
}

#[test]
fn a_grant_is_written_as_it_always_was_and_survives_its_own_bytes() {
    let bytes = grant().to_bytes().unwrap();
    let golden = include_str!("../../golden/console-grant.json");
    assert_eq!(String::from_utf8(bytes.clone()).unwrap(), golden.trim_end());
    assert_eq!(ConsoleGrant::from_bytes(&bytes), Ok(grant()));
}

#[test]
fn what_is_not_understood_or_makes_no_sense_is_refused() {
    let text = String::from_utf8(grant().to_bytes().unwrap()).unwrap();
    for (place, with) in [
        ("\"epoch\":1", "\"epoch\":0"),
        ("\"epoch\":1", "\"epoch\":1,\"force\":true"),
        ("\"kind\":\"vnc\"", "\"kind\":\"spice\""),
        ("\"kind\":\"vnc\"", "\"kind\":\"vnc\",\"kind\":\"vnc\""),
        ("\"max_secs\":7200", "\"max_secs\":7201"),
        ("\"max_secs\":7200", "\"max_secs\":0"),
        ("1795000060000", "1795000000000"),
        ("10001", "99"),
        ("a5a5", "A5A5"),
        ("a5a5", "a5"),
        ("user:ada", "user ada"),
    ] {
        let changed = text.replacen(place, with, 1);
        assert_ne!(changed, text, "{place}");
        assert!(ConsoleGrant::from_bytes(changed.as_bytes()).is_err(), "{with}");
    }
    assert!(ConsoleGrant::from_bytes(format!("{text} ").as_bytes()).is_err());
}

#[test]
fn a_grant_is_neither_an_order_nor_signed_by_another_role() {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let trusted = |role| TrustedKey {
        key: key.verifying_key(),
        role,
        not_before: UnixMillis(0),
        not_after: UnixMillis(i64::MAX),
    };
    let now = UnixMillis(1_795_000_000_000);
    let envelope = Envelope::sign(&key, PayloadType::ConsoleGrant, grant().to_bytes().unwrap());
    let verified = envelope.verify(PayloadType::ConsoleGrant, &[trusted(KeyRole::Order)], now).unwrap();
    assert_eq!(ConsoleGrant::from_bytes(&verified.payload), Ok(grant()));
    for other in [PayloadType::Order, PayloadType::Image, PayloadType::Trust] {
        let refused = envelope.verify(other, &[trusted(KeyRole::Order)], now);
        assert!(matches!(refused, Err(EnvelopeError::WrongType(_))), "{refused:?}");
        let order = Envelope::sign(&key, other, grant().to_bytes().unwrap());
        assert!(order.verify(PayloadType::ConsoleGrant, &[trusted(other.role())], now).is_err());
    }
    let wrong = envelope.verify(PayloadType::ConsoleGrant, &[trusted(KeyRole::Trust)], now);
    assert_eq!(wrong, Err(EnvelopeError::WrongRole));
}

proptest! {
    #[test]
    fn grants_survive_their_own_bytes(
        nonce: [u8; 16], epoch in 1_u64..1 << 50, iat in 1_i64..1 << 50, life in 1_i64..100_000,
        vmid in 100_u32..=999_999_999, max_secs in 1_u32..=7_200, serial: bool,
    ) {
        let mut one = grant();
        one.nonce = Nonce::of(nonce);
        one.aud.epoch = epoch;
        (one.iat, one.exp) = (UnixMillis(iat), UnixMillis(iat + life));
        (one.instance.vmid, one.max_secs) = (vmid, max_secs);
        one.kind = if serial { ConsoleKind::Serial } else { ConsoleKind::Vnc };
        prop_assert_eq!(ConsoleGrant::from_bytes(&one.to_bytes().unwrap()), Ok(one));
    }

    #[test]
    fn any_bytes_are_a_grant_that_writes_itself_the_same_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(read) = ConsoleGrant::from_bytes(&bytes) {
            prop_assert_eq!(ConsoleGrant::from_bytes(&read.to_bytes().unwrap()), Ok(read));
        }
    }
}
