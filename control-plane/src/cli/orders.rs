//! `order list|retry|re-place|abandon|refund`.

use std::process::ExitCode;

use clap::Subcommand;
use ez_protocol::OrderId;
use serde_json::json;

use super::{ACTOR, say};
use crate::{
    app::App,
    orders::{self, Order},
};

#[derive(Debug, Subcommand)]
pub(super) enum OrderCommand {
    /// Lists the newest purchases.
    List {
        /// Only those that wait for an operator.
        #[arg(long)]
        waiting: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tries a waiting purchase once more, on its node if it has one.
    Retry {
        /// Id of the purchase.
        order: OrderId,
    },
    /// Builds a waiting purchase on another node. The first one must be fenced: refused, undone or revoked.
    #[command(name = "re-place")]
    RePlace {
        /// Id of the purchase.
        order: OrderId,
        /// The node that holds it was revoked and its server, if there is one, is known to be gone.
        #[arg(long)]
        node_revoked: bool,
    },
    /// Gives a waiting purchase's node, addresses and VMID back; the money stays until it is refunded.
    Abandon {
        /// Id of the purchase.
        order: OrderId,
        /// As for re-place.
        #[arg(long)]
        node_revoked: bool,
    },
    /// Ends the subscription, gives the money back in full and ends what exists of the server.
    Refund {
        /// Id of the purchase.
        order: OrderId,
    },
}

pub(super) async fn order(app: App, command: OrderCommand) -> anyhow::Result<ExitCode> {
    let changed = match command {
        OrderCommand::List { waiting, json } => {
            list(&app, waiting, json).await?;
            return Ok(ExitCode::SUCCESS);
        }
        OrderCommand::Retry { order } => orders::retry(&app, order, ACTOR).await?,
        OrderCommand::RePlace { order, node_revoked } => {
            orders::re_place(&app, order, ACTOR, node_revoked).await?
        }
        OrderCommand::Abandon { order, node_revoked } => {
            orders::abandon(&app, order, ACTOR, node_revoked).await?
        }
        OrderCommand::Refund { order } => orders::refund(&app, order, ACTOR).await?,
    };
    say(format_args!("order {} is {}", changed.id, changed.state.as_str()))?;
    Ok(ExitCode::SUCCESS)
}

async fn list(app: &App, waiting: bool, json: bool) -> anyhow::Result<()> {
    let mut connection = app.db.read().await?;
    let found = if waiting {
        orders::needing_operator(&mut connection).await?
    } else {
        orders::newest(&mut connection, None).await?
    };
    if json {
        let rows: Vec<_> = found.iter().map(row).collect();
        return say(serde_json::to_string_pretty(&rows)?);
    }
    if found.is_empty() {
        return say(if waiting { "no purchase waits for an operator" } else { "no purchases yet" });
    }
    for order in &found {
        let reason = order.reason.as_deref().unwrap_or("-");
        say(format_args!("{}  {:16} {:20} {reason}", order.id, order.state.as_str(), order.hostname))?;
    }
    Ok(())
}

fn row(order: &Order) -> serde_json::Value {
    json!({
        "id": order.id, "state": order.state.as_str(), "reason": order.reason, "server": order.hostname,
        "server_id": order.instance, "location": order.location, "plan": order.plan_code,
        "amount_minor": order.amount_minor, "currency": order.currency, "placed_at": order.placed_at,
    })
}
