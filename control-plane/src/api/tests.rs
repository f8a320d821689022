//! Stories of what every endpoint shares, told through `/api/v1/ssh_keys`.

mod buying;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use ez_protocol::UnixMillis;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{
    accounts::{self, NewUser, Scope},
    app::{self, App, Services},
    clock::ManualClock,
    db::{Db, testing::each_database},
};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ada@laptop";

/// An account with a token, and the whole router.
struct Story {
    app: App,
    router: Router,
    clock: Arc<ManualClock>,
    token: String,
}

/// An answer: status, headers in lower case, body as JSON.
struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Value,
}

impl Story {
    async fn begin(db: &Db, scopes: Vec<Scope>) -> Self {
        let clock = Arc::new(ManualClock::at(UnixMillis(1_700_000_000_000)));
        Self::with(Services::for_tests(db.clone(), clock.clone()), clock, scopes).await
    }

    async fn with(app: App, clock: Arc<ManualClock>, scopes: Vec<Scope>) -> Self {
        let new = NewUser {
            email: "ada@example.org".into(),
            password: "correct horse battery".into(),
            staff: None,
            verified: true,
        };
        let ada = accounts::create_user(&app, new).await.unwrap();
        let (_, token) = accounts::create_token(&app, &ada, "test", scopes).await.unwrap();
        Self { router: app::router(&app), app, clock, token }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request =
            request.body(body.map_or_else(Body::empty, |body| Body::from(body.to_string()))).unwrap();
        self.answer(request).await
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Posts a body as it is.
    async fn post_text(&self, body: &'static str) -> Answer {
        let request = Request::post("/api/v1/ssh_keys")
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(Body::from(body))
            .unwrap();
        self.answer(request).await
    }

    async fn call(&self, method: &str, path: &str, key: Option<&str>, body: Option<Value>) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(key.map(|key| ("idempotency-key", key)));
        self.send(method, path, &headers, body).await
    }
}

#[tokio::test]
async fn without_a_token_nothing_is_told() {
    each_database(async |db| {
        let story = Story::begin(&db, vec![Scope::Read]).await;
        for headers in [&[][..], &[("authorization", "Bearer ezt_wrong")], &[("authorization", "Basic x")]] {
            for path in ["/api/v1/ssh_keys", "/api/v1/nothing"] {
                let answer = story.send("GET", path, headers, None).await;
                assert_eq!(
                    (answer.status, &answer.body["code"]),
                    (StatusCode::UNAUTHORIZED, &json!("unauthenticated"))
                );
                assert_eq!(answer.headers["content-type"], "application/problem+json");
                assert_eq!(answer.headers["x-request-id"], answer.body["request_id"].as_str().unwrap());
                assert_eq!(answer.headers["www-authenticate"], "Bearer");
            }
        }
        let answer = story.call("GET", "/api/v1/nothing", None, None).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (StatusCode::NOT_FOUND, &json!("no_such_endpoint"))
        );
        let answer = story.call("POST", "/api/v1/ssh_keys", None, Some(json!({ "public_key": KEY }))).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (StatusCode::FORBIDDEN, &json!("forbidden")),
            "read only"
        );
    })
    .await;
}

#[tokio::test]
async fn ssh_keys_are_added_shown_and_removed() {
    each_database(async |db| {
        let story = Story::begin(&db, vec![Scope::Read, Scope::Write]).await;
        let made = story.call("POST", "/api/v1/ssh_keys", None, Some(json!({ "public_key": KEY }))).await;
        assert_eq!(made.status, StatusCode::CREATED);
        let path = format!("/api/v1/ssh_keys/{}", made.body["id"].as_str().unwrap());
        assert_eq!(story.call("GET", &path, None, None).await.body, made.body);
        assert_eq!(story.call("GET", "/api/v1/ssh_keys", None, None).await.body["data"], json!([made.body]));
        assert_eq!(story.call("DELETE", &path, None, None).await.status, StatusCode::NO_CONTENT);
        assert_eq!(story.call("GET", &path, None, None).await.body["code"], "not_found");
        for (body, code) in [
            (json!({ "public_key": "no key" }), "invalid_input"),
            (json!({ "public_key": KEY, "surprise": 1 }), "invalid_input"),
            (json!({}), "invalid_input"),
        ] {
            let refused = story.call("POST", "/api/v1/ssh_keys", None, Some(body.clone())).await;
            assert_eq!((refused.status.as_u16(), &refused.body["code"]), (422, &json!(code)), "{body}");
        }
        let refused =
            story.call("POST", "/api/v1/ssh_keys", None, Some(json!({ "public_key": "no key" }))).await;
        assert_eq!(refused.body["errors"][0]["field"], "public_key");
    })
    .await;
}

#[tokio::test]
async fn a_wrong_body_is_told_by_field() {
    each_database(async |db| {
        let story = Story::begin(&db, vec![Scope::Read, Scope::Write]).await;
        for (body, field, code) in [
            (json!({}), "public_key", "missing"),
            (json!({ "public_key": 5 }), "public_key", "wrong_type"),
            (json!({ "public_key": KEY, "name": ["x"] }), "name", "wrong_type"),
            (json!({ "public_key": KEY, "surprise": 1 }), "surprise", "unknown"),
            (json!({ "public_key": KEY, "name": "a\0b" }), "name", "control_character"),
        ] {
            let refused = story.call("POST", "/api/v1/ssh_keys", None, Some(body.clone())).await;
            let error = &refused.body["errors"][0];
            assert_eq!(
                (refused.status.as_u16(), error["field"].as_str(), error["code"].as_str()),
                (422, Some(field), Some(code)),
                "{body}: {}",
                refused.body
            );
        }
        // By position there is no contract.
        for body in [json!(["laptop", KEY]), json!(KEY), json!(null)] {
            let refused = story.call("POST", "/api/v1/ssh_keys", None, Some(body.clone())).await;
            assert_eq!(
                (refused.status.as_u16(), &refused.body["code"]),
                (422, &json!("invalid_input")),
                "{body}"
            );
        }
        assert_eq!(story.call("GET", "/api/v1/ssh_keys", None, None).await.body["data"], json!([]));
        for (text, status, code) in [
            ("{", 400, "invalid_json"),
            ("", 400, "invalid_json"),
            (r#"{"public_key": "x"} y"#, 400, "invalid_json"),
            (r#"{"public_key": "x", "public_key": "y"}"#, 422, "invalid_input"),
        ] {
            let refused = story.post_text(text).await;
            assert_eq!((refused.status.as_u16(), &refused.body["code"]), (status, &json!(code)), "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_path_that_is_not_text_names_nothing() {
    let (db, _directory) = crate::db::testing::sqlite().await;
    let story = Story::begin(&db, vec![Scope::Read, Scope::Write]).await;
    let document = story.send("GET", "/api/v1/openapi.json", &[], None).await.body;
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|_| path.contains('{')) {
            let path = path.replace("{id}", "%FF").replace("{action}", "%FF%FE");
            let body = (method == "post").then(|| json!({ "action": "start" }));
            let answer = story.call(&method.to_uppercase(), &path, None, body).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.body["code"]),
                (404, &json!("not_found")),
                "{method} {path}"
            );
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            asked += 1;
        }
    }
    assert!(asked >= 10, "{asked}");
}

#[tokio::test]
async fn a_repeated_post_is_carried_out_once() {
    each_database(async |db| {
        let story = Story::begin(&db, vec![Scope::Read, Scope::Write]).await;
        let body = || Some(json!({ "public_key": KEY, "name": "laptop" }));
        let first = story.call("POST", "/api/v1/ssh_keys", Some("k"), body()).await;
        assert_eq!(first.status, StatusCode::CREATED);
        let path = format!("/api/v1/ssh_keys/{}", first.body["id"].as_str().unwrap());
        assert_eq!(story.call("DELETE", &path, None, None).await.status, StatusCode::NO_CONTENT);
        let again = story.call("POST", "/api/v1/ssh_keys", Some("k"), body()).await;
        assert_eq!((again.status, &again.body), (first.status, &first.body));
        assert_eq!(again.headers["idempotent-replayed"], "true");
        assert_eq!(
            story.call("GET", "/api/v1/ssh_keys", None, None).await.body["data"],
            json!([]),
            "not made again"
        );
        let other = Some(json!({ "public_key": KEY, "name": "other" }));
        let reused = story.call("POST", "/api/v1/ssh_keys", Some("k"), other).await;
        assert_eq!((reused.status.as_u16(), &reused.body["code"]), (422, &json!("idempotency_key_reused")));
        // A day later the key is forgotten.
        story.clock.advance(Duration::from_secs(24 * 3_600));
        let at = crate::clock::Clock::now(&*story.clock);
        story
            .app
            .db
            .write::<_, crate::db::DbError, _>(move |tx| {
                Box::pin(async move { super::store::sweep(tx, at).await })
            })
            .await
            .unwrap();
        let anew = story.call("POST", "/api/v1/ssh_keys", Some("k"), body()).await;
        assert_ne!(anew.body["id"], first.body["id"]);
    })
    .await;
}

#[tokio::test]
async fn a_key_in_use_is_told_and_a_dead_request_is_taken_over() {
    each_database(async |db| {
        let story = Story::begin(&db, vec![Scope::Read, Scope::Write]).await;
        let body = || Some(json!({ "public_key": KEY }));
        story.call("POST", "/api/v1/ssh_keys", Some("k"), body()).await;
        // What a crash between the claim and the answer leaves behind.
        db.write::<_, crate::db::DbError, _>(|tx| {
            Box::pin(async move {
                sqlx::query("UPDATE idempotency_keys SET status = NULL, body = NULL").execute(tx).await?;
                Ok(())
            })
        })
        .await
        .unwrap();
        let busy = story.call("POST", "/api/v1/ssh_keys", Some("k"), body()).await;
        assert_eq!((busy.status.as_u16(), &busy.body["code"]), (409, &json!("idempotency_in_progress")));
        assert_eq!(busy.headers["retry-after"], "35");
        story.clock.advance(Duration::from_secs(35));
        let taken = story.call("POST", "/api/v1/ssh_keys", Some("k"), body()).await;
        assert_eq!(taken.status, StatusCode::CREATED);
    })
    .await;
}

#[tokio::test]
async fn the_document_describes_what_is_there() {
    let (db, _directory) = crate::db::testing::sqlite().await;
    let story = Story::begin(&db, vec![Scope::Read]).await;
    let answer = story.send("GET", "/api/v1/openapi.json", &[], None).await;
    assert_eq!(answer.status, StatusCode::OK);
    let paths = answer.body["paths"].as_object().unwrap();
    assert!(paths.contains_key("/api/v1/ssh_keys/{id}"), "{paths:?}");
    let words = &answer.body["components"]["schemas"]["ActionWord"]["enum"];
    let words: Vec<&str> = words.as_array().unwrap().iter().filter_map(|word| word.as_str()).collect();
    assert!(
        words.starts_with(&["start", "shutdown", "reboot", "stop", "reset", "snapshot_create"]),
        "{words:?}"
    );
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            // Whatever is described exists: without a token it is refused, not unknown.
            let path = path.replace(['{', '}'], "");
            let answer = story.send(&method.to_uppercase(), &path, &[], None).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
            let answer = story.call(&method.to_uppercase(), &path, None, None).await;
            let code = answer.body["code"].as_str().unwrap_or_default();
            assert!(!["no_such_endpoint", "method_not_allowed"].contains(&code), "{method} {path}: {code}");
            let told = &methods[method]["responses"];
            assert!(
                told.get(answer.status.as_str()).is_some(),
                "{method} {path}: {} is not told",
                answer.status
            );
            let mut expected = vec!["401", "403", "429", "500", "503"];
            expected.extend((method == "post").then_some(["400", "409", "413", "422"]).into_iter().flatten());
            expected.extend(methods[method].get("requestBody").map(|_| "415"));
            for status in expected {
                assert!(told.get(status).is_some(), "{method} {path}: {status} is not told");
            }
            for (status, response) in
                told.as_object().unwrap().iter().filter(|(status, _)| status.as_str() >= "400")
            {
                let kinds: Vec<_> = response["content"].as_object().unwrap().keys().collect();
                assert_eq!(kinds, ["application/problem+json"], "{method} {path} {status}");
            }
        }
    }
}

#[tokio::test]
async fn health_is_told_and_metrics_are_not_for_strangers() {
    let (db, _directory) = crate::db::testing::sqlite().await;
    let story = Story::begin(&db, vec![Scope::Read]).await;
    assert_eq!(story.send("GET", "/healthz", &[], None).await.status, StatusCode::OK);
    let ready = story.send("GET", "/readyz", &[], None).await;
    assert_eq!((ready.status, &ready.body["link"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable")));
    story.app.ready.set_link_listening(true);
    let ready = story.send("GET", "/readyz", &[], None).await;
    assert_eq!((ready.status, &ready.body["migrations"]), (StatusCode::OK, &json!("ok")));
    db.close().await;
    let ready = story.send("GET", "/readyz", &[], None).await;
    assert_eq!(ready.status, StatusCode::OK, "a look counts for a second");
    story.clock.advance(Duration::from_secs(1));
    let ready = story.send("GET", "/readyz", &[], None).await;
    let words = json!({ "database": "unavailable", "migrations": "unavailable", "link": "ok" });
    assert_eq!((ready.status, &ready.body), (StatusCode::SERVICE_UNAVAILABLE, &words), "and no word more");
    assert_eq!(story.send("GET", "/metrics", &[], None).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn readiness_does_not_wait_for_a_database_that_is_stuck() {
    let (db, _directory) = crate::db::testing::sqlite().await;
    let story = Story::begin(&db, vec![Scope::Read]).await;
    let mut taken = Vec::new();
    while let Ok(Ok(connection)) = tokio::time::timeout(Duration::from_secs(1), db.read()).await {
        taken.push(connection);
    }
    let three = (0..3).map(|_| story.send("GET", "/readyz", &[], None));
    let answers = tokio::time::timeout(Duration::from_secs(5), futures::future::join_all(three)).await;
    let answers = answers.expect("one look of two seconds for all who ask");
    let stuck = |ready: &Answer| ready.body["database"] == "unavailable";
    assert!(answers.iter().all(stuck));
    drop(taken);
    story.clock.advance(Duration::from_secs(1));
    assert_eq!(story.send("GET", "/readyz", &[], None).await.body["database"], "ok");
}

#[tokio::test]
async fn asking_too_often_is_told_and_passes() {
    let (db, _directory) = crate::db::testing::sqlite().await;
    let story = Story::begin(&db, vec![Scope::Read]).await;
    let mut told = Vec::new();
    for _ in 0..310 {
        // Guessing tokens counts, too.
        told.push(story.send("GET", "/api/v1/ssh_keys", &[], None).await);
    }
    assert_eq!(told.iter().filter(|answer| answer.status == StatusCode::UNAUTHORIZED).count(), 300);
    let last = &told[309];
    assert_eq!(
        (last.status, &last.body["code"], last.headers["retry-after"].as_bytes()),
        (StatusCode::TOO_MANY_REQUESTS, &json!("rate_limited"), &b"1"[..])
    );
    story.clock.advance(Duration::from_secs(1));
    assert_eq!(story.call("GET", "/api/v1/ssh_keys", None, None).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_takes_too_long_and_what_panics_is_answered() {
    let (db, _directory) = crate::db::testing::sqlite().await;
    let mut story = Story::begin(&db, vec![Scope::Read, Scope::Write]).await;
    let endpoints = axum::Router::new()
        .route("/panic", axum::routing::get(async || -> StatusCode { panic!("a bug") }))
        .route("/echo", axum::routing::post(async |_: axum::body::Bytes| StatusCode::OK));
    let patience = Duration::from_millis(200);
    story.router = super::protect_with(endpoints, &story.app, patience).with_state(story.app.clone());
    let answer = story.call("GET", "/panic", None, None).await;
    assert_eq!((answer.status.as_u16(), &answer.body["code"]), (500, &json!("internal")));
    for key in [None, Some("k")] {
        let never = futures::stream::pending::<Result<axum::body::Bytes, std::io::Error>>();
        let mut request = Request::post("/echo").header("authorization", format!("Bearer {}", story.token));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = story.answer(request.body(Body::from_stream(never)).unwrap()).await;
        assert_eq!((answer.status.as_u16(), &answer.body["code"]), (503, &json!("timed_out")), "{key:?}");
    }
}
