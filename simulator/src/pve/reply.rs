//! Answers: Proxmox's error texts travel in the reason phrase and in the body.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::Full;
use hyper::ext::ReasonPhrase;
use serde_json::{Value, json};

/// An answer as it goes out.
pub(crate) type Response = http::Response<Full<Bytes>>;

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ApiError {
    /// A plain `die`: 500 with the text.
    Died(String),
    /// 403 `Permission check failed …`; the text is what stands in brackets, if anything.
    Forbidden(Option<String>),
    /// 400 `Parameter verification failed.`.
    Parameters(BTreeMap<String, String>),
    /// 501 for a path or method that does not exist.
    NotImplemented(String),
    /// 401 with a JSON body (a failed login or ticket), after the delay.
    Login(String),
    /// A text in another status, without JSON (the transport layer).
    Transport(u16, String),
}

impl ApiError {
    pub(crate) fn died(text: impl Into<String>) -> Self {
        ApiError::Died(text.into())
    }

    pub(crate) fn parameter(name: &str, text: impl Into<String>) -> Self {
        ApiError::Parameters(BTreeMap::from([(name.to_owned(), text.into())]))
    }

    pub(crate) fn permission(path: &str, privileges: &str) -> Self {
        ApiError::Forbidden(Some(format!("{path}, {privileges}")))
    }

    /// The text without its status, as it ends in a task.
    pub(crate) fn text(&self) -> String {
        match self {
            ApiError::Died(t)
            | ApiError::NotImplemented(t)
            | ApiError::Login(t)
            | ApiError::Transport(_, t) => t.clone(),
            ApiError::Forbidden(None) => "Permission check failed".into(),
            ApiError::Forbidden(Some(t)) => format!("Permission check failed ({t})"),
            ApiError::Parameters(_) => "Parameter verification failed.".into(),
        }
    }
}

/// What a call answers.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) data: Value,
    /// Further top-level fields (`total`).
    pub(crate) extra: Vec<(&'static str, Value)>,
}

impl From<Value> for Answer {
    fn from(data: Value) -> Self {
        Answer { data, extra: Vec::new() }
    }
}

/// The outcome of a call.
pub(crate) type ApiResult = Result<Answer, ApiError>;

/// `{"data": null}`: success that has nothing to say.
pub(crate) fn null() -> ApiResult {
    Ok(Value::Null.into())
}

fn response(status: u16, reason: &str, kind: Option<&str>, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut r = Response::new(Full::new(Bytes::from(body)));
    *r.status_mut() = status;
    let line: Vec<u8> =
        reason.lines().next().unwrap_or("").bytes().filter(|b| *b >= 0x20 && *b != 0x7f).collect();
    if let Ok(reason) = ReasonPhrase::try_from(line) {
        r.extensions_mut().insert(reason);
    }
    let headers = r.headers_mut();
    headers.insert(header::SERVER, header::HeaderValue::from_static("pve-api-daemon/3.0"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("max-age=0"));
    headers.insert(header::PRAGMA, header::HeaderValue::from_static("no-cache"));
    if let Some(kind) = kind.and_then(|k| header::HeaderValue::from_str(k).ok()) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    if status.as_u16() >= 400 {
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    }
    r
}

const JSON: &str = "application/json;charset=UTF-8";

/// 401 of the authentication layer: no body at all.
pub(crate) fn unauthorized(reason: &str) -> Response {
    response(401, reason, None, String::new())
}

/// A text of the transport layer, which names no content type (recorded).
pub(crate) fn transport(status: u16, reason: &str, with_body: bool) -> Response {
    let body = if with_body { reason.to_owned() } else { String::new() };
    response(status, reason, None, body)
}

/// The answer of a call, in the json or the extjs form.
pub(crate) fn render(result: ApiResult, extjs: bool) -> Response {
    match result {
        Ok(answer) => {
            let mut body = serde_json::Map::new();
            body.insert("data".into(), answer.data);
            for (k, v) in answer.extra {
                body.insert(k.into(), v);
            }
            if extjs {
                body.insert("success".into(), json!(1));
            }
            response(200, "OK", Some(JSON), Value::Object(body).to_string())
        }
        Err(ApiError::Transport(status, text)) => {
            let with_body = status != 596;
            transport(status, &text, with_body)
        }
        Err(error) => {
            let status = match &error {
                ApiError::Died(_) => 500,
                ApiError::Forbidden(_) => 403,
                ApiError::Parameters(_) => 400,
                ApiError::Login(_) => 401,
                ApiError::NotImplemented(_) | ApiError::Transport(..) => 501,
            };
            let text = error.text();
            let end = if matches!(error, ApiError::NotImplemented(_)) { "" } else { "\n" };
            let mut body = serde_json::Map::new();
            body.insert("data".into(), Value::Null);
            body.insert("message".into(), json!(format!("{text}{end}")));
            if let ApiError::Parameters(errors) = &error {
                body.insert("errors".into(), json!(errors));
            }
            if extjs {
                body.insert("success".into(), json!(0));
                body.insert("status".into(), json!(status));
                return response(200, "OK", Some(JSON), Value::Object(body).to_string());
            }
            response(status, &text, Some(JSON), Value::Object(body).to_string())
        }
    }
}
