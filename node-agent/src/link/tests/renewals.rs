//! A renewal that comes to nothing again and again.

use super::*;

#[tokio::test]
async fn after_many_tries_in_vain_another_certificate_is_asked_for_beside_the_stored_one() {
    // One that this control plane does not take.
    let story = story_with(|config, _| {
        let dir = config.identity_dir();
        files::private_dir(&dir).unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        std::fs::write(dir.join("next-key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(dir.join("next-cert.pem"), Pki::new().agent_pem(&key)).unwrap();
    })
    .await;
    let long_ago = tokio::time::Instant::now().checked_sub(Duration::from_secs(86_400)).unwrap();
    for _ in 0..7 {
        assert!(!story.agent.renewed.tried(long_ago));
    }
    let dir = story.agent.config.identity_dir();
    let stored =
        || (std::fs::read(dir.join("next-key.pem")).ok(), std::fs::read(dir.join("next-cert.pem")).ok());
    let before = stored();
    let incoming = timeout(PATIENCE, story.server.accept()).await.unwrap().unwrap();
    assert!(incoming.await.is_err());
    let mut second = welcome(&story, 1, 0).await;
    let wish = CertRenew::decode(second.control.until(FrameType::CertRenew).await.as_slice()).unwrap();
    assert_eq!(stored(), before, "the control plane may count it as the present one");
    assert!(before.0.is_some() && before.1.is_some());

    let csr = rcgen::CertificateSigningRequestParams::from_pem(&wish.csr_pem).unwrap();
    let issued = CertIssued { certificate_pem: story.pki.agent_pem(&csr.public_key), refused: String::new() };
    let chain = story.agent.identity().pair.chain.clone();
    second.control.say(Frame::new(FrameType::CertIssued, &issued)).await;
    let third = welcome(&story, 2, 0).await;
    assert!(third.connection.close_reason().is_none());
    timeout(PATIENCE, second.connection.closed()).await.unwrap();
    assert_ne!(story.agent.identity().pair.chain, chain);
    assert_eq!(stored(), (None, None));
    story.stop.cancel();
}

/// Issuing a certificate ends one that was never used: what waits in the store may be void, and the answer is still to come.
#[tokio::test]
async fn while_an_answer_is_awaited_it_is_asked_for_again_rather_than_the_stored_pair_tried() {
    let asked = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let pem = asked.serialize_pem();
    let story = story_with(move |config, _| {
        let dir = config.identity_dir();
        files::private_dir(&dir).unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        std::fs::write(dir.join("next-key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(dir.join("next-cert.pem"), Pki::new().agent_pem(&key)).unwrap();
        std::fs::write(dir.join("asked-key.pem"), pem).unwrap();
    })
    .await;
    let incoming = timeout(PATIENCE, story.server.accept()).await.unwrap().unwrap();
    assert!(incoming.await.is_err());
    let mut second = welcome(&story, 1, 0).await;
    let wish = CertRenew::decode(second.control.until(FrameType::CertRenew).await.as_slice()).unwrap();
    let csr = rcgen::CertificateSigningRequestParams::from_pem(&wish.csr_pem).unwrap();
    let issued = CertIssued { certificate_pem: story.pki.agent_pem(&csr.public_key), refused: String::new() };
    second.control.say(Frame::new(FrameType::CertIssued, &issued)).await;
    let third = welcome(&story, 2, 0).await;
    assert!(third.connection.close_reason().is_none());
    let dir = story.agent.config.identity_dir();
    assert_eq!(std::fs::read_to_string(dir.join("key.pem")).unwrap(), asked.serialize_pem());
    story.stop.cancel();
}
