//! `setup` and `leave`: what the agent needs on the Proxmox side, made and unmade by root.
//!
//! Setup looks first, says what it will change, then changes only that; run again, it changes
//! nothing. What it meets and does not understand (a storage of that name elsewhere, an unsupported
//! version, several nodes to choose from) it refuses with a word on what to do, instead of guessing.
//!
//! It makes: pools for servers and templates, three small roles, a user that cannot log in, one token
//! per node, one storage for cloud-init snippets, and grants that reach no further than that (see
//! `roles`). On the host it writes the token's file, `setup.toml`, and a `policy.toml` to begin with if
//! there is none; `agent.toml`, the owner's own settings, it only reads. It never runs from the package's
//! scripts, which must not fail when a cluster is down.
//!
//! It speaks to Proxmox as root through `pvesh`, or with an administrator's token over HTTPS.

mod admin;
mod change;
pub(crate) mod files;
mod leave;
mod look;
pub mod pin;
mod plan;
mod repair;
pub(crate) mod roles;
mod wanted;

#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{config::ConfigError, pve::PveError};

pub use admin::{AdminApi, Parameters, PveshAdmin, TokenAdmin, Verb};
pub use change::Change;
pub use leave::{LeaveArgs, leave};
pub use plan::{Plan, plan};
pub use repair::{HostQm, Qm, Repair, Repaired};
pub use wanted::{SetupArgs, Wanted, vmid_range};

/// The service user in Proxmox. It has no password and cannot log in.
pub const PVE_USER: &str = "ez-agent@pve";
/// The system user the agent runs as.
pub const SYSTEM_USER: &str = "ez-agent";

/// Why setup or leave stopped.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The world is not as it must be; the text says what to do.
    #[error("{0}")]
    Refused(String),
    /// Proxmox refused or could not be reached.
    #[error("{doing}: {reason}")]
    Pve {
        /// What was being done.
        doing: String,
        /// What Proxmox said.
        reason: PveError,
    },
    /// A file could not be read or written.
    #[error("cannot {doing} {}: {reason}", path.display())]
    File {
        /// `read`, `write` …
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The policy file there is cannot be read.
    #[error("the policy file is not usable:\n{0}")]
    Policy(ConfigError),
}

impl From<ConfigError> for SetupError {
    fn from(error: ConfigError) -> Self {
        Self::Policy(error)
    }
}

impl SetupError {
    fn pve(doing: impl Into<String>) -> impl FnOnce(PveError) -> Self {
        let doing = doing.into();
        move |reason| Self::Pve { doing, reason }
    }

    fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |reason| Self::File { doing, path, reason }
    }
}

/// The person in front of it.
pub trait Talk {
    /// One line for them.
    fn say(&mut self, line: String);
    /// Whether to go on; only asked where somebody can answer.
    fn confirm(&mut self) -> bool;
}

/// Sets this host up: says what will change, asks unless `--yes`, then does it and tries the new
/// token. With `--dry-run` nothing is changed.
///
/// # Errors
/// See [`SetupError`]. What was done before the error stays; running setup again goes on from there.
pub async fn setup(
    args: &SetupArgs,
    config_file: &Path,
    env: &(dyn Fn(&str) -> Option<String> + Sync),
    talk: &mut (dyn Talk + Send),
) -> Result<(), SetupError> {
    let wanted = Wanted::gather(args, config_file, env)?;
    let admin = wanted.admin()?;
    let world = look::look(admin.as_ref(), &wanted).await?;
    let wanted = plan::complete(&wanted, &world)?;
    let plan = plan(&wanted, &world)?;
    talk.say(format!("Proxmox VE {} on node {}, asked {}", world.version.text, world.node, admin.how()));
    for note in &plan.notes {
        talk.say(format!("note: {note}"));
    }
    if plan.changes.is_empty() {
        talk.say("nothing to change".to_owned());
        return Ok(());
    }
    for change in &plan.changes {
        let prefix = if args.dry_run { "would" } else { "will" };
        talk.say(format!("{prefix} {change}"));
    }
    if args.dry_run {
        return Ok(());
    }
    if !args.yes && !talk.confirm() {
        return Err(SetupError::Refused("nothing was changed".to_owned()));
    }
    for change in &plan.changes {
        change.apply(admin.as_ref()).await?;
        talk.say(format!("done: {change}"));
    }
    let missing = roles::missing_rights(&wanted, &world).await?;
    if !missing.is_empty() {
        return Err(SetupError::Refused(format!("the new token lacks rights: {}", missing.join(", "))));
    }
    talk.say("the agent's token has all the rights it needs".to_owned());
    talk.say(format!(
        "next: look at {}, then, on a new host, ez-node-agent join https://<control plane>:7443; where the agent runs \
         already, systemctl restart ez-node-agent",
        wanted.policy_file.display()
    ));
    Ok(())
}
