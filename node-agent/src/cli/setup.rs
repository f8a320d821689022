//! `setup`, `leave` and `repair`: what root does.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use super::{env, message, print};
use crate::{
    clock::{Clock as _, SystemClock},
    config::{self, Config, DEFAULT_PATH},
    policy,
    setup::{self, HostQm, LeaveArgs, PveshAdmin, Repair, Repaired, SetupArgs, Talk},
};

/// Speaks on standard output; asks only where a person sits.
struct Terminal;

impl Talk for Terminal {
    fn say(&mut self, line: String) {
        print(&line);
    }

    fn confirm(&mut self) -> bool {
        consent(io::stdin().is_terminal(), || {
            let mut answer = String::new();
            io::stdin().read_line(&mut answer).ok().map(|_| answer)
        })
    }
}

/// Whether a person said yes. Where nobody can be asked nobody did.
fn consent(terminal: bool, answer: impl FnOnce() -> Option<String>) -> bool {
    if !terminal {
        message("standard input is no terminal, so nobody can be asked: say --yes if you mean it");
        return false;
    }
    message("Go on? [y/N]");
    answer().is_some_and(|answer| matches!(answer.trim(), "y" | "Y" | "yes"))
}

pub(super) async fn setup(args: &SetupArgs, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    setup::setup(args, config.unwrap_or(Path::new(DEFAULT_PATH)), &env, &mut Terminal).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn leave(args: &LeaveArgs, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    // A clone at work is in no pool yet: without its token it would be left half made, and nobody would know.
    if !args.dry_run
        && let Ok(known) = config::load(config, &env)
        && super::alone::runs(&known.lock_file())
    {
        anyhow::bail!(
            "the agent runs, and what it is doing would be cut off in the middle; stop it first: \
             systemctl disable --now ez-node-agent"
        );
    }
    setup::leave(args, config.unwrap_or(Path::new(DEFAULT_PATH)), &env, &mut Terminal).await?;
    Ok(ExitCode::SUCCESS)
}

/// Follows a renewed certificate. It must not keep the agent from starting: what cannot be done is said.
pub(super) fn pin(config: Option<&Path>) -> ExitCode {
    match setup::pin::follow(config.unwrap_or(Path::new(DEFAULT_PATH)), setup::pin::shown()) {
        Ok(Some(shown)) => {
            message(&format!("Proxmox's certificate was renewed; {shown} is accepted from now on"))
        }
        Ok(None) => {}
        Err(error) => message(&format!("whether Proxmox's certificate was renewed is not known: {error}")),
    }
    ExitCode::SUCCESS
}

/// How long a request is waited for whose clone is still too young.
const ROUNDS: u32 = 12;
const PAUSE: Duration = Duration::from_secs(5);

pub(super) async fn repair(config: &Config) -> anyhow::Result<ExitCode> {
    let policy = policy::load(&config.policy_file)?;
    let mut failed = false;
    for round in 1..=ROUNDS {
        let millis = u64::try_from(SystemClock.now().0).unwrap_or(0);
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let repair = Repair::of_host(config, &policy, &PveshAdmin, &HostQm, now);
        let mut waiting = false;
        failed = false;
        for vmid in repair.asked()? {
            match repair.clean_clone(vmid).await? {
                Repaired::Cleaned => print(&format!("VM {vmid}: the rest of its clone is gone")),
                Repaired::Kept(disks) => {
                    failed = true;
                    let help: Vec<String> = disks.iter().map(|disk| format!("`pvesm free {disk}`")).collect();
                    message(&format!(
                        "VM {vmid}: the rest of its clone is gone, but not all of its disks could be removed: {}",
                        help.join(" and ")
                    ));
                }
                Repaired::Void(why) => print(&format!("VM {vmid}: nothing to do, {why}")),
                Repaired::NotYet(why) => {
                    waiting = true;
                    print(&format!("VM {vmid}: not yet, {why}"));
                }
                Repaired::Refused(why) => {
                    failed = true;
                    message(&format!("VM {vmid}: refused, {why}"));
                }
            }
        }
        if !waiting || round == ROUNDS {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::consent;

    #[test]
    fn where_nobody_can_be_asked_nothing_is_done() {
        assert!(!consent(false, || panic!("nobody is asked")));
        assert!(!consent(true, || Some("\n".to_owned())));
        assert!(!consent(true, || None));
        assert!(consent(true, || Some("y\n".to_owned())));
    }
}
