//! `server suspend|resume|tag|adopt`.

use std::process::ExitCode;

use clap::Subcommand;
use ez_protocol::{InstanceId, order::Tag};

use super::{ACTOR, say};
use crate::{
    app::App,
    instances::{self, Verb},
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
    /// Tags a server in Proxmox for the host's owner, in place of the tags it has.
    Tag {
        /// Id of the server.
        server: InstanceId,
        /// At most 8; none takes all away.
        tags: Vec<Tag>,
    },
    /// Has the node of a server take its VM over again, after an alarm said that it did not. Nothing about the VM changes.
    Adopt {
        /// Id of the server.
        server: InstanceId,
    },
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
