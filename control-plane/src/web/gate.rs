//! The gate in front of every page: the defaults are deny, a reviewed line opts out.
//!
//! In order: request id, rate limit, origin of changes, session (unless the route is in [`OPEN`]),
//! staff only below `/operator`, then the handler under a time-out; afterwards errors become pages and
//! every answer gets the headers of [`super::headers`].

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    middleware::{Next, from_fn_with_state},
    response::{Html, IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tower_http::{catch_panic::CatchPanicLayer, limit::RequestBodyLimitLayer};
use tracing::Instrument;

use crate::{
    accounts::{self, Principal},
    app::App,
    entropy::EntropyExt,
    web::{
        context::{Frame, redirect, safe_path},
        cookies::{Cookies, FLASH, SESSION, THEME},
        csrf,
        error::Error,
        headers::Headers,
        limit::{self, Ask, Limits},
        shell::{Flash, Shell, Theme, Tone, Viewer},
        templates::Page,
        text::DEFAULT_LANGUAGE,
    },
};

/// Routes that work without a session. Reviewed: each line says why.
const OPEN: [(&str, &str); 12] = [
    ("/", "the landing page"),
    ("/terms", "read before signing up"),
    ("/login", "how one gets a session"),
    ("/logout", "harmless without one"),
    ("/signup", "how one gets an account"),
    ("/verify", "the link in the mail may be opened in another browser"),
    ("/forgot", "one cannot log in"),
    ("/reset", "one cannot log in"),
    ("/theme", "a cookie with a colour"),
    ("/assets/{revision}/{*name}", "style sheets and scripts"),
    ("/favicon.ico", "browsers ask by themselves"),
    ("/console/{ticket}", "the one-use ticket proves it; a browser's is good only in its own session"),
];

/// Everything below is for staff; for everybody else it does not exist.
const STAFF_ONLY: &str = "/operator";

/// Largest body a form may send, in bytes.
pub(super) const BODY_LIMIT: usize = 64 * 1024;

/// How long a handler may take until its head of answer; event streams go on afterwards.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the gate needs, made once.
struct Gate {
    app: App,
    limits: Limits,
    headers: Headers,
    cookies: Cookies,
    origin: String,
    test_mode: bool,
    patience: Duration,
}

/// Puts the gate in front of all pages.
pub(crate) fn protect(pages: Router<App>, app: &App) -> Router<App> {
    protect_with(pages, app, PATIENCE)
}

/// The same with another time-out.
pub(super) fn protect_with(pages: Router<App>, app: &App, patience: Duration) -> Router<App> {
    let config = &app.config;
    let gate = Arc::new(Gate {
        limits: Limits::of(app),
        headers: Headers::new(config),
        cookies: Cookies::new(config.http.is_secure()),
        origin: config.http.public_url.origin().ascii_serialization(),
        test_mode: !config.stripe.is_live(),
        patience,
        app: Arc::clone(app),
    });
    pages
        .fallback(async || Error::NotFound)
        .layer(CatchPanicLayer::new())
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(RequestBodyLimitLayer::new(BODY_LIMIT))
        .layer(from_fn_with_state(gate, pass))
}

/// One request through the gate.
async fn pass(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let id = request_id(&gate.app);
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let span = tracing::info_span!(
        "page",
        http.request_id = id,
        http.method = %request.method(),
        http.route = route.as_deref().unwrap_or("-"),
    );
    async move {
        let started = gate.app.clock.now();
        let mut shell = gate.shell(&request, id);
        let admitted = gate.admit(&mut request, route.as_deref(), &mut shell).await;
        let response = match admitted {
            Err(refusal) => refusal,
            Ok(()) => match tokio::time::timeout(gate.patience, next.run(request)).await {
                Ok(response) => response,
                Err(_) => Error::TimedOut.into_response(),
            },
        };
        let response = gate.finish(response, shell);
        let status = response.status().as_u16();
        let took = gate.app.clock.now().since(started).as_millis();
        tracing::debug!(http.status = status, http.took_ms = took, "page answered");
        response
    }
    .instrument(span)
    .await
}

impl Gate {
    /// What is known of the page before anybody is recognised.
    fn shell(&self, request: &Request, request_id: String) -> Shell {
        let headers = request.headers();
        let theme = self.cookies.read(headers, THEME);
        Shell {
            path: request.uri().path().to_owned(),
            back: self.back(request),
            viewer: None,
            lang: DEFAULT_LANGUAGE.to_owned(),
            theme: theme.map_or(Theme::Auto, |value| Theme::from_cookie(&value)),
            now: self.app.clock.now(),
            test_mode: self.test_mode,
            flash: self.flash(headers),
            request_id,
        }
    }

    /// The page itself, or for a form that came back the page it stood on.
    fn back(&self, request: &Request) -> String {
        let here = request.uri().path_and_query().map_or("/", |path| path.as_str());
        if request.method() == Method::GET {
            return here.to_owned();
        }
        let referer = request.headers().get(header::REFERER).and_then(|value| value.to_str().ok());
        let path = referer.and_then(|from| from.strip_prefix(&self.origin)).unwrap_or("/");
        safe_path(path, "/").to_owned()
    }

    /// Decides whether the request may reach its handler, and tells the handler who asks.
    async fn admit(
        &self,
        request: &mut Request,
        route: Option<&str>,
        shell: &mut Shell,
    ) -> Result<(), Response> {
        let caller = limit::caller_of(request, &self.app.config.http.trusted_proxies);
        let ask = Ask::of(request.method(), request.uri().path());
        self.limits.take(ask, caller, shell.now).map_err(|wait| Error::TooMany(wait).into_response())?;
        if !csrf::is_ours(request.method(), request.headers(), &self.origin) {
            return Err(Error::Forbidden.into_response());
        }
        if route.is_some_and(|route| route.starts_with("/assets/")) {
            return Ok(());
        }
        let token = self.cookies.read(request.headers(), SESSION).filter(|token| !token.is_empty());
        let principal = match &token {
            None => None,
            Some(token) => accounts::session_principal(&self.app, token)
                .await
                .map_err(|error| Error::from(error).into_response())?,
        };
        let is_open = route.is_none_or(|route| OPEN.iter().any(|(open, _)| *open == route));
        if principal.is_none() && !is_open {
            return Err(refer_to_login(request));
        }
        let staff = principal.as_ref().is_some_and(|who| who.staff.is_some());
        if route.is_some_and(is_staff_only) && !staff {
            return Err(Error::NotFound.into_response());
        }
        shell.viewer = principal.as_ref().map(viewer);
        let extensions = request.extensions_mut();
        extensions.insert(Frame {
            shell: shell.clone(),
            cookies: self.cookies,
            templates: self.app.templates.clone(),
            token,
            caller,
        });
        if let Some(principal) = principal {
            extensions.insert(principal);
        }
        Ok(())
    }

    /// Turns errors into pages and adds the headers.
    fn finish(&self, response: Response, mut shell: Shell) -> Response {
        let error = response.extensions().get::<Error>().cloned();
        let is_page = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
        let error = error.or_else(|| Error::of_status(response.status()).filter(|_| !is_page));
        let shown_flash = shell.flash.is_some() && is_page && response.status() == StatusCode::OK;
        let mut response = match error {
            None => response,
            Some(error) => {
                if let Error::Internal(source) = &error {
                    tracing::error!(web.error = %chain(source.as_ref()), "a page failed");
                }
                shell.flash = None;
                self.error_page(&error, &shell)
            }
        };
        let headers = response.headers_mut();
        if shown_flash && let Some(cookie) = self.cookies.clear(FLASH) {
            headers.append(header::SET_COOKIE, cookie);
        }
        if let Ok(id) = HeaderValue::from_str(&shell.request_id) {
            headers.insert("x-request-id", id);
        }
        self.headers.add(headers);
        response
    }

    fn error_page(&self, error: &Error, shell: &Shell) -> Response {
        let failure = error.failure();
        let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = match self.app.templates.page(shell, &failure) {
            Ok(html) => (status, Html(html)).into_response(),
            Err(error) => {
                tracing::error!(web.error = %error, template = crate::web::views::errors::Failure::TEMPLATE);
                status.into_response()
            }
        };
        if let Some(wait) = failure.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
        }
        response
    }

    /// The message left by the page before; only codes that have a text.
    fn flash(&self, headers: &HeaderMap) -> Option<Flash> {
        let value = self.cookies.read(headers, FLASH)?;
        let (tone, code) = value.split_once('.')?;
        let tone = match tone {
            "good" => Tone::Good,
            "info" => Tone::Info,
            "bad" => Tone::Bad,
            _ => return None,
        };
        let known = self.app.templates.texts().has(&format!("flash-{code}"));
        known.then(|| Flash { tone, code: code.to_owned() })
    }
}

fn is_staff_only(route: &str) -> bool {
    route.strip_prefix(STAFF_ONLY).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn viewer(principal: &Principal) -> Viewer {
    Viewer {
        email: principal.email.clone(),
        account: principal.account_name.clone(),
        staff: principal.staff.is_some(),
    }
}

/// A page leads to the login and back; a script's request is told by status.
fn refer_to_login(request: &Request) -> Response {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if accept.contains("fragment=") || accept.contains("text/event-stream") {
        return (StatusCode::UNAUTHORIZED, Html("")).into_response();
    }
    let target = match *request.method() {
        Method::GET => {
            let here = request.uri().path_and_query().map_or("/", |path| path.as_str());
            let query =
                url::form_urlencoded::Serializer::new(String::new()).append_pair("next", here).finish();
            format!("/login?{query}")
        }
        _ => "/login".to_owned(),
    };
    redirect(&target)
}

/// Ten characters that can be read out on the telephone.
fn request_id(app: &App) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz23456789z";
    app.entropy.bytes::<10>().iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
