//! What can go wrong between us and Stripe, in our words.

use stripe::StripeError;

/// What a failed call means for what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Stripe understood and said no; asking again gives the same answer.
    Refused,
    /// Stripe knows no such object.
    NotFound,
    /// The key is wrong, or may not do this. Every call would fail.
    Unauthorised,
    /// Not done, come back: key in use, lock time-out, rate limit.
    Busy,
    /// Stripe's side failed; under one key the stored answer may be replayed.
    ServerFailed,
    /// No answer, or none that can be read. The work may have been done.
    OutcomeUnknown,
    /// One key, two different requests: a defect of ours, never answered with a new key.
    OurMistake,
    /// The settings cannot make a client.
    Configuration,
}

/// A failed call. Holds machine words only: no message, no object, nothing about a customer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stripe: {kind:?}{}{}", .status.map(|s| format!(", status {s}")).unwrap_or_default(), .code.as_ref().map(|c| format!(", code {c}")).unwrap_or_default())]
pub struct StripeFault {
    /// What it means.
    pub kind: FaultKind,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// Stripe's error code, for example `resource_missing`.
    pub code: Option<String>,
    /// The parameter Stripe did not like.
    pub param: Option<String>,
}

impl StripeFault {
    /// A fault that has only a kind.
    pub fn of(kind: FaultKind) -> Self {
        Self { kind, status: None, code: None, param: None }
    }

    /// Whether the caller's job should simply run again later.
    pub fn is_passing(&self) -> bool {
        matches!(self.kind, FaultKind::Busy | FaultKind::ServerFailed | FaultKind::OutcomeUnknown)
    }

    /// Whether Stripe gave no answer, or asks for patience: the next call would meet the same, whatever it is about.
    pub fn is_away(&self) -> bool {
        matches!(self.kind, FaultKind::Busy | FaultKind::OutcomeUnknown)
    }

    /// Whether Stripe understood this request and will never carry it out: under its key the answer stays the same.
    pub fn is_no(&self) -> bool {
        matches!(self.kind, FaultKind::Refused | FaultKind::NotFound)
    }

    /// Whether a refund is refused because its payment is disputed: the bank decides, or has decided, where the money is.
    pub fn is_disputed(&self) -> bool {
        self.code.as_deref() == Some("charge_disputed")
    }

    /// Whether it is our key or our settings: it says nothing about the request, and ends when a person has mended them.
    pub fn is_locked_out(&self) -> bool {
        matches!(self.kind, FaultKind::Unauthorised | FaultKind::Configuration)
    }

    /// Reads the client's error; the only place that looks inside it.
    pub(super) fn from_client(error: StripeError) -> Self {
        let StripeError::Stripe(body, status) = error else {
            return Self::of(match error {
                StripeError::ConfigError(_) => FaultKind::Configuration,
                _ => FaultKind::OutcomeUnknown,
            });
        };
        let code = body.code.as_ref().map(ToString::to_string);
        let kind = Self::kind_of(status, &body.type_.to_string(), code.as_deref());
        Self { kind, status: Some(status), code, param: body.param.clone() }
    }

    fn kind_of(status: u16, error_type: &str, code: Option<&str>) -> FaultKind {
        match status {
            _ if error_type == "idempotency_error"
                && code != Some("idempotency_key_in_use")
                && status == 400 =>
            {
                FaultKind::OurMistake
            }
            401 | 403 => FaultKind::Unauthorised,
            404 => FaultKind::NotFound,
            409 | 424 | 429 => FaultKind::Busy,
            500..=599 => FaultKind::ServerFailed,
            _ if code == Some("resource_missing") => FaultKind::NotFound,
            _ => FaultKind::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_outcomes() {
        for (status, error_type, code, kind) in [
            (400, "idempotency_error", None, FaultKind::OurMistake),
            (409, "idempotency_error", Some("idempotency_key_in_use"), FaultKind::Busy),
            (400, "invalid_request_error", Some("parameter_unknown"), FaultKind::Refused),
            (400, "invalid_request_error", Some("resource_missing"), FaultKind::NotFound),
            (404, "invalid_request_error", Some("resource_missing"), FaultKind::NotFound),
            (402, "card_error", Some("card_declined"), FaultKind::Refused),
            (401, "invalid_request_error", None, FaultKind::Unauthorised),
            (429, "invalid_request_error", Some("rate_limit"), FaultKind::Busy),
            (500, "api_error", None, FaultKind::ServerFailed),
            (504, "api_error", None, FaultKind::ServerFailed),
        ] {
            assert_eq!(
                StripeFault::kind_of(status, error_type, code),
                kind,
                "{status} {error_type} {code:?}"
            );
        }
    }

    #[test]
    fn an_error_object_never_reaches_the_text() {
        let fault = StripeFault::from_client(StripeError::ClientError("secret@example.com".into()));
        assert_eq!(fault.kind, FaultKind::OutcomeUnknown);
        assert!(!format!("{fault} {fault:?}").contains("secret"));
    }
}
