//! What operators do with nodes, from the portal and the command line alike.

use ez_protocol::{NodeId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    enrol,
    model::{NodeChange, NodeState},
    nodes::{self, NodeError},
};
use crate::app::App;

/// A node that is about to join, with its token. The token is not stored and cannot be shown again.
#[derive(Clone, Debug)]
pub struct Joining {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The whole token.
    pub token: String,
    /// Until when it is good.
    pub expires_at: UnixMillis,
    /// Where the agent dials to enrol: `https://host:port`.
    pub url: String,
}

/// Adds a node and makes its join token.
///
/// # Errors
/// [`NodeError`] says what does not fit.
pub async fn add_node(app: &App, actor: &str, name: &str, location: &str) -> Result<Joining, NodeError> {
    let (at, entropy, keys) = (app.clock.now(), app.entropy.clone(), app.keys.clone());
    let (actor, name, location) = (actor.to_owned(), name.trim().to_owned(), location.to_owned());
    let shown = name.clone();
    let (node, token) = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let node = match nodes::add(tx, at, entropy.as_ref(), &actor, &name, &location).await {
                    // Asked again before it joined (its token was lost): it gets another token.
                    Err(NodeError::NameTaken(_)) => waiting(tx, &name, &location).await?,
                    added => added?,
                };
                let token = enrol::mint(tx, at, entropy.as_ref(), &keys, &actor, node, false).await?;
                Ok::<_, NodeError>((node, token))
            })
        })
        .await?;
    Ok(joining(app, at, node, shown, &token.to_line()))
}

/// The node of this name, if it has not joined yet.
async fn waiting(tx: &mut AnyConnection, name: &str, location: &str) -> Result<NodeId, NodeError> {
    let row = nodes::find(tx, name).await?;
    if row.state == NodeState::Pending && row.location == location {
        return Ok(row.id);
    }
    Err(NodeError::NameTaken(name.to_owned()))
}

/// Makes a new join token for a node that exists.
///
/// # Errors
/// [`NodeError::Unknown`].
pub async fn new_token(app: &App, actor: &str, name: &str) -> Result<Joining, NodeError> {
    token_for(app, actor, name, false).await
}

/// The same for a node that moves to another machine.
///
/// # Errors
/// [`NodeError::Unknown`].
pub async fn replacement_token(app: &App, actor: &str, name: &str) -> Result<Joining, NodeError> {
    token_for(app, actor, name, true).await
}

async fn token_for(app: &App, actor: &str, name: &str, replaces: bool) -> Result<Joining, NodeError> {
    let (at, entropy, keys) = (app.clock.now(), app.entropy.clone(), app.keys.clone());
    let (actor, name) = (actor.to_owned(), name.to_owned());
    let (row, token) = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let row = nodes::find(tx, &name).await?;
                let token = enrol::mint(tx, at, entropy.as_ref(), &keys, &actor, row.id, replaces).await?;
                Ok::<_, NodeError>((row, token))
            })
        })
        .await?;
    Ok(joining(app, at, row.id, row.name, &token.to_line()))
}

fn joining(app: &App, at: UnixMillis, node: NodeId, name: String, token: &str) -> Joining {
    let link = app.keys.trust().ok().and_then(|trust| trust.link.first().cloned()).unwrap_or_default();
    Joining {
        node,
        name,
        token: token.to_owned(),
        expires_at: at.plus(enrol::TOKEN_LIFE),
        url: format!("https://{link}"),
    }
}

/// Changes what a node may do; a revoked node's connection ends at once. Says the node's name and new state.
///
/// # Errors
/// [`NodeError`] says why not.
pub async fn change_node(
    app: &App,
    actor: &str,
    name: &str,
    change: NodeChange,
) -> Result<(String, NodeState), NodeError> {
    let at = app.clock.now();
    let (actor, name) = (actor.to_owned(), name.to_owned());
    let (id, name, state) = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let row = nodes::find(tx, &name).await?;
                let (_, after) = nodes::change(tx, at, &actor, row.id, change).await?;
                Ok::<_, NodeError>((row.id, row.name, after))
            })
        })
        .await?;
    if change == NodeChange::Revoke {
        app.links.revoke(id);
    }
    Ok((name, state))
}
