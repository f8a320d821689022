//! `server suspend|resume|rename|tag|limit|filter|adopt`.

use std::process::ExitCode;

use clap::Subcommand;
use ez_protocol::{InstanceId, input::Hostname, order::Tag};

use super::{ACTOR, say};
use crate::{
    app::App,
    instances::{self, NoRate, RateMbit, Verb},
};

#[derive(Debug, Subcommand)]
pub(super) enum ServerCommand {
    /// Has a server stopped and kept off until it is resumed; its disk stays. The same again changes nothing.
    Suspend {
        /// Id of the server.
        server: InstanceId,
        /// One sentence; the customer reads it.
        #[arg(long)]
        reason: String,
    },
    /// Has a suspended server served again, and started.
    Resume {
        /// Id of the server.
        server: InstanceId,
        /// One sentence for the audit log.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Calls a server otherwise, in the portal and in Proxmox; the system inside takes the name over at its next start.
    Rename {
        /// Id of the server.
        server: InstanceId,
        /// A host name.
        name: Hostname,
    },
    /// Tags a server in Proxmox for the host's owner, in place of the tags it has.
    Tag {
        /// Id of the server.
        server: InstanceId,
        /// At most 8; none takes all away.
        tags: Vec<Tag>,
    },
    /// Limits a server's network, whatever its plan, until the limit is taken away. Its customer sees it.
    Limit {
        /// Id of the server.
        server: InstanceId,
        /// Mbit/s each way, or `off`.
        #[arg(value_name = "MBIT|off", value_parser = limit)]
        rate: Limit,
    },
    /// Has the host filter a server's packets, or no more: without the filter the server can use addresses that are not its
    /// own, and its customer's firewall rules do not hold. A host whose policy has `require_firewall` refuses `off`.
    Filter {
        /// Id of the server.
        server: InstanceId,
        /// `on` or `off`.
        #[arg(value_name = "on|off", action = clap::ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new())]
        on: bool,
    },
    /// Has the node of a server take its VM over again, after an alarm said that it did not. Nothing about the VM changes.
    Adopt {
        /// Id of the server.
        server: InstanceId,
    },
}

/// A limit, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit(Option<RateMbit>);

fn limit(text: &str) -> Result<Limit, NoRate> {
    if text == "off" { Ok(Limit(None)) } else { text.parse().map(|rate| Limit(Some(rate))) }
}

pub(super) async fn server(app: App, command: ServerCommand) -> anyhow::Result<ExitCode> {
    let at = app.clock.now();
    match command {
        ServerCommand::Suspend { server, reason } => {
            let instance = app
                .db
                .write(move |tx| {
                    Box::pin(async move { instances::suspend(tx, at, server, &reason, ACTOR).await })
                })
                .await?;
            say(format_args!("server {} ({}) is being suspended", instance.id, instance.hostname))?;
        }
        ServerCommand::Resume { server, reason } => {
            let instance = app
                .db
                .write(move |tx| {
                    Box::pin(async move {
                        instances::resume(tx, at, server, reason.as_deref().unwrap_or_default(), ACTOR).await
                    })
                })
                .await?;
            say(format_args!("server {} ({}) is being resumed", instance.id, instance.hostname))?;
        }
        ServerCommand::Tag { server, tags } => {
            let action = instances::act(&app, server, Verb::Tags(tags), ACTOR, None).await?;
            say(format_args!("server {server} is being tagged; action {}", action.id))?;
        }
        ServerCommand::Rename { server, name } => {
            let action = instances::act(&app, server, Verb::Rename(name.clone()), ACTOR, None).await?;
            say(format_args!("server {server} is being renamed to {name}; action {}", action.id))?;
        }
        ServerCommand::Limit { server, rate: Limit(rate) } => {
            let action = instances::act(&app, server, Verb::Limit(rate), ACTOR, None).await?;
            let what = rate.map_or_else(
                || "is no longer being limited".to_owned(),
                |rate| format!("is being limited to {} Mbit/s", rate.get()),
            );
            say(format_args!("the network of server {server} {what}; action {}", action.id))?;
        }
        ServerCommand::Filter { server, on } => {
            let action = instances::act(&app, server, Verb::Filter(on), ACTOR, None).await?;
            let word = if on { "on" } else { "off" };
            say(format_args!(
                "the host's filter of server {server} is being turned {word}; action {}",
                action.id
            ))?;
        }
        ServerCommand::Adopt { server } => {
            let instance = instances::adopt_again(&app, server, ACTOR).await?;
            say(format_args!(
                "the node of server {server} ({}) is being told to take it over",
                instance.hostname
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
