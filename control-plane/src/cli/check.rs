//! `check-config`.

use std::process::ExitCode;

use super::say;
use crate::config::{Config, Vars};

/// Says what is wrong, or what the settings amount to.
pub(super) fn check_config(vars: &Vars) -> anyhow::Result<ExitCode> {
    match Config::read(vars) {
        Ok(config) => {
            say(format_args!("public address  {}", config.http.public_url))?;
            say(format_args!("portal listens  {}", config.http.listen))?;
            say(format_args!("link listens    {}", config.link.listen))?;
            say(format_args!(
                "payments        {}",
                if config.stripe.is_live() { "live" } else { "test mode" }
            ))?;
            let mail = if config.mail.smtp_url.is_some() {
                "by SMTP"
            } else {
                "waits in the outbox: SMTP_URL is not set"
            };
            say(format_args!("mail            {mail}"))?;
            say("the configuration is usable")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            for problem in &problems.0 {
                say(format_args!("{}: {}", problem.key, problem.reason))?;
            }
            Ok(ExitCode::FAILURE)
        }
    }
}
