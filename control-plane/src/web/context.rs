//! What a page handler is given: [`Ctx`] to render with, [`Customer`] or [`Staff`] for who asks,
//! [`Submission`] for what was sent.

use std::{net::IpAddr, time::Duration};

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    response::{Html, IntoResponse, Response},
};
use ez_protocol::UnixMillis;
use http::{HeaderValue, StatusCode, header, request::Parts};

use crate::{
    accounts::{Principal, StaffRole},
    app::App,
    web::{
        cookies::{Cookies, FLASH, SESSION},
        error::{Error, Result},
        forms::Submission,
        gate::BODY_LIMIT,
        shell::{Shell, Tone},
        templates::{Page, Templates},
    },
};

/// Blocks that a live region may ask for.
const FRAGMENTS: [&str; 2] = ["live", "main"];

/// What the gate knows of a request; carried to the handler in the request's extensions.
#[derive(Clone)]
pub(super) struct Frame {
    pub(super) shell: Shell,
    pub(super) cookies: Cookies,
    pub(super) templates: Templates,
    pub(super) token: Option<String>,
    pub(super) caller: IpAddr,
}

/// Renders and redirects.
#[derive(Clone)]
pub struct Ctx {
    frame: Frame,
    fragment: Option<&'static str>,
}

impl<S: Sync> FromRequestParts<S> for Ctx {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> std::result::Result<Self, Error> {
        let frame = parts.extensions.get::<Frame>().cloned().ok_or(OutsideTheGate)?;
        let accept = parts.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default();
        let asks = |name: &&str| {
            let wanted = format!("fragment={name}");
            accept.split(';').any(|part| part.trim() == wanted) || query.split('&').any(|part| part == wanted)
        };
        let fragment = FRAGMENTS.iter().copied().find(asks);
        Ok(Self { frame, fragment })
    }
}

impl Ctx {
    /// When the request came in; pages count ages from here.
    pub fn now(&self) -> UnixMillis {
        self.frame.shell.now
    }

    /// Who is logged in, path, theme.
    pub fn shell(&self) -> &Shell {
        &self.frame.shell
    }

    /// The session token of the request, for logging out.
    pub fn session_token(&self) -> Option<&str> {
        self.frame.token.as_deref()
    }

    /// Whether a live region asks for its block only.
    pub fn is_fragment(&self) -> bool {
        self.fragment.is_some()
    }

    /// Where the request comes from; never written to a log.
    pub fn caller(&self) -> IpAddr {
        self.frame.caller
    }

    /// The page, or the block a live region asked for.
    ///
    /// # Errors
    /// The template does not fit its context.
    pub fn page<P: Page>(&self, page: &P) -> Result {
        self.page_with(StatusCode::OK, page)
    }

    /// The page with another status: 422 for a form that comes back.
    ///
    /// # Errors
    /// The template does not fit its context.
    pub fn page_with<P: Page>(&self, status: StatusCode, page: &P) -> Result {
        let Frame { shell, templates, .. } = &self.frame;
        let html = match self.fragment {
            None => templates.page(shell, page)?,
            Some(block) => templates.fragment(shell, page, block)?,
        };
        Ok((status, Html(html)).into_response())
    }

    /// On to another page of ours (`303 See Other`), as after every form.
    ///
    /// # Errors
    /// None; the type is that of every handler.
    pub fn redirect(&self, path: &str) -> Result {
        Ok(redirect(path))
    }

    /// The same with a message there: the text `flash-<code>`.
    ///
    /// # Errors
    /// None; the type is that of every handler.
    pub fn redirect_saying(&self, path: &str, tone: Tone, code: &str) -> Result {
        let tone = match tone {
            Tone::Good => "good",
            Tone::Info => "info",
            Tone::Bad => "bad",
        };
        let cookie = self.frame.cookies.set(FLASH, &format!("{tone}.{code}"), Duration::from_secs(60));
        Ok(with_cookie(redirect(path), cookie))
    }

    /// Starts a session in this browser and goes on to `path`.
    pub fn log_in(&self, token: &str, lives: Duration, path: &str) -> Response {
        with_cookie(redirect(path), self.frame.cookies.set(SESSION, token, lives))
    }

    /// Forgets the session in this browser and goes on to `path` with a message.
    ///
    /// # Errors
    /// None; the type is that of every handler.
    pub fn log_out(&self, path: &str, code: &str) -> Result {
        let response = self.redirect_saying(path, Tone::Good, code)?;
        Ok(with_cookie(response, self.frame.cookies.clear(SESSION)))
    }

    /// Adds a cookie to an answer; for the theme.
    pub(super) fn with(&self, response: Response, name: &str, value: &str, lives: Duration) -> Response {
        with_cookie(response, self.frame.cookies.set(name, value, lives))
    }
}

fn with_cookie(mut response: Response, cookie: Option<HeaderValue>) -> Response {
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// `303 See Other`; also for the way to Stripe's pages.
pub fn redirect(target: &str) -> Response {
    let Ok(location) = HeaderValue::from_str(target) else {
        return Error::NotFound.into_response();
    };
    (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response()
}

/// A path of ours taken from outside (`next=`), or `fallback` for anything that could lead elsewhere.
pub fn safe_path<'a>(wanted: &'a str, fallback: &'a str) -> &'a str {
    let leads_away = !wanted.starts_with('/')
        || wanted[1..].starts_with(['/', '\\'])
        || wanted.contains(|c: char| c.is_control() || c == '\\');
    if leads_away { fallback } else { wanted }
}

/// The logged-in customer (staff are customers too).
#[derive(Clone, Debug)]
pub struct Customer(pub Principal);

impl<S: Sync> FromRequestParts<S> for Customer {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> std::result::Result<Self, Error> {
        parts.extensions.get::<Principal>().cloned().map(Self).ok_or(Error::NotFound)
    }
}

/// Who is logged in, if anybody; for routes that work without a session.
#[derive(Clone, Debug)]
pub struct Visitor(pub Option<Principal>);

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> std::result::Result<Self, Error> {
        Ok(Self(parts.extensions.get::<Principal>().cloned()))
    }
}

/// A staff user; for everybody else the page does not exist.
#[derive(Clone, Debug)]
pub struct Staff(pub Principal);

impl Staff {
    /// Lets only operators on: nodes, orders, money going back.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for other staff.
    pub fn operator(&self) -> std::result::Result<&Principal, Error> {
        self.at_least(StaffRole::Operator)
    }

    /// Lets only this role and those above it on.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for other staff.
    pub fn at_least(&self, role: StaffRole) -> std::result::Result<&Principal, Error> {
        if self.0.is_staff(role) { Ok(&self.0) } else { Err(Error::Forbidden) }
    }
}

impl<S: Sync> FromRequestParts<S> for Staff {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> std::result::Result<Self, Error> {
        let principal = parts.extensions.get::<Principal>().filter(|who| who.staff.is_some());
        principal.cloned().map(Self).ok_or(Error::NotFound)
    }
}

impl FromRequest<App> for Submission {
    type Rejection = Error;

    async fn from_request(request: Request, _app: &App) -> std::result::Result<Self, Error> {
        let body =
            axum::body::to_bytes(request.into_body(), BODY_LIMIT).await.map_err(|_| Error::TooLarge)?;
        Ok(Self::parse(&body))
    }
}

/// A handler was mounted without [`super::protect`] around it.
#[derive(Debug, thiserror::Error)]
#[error("a page handler was mounted outside the gate")]
struct OutsideTheGate;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_ours_are_followed() {
        for good in ["/servers", "/orders/x?y=1", "/"] {
            assert_eq!(safe_path(good, "/servers"), good);
        }
        for bad in
            ["", "servers", "//evil.example", "/\\evil.example", "https://evil.example", "/a\nb", "/a\\b"]
        {
            assert_eq!(safe_path(bad, "/servers"), "/servers", "{bad:?}");
        }
    }
}
