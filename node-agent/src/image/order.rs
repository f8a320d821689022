//! The intake of image orders: signature, audience, epoch, window, policy, journal, answer.
//!
//! The same checks in the same order as for provisioning orders, less sequence and generation, which a
//! wish about the host does not need; `images.build` in the policy file is off unless its owner says so.

use ez_protocol::{
    UnixMillis,
    envelope::{Envelope, PayloadType, TrustedKey},
    image::{ImageOrder, LONGEST_LIFE},
    message::{AnswerKind, OrderAnswer},
    order::CLOCK_TOLERANCE,
    refusal::{Refusal, RefusalCode},
};
use sha2::{Digest as _, Sha256};

use crate::{
    intake::{self, Node},
    journal::{ImageAdmission, Journal, JournalError, NewImageBuild, RefusalNote},
    policy::{self, Policy},
};

/// Whether these bytes say to be an image order. Nothing of them is believed yet.
pub fn is_image_order(bytes: &[u8]) -> bool {
    Envelope::decode(bytes).is_ok_and(|envelope| envelope.claimed_type() == Some(PayloadType::Image))
}

/// Verifies and reads an envelope.
///
/// # Errors
/// `BAD_SIGNATURE`, `WRONG_ROLE` or `BAD_PAYLOAD`.
pub fn read(bytes: &[u8], trusted: &[TrustedKey], now: UnixMillis) -> Result<NewImageBuild, Refusal> {
    let envelope = Envelope::decode(bytes).map_err(|error| intake::refuse(&error))?;
    let verified =
        envelope.verify(PayloadType::Image, trusted, now).map_err(|error| intake::refuse(&error))?;
    let order = ImageOrder::from_bytes(&verified.payload)
        .map_err(|error| intake::unread(RefusalCode::BadPayload, &error))?;
    let payload_hash = Sha256::digest(&verified.payload).into();
    Ok(NewImageBuild { order, envelope: bytes.to_vec(), payload: verified.payload, payload_hash })
}

/// Whether the order may be carried out here and now. An order that is in the journal already is not
/// asked this again.
///
/// # Errors
/// The first check that fails.
pub fn judge(order: &ImageOrder, node: &Node, policy: &Policy) -> Result<(), Refusal> {
    if order.install != node.install || order.aud.node != node.node {
        let detail = format!("the order is for node {} of {}", order.aud.node, order.install);
        return Err(Refusal::new(RefusalCode::WrongAudience, detail));
    }
    if order.aud.epoch != node.epoch {
        let detail =
            format!("the order is of epoch {}, this node is in epoch {}", order.aud.epoch, node.epoch);
        return Err(Refusal::new(RefusalCode::WrongEpoch, detail));
    }
    let life = order.exp.since(order.iat);
    if life > LONGEST_LIFE {
        let detail =
            format!("it lives {} s, such an order may live {} s", life.as_secs(), LONGEST_LIFE.as_secs());
        return Err(Refusal::new(RefusalCode::BadWindow, detail));
    }
    if node.clock_suspect {
        let detail = "this host's clock and the control plane's differ by more than 300 s";
        return Err(Refusal::new(RefusalCode::ClockSkew, detail));
    }
    if node.now > order.exp {
        return Err(Refusal::new(RefusalCode::Expired, "its time is over"));
    }
    if node.now < order.nbf.minus(CLOCK_TOLERANCE) {
        return Err(Refusal::new(RefusalCode::NotYet, "its time has not come"));
    }
    if node.disk_low {
        return Err(Refusal::new(RefusalCode::NoSpace, "less than 64 MiB are free where the journal lives"));
    }
    Ok(policy::image_order(policy, &order.image)?)
}

/// The verdict over an envelope, durable when it is answered.
///
/// # Errors
/// If the journal cannot be written; then nothing may be answered.
pub async fn answer(
    journal: &Journal,
    bytes: &[u8],
    trusted: &[TrustedKey],
    node: &Node,
    policy: &Policy,
) -> Result<OrderAnswer, JournalError> {
    let new = match read(bytes, trusted, node.now) {
        Ok(new) => new,
        Err(refusal) => return refused(journal, node, None, refusal).await,
    };
    let id = new.order.order_id;
    // Known first: a redelivery is answered with its state even when its time is over.
    let known = journal.image_state(id).await?;
    if known.is_none()
        && let Err(refusal) = judge(&new.order, node, policy)
    {
        return refused(journal, node, Some(&new), refusal).await;
    }
    match journal.admit_image(new.clone(), node.now).await? {
        ImageAdmission::Accepted => {
            tracing::info!(order = %id, image = new.order.image.name, digest = %new.order.image.digest, "image order accepted");
            Ok(OrderAnswer {
                kind: AnswerKind::Accepted.into(),
                order_id: id.to_string(),
                ..Default::default()
            })
        }
        ImageAdmission::Known(state) => Ok(OrderAnswer {
            kind: AnswerKind::Duplicate.into(),
            state,
            order_id: id.to_string(),
            ..Default::default()
        }),
        ImageAdmission::Conflict => {
            let detail = "this order id came before with another content";
            refused(journal, node, Some(&new), Refusal::new(RefusalCode::Conflict, detail)).await
        }
        ImageAdmission::Full => {
            let detail = "more image orders than any host needs were sent within 90 days: no more are taken until they are past";
            refused(journal, node, Some(&new), Refusal::new(RefusalCode::NoSpace, detail)).await
        }
    }
}

async fn refused(
    journal: &Journal,
    node: &Node,
    read: Option<&NewImageBuild>,
    refusal: Refusal,
) -> Result<OrderAnswer, JournalError> {
    tracing::warn!(code = %refusal.code, detail = refusal.detail, "image order refused");
    let note = RefusalNote {
        order_id: read.map(|read| read.order.order_id),
        seq: None,
        payload_hash: None,
        keep_until: node.now,
        refusal: refusal.clone(),
    };
    journal.note_refusal(note, node.now).await?;
    Ok(OrderAnswer {
        kind: AnswerKind::Refused.into(),
        code: refusal.code.as_str().to_owned(),
        rule: refusal.rule.unwrap_or_default(),
        detail: refusal.detail,
        state: String::new(),
        order_id: read.map(|read| read.order.order_id.to_string()).unwrap_or_default(),
    })
}
