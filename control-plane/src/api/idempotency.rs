//! `Idempotency-Key`: a POST that is repeated is carried out once.
//!
//! The first request with a key writes a row and runs; its answer (unless it is a 5xx) is stored and
//! replayed for the same key and the same request for a day. The same key with another request is an error,
//! and so is a key whose first request still runs. A request that died with the process may be repeated
//! after a minute: its handler may have done its work, so handlers with effects outside the database
//! use keys of their own.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::{MAX_BODY, Problem, store};
use crate::{accounts::ApiCaller, app::App, db::DbError};

/// After this a request without an answer counts as dead.
const IN_PROGRESS: Duration = Duration::from_secs(60);
/// The largest answer that is kept.
const MAX_ANSWER: usize = 256 * 1024;

/// Middleware inside the authentication.
pub(super) async fn once(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(key) =
        request.headers().get("idempotency-key").filter(|_| request.method() == Method::POST).cloned()
    else {
        return next.run(request).await;
    };
    match run_once(&app, request, next, &key).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn run_once(app: &App, request: Request, next: Next, key: &HeaderValue) -> Result<Response, Problem> {
    let key = key.to_str().ok().filter(|key| (1..=255).contains(&key.len())).ok_or_else(|| {
        Problem::new(StatusCode::BAD_REQUEST, "idempotency_key_invalid", "Use 1 to 255 plain characters.")
    })?;
    let caller = request.extensions().get::<ApiCaller>().ok_or_else(Problem::not_found)?;
    let (account, key) = (caller.principal.account_id, key.to_owned());
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.map_err(|_| {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The body is larger than 64 KiB.")
    })?;
    let fingerprint = fingerprint(parts.uri.path(), &body);
    let at = app.clock.now();
    let begun = {
        let (key, fingerprint) = (key.clone(), fingerprint.clone());
        app.db
            .write(move |tx| {
                Box::pin(async move { store::begin(tx, account, &key, &fingerprint, at, IN_PROGRESS).await })
            })
            .await?
    };
    match begun {
        store::Begun::Ours => {}
        store::Begun::Other(known) if known.fingerprint != fingerprint => {
            let detail = "This Idempotency-Key was used for another request.";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail));
        }
        store::Begun::Other(store::Known { answer: Some(answer), .. }) => return Ok(replay(answer)),
        store::Begun::Other(_) => {
            let detail = "The first request with this Idempotency-Key is still running.";
            return Err(Problem::conflict("idempotency_in_progress", detail));
        }
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    keep(app, account, key, response).await
}

/// Stores the answer, or forgets the key after a failure of ours.
async fn keep(
    app: &App,
    account: ez_protocol::AccountId,
    key: String,
    response: Response,
) -> Result<Response, Problem> {
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, MAX_ANSWER).await else {
        return Err(Problem::unavailable());
    };
    let kind =
        parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let answer = store::Answer { status: parts.status.as_u16(), kind: kind.to_owned(), body: body.to_vec() };
    let kept: Result<(), DbError> = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                if answer.status >= 500 {
                    return store::forget(tx, account, &key).await;
                }
                store::finish(tx, account, &key, &answer).await
            })
        })
        .await;
    if let Err(error) = kept {
        // The caller gets the answer all the same; a repetition within the day may run again.
        tracing::error!(%error, "cannot keep the answer of an idempotent request");
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn replay(answer: store::Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, answer.body).into_response();
    if let Ok(kind) = HeaderValue::from_str(&answer.kind) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    response
}

fn fingerprint(path: &str, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(path.as_bytes());
    hash.update(b"\n");
    hash.update(body);
    data_encoding::HEXLOWER.encode(&hash.finalize())
}
