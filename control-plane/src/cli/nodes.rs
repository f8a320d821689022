//! `node add|list|token|cordon|uncordon|revoke`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::{ACTOR, say};
use crate::{
    app::App,
    fleet::{self, NodeChange, nodes},
};

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Adds a node and prints its join token, which is good once and for an hour.
    Add {
        /// Short name, such as fsn-1.
        name: String,
        /// Code of its location.
        #[arg(long)]
        location: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Makes a new join token for a node that is there already: after a re-install or a revocation.
    Token {
        /// Name or id.
        name: String,
        /// The node moves to another machine; without this a join from another one is refused.
        #[arg(long)]
        replace: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Lists all nodes.
    List {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Puts nothing new on a node; what is there stays and is served.
    Cordon {
        /// Name or id.
        name: String,
    },
    /// Takes a cordon away.
    Uncordon {
        /// Name or id.
        name: String,
    },
    /// Takes a node's certificates away and ends its connection at once. Its servers keep running.
    Revoke {
        /// Name or id.
        name: String,
    },
}

pub(super) async fn node(app: App, command: NodeCommand) -> anyhow::Result<ExitCode> {
    match command {
        NodeCommand::Add { name, location, json } => {
            let joining = fleet::add_node(&app, ACTOR, &name, &location).await?;
            show(&joining, json)?;
        }
        NodeCommand::Token { name, replace, json } => {
            let joining = match replace {
                true => fleet::replacement_token(&app, ACTOR, &name).await?,
                false => fleet::new_token(&app, ACTOR, &name).await?,
            };
            show(&joining, json)?;
        }
        NodeCommand::List { json } => list(&app, json).await?,
        NodeCommand::Cordon { name } => change(&app, &name, NodeChange::Cordon).await?,
        NodeCommand::Uncordon { name } => change(&app, &name, NodeChange::Uncordon).await?,
        NodeCommand::Revoke { name } => change(&app, &name, NodeChange::Revoke).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(joining: &fleet::Joining, json: bool) -> anyhow::Result<()> {
    if json {
        return say(json!({
            "id": joining.node, "name": joining.name, "token": joining.token, "expires_at": joining.expires_at,
            "url": joining.url,
        }));
    }
    say(format_args!("node          {} {}", joining.name, joining.node))?;
    say(format_args!("join token    {}", joining.token))?;
    say("On the node, within an hour (the token is asked for, or comes from standard input):")?;
    say(format_args!("  ez-node-agent join {}", joining.url))
}

async fn change(app: &App, name: &str, change: NodeChange) -> anyhow::Result<()> {
    let (name, state) = fleet::change_node(app, ACTOR, name, change).await?;
    say(format_args!("{name} is {state}"))
}

async fn list(app: &App, json: bool) -> anyhow::Result<()> {
    let at = app.clock.now();
    let mut conn = app.db.read().await?;
    let all = nodes::list(&mut conn, None).await?;
    if json {
        let list: Vec<_> = all
            .iter()
            .map(|n| {
                json!({
                    "id": n.id, "name": n.name, "location": n.location, "state": n.state, "epoch": n.epoch,
                    "presence": n.presence(at), "last_seen_at": n.last_seen_at, "agent_version": n.agent_version,
                    "pve_version": n.pve_version, "servers": n.servers.sold, "images_ready": n.images.len(),
                    "reported_at": n.reported_at,
                })
            })
            .collect();
        return say(json!({ "nodes": list }));
    }
    say(format_args!(
        "{:<20} {:<10} {:<12} {:<10} {:>8} {:>10}",
        "NAME", "LOCATION", "STATE", "SEEN", "SERVERS", "AGENT"
    ))?;
    for n in all {
        let seen = format!("{:?}", n.presence(at)).to_lowercase();
        let agent = n.agent_version.as_deref().unwrap_or("-");
        say(format_args!(
            "{:<20} {:<10} {:<12} {:<10} {:>8} {:>10}",
            n.name, n.location, n.state, seen, n.servers.sold, agent
        ))?;
    }
    Ok(())
}
