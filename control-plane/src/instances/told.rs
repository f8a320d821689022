//! What a customer is told about an order that came to nothing: one sentence per kind of failure, and what happens next.
//! The node's own words (commands for root, markers, paths of Proxmox) stay with the order, for operators.

use sqlx::AnyConnection;

use super::model::{ActionRow, ActionState};
use crate::{
    db::DbError,
    dispatch::{self, ProvisioningRecord, State},
};

/// A failure in a customer's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// The node did not accept it, so nothing was begun.
    pub(crate) refused: bool,
    /// What happened, and what happens next.
    pub(crate) words: &'static str,
}

/// What to say about an action that failed.
///
/// # Errors
/// Those of the query.
pub(super) async fn of(connection: &mut AnyConnection, action: &ActionRow) -> Result<Option<Told>, DbError> {
    if action.state != ActionState::Failed {
        return Ok(None);
    }
    let record = match action.provisioning_order {
        Some(order) => dispatch::show(connection, order).await?,
        None => None,
    };
    Ok(record.as_ref().map(about))
}

/// What to say about an order that ended otherwise than well.
pub(crate) fn about(record: &ProvisioningRecord) -> Told {
    if let Some(refusal) = &record.refusal {
        return Told { refused: true, words: of_refusal(refusal) };
    }
    let words = match (record.state, record.class.as_deref()) {
        (State::Expired, _) => "The server's host did not answer in time, so nothing was begun. Try again.",
        (State::Superseded | State::Cancelled, _) => "Something newer took its place.",
        (State::Stuck, _) => {
            "It stopped half-way, and it is not known how far it came. An operator has been told and looks at it."
        }
        (_, Some("retryable")) => "The server's host was busy or did not answer. Try again in a few minutes.",
        (_, Some("capacity")) => "The server's host has no room for it now. Try again later, or ask us.",
        (_, Some("policy")) => "The server's host does not allow it. Ask us if you need it.",
        (_, Some("template")) => {
            "The image is not usable on the server's host now. Choose another, or ask us."
        }
        (_, Some("user")) => {
            "What it was to work with is not there, or the server is not in a state for it. Look at the server, then try again."
        }
        _ => "Something went wrong on the server's host. Try again; if it fails once more, ask us.",
    };
    Told { refused: false, words }
}

fn of_refusal(refusal: &str) -> &'static str {
    let rule = refusal.split_once('(').map_or("", |(_, rule)| rule.trim_end_matches(')'));
    if rule.starts_with("destroy.") {
        return "Only so many disks may be replaced or removed on the server's host in a time. Try again in an hour; if it is refused then, ask us.";
    }
    if dispatch::is_passing_refusal(refusal) {
        return "The server's host did not take it just then. Try again in a minute.";
    }
    "The server's host did not accept it. An operator has been told."
}

#[cfg(test)]
mod tests {
    use super::of_refusal;

    #[test]
    fn a_refusal_is_told_without_the_hosts_own_words() {
        for rule in [
            "POLICY(destroy.replaces_per_hour)",
            "POLICY(destroy.replaces_per_server_per_hour)",
            "CIRCUIT_OPEN(destroy.replace_percent_per_day)",
            "CIRCUIT_OPEN(destroy.circuit)",
        ] {
            assert!(of_refusal(rule).contains("Try again in an hour"), "{rule}");
        }
        assert!(of_refusal("NO_SPACE").contains("in a minute"));
        assert!(of_refusal("CONFLICT").contains("An operator has been told"));
    }
}
