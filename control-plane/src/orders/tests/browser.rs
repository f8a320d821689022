//! A person with a browser: pages and forms through the whole router.

use axum::body::{Body, to_bytes};
use http::{Request, header};
use tower::ServiceExt as _;

use crate::{
    accounts::{self, NewUser, Principal, StaffRole},
    app::{self, App},
};

const PASSWORD: &str = "correct horse battery";

pub(super) struct Browser {
    app: App,
    cookie: String,
    pub(super) who: Principal,
}

pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) location: String,
    /// The cookies it sets; the sentence that the next page begins with is one.
    pub(super) said: String,
    pub(super) body: String,
}

impl Browser {
    pub(super) async fn log_in(app: &App, email: &str, staff: Option<StaffRole>) -> Self {
        let new = NewUser { email: email.into(), password: PASSWORD.into(), staff, verified: true };
        let who = accounts::create_user(app, new).await.unwrap();
        let session = accounts::log_in(app, email, PASSWORD).await.unwrap();
        Self { app: app.clone(), cookie: format!("ez_session={}", session.token), who }
    }

    pub(super) async fn get(&self, path: &str) -> Seen {
        self.send(Request::get(path)).await
    }

    /// Presses the button of a form without fields.
    pub(super) async fn post(&self, path: &str) -> Seen {
        self.send(Request::post(path).header("sec-fetch-site", "same-origin")).await
    }

    /// Sends a form with these fields.
    pub(super) async fn send_form(&self, path: &str, fields: &str) -> Seen {
        let request = Request::post(path)
            .header("sec-fetch-site", "same-origin")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send_body(request, Body::from(fields.to_owned())).await
    }

    async fn send(&self, request: http::request::Builder) -> Seen {
        self.send_body(request, Body::empty()).await
    }

    async fn send_body(&self, request: http::request::Builder, body: Body) -> Seen {
        let request = request.header(header::COOKIE, &self.cookie).body(body).unwrap();
        let response = app::router(&self.app).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let location = parts.headers.get(header::LOCATION).map(|to| to.to_str().unwrap().to_owned());
        let cookies = parts.headers.get_all(header::SET_COOKIE).iter();
        let said: Vec<&str> = cookies.map(|cookie| cookie.to_str().unwrap()).collect();
        let said = said.join(" ");
        let body = to_bytes(body, 1 << 20).await.unwrap();
        Seen {
            status: parts.status.as_u16(),
            location: location.unwrap_or_default(),
            said,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }
}
