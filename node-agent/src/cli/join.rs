//! `join`: the token from standard input or `EZ_JOIN_TOKEN`, then [`crate::identity::join`].

use std::{
    io::{self, IsTerminal as _, Read as _},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use data_encoding::HEXLOWER;
use ez_protocol::{NodeId, trust::JoinToken};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::{alone, journal::time, message, print, print_json};
use crate::{
    clock::{Clock as _, SystemClock},
    config::Config,
    identity::{self, PveFacts},
    journal::{Journal, lists},
};

/// Longest input that is looked at for a token.
const LONGEST: u64 = 4_096;

pub(super) async fn join(
    config: &Config,
    url: &str,
    replace: bool,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let base = address(url)?;
    super::service_user::become_it(config, None)?;
    let token = token()?;
    let ca = std::fs::read(&config.cluster_ca_file).with_context(|| {
        format!(
            "reading the cluster's CA {} (run `ez-node-agent setup` first)",
            config.cluster_ca_file.display()
        )
    })?;
    let version = pve_version(config).await;
    let known_as = if replace { Vec::new() } else { known_as(config).await };
    let host = PveFacts { version, cluster: HEXLOWER.encode(&Sha256::digest(&ca)), known_as };
    let joined = identity::join(config, &base, &token, &host, SystemClock.now()).await?;
    if as_json {
        print_json(&json!({
            "node": joined.node.node, "name": joined.node.name, "epoch": joined.node.epoch,
            "install": joined.node.install, "link": joined.link, "certificate_until": joined.not_after,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!("joined as {} ({}), epoch {}", joined.node.name, joined.node.node, joined.node.epoch));
    print(&format!("link: {} (UDP); certificate until {}", joined.link.join(", "), time(joined.not_after)));
    message(next(alone::runs(&config.lock_file())));
    Ok(ExitCode::SUCCESS)
}

/// What to do now: an agent that runs goes on as who it was until it is started anew, and starting it does nothing.
fn next(runs: bool) -> &'static str {
    match runs {
        true => {
            "the agent runs as what this host was before; now restart it: systemctl restart ez-node-agent"
        }
        false => "now start the agent: systemctl enable --now ez-node-agent",
    }
}

/// Which nodes this host has been: by its identity and by its journal. What cannot be read says nothing.
async fn known_as(config: &Config) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> =
        identity::look(config).ok().map(|identity| identity.node.node).into_iter().collect();
    if let Ok(pool) = Journal::open_read_only(&config.journal_file()).await
        && let Ok(Some(node)) = lists::node(&pool).await
        && !nodes.contains(&node)
    {
        nodes.push(node);
    }
    nodes
}

fn address(text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text)
        .with_context(|| format!("{text:?} is not an address; it looks like https://host:7443"))?;
    if url.scheme() != "https" || url.host_str().is_none() {
        bail!("{text:?} is not an address of a control plane; it looks like https://host:7443");
    }
    Ok(url)
}

fn token() -> anyhow::Result<JoinToken> {
    let text = match std::env::var("EZ_JOIN_TOKEN") {
        Ok(text) => text,
        Err(_) => {
            if io::stdin().is_terminal() {
                message("paste the join token (ezj1.…) and press Enter:");
                let mut line = String::new();
                io::stdin().read_line(&mut line).context("reading the join token")?;
                line
            } else {
                let mut text = String::new();
                io::stdin().take(LONGEST).read_to_string(&mut text).context("reading the join token")?;
                text
            }
        }
    };
    text.trim().parse().context("standard input (or EZ_JOIN_TOKEN)")
}

/// The version is told for information; joining does not need a reachable Proxmox VE.
async fn pve_version(config: &Config) -> String {
    let Ok(pve) = super::host::connect(config) else { return String::new() };
    match pve.version().await {
        Ok(version) => version.text,
        Err(error) => {
            message(&format!("note: Proxmox VE does not answer ({error}); joining all the same"));
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_runs_is_restarted_and_another_started() {
        assert!(next(true).ends_with("systemctl restart ez-node-agent"));
        assert!(next(false).ends_with("systemctl enable --now ez-node-agent"));
    }
}
