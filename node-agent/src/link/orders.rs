//! ORDER streams: one delivery each. The envelope is judged, written (F1) and only then answered.

use std::sync::Arc;

use ez_protocol::{
    envelope::TrustedKey,
    frame::{CloseCode, FrameType, StreamKind},
    message::{AnswerKind, OrderAnswer},
    order::Op,
    refusal::{Refusal, RefusalCode},
};
use quinn::{RecvStream, SendStream};

use super::stream::{HEADER_DEADLINE, Receiver, Sender, StreamError};
use crate::{
    agent::{Agent, Works},
    image,
    intake::{self, Node},
    journal::{Admission, JournalError, RefusalNote},
    policy::{self, Usage},
};

/// Serves one ORDER stream. Its faults end the stream, never the connection.
pub(super) async fn serve(agent: Arc<Agent>, send: SendStream, recv: RecvStream) {
    let mut sender = Sender::answer(StreamKind::Order, send);
    let mut receiver = Receiver::new(StreamKind::Order, recv);
    if let Err(error) = exchange(&agent, &mut sender, &mut receiver).await {
        tracing::warn!(%error, "an order stream failed");
        receiver.refuse(error.close_code());
    }
}

async fn exchange(
    agent: &Arc<Agent>,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<(), StreamError> {
    let bytes = receiver.expect(FrameType::Envelope, HEADER_DEADLINE).await?;
    match answer_whatever_comes(agent, bytes).await {
        Ok(answer) => {
            sender.send(FrameType::OrderAnswer, &answer).await?;
            sender.finish();
            sender.delivered().await;
        }
        Err(error) => {
            // Nothing is known to be durable, so nothing is said: the delivery comes again.
            tracing::error!(%error, "an order could not be journalled and is not answered");
            receiver.refuse(CloseCode::Timeout);
        }
    }
    Ok(())
}

/// As [`answer`], to its end also where the connection ends meanwhile and drops this stream: an order that became durable
/// in that moment is known to the control plane by its event, never delivered again, and has to reach its actor.
async fn answer_whatever_comes(agent: &Arc<Agent>, bytes: Vec<u8>) -> Result<OrderAnswer, JournalError> {
    let agent = Arc::clone(agent);
    let judged = tokio::spawn(async move { answer(&agent, &bytes).await });
    judged.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a verdict over an order was interrupted");
        Err(JournalError::Unknown)
    })
}

/// The verdict over an envelope, durable when it is answered.
async fn answer(agent: &Arc<Agent>, bytes: &[u8]) -> Result<OrderAnswer, JournalError> {
    let now = agent.clock.now();
    let Some(works) = &agent.works else {
        let refusal =
            Refusal::new(RefusalCode::JournalCorrupt, "this node's journal is damaged; it only reports");
        return Ok(refused(&refusal, String::new()));
    };
    let identity = agent.identity();
    let trusted = identity.trust.trusted_keys().unwrap_or_default();
    if image::order::is_image_order(bytes) {
        return image_order(agent, works, bytes, &trusted).await;
    }
    let read = match intake::read(bytes, &trusted, now) {
        Ok(read) => read,
        Err(refusal) => {
            tracing::error!(code = %refusal.code, detail = refusal.detail, "an envelope was refused unread");
            let note = RefusalNote {
                order_id: None,
                seq: None,
                payload_hash: None,
                keep_until: now,
                refusal: refusal.clone(),
            };
            works.journal.note_refusal(note, now).await?;
            return Ok(refused(&refusal, String::new()));
        }
    };
    let node = this_node(agent);
    let id = read.order.order_id;
    let instance = read.order.instance.uuid;
    let clones = matches!(read.order.op, Op::Ensure(_)).then_some(read.order.seq);
    let shared = Arc::clone(agent);
    let question = read.question();
    let verdict = works
        .journal
        .admit(question, now, move |facts| {
            intake::judge(
                &read,
                &node,
                &|order, facts, now| Ok(policy::evaluate(&shared.policy, &Usage::from(facts), order, now)?),
                facts,
            )
        })
        .await?;
    Ok(match verdict {
        Admission::Accept(..) => {
            accepted(agent, works, id, instance, clones);
            OrderAnswer { kind: AnswerKind::Accepted.into(), order_id: id.to_string(), ..Default::default() }
        }
        Admission::Duplicate(known) => {
            // Its first delivery may have become durable and died before it got to an actor; one that has it keeps it.
            if !known.state.is_terminal() {
                let clones = clones.filter(|_| known.order_id == id);
                works.actors.enqueue(instance, known.order_id, clones);
            }
            OrderAnswer {
                kind: AnswerKind::Duplicate.into(),
                state: known.state.as_str().to_owned(),
                order_id: known.order_id.to_string(),
                ..Default::default()
            }
        }
        Admission::Refuse(note) => {
            tracing::warn!(order = %id, code = %note.refusal.code, detail = note.refusal.detail, "order refused");
            refused(&note.refusal, id.to_string())
        }
    })
}

pub(super) fn this_node(agent: &Agent) -> Node {
    let identity = agent.identity();
    Node {
        install: identity.node.install,
        node: identity.node.node,
        epoch: identity.node.epoch,
        now: agent.clock.now(),
        clock_suspect: agent.offset.suspect(),
        disk_low: agent.space.is_low(),
    }
}

/// The verdict over an image order; an accepted one wakes the builder.
async fn image_order(
    agent: &Agent,
    works: &Works,
    bytes: &[u8],
    trusted: &[TrustedKey],
) -> Result<OrderAnswer, JournalError> {
    let answer =
        image::order::answer(&works.journal, bytes, trusted, &this_node(agent), &agent.policy).await?;
    // A duplicate rings too: the bell of its first delivery may never have been heard.
    if answer.kind != i32::from(AnswerKind::Refused) {
        agent.build.notify_one();
    }
    Ok(answer)
}

fn accepted(
    agent: &Agent,
    works: &Works,
    id: ez_protocol::ProvisioningOrderId,
    instance: ez_protocol::InstanceId,
    clones: Option<u64>,
) {
    tracing::info!(order = %id, %instance, "order accepted");
    works.actors.enqueue(instance, id, clones);
    agent.told.notify_one();
}

fn refused(refusal: &Refusal, order_id: String) -> OrderAnswer {
    OrderAnswer {
        kind: AnswerKind::Refused.into(),
        code: refusal.code.as_str().to_owned(),
        rule: refusal.rule.clone().unwrap_or_default(),
        detail: refusal.detail.clone(),
        state: String::new(),
        order_id,
    }
}
