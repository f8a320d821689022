//! The gate, through the whole router as a browser meets it.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, routing::get};
use ez_protocol::UnixMillis;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use crate::{
    app::{App, Services},
    clock::ManualClock,
    db::testing,
    web::{self, Ctx, gate::protect_with, views::errors::Failure},
};

/// Services over a fresh database; keep the directory as long as they are used.
async fn app() -> (App, Arc<ManualClock>, tempfile::TempDir) {
    let clock = Arc::new(ManualClock::at(UnixMillis(1_795_466_970_000)));
    let (db, directory) = testing::sqlite().await;
    (Services::for_tests(db, Arc::clone(&clock)), clock, directory)
}

/// A router with pages for the tests beside those of `web`.
fn pages() -> Router<App> {
    Router::new()
        .merge(web::routes())
        .route(
            "/servers",
            get(async |ctx: Ctx| ctx.page(&Failure { code: "internal", status: 200, retry_after: None })),
        )
        .route("/operator/fleet", get(async || "secret"))
        .route("/login", get(async || "form").post(async || "tried"))
        .route("/", get(async || -> web::Result { Err(std::fmt::Error.into()) }))
        .route("/terms", get(async || -> web::Result { panic!("a bug") }))
        .route("/forgot", get(async || std::future::pending::<web::Result>().await))
}

fn router(app: &App) -> Router {
    web::protect(pages(), app).with_state(Arc::clone(app))
}

async fn ask(app: &App, request: Request<Body>) -> (Response<()>, String) {
    let response = router(app).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(parts, ()), String::from_utf8_lossy(&body).into_owned())
}

fn get_of(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_page_without_a_session_leads_to_the_login_and_back() {
    let (app, _, _directory) = app().await;
    let (answer, _) = ask(&app, get_of("/servers?q=web")).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(answer.headers()[header::LOCATION], "/login?next=%2Fservers%3Fq%3Dweb");
    let script = Request::get("/servers").header(header::ACCEPT, "text/html; fragment=live");
    let (answer, _) = ask(&app, script.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let (answer, body) = ask(&app, get_of("/operator/fleet")).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert!(!body.contains("secret"));
}

#[tokio::test]
async fn every_answer_carries_the_headers() {
    let (app, _, _directory) = app().await;
    for path in ["/servers", "/login", "/nowhere", "/"] {
        let (answer, _) = ask(&app, get_of(path)).await;
        let headers = answer.headers();
        for name in ["content-security-policy", "x-content-type-options", "x-request-id", "referrer-policy"] {
            assert!(headers.contains_key(name), "{path} lacks {name}");
        }
        assert_eq!(headers[header::CACHE_CONTROL], "no-store", "{path}");
    }
}

#[tokio::test]
async fn changes_from_elsewhere_are_refused_before_the_handler() {
    let (app, _, _directory) = app().await;
    let post =
        |site: &str| Request::post("/login").header("sec-fetch-site", site).body(Body::from("a=b")).unwrap();
    let (answer, body) = ask(&app, post("cross-site")).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert!(body.contains("This request was not accepted"), "{body}");
    let (answer, body) = ask(&app, post("same-origin")).await;
    assert_eq!((answer.status(), body.as_str()), (StatusCode::OK, "tried"));
}

#[tokio::test]
async fn what_is_missing_and_what_fails_are_pages_with_a_request_id() {
    let (app, _, _directory) = app().await;
    for (path, status, said) in [
        ("/nowhere", StatusCode::NOT_FOUND, "There is nothing here"),
        ("/", StatusCode::INTERNAL_SERVER_ERROR, "Something on our side failed"),
        ("/terms", StatusCode::INTERNAL_SERVER_ERROR, "Something on our side failed"),
        ("/assets/x/none.css", StatusCode::NOT_FOUND, "There is nothing here"),
    ] {
        let (answer, body) = ask(&app, get_of(path)).await;
        assert_eq!(answer.status(), status, "{path}");
        assert!(body.contains(said), "{path}: {body}");
        let id = answer.headers()["x-request-id"].to_str().unwrap();
        assert!(body.contains(id), "{path} shows its request id");
        assert!(!body.contains("a bug"), "nothing of the inside is shown");
    }
}

#[tokio::test]
async fn a_handler_that_never_answers_is_given_up() {
    let (app, _, _directory) = app().await;
    let router = protect_with(pages(), &app, Duration::from_millis(10)).with_state(Arc::clone(&app));
    let answer = router.oneshot(get_of("/forgot")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()[header::RETRY_AFTER], "5");
}

#[tokio::test]
async fn guessing_is_slowed_down_while_looking_goes_on() {
    let (app, clock, _directory) = app().await;
    let router = router(&app);
    let attempt =
        || Request::post("/login").header("sec-fetch-site", "same-origin").body(Body::empty()).unwrap();
    for _ in 0..20 {
        assert_eq!(router.clone().oneshot(attempt()).await.unwrap().status(), StatusCode::OK);
    }
    let refused = router.clone().oneshot(attempt()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "3");
    assert_eq!(router.clone().oneshot(get_of("/login")).await.unwrap().status(), StatusCode::OK);
    clock.advance(Duration::from_secs(3));
    assert_eq!(router.clone().oneshot(attempt()).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn assets_are_cached_for_ever_under_their_revision() {
    let (app, _, _directory) = app().await;
    let address = app.templates.assets().address("portal.css").unwrap();
    let (answer, body) = ask(&app, get_of(&address)).await;
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "public, max-age=31536000, immutable");
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/css; charset=utf-8");
    assert!(body.starts_with("@layer"));
    let (answer, _) = ask(&app, get_of("/assets/0000/portal.css")).await;
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-cache");
}

#[tokio::test]
async fn the_theme_is_kept_in_a_cookie_and_leads_back_to_our_own_page() {
    let (app, _, _directory) = app().await;
    let post = |body: &'static str| {
        Request::post("/theme").header("sec-fetch-site", "same-origin").body(Body::from(body)).unwrap()
    };
    let (answer, _) = ask(&app, post("theme=dark&back=%2Flogin")).await;
    assert_eq!(answer.headers()[header::LOCATION], "/login");
    assert!(answer.headers()[header::SET_COOKIE].to_str().unwrap().starts_with("ez_theme=dark; Path=/"));
    let (answer, _) = ask(&app, post("theme=%3Cx%3E&back=%2F%2Fevil.example")).await;
    assert_eq!(answer.headers()[header::LOCATION], "/");
    assert!(answer.headers()[header::SET_COOKIE].to_str().unwrap().starts_with("ez_theme=auto;"));
}

#[test]
fn styles_and_scripts_stay_within_their_budget() {
    let templates = web::Templates::load().unwrap();
    let assets = templates.assets();
    // What only the page of a console loads has a budget of its own.
    let size = |ending: &str, console: bool| -> usize {
        let counts = |name: &str| name.ends_with(ending) && name.starts_with("console/") == console;
        assets.all().filter(|(name, _)| counts(name)).map(|(_, body)| body.len()).sum()
    };
    for (ending, console, most) in
        [(".css", false, 25_600), (".js", false, 20_000), (".css", true, 6_000), (".js", true, 40_000)]
    {
        let size = size(ending, console);
        assert!(size <= most, "{ending} (of the console: {console}) has {size} bytes");
    }
    let script = assets.all().filter(|(name, _)| name.ends_with(".js"));
    for (name, body) in script {
        let text = String::from_utf8_lossy(body);
        for banned in ["innerHTML", "eval(", "document.write", "http://", "https://"] {
            assert!(!text.contains(banned), "{name} uses {banned}");
        }
    }
}
