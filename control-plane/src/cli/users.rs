//! `user create` and `token create`.

use std::{io::Read, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::say;
use crate::{
    accounts::{self, NewUser, Scope, StaffRole},
    app::App,
};

#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Makes a user with an account of their own and prints the user's id.
    Create {
        /// Their mail address.
        #[arg(long)]
        email: String,
        /// Read the password from standard input (its first line).
        #[arg(long, required = true)]
        password_stdin: bool,
        /// What they may do.
        #[arg(long, value_enum, default_value_t = Role::Customer)]
        role: Role,
        /// Count the address as proven.
        #[arg(long)]
        verified: bool,
        /// Print one JSON object instead of the id alone.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Role {
    Customer,
    Support,
    Billing,
    Operator,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Makes an API token and prints it; it is shown only once.
    Create {
        /// The user it acts for.
        #[arg(long)]
        email: String,
        /// What to call it.
        #[arg(long, default_value = "command line")]
        name: String,
        /// What it may do; may be repeated. Default: read and write, and operator for operators.
        #[arg(long = "scope")]
        scopes: Vec<String>,
        /// Print one JSON object instead of the token alone.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn user(app: App, command: UserCommand) -> anyhow::Result<ExitCode> {
    let UserCommand::Create { email, password_stdin: _, role, verified, json } = command;
    let mut input = String::new();
    std::io::stdin().take(4_096).read_to_string(&mut input).context("cannot read the password")?;
    let password = input.lines().next().unwrap_or_default().to_owned();
    let staff = match role {
        Role::Customer => None,
        Role::Support => Some(StaffRole::Support),
        Role::Billing => Some(StaffRole::Billing),
        Role::Operator => Some(StaffRole::Operator),
    };
    let made = accounts::create_user(&app, NewUser { email, password, staff, verified })
        .await
        .context("cannot make the user")?;
    if json {
        say(json!({ "user_id": made.user_id, "account_id": made.account_id, "email": made.email }))?;
    } else {
        say(made.user_id)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn token(app: App, command: TokenCommand) -> anyhow::Result<ExitCode> {
    let TokenCommand::Create { email, name, scopes, json } = command;
    let principal = accounts::user_by_email(&app, &email).await.context("cannot find the user")?;
    let mut wanted = Vec::new();
    for word in &scopes {
        match word.parse::<Scope>() {
            Ok(scope) => wanted.push(scope),
            Err(_) => bail!("no such scope: {word:?}; use read, write or operator"),
        }
    }
    if wanted.is_empty() {
        wanted = vec![Scope::Read, Scope::Write];
        if principal.is_staff(StaffRole::Operator) {
            wanted.push(Scope::Operator);
        }
    }
    let (token, secret) =
        accounts::create_token(&app, &principal, &name, wanted).await.context("cannot make the token")?;
    if json {
        say(json!({ "id": token.id, "token": secret, "scopes": token.scopes }))?;
    } else {
        say(secret)?;
    }
    Ok(ExitCode::SUCCESS)
}
