//! Who calls.

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::Problem;
use crate::{
    accounts::{self, ApiCaller, Scope, StaffRole},
    app::App,
};

/// Refuses requests without a valid token and those whose scope does not fit the method.
pub(super) async fn require(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION).cloned();
    let method = request.method().clone();
    match caller(&app, authorization.as_ref(), &method).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn caller(
    app: &App,
    authorization: Option<&HeaderValue>,
    method: &Method,
) -> Result<ApiCaller, Problem> {
    let refuse = || {
        let detail = "Send Authorization: Bearer with an API token that is in use.";
        Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    };
    let header = authorization.and_then(|value| value.to_str().ok());
    let token = header
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let (_, token) = token.ok_or_else(refuse)?;
    let found = accounts::token_principal(app, token.trim()).await;
    let caller = found.map_err(|error| match error {
        accounts::AccountsError::Db(error) => error.into(),
        other => Problem::internal(&other),
    })?;
    let caller = caller.ok_or_else(refuse)?;
    let safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let (needed, word) = if safe { (Scope::Read, "read") } else { (Scope::Write, "write") };
    if !caller.may(needed) {
        return Err(Problem::forbidden(format!("This token does not have the scope {word:?}.")));
    }
    Ok(caller)
}

/// The caller of an endpoint; `Scope::Read` for safe methods and `Scope::Write` for others are checked already.
#[derive(Clone, Debug)]
pub struct Caller(pub ApiCaller);

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<ApiCaller>().cloned();
        caller.map(Self).ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", "No token."))
    }
}

/// A caller whose token carries `Scope::Operator` and whose user is one.
#[derive(Clone, Debug)]
pub struct Operator(pub ApiCaller);

impl FromRequestParts<App> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Caller(caller) = Caller::from_request_parts(parts, app).await?;
        if caller.may(Scope::Operator) && caller.principal.is_staff(StaffRole::Operator) {
            return Ok(Self(caller));
        }
        // An endpoint for operators looks missing to everybody else.
        Err(Problem::not_found())
    }
}
