//! The letters of this slice and what stands in them.

use serde::Serialize;

use crate::notify::Letter;

/// Asks the reader to prove that the address is theirs.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyEmail {
    /// The one-time link.
    pub link: String,
    /// How many hours it is good for.
    pub hours: u64,
}

impl Letter for VerifyEmail {
    const TEMPLATE: &'static str = "verify-email";
    fn sample() -> Self {
        Self { link: "https://servers.example/verify?token=sample".into(), hours: 24 }
    }
}

/// Tells somebody who signed up again that they have an account already.
#[derive(Clone, Debug, Serialize)]
pub struct AccountExists {
    /// Where to log in.
    pub login: String,
    /// Where to ask for a new password.
    pub forgot: String,
}

impl Letter for AccountExists {
    const TEMPLATE: &'static str = "account-exists";
    fn sample() -> Self {
        Self {
            login: "https://servers.example/login".into(),
            forgot: "https://servers.example/forgot".into(),
        }
    }
}

/// Carries the link for a new password.
#[derive(Clone, Debug, Serialize)]
pub struct ResetPassword {
    /// The one-time link.
    pub link: String,
    /// How many minutes it is good for.
    pub minutes: u64,
}

impl Letter for ResetPassword {
    const TEMPLATE: &'static str = "reset-password";
    fn sample() -> Self {
        Self { link: "https://servers.example/reset?token=sample".into(), minutes: 30 }
    }
}
