//! Two connections of one identity: which of them is the node?
//!
//! Mostly the older one is dead and nobody has noticed yet (a restart, another network), and the newest wins. If
//! it lives, somebody runs a copy of the node's state. So the older one is asked who it is. Its answer is compared
//! with what the newcomer said and was given: agents on the same machine have the same fingerprint, and agents on
//! the same journal have the same newest ratchet, which the newcomer has just stored. Whatever differs, there are
//! two, and nobody can tell which of them is the right one: neither gets orders, and a person decides.
//!
//! While this is open the newcomer may report, but gets no orders. An agent that does not know the question skips
//! it and counts as dead, as before there was one. Where the newcomer is with another process of the control plane, the
//! one that lost the session asks ([`look_back`]).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ez_protocol::{
    NodeId,
    frame::{CloseCode, Frame, FrameType},
    message::{Challenge, ChallengeAnswer},
};
use subtle::ConstantTimeEq as _;
use tokio::sync::{mpsc, oneshot};

use super::registry::Live;
use crate::{app::App, db::DbError, entropy::EntropyExt as _, fleet::sessions};

/// How long the older connection has for its answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

type Waiting = Arc<Mutex<Option<(Vec<u8>, oneshot::Sender<ChallengeAnswer>)>>>;

/// The way to ask a connection who it is; cheap to clone.
#[derive(Clone)]
pub(super) struct Asker {
    control: mpsc::Sender<Frame>,
    waiting: Waiting,
}

impl Asker {
    /// For the connection with this control stream.
    pub(super) fn new(control: mpsc::Sender<Frame>) -> Self {
        Self { control, waiting: Waiting::default() }
    }

    /// Takes an answer from the control stream; one that nobody asked for is dropped.
    pub(super) fn answered(&self, answer: ChallengeAnswer) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, ask)) = waiting.take_if(|(nonce, _)| *nonce == answer.nonce) {
            let _gave_up = ask.send(answer);
        }
    }

    /// Asks; nothing comes back from a connection that is dead or does not understand.
    async fn ask(&self, nonce: Vec<u8>) -> Option<ChallengeAnswer> {
        let (ask, answer) = oneshot::channel();
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some((nonce.clone(), ask));
        let asked = async {
            self.control.send(Frame::new(FrameType::Challenge, &Challenge { nonce })).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
    }
}

/// What is known of the newcomer.
#[derive(Clone, Debug)]
pub(super) struct Newcomer {
    pub(super) node: NodeId,
    /// Where it comes from.
    pub(super) remote: String,
    /// From its Hello.
    pub(super) fingerprint: String,
    /// From its Welcome, which it has stored.
    pub(super) ratchet: Vec<u8>,
    /// The node was quarantined before.
    pub(super) quarantined: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The newcomer is the node.
    Newest,
    /// There are two; both are out.
    Copied,
}

/// The task in which it is settled.
pub(super) type Settling = tokio::task::JoinHandle<Result<Verdict, DbError>>;

/// Settles who is the node. The older connection is closed in any case.
pub(super) async fn settle(app: App, newcomer: Newcomer, old: Live) -> Result<Verdict, DbError> {
    let close = |code: CloseCode, words: &[u8]| {
        old.connection.close(quinn::VarInt::from_u32(code.code()), words);
    };
    if newcomer.quarantined {
        // Nothing to find out: neither gets orders. Whoever is closed out stays away for a while.
        close(CloseCode::Quarantined, b"quarantined, and another connection came");
        return Ok(Verdict::Newest);
    }
    let nonce = app.entropy.bytes::<16>().to_vec();
    let answer = tokio::select! {
        _ = old.connection.closed() => None,
        answer = old.challenge.ask(nonce) => answer,
    };
    let Some(difference) = answer.and_then(|answer| difference(&newcomer, &answer)) else {
        close(CloseCode::Replaced, b"replaced");
        return Ok(Verdict::Newest);
    };
    let old_remote = old.connection.remote_address();
    let detail = format!(
        "Two agents with the identity of this node are connected at once, from {old_remote} and {}: {difference} Neither \
         gets orders until the node is enrolled again with a new token.",
        newcomer.remote
    );
    tracing::error!(node.id = %newcomer.node, old = %old_remote, new = %newcomer.remote, difference, "an identity was copied");
    let (at, node) = (app.clock.now(), newcomer.node);
    let written =
        app.db.write(move |tx| Box::pin(async move { sessions::copied(tx, at, node, &detail).await })).await;
    if let Err(error) = written {
        // Neither is served; both dial again, and it is found out anew.
        close(CloseCode::Timeout, b"what was found out could not be stored");
        return Err(error);
    }
    close(CloseCode::Quarantined, b"two agents have this identity");
    Ok(Verdict::Copied)
}

/// Settles the same where the newer connection is with another process, which cannot ask this one: this one asks its own
/// agent. An agent that moved has left, or has the newest ratchet. Asked twice, because it may be just storing that.
pub(super) async fn look_back(
    app: App,
    node: NodeId,
    asker: Asker,
    remote: String,
) -> Result<Verdict, DbError> {
    for again in [true, false] {
        let Some(answer) = asker.ask(app.entropy.bytes::<16>().to_vec()).await else {
            return Ok(Verdict::Newest);
        };
        let newest = {
            let mut connection = app.db.read().await?;
            sessions::newest_ratchet(&mut connection, node).await?
        };
        if newest.is_none_or(|newest| bool::from(newest.ct_eq(&answer.ratchet))) {
            return Ok(Verdict::Newest);
        }
        if again {
            tokio::time::sleep(PATIENCE).await;
        }
    }
    let detail = format!(
        "Two agents with the identity of this node are connected at once, one of them from {remote}, the other with another \
         process of the control plane: they have different journals, one a copy of the other. Neither gets orders until the \
         node is enrolled again with a new token."
    );
    tracing::error!(node.id = %node, old = %remote, "an identity was copied");
    let at = app.clock.now();
    app.db.write(move |tx| Box::pin(async move { sessions::copied(tx, at, node, &detail).await })).await?;
    Ok(Verdict::Copied)
}

/// In what two live agents differ, if they are two.
fn difference(newcomer: &Newcomer, answer: &ChallengeAnswer) -> Option<&'static str> {
    if newcomer.fingerprint != answer.fingerprint {
        return Some("they run on different machines.");
    }
    if !bool::from(newcomer.ratchet.ct_eq(&answer.ratchet)) {
        return Some("they have different journals, one a copy of the other.");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::testing::AT;

    #[test]
    fn one_machine_and_one_journal_are_one_agent() {
        let newcomer = Newcomer {
            node: NodeId::generate(AT, [1; 10]),
            remote: "192.0.2.1:7".into(),
            fingerprint: "f".into(),
            ratchet: vec![2; 16],
            quarantined: false,
        };
        let answer = |fingerprint: &str, ratchet: Vec<u8>| {
            let answer =
                ChallengeAnswer { fingerprint: fingerprint.into(), ratchet, ..ChallengeAnswer::default() };
            difference(&newcomer, &answer)
        };
        assert_eq!(answer("f", vec![2; 16]), None);
        assert!(answer("g", vec![2; 16]).unwrap().contains("machines"));
        assert!(answer("f", vec![1; 16]).unwrap().contains("journals"));
        assert!(answer("f", Vec::new()).unwrap().contains("journals"));
    }

    #[tokio::test]
    async fn an_answer_to_another_question_is_no_answer() {
        let (control, mut asked) = mpsc::channel(4);
        let asker = Asker::new(control);
        let replying = async {
            let question = asked.recv().await.unwrap();
            let nonce = <Challenge as prost::Message>::decode(question.body.as_slice()).unwrap().nonce;
            asker.answered(ChallengeAnswer { nonce: vec![0; 16], ..ChallengeAnswer::default() });
            asker.answered(ChallengeAnswer {
                nonce,
                fingerprint: "right".into(),
                ..ChallengeAnswer::default()
            });
        };
        let (answer, ()) = tokio::join!(asker.ask(vec![7; 16]), replying);
        assert_eq!(answer.unwrap().fingerprint, "right");
    }
}
