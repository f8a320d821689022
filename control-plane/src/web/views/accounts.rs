//! Signing up, logging in, and what belongs to an account.

use ez_protocol::UnixMillis;
use serde::Serialize;

use crate::web::{forms::FormState, templates::Page, views::SAMPLE_NOW};

/// `GET|POST /signup`: `email`, `password`.
#[derive(Debug, Clone, Serialize)]
pub struct SignUp {
    /// Values and messages.
    pub form: FormState,
    /// Shortest password, in characters.
    pub password_min: usize,
}

/// `GET|POST /login`: `email`, `password`, `next`.
#[derive(Debug, Clone, Serialize)]
pub struct LogIn {
    /// Values and messages.
    pub form: FormState,
    /// Path to go to afterwards.
    pub next: String,
}

/// `GET|POST /forgot`: `email`.
#[derive(Debug, Clone, Serialize)]
pub struct Forgot {
    /// Values and messages.
    pub form: FormState,
}

/// After sign-up and after asking for a new password: the same whether the address is known or not.
#[derive(Debug, Clone, Serialize)]
pub struct MailSent {
    /// `signup` or `forgot`.
    pub why: &'static str,
    /// The address as typed.
    pub email: String,
}

/// `GET|POST /verify?token=`: `token`, `password`. A form, because mail scanners follow links, and because the letter may be
/// of a sign-up that another person made.
#[derive(Debug, Clone, Serialize)]
pub struct Verify {
    /// Refused with `link-used`, or at `password`.
    pub form: FormState,
    /// From the link; sent back as `token`. Empty when there is nothing to try again.
    pub token: String,
}

/// `GET|POST /reset?token=`: `token`, `password`.
#[derive(Debug, Clone, Serialize)]
pub struct Reset {
    /// Values and messages.
    pub form: FormState,
    /// From the link; sent back as `token`.
    pub token: String,
    /// Shortest password, in characters.
    pub password_min: usize,
}

/// A stored SSH key.
#[derive(Debug, Clone, Serialize)]
pub struct Key {
    /// Sent back as `key` to remove it.
    pub value: String,
    /// The name its owner gave it.
    pub name: String,
    /// `SHA256:…`
    pub fingerprint: String,
    /// When it was added.
    pub added_at: UnixMillis,
}

/// An API token; the secret is shown once.
#[derive(Debug, Clone, Serialize)]
pub struct Token {
    /// Sent back as `token_id` to revoke it.
    pub value: String,
    /// The name its owner gave it.
    pub name: String,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it was last used.
    pub used_at: Option<UnixMillis>,
}

/// `GET /account`. Posts: `/account/keys` (`key_name`, `public_key`), `/account/keys/remove` (`key`),
/// `/account/tokens` (`token_name`), `/account/tokens/revoke` (`token_id`). A refused post answers this
/// page with 422.
#[derive(Debug, Clone, Serialize)]
pub struct Account {
    /// Values and messages of whichever form came back.
    pub form: FormState,
    /// The user's mail address.
    pub email: String,
    /// Name of the account.
    pub account: String,
    /// SSH keys, newest first.
    pub keys: Vec<Key>,
    /// API tokens, newest first.
    pub tokens: Vec<Token>,
    /// The secret of the token just made, shown this once.
    pub new_token: Option<String>,
}

fn refused(name: &str, value: &str, code: &'static str) -> FormState {
    let mut form = FormState::default();
    form.fill(name.to_owned(), value);
    form.refuse(name.to_owned(), code);
    form
}

impl Page for SignUp {
    const TEMPLATE: &'static str = "pages/accounts/signup.html";
    fn samples() -> Vec<(&'static str, Self)> {
        let mut again = refused("email", "jane@", "email-invalid");
        again.refuse_with("password", "password-short", 10);
        vec![
            ("empty", Self { form: FormState::default(), password_min: 10 }),
            ("refused", Self { form: again, password_min: 10 }),
        ]
    }
}

impl Page for LogIn {
    const TEMPLATE: &'static str = "pages/accounts/login.html";
    fn samples() -> Vec<(&'static str, Self)> {
        let mut wrong = FormState::default();
        wrong.fill("email", "jane@acme.example");
        wrong.refuse_form("login");
        vec![
            ("empty", Self { form: FormState::default(), next: "/servers".to_owned() }),
            ("wrong", Self { form: wrong, next: "/servers".to_owned() }),
        ]
    }
}

impl Page for Forgot {
    const TEMPLATE: &'static str = "pages/accounts/forgot.html";
    fn samples() -> Vec<(&'static str, Self)> {
        vec![
            ("empty", Self { form: FormState::default() }),
            ("refused", Self { form: refused("email", "jane", "email-invalid") }),
        ]
    }
}

impl Page for MailSent {
    const TEMPLATE: &'static str = "pages/accounts/mail_sent.html";
    fn samples() -> Vec<(&'static str, Self)> {
        let sent = |why| Self { why, email: "jane@acme.example".to_owned() };
        vec![("signup", sent("signup")), ("forgot", sent("forgot"))]
    }
}

impl Page for Verify {
    const TEMPLATE: &'static str = "pages/accounts/verify.html";
    fn samples() -> Vec<(&'static str, Self)> {
        let mut used = FormState::default();
        used.refuse_form("link-used");
        vec![
            ("fresh", Self { form: FormState::default(), token: "abc".to_owned() }),
            ("other", Self { form: refused("password", "", "password-other"), token: "abc".to_owned() }),
            ("used", Self { form: used, token: String::new() }),
        ]
    }
}

impl Page for Reset {
    const TEMPLATE: &'static str = "pages/accounts/reset.html";
    fn samples() -> Vec<(&'static str, Self)> {
        let mut short = FormState::default();
        short.refuse_with("password", "password-short", 10);
        vec![
            ("fresh", Self { form: FormState::default(), token: "abc".to_owned(), password_min: 10 }),
            ("refused", Self { form: short, token: "abc".to_owned(), password_min: 10 }),
        ]
    }
}

impl Page for Account {
    const TEMPLATE: &'static str = "pages/accounts/account.html";
    fn samples() -> Vec<(&'static str, Self)> {
        let ago = |days: i64| UnixMillis(SAMPLE_NOW.0 - days * 86_400_000);
        let token = |name: &str, used| Token {
            value: "x".to_owned(),
            name: name.to_owned(),
            created_at: ago(30),
            used_at: used,
        };
        let full = Self {
            form: FormState::default(),
            email: "jane@acme.example".to_owned(),
            account: "Acme GmbH".to_owned(),
            keys: vec![Key {
                value: "x".to_owned(),
                name: "jane@laptop".to_owned(),
                fingerprint: "SHA256:9x2pJbV1c0mT5rQwE8yN4kLzA7sD3fGhU6iOoPqRtYw".to_owned(),
                added_at: ago(40),
            }],
            tokens: vec![token("ci", Some(ago(0))), token("old script", None)],
            new_token: Some("ezt_9x2pJbV1c0mT5rQwE8yN4kLzA7sD3fGhU6iOoPqRtYw0".to_owned()),
        };
        let empty = Self {
            form: refused("public_key", "ssh-rsa", "ssh-key-invalid"),
            keys: Vec::new(),
            tokens: Vec::new(),
            new_token: None,
            ..full.clone()
        };
        vec![("full", full), ("empty-refused", empty)]
    }
}
