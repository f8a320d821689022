//! Power: start, shut down, restart, stop, reset.

use std::time::Duration;

use ez_protocol::{
    InstanceId,
    order::{Op, PowerVerb},
};

use super::{
    build,
    model::{ActionRow, Instance, InstanceState, verb_fits},
    store,
};
use crate::{
    api,
    app::Services,
    db::DbError,
    dispatch::{self, Intent, IssueError},
    entropy::EntropyExt as _,
    fleet,
};

/// How long a power action waits for its node before it is void: nobody wants a restart an hour later.
const WAIT: Duration = Duration::from_secs(2 * 60);

/// Why an action was not begun.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// There is no such server.
    #[error("there is no such server")]
    Unknown,
    /// It is not built, or not on, or not off.
    #[error("a server that is {state} cannot be told to {}", verb.as_str())]
    DoesNotFit {
        /// What it is.
        state: InstanceState,
        /// What was wanted.
        verb: PowerVerb,
    },
    /// Another action is under way.
    #[error("the server is busy with {0}")]
    Busy(String),
    /// The order was not issued.
    #[error("issuing the order")]
    Issue(#[from] IssueError),
    /// The database.
    #[error("reading or writing the server")]
    Db(#[from] DbError),
}

/// Tells a server's node to do something at most once. The answer is the action that reports its progress;
/// `claim` is the idempotency key of the request, if it had one.
///
/// # Errors
/// [`ActError`]; nothing was told to the node.
pub async fn act(
    app: &Services,
    id: InstanceId,
    verb: PowerVerb,
    actor: &str,
    claim: Option<api::Claim>,
) -> Result<ActionRow, ActError> {
    let (at, entropy, keys, actor) =
        (app.clock.now(), app.entropy.clone(), app.keys.clone(), actor.to_owned());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let instance = store::get_to_change(tx, id).await?.ok_or(ActError::Unknown)?;
                check(&instance, verb)?;
                if let Some(busy) =
                    store::actions(tx, id, 5).await?.into_iter().find(|action| action.finished_at.is_none())
                {
                    return Err(ActError::Busy(busy.kind));
                }
                let placement = fleet::placement_of(tx, id).await?.ok_or(ActError::Unknown)?;
                let nonce: [u8; 8] = entropy.bytes();
                let intent = Intent {
                    instance: id,
                    placement,
                    op: Op::Action(verb.into()),
                    // Each press of the button is its own cause.
                    cause_key: format!("act:{}:{}", at.0, data_encoding::HEXLOWER.encode(&nonce)),
                    order: Some(instance.order),
                    actor: actor.clone(),
                    ttl: Some(WAIT),
                };
                let order = dispatch::issue(tx, &keys, at, entropy.as_ref(), intent).await?;
                let kind = verb.as_str();
                let action =
                    build::note_action(tx, at, entropy.as_ref(), &instance, kind, order, &actor).await?;
                api::made(tx, claim.as_ref(), action.id).await?;
                Ok(action)
            })
        })
        .await
}

fn check(instance: &Instance, verb: PowerVerb) -> Result<(), ActError> {
    if verb_fits(verb, instance.state) {
        Ok(())
    } else {
        Err(ActError::DoesNotFit { state: instance.state, verb })
    }
}
