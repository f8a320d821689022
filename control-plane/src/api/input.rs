//! What a request says: its path and its JSON body, or a [`Problem`] that names what is wrong.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, error::Category};

use super::{FieldProblem, Problem};

/// What the path names (`{id}`); what is not text is as good as missing.
#[derive(Clone, Copy, Debug)]
pub struct Named<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let named = Path::<T>::from_request_parts(parts, state).await;
        named.map(|Path(value)| Self(value)).map_err(|_| Problem::not_found())
    }
}

/// A JSON object; what does not parse becomes a [`Problem`] that names the field. Bodies should
/// `deny_unknown_fields`. No text of it holds a NUL: one of the databases cannot keep it.
#[derive(Clone, Copy, Debug)]
pub struct Input<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "Nothing was done. Send the body with Content-Type: application/json.";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail));
        }
        match Bytes::from_request(request, state).await {
            Ok(body) => read(&body).map(Self).map_err(|problem| *problem),
            Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(Problem::too_large()),
            Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, "unreadable_body", error.body_text())),
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Box<Problem>> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        // An array would be taken for the fields in their order, which is nobody's contract.
        serde_json::from_slice::<IgnoredAny>(body).map_err(|error| Box::new(unreadable(&error)))?;
        let detail = "Nothing was done. The body must be a JSON object with the fields by name.";
        return Err(Box::new(Problem::input(detail)));
    }
    let mut source = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut source).map_err(|error| {
        let path = error.path().to_string();
        match error.inner().classify() {
            Category::Data => Box::new(wrong_field(&path, error.inner())),
            _ => Box::new(unreadable(error.inner())),
        }
    })?;
    source.end().map_err(|error| Box::new(unreadable(&error)))?;
    // Only an escape can bring one in; the parser refuses it as it is.
    if body.windows(6).any(|six| six == br"\u0000") {
        let whole: Value = serde_json::from_slice(body).map_err(|error| Box::new(unreadable(&error)))?;
        let mut wrong = Vec::new();
        find_nul(&whole, String::new(), &mut wrong);
        if !wrong.is_empty() {
            return Err(Box::new(Problem::fields(wrong)));
        }
    }
    Ok(value)
}

fn unreadable(error: &serde_json::Error) -> Problem {
    let detail = format!("Nothing was done. The body is not JSON: {error}.");
    Problem::new(StatusCode::BAD_REQUEST, "invalid_json", detail)
}

/// Turns the parser's words into the field, a code and a sentence.
fn wrong_field(path: &str, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let quoted = |start: &str| text.strip_prefix(start).and_then(|rest| rest.split('`').next());
    let inside = |name: &str| match path.rsplit_once('.') {
        Some((parent, _)) => format!("{parent}.{name}"),
        None => name.to_owned(),
    };
    if let Some(name) = quoted("missing field `") {
        let field = if path == "." { name.to_owned() } else { format!("{path}.{name}") };
        return Problem::field(&field, "missing", "This field is needed.");
    }
    if let Some(name) = quoted("unknown field `") {
        return Problem::field(&inside(name), "unknown", "There is no such field here.");
    }
    if let Some(name) = quoted("duplicate field `") {
        return Problem::field(&inside(name), "duplicate", "This field stands here twice.");
    }
    let (code, message) = match text.strip_prefix("invalid type: ") {
        Some(rest) => ("wrong_type", format!("Wrong type: {rest}.")),
        None => ("invalid", format!("Not acceptable: {text}.")),
    };
    Problem::field(path, code, message)
}

fn find_nul(value: &Value, path: String, wrong: &mut Vec<FieldProblem>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::String(text) if text.contains('\0') => wrong.push(FieldProblem {
            field: path,
            code: "control_character".to_owned(),
            message: "The character NUL cannot be stored.".to_owned(),
        }),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                find_nul(item, format!("{path}[{at}]"), wrong);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                find_nul(field, below(name), wrong);
            }
        }
        _ => {}
    }
}
