//! `Idempotency-Key`: a POST that is repeated is carried out once.
//!
//! The first request with a key writes a row and runs. What it makes is written into that row by the transaction
//! that makes it ([`made`]), so that whatever dies afterwards, a repetition finds it: its handler gets it by
//! [`Claim::made`], makes nothing, and goes on from there. An answer that did something (2xx) is kept and
//! replayed for the same key and the same request for a day. A refusal is not kept: it changed nothing, and what
//! refused may have passed. The same key with another request is an error. While a first request runs that
//! has made nothing yet, others are told to wait; one that died there is taken over when it can no longer run.

use std::{convert::Infallible, fmt::Display, str::FromStr, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::{FromRequestParts, Request, State},
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use ez_protocol::{AccountId, UnixMillis};
use sha2::{Digest, Sha256};
use sqlx::AnyConnection;

use super::{MAX_BODY, Problem, store};
use crate::{accounts::ApiCaller, app::App, db::DbError};

/// After this a request without an answer counts as dead: none runs longer than [`super::PATIENCE`].
const IN_PROGRESS: Duration = super::PATIENCE.saturating_add(Duration::from_secs(5));
/// The largest answer that is kept.
const MAX_ANSWER: usize = 256 * 1024;

/// The key under which a request runs.
#[derive(Clone, Debug)]
pub struct Claim {
    pub(super) account: AccountId,
    pub(super) key: String,
    /// When it was claimed; another time means that another request has taken it over.
    pub(super) at: UnixMillis,
    made: Option<String>,
}

impl Claim {
    /// What an earlier request with this key made; make nothing then.
    pub fn made<T: FromStr>(&self) -> Option<T> {
        self.made.as_deref().and_then(|id| id.parse().ok())
    }
}

/// The [`Claim`] of a request that carries an `Idempotency-Key`.
#[derive(Clone, Debug)]
pub struct Keyed(pub Option<Claim>);

impl<S: Send + Sync> FromRequestParts<S> for Keyed {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<Claim>().cloned()))
    }
}

/// Notes in the transaction that makes a thing under which key it was asked for.
///
/// # Errors
/// [`DbError::Conflict`] when another request has taken the key over; then nothing may be made.
pub async fn made(tx: &mut AnyConnection, claim: Option<&Claim>, id: impl Display) -> Result<(), DbError> {
    match claim {
        Some(claim) => store::made(tx, claim, &id.to_string()).await,
        None => Ok(()),
    }
}

/// Marks an answer that is given once.
#[derive(Clone, Copy, Debug)]
struct ShownOnce;

/// An answer that says a secret: it is not kept, and a repetition of the request is answered without it.
pub fn shown_once(mut response: Response) -> Response {
    response.extensions_mut().insert(ShownOnce);
    response
}

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
    let body = to_bytes(body, MAX_BODY).await.map_err(|_| Problem::too_large())?;
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
    let (at, made) = match begun {
        store::Begun::Ours => (at, None),
        store::Begun::Other(known) if known.fingerprint != fingerprint => {
            let detail =
                "This Idempotency-Key was used for another request. Nothing was done; use a new key.";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail));
        }
        store::Begun::Other(store::Known { answer: Some(answer), .. }) => return Ok(replay(answer)),
        store::Begun::Other(store::Known { made: Some(made), claimed_at, .. }) => (claimed_at, Some(made)),
        store::Begun::Other(known) => {
            let detail = "The first request with this Idempotency-Key is still running. Ask again with the same key \
                          after the seconds in Retry-After.";
            let wait = IN_PROGRESS.saturating_sub(at.since(known.claimed_at)).as_secs().max(1);
            return Err(Problem::conflict("idempotency_in_progress", detail).retry_after(wait));
        }
    };
    let claim = Claim { account, key, at, made };
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(claim.clone());
    let response = next.run(request).await;
    keep(app, claim, response).await
}

/// Stores an answer that did something; frees the key otherwise.
async fn keep(app: &App, claim: Claim, response: Response) -> Result<Response, Problem> {
    // What it made is noted already.
    if response.extensions().get::<ShownOnce>().is_some() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, MAX_ANSWER).await else {
        return Err(Problem::unavailable());
    };
    let kind =
        parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let answer = store::Answer { status: parts.status.as_u16(), kind: kind.to_owned(), body: body.to_vec() };
    let did = parts.status.is_success();
    let kept: Result<(), DbError> = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                if did {
                    return store::finish(tx, &claim, &answer).await;
                }
                store::forget(tx, &claim).await
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
