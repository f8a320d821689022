//! The HTTP face of `/v1`: key, form, idempotency, route, answer, log line.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, Uri, header},
    response::{IntoResponse, Response},
};
use data_encoding::{BASE64, HEXLOWER};
use http::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    engine::Engine,
    fault::Fault,
    form::Params,
    ids,
    inject::{ApiKind, ApiRule, Injector},
    journal::Journal,
    list, routes,
    world::{API_VERSION, Asker, World, int, public, text},
};
use crate::serve::Withheld;

/// One call of the API, decoded.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) params: Params,
}

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Face {
    pub(crate) engine: Engine,
    pub(crate) journal: Arc<Journal>,
    pub(crate) secret_key: Arc<str>,
    injector: Arc<Injector>,
    running: Arc<Mutex<HashSet<String>>>,
    requests: Arc<AtomicU64>,
}

impl Face {
    /// A face over the engine that takes this key.
    pub(crate) fn new(
        engine: Engine,
        journal: Arc<Journal>,
        secret_key: &str,
        injector: Arc<Injector>,
    ) -> Self {
        Self {
            engine,
            journal,
            secret_key: secret_key.into(),
            injector,
            running: Arc::default(),
            requests: Arc::default(),
        }
    }

    /// An id for a request. Numbers begin anew at each start, so the start's time is part of it.
    fn request_id(&self) -> String {
        ids::make(&self.engine.started, self.requests.fetch_add(1, Ordering::Relaxed), "req_", 14)
    }
}

/// What a call came to.
struct Answer {
    status: u16,
    body: Value,
    replayed: bool,
    should_retry: Option<bool>,
}

/// Answers every path below `/v1`.
pub(crate) async fn handle(
    State(face): State<Face>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let sent = if matches!(method, Method::GET | Method::DELETE) && body.is_empty() {
        uri.query().unwrap_or_default().to_owned()
    } else {
        String::from_utf8_lossy(&body).into_owned()
    };
    let call = Call {
        method: method.to_string(),
        path: uri.path().trim_end_matches('/').to_owned(),
        params: Params::decode(&sent),
    };
    let key = header("idempotency-key").filter(|_| method == Method::POST);
    let version = header("stripe-version");
    let request_id = face.request_id();
    let (at_ms, began) = (face.engine.wall_ms(), tokio::time::Instant::now());
    let mut struck = None;
    let answer = match authorize(&face, header("authorization").as_deref())
        .and_then(|()| check_head(&version, key.as_deref()))
    {
        Ok(()) => {
            struck = face.injector.call(&call.method, &call.path);
            perform(&face, &call, key.clone(), &request_id, struck.as_ref()).await
        }
        Err(fault) => refuse(&fault, &request_id),
    };
    let mut line = json!({
        "method": call.method, "path": call.path, "params": sent, "response": answer.body, "status": answer.status, "idempotency_key": key,
        "version": version.clone().unwrap_or_else(|| API_VERSION.into()), "replayed": answer.replayed, "request_id": request_id,
    });
    if let Some(rule) = &struck {
        line["fault"] = rule.fault.word().into();
    }
    line["at_ms"] = at_ms.into();
    line["took_us"] = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX).into();
    face.journal.call(&line);
    if struck.is_some_and(|rule| rule.fault == ApiKind::DropAnswer) {
        return withheld();
    }
    respond(answer, &request_id, version.as_deref().unwrap_or(API_VERSION), key.as_deref())
}

fn authorize(face: &Face, authorization: Option<&str>) -> Result<(), Fault> {
    let missing = "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').";
    let authorization = authorization.ok_or_else(|| Fault::unauthorized(missing))?;
    let key = match authorization.split_once(' ') {
        Some(("Bearer", key)) => key.trim().to_owned(),
        Some(("Basic", encoded)) => {
            let decoded = BASE64.decode(encoded.trim().as_bytes()).unwrap_or_default();
            String::from_utf8_lossy(&decoded).split(':').next().unwrap_or_default().to_owned()
        }
        _ => return Err(Fault::unauthorized(missing)),
    };
    let same: bool = subtle::ConstantTimeEq::ct_eq(key.as_bytes(), face.secret_key.as_bytes()).into();
    if same && key.starts_with("sk_test_") {
        return Ok(());
    }
    if !key.starts_with("sk_test_") {
        return Err(Fault::unauthorized(
            "This is a simulation: only secret test keys (sk_test_…) are taken here, never a live one.",
        ));
    }
    let tail = key.get(key.len().saturating_sub(4)..).unwrap_or_default();
    Err(Fault::unauthorized(format!("Invalid API Key provided: sk_test_****{tail}")))
}

fn check_head(version: &Option<String>, key: Option<&str>) -> Result<(), Fault> {
    if let Some(version) = version.as_deref().filter(|version| *version != API_VERSION) {
        return Err(Fault::invalid(
            format!("Invalid Stripe API version: {version}. The simulator speaks {API_VERSION} only."),
            None,
        ));
    }
    if key.is_some_and(|key| key.len() > 255) {
        return Err(Fault::invalid("Idempotency keys may be at most 255 characters long.", None));
    }
    Ok(())
}

fn refuse(fault: &Fault, request_id: &str) -> Answer {
    Answer {
        status: fault.status,
        body: fault.body(request_id),
        replayed: false,
        should_retry: fault.should_retry(),
    }
}

/// A response that is never sent.
fn withheld() -> Response {
    let mut response = Response::default();
    response.extensions_mut().insert(Withheld);
    response
}

/// Carries out a call under its idempotency key. The one place every call passes before and after its
/// effect, and where an injected fault strikes; a key is in use until its answer is on its way.
async fn perform(
    face: &Face,
    call: &Call,
    key: Option<String>,
    request_id: &str,
    struck: Option<&ApiRule>,
) -> Answer {
    let slot =
        key.as_ref().map(|key| InFlight::take(&face.running, key).ok_or_else(|| Fault::key_in_use(key)));
    let _slot = match slot.transpose() {
        Ok(slot) => slot,
        Err(fault) => return refuse(&fault, request_id),
    };
    let answer = match struck {
        Some(rule) if rule.fault == ApiKind::StatusBefore => refuse(&rule.refusal(), request_id),
        Some(rule) if rule.fault == ApiKind::StatusAfter => {
            execute(face, call.clone(), key, request_id, Some((rule.refusal(), rule.is_stored()))).await
        }
        _ => execute(face, call.clone(), key, request_id, None).await,
    };
    if let Some(rule) = struck {
        tokio::time::sleep(rule.delay()).await;
    }
    answer
}

/// A key whose call is running; freed on drop.
struct InFlight {
    running: Arc<Mutex<HashSet<String>>>,
    key: String,
}

impl InFlight {
    fn take(running: &Arc<Mutex<HashSet<String>>>, key: &str) -> Option<Self> {
        let fresh = running.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned());
        fresh.then(|| Self { running: running.clone(), key: key.to_owned() })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// Carries out a call. `spoiled` is the error a success is answered with, and whether it is that error
/// what the key will replay.
async fn execute(
    face: &Face,
    call: Call,
    key: Option<String>,
    request_id: &str,
    spoiled: Option<(Fault, bool)>,
) -> Answer {
    let asker = Asker { request_id: Some(request_id.to_owned()), idempotency_key: key.clone() };
    let id = request_id.to_owned();
    let work = move |world: &mut World| {
        let fingerprint = fingerprint(&call);
        if let Some(replay) = key.as_deref().and_then(|key| replay(world, key, &fingerprint, &id)) {
            return replay;
        }
        let result = routes::dispatch(world, &call).and_then(|value| {
            let mut shown = public(&value);
            list::expand(world, &mut shown, &call.params.texts("expand"))?;
            Ok(shown)
        });
        let answer = match result {
            Ok(body) => Answer { status: 200, body, replayed: false, should_retry: None },
            Err(fault) => {
                // A refusal before anything was done leaves no trace and does not use up its key; a declined
                // card is a fact that stays.
                if !fault.executed() {
                    world.rollback();
                    return refuse(&fault, &id);
                }
                refuse(&fault, &id)
            }
        };
        let error = spoiled.filter(|_| answer.status == 200).map(|(fault, stored)| {
            // Repeating a stored error would be a no-op, and then Stripe advises against it (so its client
            // libraries describe the header); no recording covers it.
            (Answer { should_retry: stored.then_some(false), ..refuse(&fault, &id) }, stored)
        });
        if let Some(key) = key {
            let result = error.as_ref().filter(|(_, stored)| *stored).map_or(&answer, |(error, _)| error);
            remember(world, &key, &fingerprint, result);
        }
        error.map_or(answer, |(error, _)| error)
    };
    match face.engine.run(asker, work).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::error!(%error, "a call could not be stored");
            refuse(&Fault::internal(), request_id)
        }
    }
}

/// What makes two calls the same under one key: method, path and parameters in any order.
fn fingerprint(call: &Call) -> String {
    let digest = Sha256::new()
        .chain_update(&call.method)
        .chain_update([0])
        .chain_update(&call.path)
        .chain_update([0])
        .chain_update(Value::Object(call.params.0.clone()).to_string())
        .finalize();
    HEXLOWER.encode(&digest)
}

fn replay(world: &World, key: &str, fingerprint: &str, request_id: &str) -> Option<Answer> {
    let stored = world.get("_idem", &format!("_idem:{key}"))?;
    if text(stored, "fingerprint") != fingerprint {
        return Some(refuse(&Fault::key_reused(key), request_id));
    }
    let status = u16::try_from(int(stored, "status")).unwrap_or(500);
    let should_retry = (status >= 500).then_some(false);
    Some(Answer { status, body: stored["body"].clone(), replayed: true, should_retry })
}

fn remember(world: &mut World, key: &str, fingerprint: &str, answer: &Answer) {
    let record = json!({
        "id": format!("_idem:{key}"), "created": world.now, "fingerprint": fingerprint, "status": answer.status, "body": answer.body,
    });
    world.put("_idem", record);
}

fn respond(answer: Answer, request_id: &str, version: &str, key: Option<&str>) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let text = serde_json::to_string_pretty(&answer.body).unwrap_or_default();
    let mut response = (status, text).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store"));
    let replayed = answer.replayed.then_some("true");
    for (name, value) in [
        ("request-id", Some(request_id)),
        ("stripe-version", Some(version)),
        ("idempotency-key", key),
        ("idempotent-replayed", replayed),
        ("stripe-should-retry", answer.should_retry.map(|advice| if advice { "true" } else { "false" })),
    ] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    }
    response
}
