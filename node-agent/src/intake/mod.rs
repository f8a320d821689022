//! From bytes to a verdict: may this provisioning order be carried out here?
//!
//! Pure. [`read`] turns bytes into a verified, fully understood order; [`judge`] compares it with
//! what this node is ([`Node`]), what time it is and what the journal knows ([`Facts`]). Every
//! failure is a typed [`Refusal`]; nothing is called at Proxmox before it is accepted.
//!
//! The order of the checks matters:
//!
//! 1. signature and role, over the exact bytes; only verified bytes are parsed
//! 2. strict parse: what is not understood completely is refused
//! 3. installation and node
//! 4. **known already?** A redelivered order is answered with its state even when its time is over:
//!    `EXPIRED` would tell the control plane that nothing runs here, and it would build elsewhere.
//!    In the same way an order refused once stays refused
//! 5. epoch, window, clock
//! 6. sequence, generation, instance ↔ VMID
//! 7. the host's own policy, and room in the journal

#[cfg(test)]
mod tests;
mod verdict;

use ez_protocol::{
    InstallId, NodeId, UnixMillis,
    envelope::{Envelope, EnvelopeError, PayloadType, TrustedKey},
    marker::Marker,
    order::{CLOCK_TOLERANCE, Op, ProvisioningOrder},
    refusal::{Refusal, RefusalCode},
};
use sha2::{Digest as _, Sha256};

use crate::journal::{Facts, Question, Verb};

pub use verdict::{Bounds, judge};

/// A provisioning order whose signature was good and that is understood completely.
#[derive(Debug, Clone)]
pub struct Read {
    /// The bytes as they came, to be stored verbatim.
    pub envelope: Vec<u8>,
    /// What they say.
    pub order: ProvisioningOrder,
    /// The signed bytes inside.
    pub payload: Vec<u8>,
    /// SHA-256 of the signed bytes.
    pub payload_hash: [u8; 32],
}

/// What this node is and how it stands at the moment of the judgement.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// The installation.
    pub install: InstallId,
    /// This node.
    pub node: NodeId,
    /// Its epoch.
    pub epoch: u64,
    /// The time.
    pub now: UnixMillis,
    /// The clock differs from the control plane's by more than 300 s.
    pub clock_suspect: bool,
    /// Less than 64 MiB are free.
    pub disk_low: bool,
}

/// Verifies and reads an envelope.
///
/// # Errors
/// `BAD_SIGNATURE`, `WRONG_ROLE` or `BAD_PAYLOAD`.
pub fn read(bytes: &[u8], trusted: &[TrustedKey], now: UnixMillis) -> Result<Read, Refusal> {
    let envelope = Envelope::decode(bytes).map_err(|error| refuse(&error))?;
    let verified = envelope.verify(PayloadType::Order, trusted, now).map_err(|error| refuse(&error))?;
    let order = ProvisioningOrder::from_bytes(&verified.payload)
        .map_err(|error| unread(RefusalCode::BadPayload, &error))?;
    let payload_hash = Sha256::digest(&verified.payload).into();
    Ok(Read { envelope: bytes.to_vec(), order, payload: verified.payload, payload_hash })
}

pub(crate) fn refuse(error: &EnvelopeError) -> Refusal {
    let code = match error {
        EnvelopeError::Malformed(_) | EnvelopeError::WrongType(_) => RefusalCode::BadPayload,
        EnvelopeError::BadSignature => RefusalCode::BadSignature,
        EnvelopeError::WrongRole => RefusalCode::WrongRole,
    };
    unread(code, error)
}

/// Longest reason of a refusal that repeats what was sent: of so much no answer could be made, and no row should be.
const LONGEST_REASON: usize = 500;

/// The refusal of what could not be read.
pub(crate) fn unread(code: RefusalCode, reason: &impl std::fmt::Display) -> Refusal {
    Refusal::new(code, reason.to_string().chars().take(LONGEST_REASON).collect::<String>())
}

impl Read {
    /// What the journal has to be asked.
    pub fn question(&self) -> Question {
        Question {
            order_id: self.order.order_id,
            seq: self.order.seq,
            payload_hash: self.payload_hash,
            instance: self.order.instance.uuid,
            generation: self.order.generation,
        }
    }

    /// The kind of op without its body.
    pub fn verb(&self) -> Verb {
        match self.order.op {
            Op::Ensure(_) => Verb::Ensure,
            Op::Action(_) => Verb::Action,
            Op::Retire(_) => Verb::Retire,
            Op::Purge(_) => Verb::Purge,
            Op::Adopt(_) => Verb::Adopt,
        }
    }

    /// The marker of a VM made by this order.
    pub fn marker(&self) -> Marker {
        Marker {
            install: self.order.install,
            instance: self.order.instance.uuid,
            order: self.order.order_id,
            epoch: self.order.aud.epoch,
        }
    }
}

/// Installation and node: is it for us at all?
fn audience(order: &ProvisioningOrder, node: &Node) -> Result<(), Refusal> {
    let wrong = |detail| Err(Refusal::new(RefusalCode::WrongAudience, detail));
    if order.install != node.install {
        return wrong(format!(
            "the order is of installation {}, this node belongs to {}",
            order.install, node.install
        ));
    }
    if order.aud.node != node.node {
        return wrong(format!("the order is for node {}, this is {}", order.aud.node, node.node));
    }
    Ok(())
}

fn epoch(order: &ProvisioningOrder, node: &Node) -> Result<(), Refusal> {
    if order.aud.epoch == node.epoch {
        return Ok(());
    }
    let detail = format!("the order is of epoch {}, this node is in epoch {}", order.aud.epoch, node.epoch);
    Err(Refusal::new(RefusalCode::WrongEpoch, detail))
}

/// The order's window; `first` says that it would create the instance.
fn window(order: &ProvisioningOrder, node: &Node, first: bool) -> Result<(), Refusal> {
    let life = order.exp.since(order.iat);
    let longest = order.op.longest_life(first);
    if life > longest {
        let detail = format!("it lives {} s, such an order may live {} s", life.as_secs(), longest.as_secs());
        return Err(Refusal::new(RefusalCode::BadWindow, detail));
    }
    // The clock comes first: with a wrong clock, "expired" would be said of good orders.
    if node.clock_suspect {
        let detail = format!(
            "this host's clock and the control plane's differ by more than {} s",
            CLOCK_TOLERANCE.as_secs()
        );
        return Err(Refusal::new(RefusalCode::ClockSkew, detail));
    }
    if node.now > order.exp {
        let late = node.now.since(order.exp).as_secs();
        return Err(Refusal::new(RefusalCode::Expired, format!("its time was over {late} s ago")));
    }
    if node.now < order.nbf.minus(CLOCK_TOLERANCE) {
        let early = order.nbf.since(node.now).as_secs();
        return Err(Refusal::new(RefusalCode::NotYet, format!("its time comes in {early} s")));
    }
    Ok(())
}

/// True if nothing of the instance exists here, so that an ensure would create it.
fn is_first(order: &ProvisioningOrder, facts: &Facts) -> bool {
    !facts.resources.iter().any(|row| row.instance == order.instance.uuid)
}
