//! Root's commands that write into the state directory do it as the agent's user, to whom it belongs: what root made
//! there the agent could not read, and what the agent's user put there must not lead root astray.

use std::{
    fs,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    process::Command,
};

use anyhow::Context as _;

use crate::config::Config;

/// Who asked, for a command that goes on as somebody else.
pub(super) const ASKED_BY: &str = "EZ_AGENT_ASKED_BY";

/// Goes on as the owner of the state directory, if this is root and the owner is not. Standard input, arguments and
/// environment stay; returns only if nothing had to change.
pub(super) fn become_it(config: &Config, asked_by: Option<&str>) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // Without a directory there is nothing to own; what comes next says that it is missing.
    let Ok(about) = fs::metadata(&config.state_dir) else { return Ok(()) };
    if about.uid() == 0 {
        return Ok(());
    }
    let mut again = Command::new("/proc/self/exe");
    again.args(std::env::args_os().skip(1)).uid(about.uid()).gid(about.gid());
    if let Some(asked_by) = asked_by {
        again.env(ASKED_BY, asked_by);
    }
    let error = again.exec();
    Err(error).with_context(|| {
        format!("going on as user {}, the owner of {}", about.uid(), config.state_dir.display())
    })
}
