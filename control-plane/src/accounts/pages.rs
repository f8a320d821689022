//! The pages of this slice: signing up, logging in, and the account with its keys and tokens.

use std::borrow::Cow;

use axum::{
    Router,
    extract::{Query, State},
    routing::{get, post},
};
use ez_protocol::{ApiTokenId, SshKeyId};
use http::StatusCode;
use serde::Deserialize;

use super::{AccountsError, ApiToken, PasswordProblem, Principal, Scope, SshKey, StaffRole};
use crate::{
    app::App,
    entropy::EntropyExt,
    web::{self, Ctx, Customer, FormState, Submission, Tone, Visitor, views::accounts as views},
};

/// Shortest password, in characters.
const PASSWORD_MIN: usize = 10;
/// Where one goes after logging in.
const HOME: &str = "/servers";

/// The routes; the web defaults (session, CSRF, limits) are applied around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/signup", get(sign_up_form).post(sign_up))
        .route("/login", get(log_in_form).post(log_in))
        .route("/logout", post(log_out))
        .route("/verify", get(verify_form).post(verify))
        .route("/forgot", get(forgot_form).post(forgot))
        .route("/reset", get(reset_form).post(reset))
        .route("/account", get(account))
        .route("/account/keys", post(add_key))
        .route("/account/keys/remove", post(remove_key))
        .route("/account/tokens", post(make_token))
        .route("/account/tokens/revoke", post(revoke_token))
}

/// What a form of this slice got wrong, at the field that is to blame.
fn refuse(form: &mut FormState, error: AccountsError) -> Result<(), web::Error> {
    match error {
        AccountsError::Email => form.refuse("email", "email-invalid"),
        AccountsError::Password(problem) => match problem {
            PasswordProblem::TooShort => form.refuse_with("password", "password-short", PASSWORD_MIN),
            PasswordProblem::TooLong => form.refuse_with("password", "password-long", 512),
            PasswordProblem::Guessable => form.refuse("password", "password-common"),
        },
        AccountsError::OtherPassword => form.refuse("password", "password-other"),
        AccountsError::Credentials => form.refuse_form("login"),
        AccountsError::Link => form.refuse_form("link-used"),
        AccountsError::Busy => form.refuse_form("login-wait"),
        AccountsError::SshKey(error) => form.refuse("public_key", web::forms::ssh_key_code(&error)),
        AccountsError::NotFound => return Err(web::Error::NotFound),
        other => return Err(other.into()),
    }
    Ok(())
}

/// The path in `next=`, or the server list.
#[derive(Deserialize)]
struct Next {
    next: Option<String>,
}

/// The secret in a mail's link.
#[derive(Deserialize)]
struct Link {
    token: Option<String>,
}

async fn sign_up_form(ctx: Ctx, Visitor(me): Visitor) -> web::Result {
    match me {
        Some(_) => ctx.redirect(HOME),
        None => ctx.page(&views::SignUp { form: FormState::default(), password_min: PASSWORD_MIN }),
    }
}

async fn sign_up(ctx: Ctx, State(app): State<App>, sent: Submission) -> web::Result {
    match super::sign_up(&app, sent.text("email"), sent.raw("password")).await {
        Ok(()) => ctx.page(&views::MailSent { why: "signup", email: sent.text("email").to_owned() }),
        Err(error) => {
            let mut form = sent.state();
            refuse(&mut form, error)?;
            let page = views::SignUp { form, password_min: PASSWORD_MIN };
            ctx.page_with(StatusCode::UNPROCESSABLE_ENTITY, &page)
        }
    }
}

async fn log_in_form(ctx: Ctx, Visitor(me): Visitor, Query(query): Query<Next>) -> web::Result {
    let next = web::safe_path(query.next.as_deref().unwrap_or_default(), HOME).to_owned();
    match me {
        Some(_) => ctx.redirect(&next),
        None => ctx.page(&views::LogIn { form: FormState::default(), next }),
    }
}

async fn log_in(ctx: Ctx, State(app): State<App>, sent: Submission) -> web::Result {
    let next = web::safe_path(sent.text("next"), HOME);
    match super::log_in(&app, sent.text("email"), sent.raw("password")).await {
        Ok(session) => Ok(ctx.log_in(&session.token, session.ends_at.since(ctx.now()), next)),
        Err(error) => {
            let mut form = sent.state();
            refuse(&mut form, error)?;
            let page = views::LogIn { form, next: next.to_owned() };
            ctx.page_with(StatusCode::UNPROCESSABLE_ENTITY, &page)
        }
    }
}

async fn log_out(ctx: Ctx, State(app): State<App>) -> web::Result {
    if let Some(token) = ctx.session_token() {
        super::log_out(&app, token).await?;
    }
    ctx.log_out("/login", "logged-out")
}

async fn verify_form(ctx: Ctx, Query(query): Query<Link>) -> web::Result {
    ctx.page(&views::Verify { form: FormState::default(), token: query.token.unwrap_or_default() })
}

/// Whoever holds the link owns the address and has just named the password, so this logs in as well.
async fn verify(ctx: Ctx, State(app): State<App>, sent: Submission) -> web::Result {
    let token = sent.text("token");
    match super::verify_email(&app, token, sent.raw("password")).await {
        Ok(principal) => {
            let session = super::open_session(&app, principal.user_id).await?;
            Ok(ctx.log_in(&session.token, session.ends_at.since(ctx.now()), HOME))
        }
        Err(error) => {
            // With a link that is over there is nothing to try again.
            let token = if matches!(error, AccountsError::Link) { "" } else { token };
            let mut form = FormState::default();
            refuse(&mut form, error)?;
            let page = views::Verify { form, token: token.to_owned() };
            ctx.page_with(StatusCode::UNPROCESSABLE_ENTITY, &page)
        }
    }
}

async fn forgot_form(ctx: Ctx) -> web::Result {
    ctx.page(&views::Forgot { form: FormState::default() })
}

async fn forgot(ctx: Ctx, State(app): State<App>, sent: Submission) -> web::Result {
    match super::forgot_password(&app, sent.text("email")).await {
        Ok(()) => ctx.page(&views::MailSent { why: "forgot", email: sent.text("email").to_owned() }),
        Err(error) => {
            let mut form = sent.state();
            refuse(&mut form, error)?;
            ctx.page_with(StatusCode::UNPROCESSABLE_ENTITY, &views::Forgot { form })
        }
    }
}

async fn reset_form(ctx: Ctx, Query(query): Query<Link>) -> web::Result {
    ctx.page(&views::Reset {
        form: FormState::default(),
        token: query.token.unwrap_or_default(),
        password_min: PASSWORD_MIN,
    })
}

async fn reset(ctx: Ctx, State(app): State<App>, sent: Submission) -> web::Result {
    let token = sent.text("token");
    match super::reset_password(&app, token, sent.raw("password")).await {
        Ok(_) => ctx.redirect_saying("/login", Tone::Good, "password-changed"),
        Err(error) => {
            let mut form = FormState::default();
            refuse(&mut form, error)?;
            let page = views::Reset { form, token: token.to_owned(), password_min: PASSWORD_MIN };
            ctx.page_with(StatusCode::UNPROCESSABLE_ENTITY, &page)
        }
    }
}

async fn account(ctx: Ctx, Customer(me): Customer, State(app): State<App>) -> web::Result {
    let view = overview(&app, &me, FormState::default(), None).await?;
    ctx.page(&view)
}

/// The account page, with whatever form came back and the secret of a token just made.
async fn overview(
    app: &App,
    me: &Principal,
    form: FormState,
    new_token: Option<String>,
) -> Result<views::Account, web::Error> {
    let keys = {
        let mut connection = app.db.read().await?;
        super::ssh_keys(&mut connection, me.account_id).await?
    };
    let tokens = super::list_tokens(app, me).await?;
    Ok(views::Account {
        form,
        email: me.email.clone(),
        account: me.account_name.clone(),
        keys: keys.into_iter().rev().map(key_view).collect(),
        tokens: tokens.into_iter().map(token_view).collect(),
        new_token,
    })
}

fn key_view(key: SshKey) -> views::Key {
    views::Key {
        value: key.id.to_string(),
        name: key.name,
        fingerprint: key.fingerprint,
        added_at: key.created_at,
    }
}

fn token_view(token: ApiToken) -> views::Token {
    views::Token {
        value: token.id.to_string(),
        name: token.name,
        created_at: token.created_at,
        used_at: token.last_used_at,
    }
}

async fn add_key(ctx: Ctx, Customer(me): Customer, State(app): State<App>, sent: Submission) -> web::Result {
    let (at, random, who) = (ctx.now(), app.entropy.bytes(), me.clone());
    let (name, text) = (sent.text("key_name").to_owned(), sent.raw("public_key").to_owned());
    let added = app
        .db
        .write(move |tx| {
            Box::pin(async move { super::add_ssh_key(tx, at, random, &who, &name, &text).await })
        })
        .await;
    let error = match added {
        Ok(_) => return ctx.redirect_saying("/account", Tone::Good, "key-added"),
        Err(error) => error,
    };
    let mut form = sent.state();
    match error {
        AccountsError::Name => form.refuse_with("key_name", "name-invalid", 64),
        AccountsError::TooMany(limit) => form.refuse_with("public_key", "ssh-keys-many", limit),
        other => refuse(&mut form, other)?,
    }
    ctx.page_with(StatusCode::UNPROCESSABLE_ENTITY, &overview(&app, &me, form, None).await?)
}

async fn remove_key(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    sent: Submission,
) -> web::Result {
    let id: SshKeyId = sent.text("key").parse().map_err(|_| web::Error::NotFound)?;
    let at = ctx.now();
    let removed =
        app.db.write(move |tx| Box::pin(async move { super::remove_ssh_key(tx, at, &me, id).await })).await;
    match removed {
        Ok(()) => ctx.redirect_saying("/account", Tone::Good, "key-removed"),
        Err(AccountsError::NotFound) => Err(web::Error::NotFound),
        Err(other) => Err(other.into()),
    }
}

/// The one page that answers a post with 200: the secret is shown once and stored nowhere.
async fn make_token(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    sent: Submission,
) -> web::Result {
    let mut scopes = vec![Scope::Read, Scope::Write];
    if me.is_staff(StaffRole::Operator) {
        scopes.push(Scope::Operator);
    }
    match super::create_token(&app, &me, sent.text("token_name"), scopes).await {
        Ok((_, secret)) => ctx.page(&overview(&app, &me, FormState::default(), Some(secret)).await?),
        Err(error) => {
            let mut form = FormState::default();
            let (code, limit): (Cow<'static, str>, usize) = match error {
                AccountsError::Name => ("name-invalid".into(), 64),
                AccountsError::TooMany(limit) => ("tokens-many".into(), limit),
                other => return Err(other.into()),
            };
            form.refuse_with("token_name", code, limit);
            ctx.page_with(StatusCode::UNPROCESSABLE_ENTITY, &overview(&app, &me, form, None).await?)
        }
    }
}

async fn revoke_token(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    sent: Submission,
) -> web::Result {
    let id: ApiTokenId = sent.text("token_id").parse().map_err(|_| web::Error::NotFound)?;
    match super::revoke_token(&app, &me, id).await {
        Ok(()) => ctx.redirect_saying("/account", Tone::Good, "token-revoked"),
        Err(AccountsError::NotFound) => Err(web::Error::NotFound),
        Err(other) => Err(other.into()),
    }
}
