//! What the API answers when it refuses: Stripe's error object and its HTTP status.

use serde_json::{Value, json};

/// A refusal in Stripe's words.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fault {
    /// HTTP status.
    pub(crate) status: u16,
    kind: &'static str,
    code: Option<&'static str>,
    message: String,
    param: Option<String>,
    decline_code: Option<&'static str>,
    should_retry: Option<bool>,
}

impl Fault {
    fn new(
        status: u16,
        kind: &'static str,
        code: Option<&'static str>,
        message: String,
        param: Option<&str>,
    ) -> Self {
        Self {
            status,
            kind,
            code,
            message,
            param: param.map(str::to_owned),
            decline_code: None,
            should_retry: None,
        }
    }

    /// 400: the request cannot be carried out as asked.
    pub(crate) fn invalid(message: impl Into<String>, param: Option<&str>) -> Self {
        Self::new(400, "invalid_request_error", None, message.into(), param)
    }

    /// 400 with a code.
    pub(crate) fn coded(code: &'static str, message: impl Into<String>, param: Option<&str>) -> Self {
        Self::new(400, "invalid_request_error", Some(code), message.into(), param)
    }

    /// 400: a parameter this call does not take.
    pub(crate) fn unknown_parameter(param: &str) -> Self {
        Self::coded("parameter_unknown", format!("Received unknown parameter: {param}"), Some(param))
    }

    /// 400: a parameter this call needs.
    pub(crate) fn missing(param: &str) -> Self {
        Self::coded("parameter_missing", format!("Missing required param: {param}."), Some(param))
    }

    /// 404 for the id in the path, 400 for one in a parameter, as Stripe does it.
    pub(crate) fn no_such(kind: &str, id: &str, param: &str) -> Self {
        let status = if param == "id" { 404 } else { 400 };
        Self::new(
            status,
            "invalid_request_error",
            Some("resource_missing"),
            format!("No such {kind}: '{id}'"),
            Some(param),
        )
    }

    /// 404: no such URL.
    pub(crate) fn no_route(method: &str, path: &str) -> Self {
        let message = format!(
            "Unrecognized request URL ({method}: {path}). The simulator knows the calls of purchase, renewal, cancellation and refund."
        );
        Self::new(404, "invalid_request_error", None, message, None)
    }

    /// 401: no key, or none of ours.
    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(401, "invalid_request_error", None, message.into(), None)
    }

    /// 400: the idempotency key was used with other parameters.
    pub(crate) fn key_reused(key: &str) -> Self {
        let message = format!(
            "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key other than '{key}' if you meant to execute a different request."
        );
        Self::new(400, "idempotency_error", None, message, None)
    }

    /// 409: another request with the key is still running.
    pub(crate) fn key_in_use(key: &str) -> Self {
        let message = format!(
            "There is currently another in-progress request using this Idempotent Key '{key}'. Please try again later."
        );
        Self::new(409, "idempotency_error", Some("idempotency_key_in_use"), message, None)
    }

    /// 402: the card was refused.
    pub(crate) fn card_declined(decline_code: &'static str) -> Self {
        let mut fault =
            Self::new(402, "card_error", Some("card_declined"), "Your card was declined.".into(), None);
        fault.decline_code = Some(decline_code);
        fault
    }

    /// 500: the simulator itself failed (its database, for instance).
    pub(crate) fn internal() -> Self {
        Self::new(
            500,
            "api_error",
            None,
            "The simulator could not store the change; nothing was done.".into(),
            None,
        )
    }

    /// 429: too many requests. Stripe's client libraries do not repeat these by themselves.
    pub(crate) fn rate_limit() -> Self {
        let message = "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits.";
        Self::new(429, "invalid_request_error", Some("rate_limit"), message.into(), None)
    }

    /// 429: somebody else works on the object. Stripe's client libraries tell it by its code from a
    /// rate limit and repeat it; `Stripe-Should-Retry: true` asks for the same.
    pub(crate) fn lock_timeout() -> Self {
        let message = "This object cannot be accessed right now because another API request or Stripe process is currently accessing it.";
        let mut fault = Self::new(429, "invalid_request_error", Some("lock_timeout"), message.into(), None);
        fault.should_retry = Some(true);
        fault
    }

    /// 5xx: something on Stripe's side.
    pub(crate) fn server(status: u16) -> Self {
        Self::new(status, "api_error", None, "An unknown error occurred".into(), None)
    }

    /// The advice of `Stripe-Should-Retry`, if there is any.
    pub(crate) fn should_retry(&self) -> Option<bool> {
        self.should_retry
    }

    /// The message alone.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Whether the request had begun to execute, so that its answer belongs to its idempotency key.
    pub(crate) fn executed(&self) -> bool {
        self.status == 402
    }

    /// The answer's body.
    pub(crate) fn body(&self, request_id: &str) -> Value {
        let mut error = json!({
            "message": self.message, "type": self.kind,
            "request_log_url": format!("https://dashboard.stripe.com/test/logs/{request_id}"),
        });
        let extra = [
            ("code", self.code.map(str::to_owned)),
            ("param", self.param.clone()),
            ("decline_code", self.decline_code.map(str::to_owned)),
        ];
        for (key, value) in extra {
            if let Some(value) = value {
                error[key] = value.into();
            }
        }
        json!({ "error": error })
    }
}
