//! The control stream after the greeting: time, certificates, trust, acknowledgements.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ez_protocol::{
    UnixMillis,
    envelope::{Envelope, PayloadType},
    frame::{Frame, FrameType},
    message::{
        CertIssued, CertRenew, Challenge, ChallengeAnswer, Drain, EventAck, MetricsAck, Ping, Pong, Resync,
        TrustTaken,
    },
    trust::TrustDocument,
};
use prost::Message as _;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    Ending,
    states::Reports,
    stream::{Receiver, Sender, StreamError},
};
use crate::{
    agent::Agent,
    identity::{Identity, files, renew},
};

/// The time is asked for this often.
const PING_EVERY: Duration = Duration::from_secs(60);

/// A key whose certificate has been asked for.
pub(super) type Pending = Arc<Mutex<Option<renew::Pending>>>;

/// What the reader of the control stream asks its writer to answer.
#[derive(Debug)]
pub(super) enum Question {
    /// A ping, by its nonce.
    Time(u64),
    /// A challenge, by its nonce.
    Who(Vec<u8>),
    /// A trust document was offered; this version is believed now.
    Trust(u64),
}

/// The way of questions.
pub(super) type Questions = mpsc::Sender<Question>;

/// Writes to the control stream: the time now and then, a certificate request when it is due. One that is here already and
/// was not welcomed yet is tried instead, on a connection of its own.
pub(super) async fn write(
    agent: Arc<Agent>,
    mut sender: Sender,
    mut questions: mpsc::Receiver<Question>,
    pending: Pending,
    ending: watch::Sender<Option<Ending>>,
) -> Result<(), StreamError> {
    let jitter = agent.entropy.up_to(1_000);
    let due = renew::due(&agent.identity().pair, jitter);
    let mut ping = tokio::time::interval(PING_EVERY);
    let mut nonce = 0;
    loop {
        tokio::select! {
            asked = questions.recv() => match asked {
                None => return Ok(()),
                Some(Question::Time(nonce)) => {
                    sender.send(FrameType::Pong, &Pong { nonce, now_ms: agent.clock.now().0 }).await?;
                }
                Some(Question::Who(nonce)) => {
                    let Some(answer) = who(&agent, nonce).await else { continue };
                    sender.send(FrameType::ChallengeAnswer, &answer).await?;
                }
                Some(Question::Trust(version)) => {
                    sender.send(FrameType::TrustTaken, &TrustTaken { version }).await?;
                }
            },
            _ = ping.tick() => {
                nonce += 1;
                let now = agent.clock.now();
                sender.send(FrameType::Ping, &Ping { nonce, now_ms: now.0 }).await?;
                // By the wall clock and not by one long sleep: a host that was suspended for a week is a week older. And by
                // that of the control plane, which is the one that certificates are made by.
                let theirs = agent.offset.theirs(now);
                if theirs < due || !agent.renewed.is_over(Instant::now()) {
                    continue;
                }
                let dir = agent.config.identity_dir();
                if agent.renewed.tried(Instant::now()) {
                    tracing::warn!("the next certificate was tried in vain again and again; another one is asked for");
                    // The stored pair stays until the other one is here: the control plane may count it as the present one
                    // already, and it alone is taken then.
                    renew::forget_asked(&dir);
                } else if !renew::is_asked(&dir) && renew::staged(&dir).is_some_and(|pair| theirs < pair.not_after) {
                    let _ = ending.send(Some(Ending::Renewed));
                    return Ok(());
                }
                match renew::prepare(&dir) {
                    Ok(made) => {
                        let csr_pem = made.csr_pem.clone();
                        *pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
                        sender.send(FrameType::CertRenew, &CertRenew { csr_pem }).await?;
                    }
                    Err(error) => tracing::error!(%error, "a new key could not be made"),
                }
            }
        }
    }
}

/// Which agent this is. An unreadable journal makes no answer: to be taken for dead does less harm than a wrong word.
async fn who(agent: &Agent, nonce: Vec<u8>) -> Option<ChallengeAnswer> {
    let ratchet = match &agent.works {
        None => Vec::new(),
        Some(works) => match works.journal.meta().await {
            Ok(meta) => meta.ratchet.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "a challenge is not answered: the journal cannot be read");
                return None;
            }
        },
    };
    tracing::warn!("another agent came with this node's identity; the control plane asks who is who");
    Some(ChallengeAnswer {
        nonce,
        fingerprint: agent.fingerprint.clone(),
        ratchet,
        report_epoch: agent.report_epoch.clone(),
    })
}

/// Reads the control stream until the connection ends or something wants another connection.
pub(super) async fn read(
    agent: Arc<Agent>,
    reports: Arc<Reports>,
    mut receiver: Receiver,
    questions: Questions,
    pending: Pending,
    ending: watch::Sender<Option<Ending>>,
) -> Result<(), StreamError> {
    while let Some(frame) = receiver.next(None).await? {
        agent.contact.heard(agent.clock.now());
        let body = frame.body.as_slice();
        match frame.kind() {
            Some(FrameType::Ping) => {
                let ping = Ping::decode(body)?;
                agent.offset.heard(agent.clock.now(), UnixMillis(ping.now_ms));
                let _ = questions.send(Question::Time(ping.nonce)).await;
            }
            Some(FrameType::Challenge) => {
                let _ = questions.send(Question::Who(Challenge::decode(body)?.nonce)).await;
            }
            Some(FrameType::Pong) => {
                agent.offset.heard(agent.clock.now(), UnixMillis(Pong::decode(body)?.now_ms));
            }
            Some(FrameType::EventAck) => acknowledge(&agent, EventAck::decode(body)?.event_seq).await,
            Some(FrameType::StateAck) => {}
            Some(FrameType::MetricsAck) => {
                if let Some(metrics) = &agent.metrics {
                    metrics.acknowledged(MetricsAck::decode(body)?);
                }
            }
            Some(FrameType::Resync) => {
                tracing::info!(reason = Resync::decode(body)?.reason, "everything is asked for again");
                reports.resync.notify_one();
            }
            Some(FrameType::Drain) => {
                let limit = Drain::decode(body)?.reconnect_after_ms.min(600_000);
                let after = Duration::from_millis(agent.entropy.up_to(limit));
                let _ = ending.send(Some(Ending::Drained(after)));
                return Ok(());
            }
            Some(FrameType::CertIssued) => {
                let issued = CertIssued::decode(body)?;
                let made = pending.lock().unwrap_or_else(PoisonError::into_inner).take();
                if certificate(&agent, made, &issued) {
                    agent.renewed.note(Instant::now());
                    let _ = ending.send(Some(Ending::Renewed));
                    return Ok(());
                }
            }
            Some(FrameType::TrustUpdate) => {
                if let Some(version) = trust_update(&agent, &frame) {
                    let _ = questions.send(Question::Trust(version)).await;
                }
            }
            _ => return Err(StreamError::Unexpected(frame.code)),
        }
    }
    Err(StreamError::Ended)
}

async fn acknowledge(agent: &Agent, event_seq: u64) {
    let Some(works) = &agent.works else { return };
    if let Err(error) = works.journal.acknowledge(event_seq, agent.clock.now()).await {
        tracing::warn!(%error, "an acknowledgement could not be written; it comes again");
    }
}

/// Stores an issued certificate beside the present one; true if there is one to try.
fn certificate(agent: &Agent, made: Option<renew::Pending>, issued: &CertIssued) -> bool {
    if !issued.refused.is_empty() {
        tracing::error!(reason = issued.refused, "the control plane does not renew this node's certificate");
        // It may be the key that it does not take.
        renew::forget_asked(&agent.config.identity_dir());
        return false;
    }
    let Some(made) = made else { return false };
    let identity = agent.identity();
    let dir = agent.config.identity_dir();
    match renew::stage(&dir, &identity, &made, &issued.certificate_pem, agent.clock.now()) {
        Ok(pair) => {
            tracing::info!(until_ms = pair.not_after.0, "a new certificate is here; connecting with it");
            true
        }
        Err(error) => {
            tracing::error!(%error, "the issued certificate is not acceptable");
            false
        }
    }
}

/// The next trust document is stored before it is used. Gives the version that is believed now, if none was refused.
fn trust_update(agent: &Agent, frame: &Frame) -> Option<u64> {
    let (document, bytes) = match next_trust(agent, &frame.body) {
        Ok(Some(next)) => next,
        Ok(None) => return Some(agent.identity().trust.version),
        Err(reason) => {
            tracing::error!(reason, "a trust document was refused");
            return None;
        }
    };
    if let Err(error) = files::write_whole(&agent.config.trust_file(), &bytes, 0o600) {
        tracing::error!(%error, "the new trust document could not be stored; the old one stays");
        return None;
    }
    let version = document.version;
    let old = agent.identity();
    agent.set_identity(Identity { node: old.node.clone(), pair: old.pair.duplicate(), trust: document });
    if let Some(works) = agent.works.clone() {
        tokio::spawn(async move { works.journal.trust_version(version).await });
    }
    tracing::info!(version, "a new trust document is in use");
    Some(version)
}

/// Signed by a key of role trust that is trusted now, one version higher, of the same installation.
/// TLS alone never changes what this agent trusts.
fn next_trust(agent: &Agent, bytes: &[u8]) -> Result<Option<(TrustDocument, Vec<u8>)>, String> {
    let identity = agent.identity();
    let trusted = identity.trust.trusted_keys().map_err(|error| error.to_string())?;
    let envelope = Envelope::decode(bytes).map_err(|error| error.to_string())?;
    let verified = envelope
        .verify(PayloadType::Trust, &trusted, agent.clock.now())
        .map_err(|error| error.to_string())?;
    let document = TrustDocument::from_bytes(&verified.payload).map_err(|error| error.to_string())?;
    if document.install != identity.trust.install {
        return Err("it is of another installation".to_owned());
    }
    if document.version <= identity.trust.version {
        return Ok(None);
    }
    if document.version != identity.trust.version + 1 {
        return Err(format!("version {} does not follow {}", document.version, identity.trust.version));
    }
    Ok(Some((document, verified.payload)))
}
