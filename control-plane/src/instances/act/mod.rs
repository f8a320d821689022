//! What is asked of a server: power, snapshots, backups, a password, another disk, rescue, media, firewall, another name;
//! and of operators: tags, a limit of its network, the host's filter.
//!
//! One transaction locks the server, looks whether the verb makes sense, signs the order, and writes the action that
//! reports its progress, the settings it carries, the audit row and the idempotency key. So a process that dies
//! anywhere leaves all of it or nothing. What came of the order arrives in `observe`.

mod ask;
mod password;
mod rules;
mod verb;

use std::time::Duration;

use ez_protocol::{ActionId, InstanceId, UnixMillis, order::Op};
use serde_json::json;
use sqlx::AnyConnection;

use self::{rules::Known, verb::Deed};
use super::{
    build, kept,
    model::{ActionRow, Instance, InstanceState},
    settings::{self, Settings, Wishes},
    store,
};
use crate::{
    api,
    app::Services,
    audit,
    db::DbError,
    dispatch::{self, Intent, IssueError, Keys},
    entropy::{Entropy, EntropyExt as _},
    fleet,
};

pub use ask::{AskError, Asked, Wanted};
pub use password::{Password, reset_password};
pub use verb::Verb;

/// How long an order waits for its node before it is void: nobody wants a restart, or an empty disk, an hour later.
const WAIT: Duration = Duration::from_secs(2 * 60);

/// Why an action was not begun.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// There is no such server.
    #[error("there is no such server")]
    Unknown,
    /// It is not built, or not on, or not off.
    #[error("a server that is {state} cannot be told to {verb}")]
    DoesNotFit {
        /// What it is.
        state: InstanceState,
        /// What was wanted.
        verb: &'static str,
    },
    /// Another action is under way.
    #[error("the server is busy with {0}")]
    Busy(String),
    /// Its service is not due.
    #[error("the server is suspended")]
    Suspended,
    /// A rebuild or a restore threw its disk away and did not come to an end.
    #[error(
        "the server has no disk: its last rebuild or restore failed after the old one was gone; rebuild it, or restore a \
         backup where only the restore failed"
    )]
    NeedsRebuild,
    /// Its own system does not run.
    #[error("the server runs a rescue system; end that first")]
    InRescue,
    /// There is no such snapshot or backup.
    #[error("this server has no such {0}")]
    NoSuch(&'static str),
    /// The name of a snapshot is taken.
    #[error("this server has a snapshot of that name")]
    Taken,
    /// It has as many as it may have.
    #[error("this server has {0} snapshots, which is the most; delete one first")]
    TooManySnapshots(u32),
    /// Its plan has no backups.
    #[error("this server was sold without backups")]
    NotSold,
    /// The image has no template on the server's node.
    #[error("the image is not ready on this server's node")]
    ImageNotReady,
    /// Nothing would change.
    #[error("it is so already")]
    SoAlready,
    /// The order was not issued.
    #[error("issuing the order")]
    Issue(#[from] IssueError),
    /// What is stored of the server is not valid: a defect of ours.
    #[error(transparent)]
    Spec(#[from] build::SpecError),
    /// The database.
    #[error("reading or writing the server")]
    Db(#[from] DbError),
}

/// Tells a server's node to do something. The answer is the action that reports its progress; `claim` is the
/// idempotency key of the request, if it had one.
///
/// # Errors
/// [`ActError`]; nothing was told to the node.
pub async fn act(
    app: &Services,
    id: InstanceId,
    verb: Verb,
    actor: &str,
    claim: Option<api::Claim>,
) -> Result<ActionRow, ActError> {
    let (at, entropy, keys, actor) =
        (app.clock.now(), app.entropy.clone(), app.keys.clone(), actor.to_owned());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let instance = store::get_to_change(tx, id).await?.ok_or(ActError::Unknown)?;
                let wishes = settings::wishes(tx, &instance).await?;
                let busy = store::open_action(tx, id).await?;
                let known = Known {
                    instance: &instance,
                    wishes: &wishes,
                    snapshots: &kept::snapshots(tx, id).await?,
                    backups: &kept::backups(tx, id).await?,
                    busy: busy.as_ref().map(|action| action.kind.as_str()),
                };
                rules::check(&known, &verb)?;
                image_is_ready(tx, &instance, &verb).await?;
                let desk = Desk { keys: &keys, entropy: entropy.as_ref(), at, actor: &actor };
                let deed = verb.deed(&wishes.applied, wishes.builds, instance.max_backups);
                let label = Label { kind: verb.kind(), about: verb.about(), ttl: Some(WAIT) };
                let action = match deed {
                    Deed::Once(action) => desk.tell(tx, &instance, Op::Action(action), label).await?,
                    Deed::Settings(settings) => desk.change(tx, &instance, wishes, *settings, label).await?,
                };
                api::made(tx, claim.as_ref(), action.id).await?;
                Ok(action)
            })
        })
        .await
}

/// The node would fail an order that needs an image it does not have, after the customer has waited for it.
async fn image_is_ready(tx: &mut AnyConnection, instance: &Instance, verb: &Verb) -> Result<(), ActError> {
    let (Verb::Rebuild(image) | Verb::RescueOn(image)) = verb else { return Ok(()) };
    let node = match instance.node {
        Some(node) => fleet::node(tx, node).await?,
        None => None,
    };
    match node {
        Some(node) if node.images.iter().any(|ready| ready.digest == image.digest) => Ok(()),
        _ => Err(ActError::ImageNotReady),
    }
}

/// What an action says about itself.
#[derive(Debug, Clone)]
pub(super) struct Label {
    pub(super) kind: &'static str,
    pub(super) about: Option<String>,
    /// How long the order may wait for its node.
    pub(super) ttl: Option<Duration>,
}

/// What telling a node takes.
#[derive(Clone, Copy)]
pub(super) struct Desk<'a> {
    pub(super) keys: &'a Keys,
    pub(super) entropy: &'a dyn Entropy,
    pub(super) at: UnixMillis,
    pub(super) actor: &'a str,
}

impl Desk<'_> {
    /// Tells the node and writes down the action.
    pub(super) async fn tell(
        &self,
        tx: &mut AnyConnection,
        instance: &Instance,
        op: Op,
        label: Label,
    ) -> Result<ActionRow, ActError> {
        let placement = fleet::placement_of(tx, instance.id).await?.ok_or(ActError::Unknown)?;
        let nonce: [u8; 8] = self.entropy.bytes();
        let intent = Intent {
            instance: instance.id,
            placement,
            op,
            // Each press of the button is its own cause.
            cause_key: format!("act:{}:{}", self.at.0, data_encoding::HEXLOWER.encode(&nonce)),
            order: Some(instance.order),
            actor: self.actor.to_owned(),
            ttl: label.ttl,
        };
        let order = dispatch::issue(tx, self.keys, self.at, self.entropy, intent).await?;
        let id = ActionId::generate(self.at, self.entropy.bytes());
        let action = ActionRow {
            about: label.about,
            ..ActionRow::begun(id, self.at, instance.id, label.kind, order, self.actor)
        };
        store::insert_action(tx, &action).await?;
        let entry = audit::Entry {
            actor: self.actor.to_owned(),
            action: format!("instance.asked_to.{}", label.kind),
            subject_kind: "instance".to_owned(),
            subject_id: instance.id.to_string(),
            detail: json!({ "action": action.id, "provisioning_order": order, "about": action.about }),
        };
        audit::record(tx, self.at, entry).await?;
        Ok(action)
    }

    /// Tells the node another wished state, and remembers which.
    pub(super) async fn change(
        &self,
        tx: &mut AnyConnection,
        instance: &Instance,
        wishes: Wishes,
        settings: Settings,
        label: Label,
    ) -> Result<ActionRow, ActError> {
        let placement = fleet::placement_of(tx, instance.id).await?.ok_or(ActError::Unknown)?;
        let spec = build::spec(instance, &settings, &placement)?;
        let action = self.tell(tx, instance, Op::Ensure(Box::new(spec)), label).await?;
        if let Some(order) = action.provisioning_order {
            settings::begin(tx, self.at, instance, wishes, order, &settings).await?;
        }
        Ok(action)
    }
}
