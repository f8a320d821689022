//! Puts a recorded request on the wire again, and hears the answer whole.

use serde_json::Value;

use super::world::World;

/// An answer with everything that is compared.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) content_type: Option<String>,
    pub(super) body: Value,
    pub(super) text: String,
}

/// What the request said of who asks.
fn credentials(world: &World, line: &Value) -> Option<(&'static str, String)> {
    let note = line["note"].as_str().unwrap_or("");
    let token = |t: &str| Some(("authorization", format!("PVEAPIToken={t}")));
    match (line["auth"].as_str(), note) {
        (None, _) => None,
        (Some("bad"), _) => Some(("authorization", "Basic b3BzOmNvcnJlY3Q=".into())),
        (Some("ticket"), _) => Some(("cookie", "PVEAuthCookie=PVE:ops@pve:00000000::FORGED".into())),
        (_, "unknown token id") => token("root@pam!none=11111111-2222-4333-8444-555555555555"),
        (_, "wrong token secret") => token("root@pam!agent=99999999-2222-4333-8444-555555555555"),
        (_, "malformed token") => token("nonsense"),
        _ => token(&world.token),
    }
}

/// The recording keeps parameters; these bodies were none.
fn raw_body(note: &str) -> Option<(&'static str, String)> {
    const FORM: &str = "application/x-www-form-urlencoded";
    const JSON: &str = "application/json";
    let long = |n: usize| "x".repeat(n);
    Some(match note {
        "broken JSON body" => (JSON, "{bad".into()),
        "unsupported content type" => ("text/plain", "description=x".into()),
        "form body over 64 KiB" => (FORM, format!("description={}", long(70_000))),
        "JSON body over 64 KiB" => (JSON, format!("{{\"description\":\"{}\"}}", long(70_000))),
        "form body over 512 KiB" => (FORM, format!("description={}", long(600_000))),
        _ => return None,
    })
}

/// Sends the recorded request.
pub(super) async fn send(world: &World, line: &Value) -> Heard {
    let path = line["path"].as_str().unwrap_or("");
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let params: Vec<(String, String)> =
        line["params"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), text(v))).collect();
    let encoded = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&params).finish();
    let base = world.url("");
    let base = base.trim_end_matches("/api2/json");
    let query = line["encoding"] == "query" && !encoded.is_empty();
    let url = if query { format!("{base}{path}?{encoded}") } else { format!("{base}{path}") };
    let method = line["method"].as_str().unwrap_or("GET").parse().unwrap();
    let mut request = world.client().request(method, url);
    if let Some((name, value)) = credentials(world, line) {
        request = request.header(name, value);
    }
    request = match (raw_body(line["note"].as_str().unwrap_or("")), line["encoding"].as_str()) {
        (Some((kind, body)), _) => request.header("content-type", kind).body(body),
        (None, Some("form")) => {
            request.header("content-type", "application/x-www-form-urlencoded").body(encoded)
        }
        (None, Some("json")) => {
            request.header("content-type", "application/json").body(line["params"].to_string())
        }
        _ => request,
    };
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let header = response.headers().get("content-type");
    let content_type = header.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let response: http::Response<reqwest::Body> = response.into();
    let reason = response.extensions().get::<hyper::ext::ReasonPhrase>().map_or_else(
        || response.status().canonical_reason().unwrap_or("").to_owned(),
        |r| String::from_utf8_lossy(r.as_bytes()).into_owned(),
    );
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Heard { status, reason, content_type, body: serde_json::from_str(&text).unwrap_or(Value::Null), text }
}
