//! The grant for the node: built here from what is known, never from what somebody sent, and signed.

use ez_protocol::{
    NodeId, UnixMillis,
    console::{ConsoleGrant, GRANT_LIFE, LONGEST_CONSOLE, Nonce},
    envelope::{Envelope, PayloadType},
    order::{Audience, Cause, InstanceRef, PayloadError},
};
use sqlx::AnyConnection;

use super::Console;
use crate::{
    db::DbError,
    dispatch::Keys,
    entropy::{Entropy, EntropyExt as _},
    fleet,
};

/// Why there is no grant.
#[derive(Debug, thiserror::Error)]
pub(super) enum GrantError {
    /// The server is on no node, or its node is not in service.
    #[error("the server's node is not in service")]
    NoNode,
    #[error("writing the grant")]
    Payload(#[from] PayloadError),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// A grant for the node that the console's server is on.
pub(super) async fn grant(
    connection: &mut AnyConnection,
    keys: &Keys,
    at: UnixMillis,
    entropy: &dyn Entropy,
    console: &Console,
) -> Result<(NodeId, Vec<u8>), GrantError> {
    let place = fleet::placement_of(connection, console.instance).await?.ok_or(GrantError::NoNode)?;
    let node = fleet::node(connection, place.node).await?.filter(|node| node.state.takes_orders());
    let node = node.ok_or(GrantError::NoNode)?;
    let grant = ConsoleGrant {
        console_id: console.id,
        nonce: Nonce::of(entropy.bytes()),
        install: keys.install(),
        aud: Audience { node: node.id, epoch: node.epoch },
        iat: at,
        exp: at.plus(GRANT_LIFE),
        instance: InstanceRef { uuid: console.instance, vmid: place.vmid },
        kind: console.kind,
        max_secs: u32::try_from(LONGEST_CONSOLE.as_secs()).unwrap_or(7_200),
        cause: Cause { order: None, actor: console.actor.clone() },
    };
    let bytes = grant.to_bytes()?;
    Ok((node.id, Envelope::sign(keys.order_key(), PayloadType::ConsoleGrant, bytes).encode()))
}
