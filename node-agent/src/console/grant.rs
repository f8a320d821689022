//! The judgement over a console grant: the same checks in the same order as for provisioning orders, less
//! sequence and generation, which something that changes nothing does not need.

use ez_protocol::{
    UnixMillis,
    console::{ConsoleGrant, GRANT_LIFE},
    envelope::{Envelope, PayloadType, TrustedKey},
    order::CLOCK_TOLERANCE,
    refusal::{Refusal, RefusalCode},
};

use crate::intake::{self, Node};

/// Verifies and reads an envelope.
///
/// # Errors
/// `BAD_SIGNATURE`, `WRONG_ROLE` or `BAD_PAYLOAD`.
pub fn read(bytes: &[u8], trusted: &[TrustedKey], now: UnixMillis) -> Result<ConsoleGrant, Refusal> {
    let envelope = Envelope::decode(bytes).map_err(|error| intake::refuse(&error))?;
    let verified =
        envelope.verify(PayloadType::ConsoleGrant, trusted, now).map_err(|error| intake::refuse(&error))?;
    ConsoleGrant::from_bytes(&verified.payload)
        .map_err(|error| intake::unread(RefusalCode::BadPayload, &error))
}

/// Whether the grant may be used here and now.
///
/// # Errors
/// The first check that fails.
pub fn judge(grant: &ConsoleGrant, node: &Node) -> Result<(), Refusal> {
    let refuse = |code, detail: String| Err(Refusal::new(code, detail));
    if grant.install != node.install || grant.aud.node != node.node {
        let detail = format!("the grant is for node {} of {}", grant.aud.node, grant.install);
        return refuse(RefusalCode::WrongAudience, detail);
    }
    if grant.aud.epoch != node.epoch {
        let detail =
            format!("the grant is of epoch {}, this node is in epoch {}", grant.aud.epoch, node.epoch);
        return refuse(RefusalCode::WrongEpoch, detail);
    }
    let life = grant.exp.since(grant.iat);
    if life > GRANT_LIFE {
        let detail =
            format!("it lives {} s, such a grant may live {} s", life.as_secs(), GRANT_LIFE.as_secs());
        return refuse(RefusalCode::BadWindow, detail);
    }
    if node.clock_suspect {
        let detail = "this host's clock and the control plane's differ by more than 300 s";
        return refuse(RefusalCode::ClockSkew, detail.to_owned());
    }
    if node.now > grant.exp {
        return refuse(RefusalCode::Expired, "its time is over".to_owned());
    }
    if node.now < grant.iat.minus(CLOCK_TOLERANCE) {
        return refuse(RefusalCode::NotYet, "its time has not come".to_owned());
    }
    if node.disk_low {
        let detail = "less than 64 MiB are free where the journal lives";
        return refuse(RefusalCode::NoSpace, detail.to_owned());
    }
    Ok(())
}
