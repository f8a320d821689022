//! Stories of trust documents and join tokens.

use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn document() -> TrustDocument {
    let key = |seed| SigningKey::from_bytes(&[seed; 32]).verifying_key();
    TrustDocument {
        version: 1,
        install: InstallId::from_uuid(Uuid::from_u128(1)),
        agent_ca: vec![BASE64.encode(b"agent ca")],
        link_ca: vec![BASE64.encode(b"link ca")],
        keys: vec![
            TrustDocumentKey::new(&key(1), KeyRole::Order, UnixMillis(0), UnixMillis(10)),
            TrustDocumentKey::new(&key(2), KeyRole::Trust, UnixMillis(0), UnixMillis(10)),
        ],
        link: vec!["localhost:7443".into()],
        min_proto: 1,
    }
}

#[test]
fn a_document_survives_its_own_bytes_and_its_pin_covers_each_of_them() {
    let bytes = document().to_bytes().unwrap();
    assert_eq!(TrustDocument::from_bytes(&bytes), Ok(document()));
    let pin = Pin::of(&bytes);
    assert_eq!(pin.to_string().parse(), Ok(pin));
    let mut other = bytes.clone();
    other.push(b'\n');
    assert_ne!(Pin::of(&other), pin);
}

#[test]
fn documents_that_would_leave_an_agent_helpless_or_fooled_are_refused() {
    let cases: [fn(&mut TrustDocument); 7] = [
        |d| d.keys.clear(),
        |d| d.keys[0].role = KeyRole::Trust,
        |d| d.keys[0].id = d.keys[1].id.clone(),
        |d| d.keys[0].public = "00".repeat(32),
        |d| d.agent_ca.clear(),
        |d| d.link_ca[0] = "not base64".into(),
        |d| d.link.clear(),
    ];
    for (index, change) in cases.into_iter().enumerate() {
        let mut document = document();
        change(&mut document);
        assert!(document.to_bytes().is_err(), "case {index}");
    }
    let text = String::from_utf8(document().to_bytes().unwrap()).unwrap();
    let unknown = text.replacen("\"version\": 1", "\"version\": 1, \"extra\": 1", 1);
    assert!(matches!(TrustDocument::from_bytes(unknown.as_bytes()), Err(TrustError::Unreadable(_))));
}

#[test]
fn identities_have_one_spelling() {
    let install = InstallId::from_uuid(Uuid::from_u128(7));
    let node = crate::NodeId::from_uuid(Uuid::from_u128(9));
    let uri = agent_uri(install, node);
    assert_eq!(parse_agent_uri(&uri), Some((install, node)));
    for wrong in [uri.to_uppercase(), format!("{uri}/"), uri.replace("agent", "link"), String::new()] {
        assert_eq!(parse_agent_uri(&wrong), None, "{wrong}");
    }
}

proptest! {
    #[test]
    fn join_tokens_survive_and_never_show_their_secret(id: [u8; 10], secret: [u8; 32], pin: [u8; 32]) {
        let token = JoinToken { id, secret, pin: Pin(pin) };
        let line = token.to_line();
        prop_assert_eq!(line.parse::<JoinToken>(), Ok(token.clone()));
        prop_assert_eq!(format!(" {line}\n").parse::<JoinToken>(), Ok(token.clone()));
        prop_assert!(line.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.'));
        let shown = format!("{token:?}");
        prop_assert!(!shown.contains(&token.secret_text()));
    }

    #[test]
    fn any_text_is_a_token_or_is_refused(text in ".{0,200}") {
        let _ = text.parse::<JoinToken>();
    }
}
