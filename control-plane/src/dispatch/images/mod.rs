//! Image orders: a node shall have an image of the catalogue ready as a template.
//!
//! Signed and kept like provisioning orders and delivered through the same outbox, but about a node and
//! nobody's server. How far one is comes with the node's state reports, not with events: what counts is
//! what the node has now ([`seen`]), and that an image can be sold there is decided by the node's list of
//! templates alone.
//!
//! ```text
//! signed → queued → accepted → running → ready | failed
//!    └────────┴──→ refused | expired
//! ```

mod store;
#[cfg(test)]
mod tests;

use ez_protocol::{
    NodeId, ProvisioningOrderId, UnixMillis,
    envelope::{Envelope, PayloadType},
    image::{ImageOrder, ImageSource, LONGEST_LIFE},
    message::{AnswerKind, ImageBuildState, OrderAnswer},
    order::{Audience, Cause, PayloadError},
};
use serde_json::json;
use sqlx::AnyConnection;

use super::{Keys, model::Delivery, record};
use crate::{
    audit, catalog,
    db::{self, DbError, Topic, text_enum},
    entropy::{Entropy, EntropyExt as _},
    fleet::{self, NodeRow, Severity, alarms, alarms::New},
};

text_enum! {
    /// How far an image order is.
    pub enum ImageState {
        /// Made, not sent yet.
        Signed = "signed",
        /// Its bytes may have left.
        Queued = "queued",
        /// The node has it.
        Accepted = "accepted",
        /// The node works on it.
        Running = "running",
        /// The template is there.
        Ready = "ready",
        /// It could not be built; another order may be given.
        Failed = "failed",
        /// The node will not.
        Refused = "refused",
        /// No node took it in time.
        Expired = "expired",
    }
}

impl ImageState {
    /// Whether nothing more follows.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Ready | Self::Failed | Self::Refused | Self::Expired)
    }

    /// What a node says; never back from an end, and never to what only we can say.
    fn told(self, word: &str) -> Option<Self> {
        let next = match word {
            "accepted" => Self::Accepted,
            "running" => Self::Running,
            "ready" => Self::Ready,
            "failed" => Self::Failed,
            _ => return None,
        };
        let back = self == Self::Running && next == Self::Accepted;
        (!self.is_final() && !back).then_some(next)
    }
}

/// An image order as it is kept, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// The order.
    pub id: ProvisioningOrderId,
    /// The node.
    pub node: NodeId,
    /// Code of the image.
    pub image: String,
    /// Its version then.
    pub version: String,
    /// Its digest then.
    pub digest: String,
    /// How far it is.
    pub state: ImageState,
    /// The step the node is in.
    pub step: Option<String>,
    /// Why it failed or was refused.
    pub detail: Option<String>,
    /// When it was issued.
    pub issued_at: UnixMillis,
    /// When something was heard last.
    pub updated_at: UnixMillis,
}

/// Why an image order was not issued.
#[derive(Debug, thiserror::Error)]
pub enum ImageOrderError {
    /// The catalogue has no such image.
    #[error("the catalogue has no image {0}")]
    UnknownImage(String),
    /// It is known by its digest only.
    #[error("image {0} has no url in the catalogue: add one and apply the catalogue again")]
    NoUrl(String),
    /// What the catalogue says makes no order.
    #[error("image {image}: {reason}")]
    Invalid {
        /// Which.
        image: String,
        /// Why.
        reason: String,
    },
    /// The node is not in service.
    #[error("node {0} takes no orders now; it must be joined and not revoked or quarantined")]
    NodeNotServing(String),
    /// The order could not be written as bytes.
    #[error("writing the order")]
    Payload(#[from] PayloadError),
    /// The database.
    #[error("storing the order")]
    Db(#[from] DbError),
}

/// Issues an order to build an image of the catalogue on a node. An open order for the same digest there
/// is answered instead of issuing a second one.
///
/// # Errors
/// See [`ImageOrderError`]; nothing was stored.
pub async fn order(
    tx: &mut AnyConnection,
    keys: &Keys,
    at: UnixMillis,
    entropy: &dyn Entropy,
    image: &str,
    node: &NodeRow,
    actor: &str,
) -> Result<ProvisioningOrderId, ImageOrderError> {
    let entry =
        catalog::image(tx, image).await?.ok_or_else(|| ImageOrderError::UnknownImage(image.to_owned()))?;
    let Some(url) = entry.url else { return Err(ImageOrderError::NoUrl(entry.code)) };
    if !node.state.takes_orders() || node.epoch == 0 {
        return Err(ImageOrderError::NodeNotServing(node.name.clone()));
    }
    db::lock(tx, "image_orders", node.id).await?;
    if let Some(open) = store::open_for(tx, node.id, &entry.digest, at).await? {
        return Ok(open);
    }
    let invalid = |reason: String| ImageOrderError::Invalid { image: entry.code.clone(), reason };
    let order = ImageOrder {
        order_id: ProvisioningOrderId::generate(at, entropy.bytes()),
        install: keys.install(),
        aud: Audience { node: node.id, epoch: node.epoch },
        iat: at,
        nbf: at,
        exp: at.plus(LONGEST_LIFE),
        image: ImageSource {
            name: entry.code.clone(),
            version: entry.version.clone(),
            url: url.parse().map_err(|error| invalid(format!("the url is {error}")))?,
            digest: entry.digest.parse().map_err(|error| invalid(format!("the digest is {error}")))?,
        },
        cause: Cause { order: None, actor: actor.to_owned() },
    };
    let bytes = order.to_bytes()?;
    let envelope = Envelope::sign(keys.order_key(), PayloadType::Image, bytes).encode();
    store::insert(tx, at, &order, envelope).await?;
    let entry = audit::Entry {
        actor: actor.to_owned(),
        action: "image_order.issued".to_owned(),
        subject_kind: "image_order".to_owned(),
        subject_id: order.order_id.to_string(),
        detail: json!({ "node": node.id, "image": order.image.name, "digest": order.image.digest }),
    };
    audit::record(tx, at, entry).await?;
    db::wake_after_commit(Topic::Dispatch);
    Ok(order.order_id)
}

/// Image orders, newest first; of one node or of all.
///
/// # Errors
/// Those of the database.
pub async fn list(
    conn: &mut AnyConnection,
    node: Option<NodeId>,
    limit: i64,
) -> Result<Vec<ImageRecord>, DbError> {
    store::list(conn, node, limit).await
}

/// Un-accepted image orders of a node that are due to be sent.
pub(super) async fn due(
    conn: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    limit: i64,
) -> Result<Vec<Delivery>, DbError> {
    store::due(conn, at, node, limit).await
}

/// The nodes that have image orders which are due.
pub(super) async fn due_nodes(conn: &mut AnyConnection, at: UnixMillis) -> Result<Vec<NodeId>, DbError> {
    store::due_nodes(conn, at).await
}

/// Notes that an order's bytes are about to leave; `false` if there is no such image order to deliver.
pub(super) async fn leaving(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: ProvisioningOrderId,
    next: UnixMillis,
) -> Result<bool, DbError> {
    store::leaving(tx, at, id, next).await
}

/// All un-accepted image orders of a node are due now.
pub(super) async fn due_again(tx: &mut AnyConnection, at: UnixMillis, node: NodeId) -> Result<(), DbError> {
    store::due_again(tx, at, node).await
}

/// Stores a node's answer to a delivery; `false` if there is no such image order of that node.
pub(super) async fn answered(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    id: ProvisioningOrderId,
    answer: &OrderAnswer,
) -> Result<bool, DbError> {
    let Some(order) = store::by_id(tx, id).await?.filter(|order| order.node == node) else {
        return Ok(false);
    };
    match AnswerKind::try_from(answer.kind) {
        Ok(AnswerKind::Accepted) => go(tx, at, &order, "accepted", None, None).await?,
        // The journal knows it; how far it is comes with the next report, unless it is long over.
        Ok(AnswerKind::Duplicate) => go(tx, at, &order, &answer.state, None, None).await?,
        Ok(AnswerKind::Refused) if !order.state.is_final() => {
            let rule = if answer.rule.is_empty() { String::new() } else { format!("({})", answer.rule) };
            let detail = record::text(&format!("{}{rule}: {}", answer.code, answer.detail));
            end(tx, at, &order, ImageState::Refused, &detail).await?;
        }
        _ => {}
    }
    Ok(true)
}

/// Takes over what a node reports of its image orders. Orders it was never given are passed over.
///
/// # Errors
/// Those of the database.
pub async fn seen(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    builds: &[ImageBuildState],
) -> Result<(), DbError> {
    for build in builds.iter().take(64) {
        let Ok(id) = build.order_id.parse::<ProvisioningOrderId>() else { continue };
        let Some(order) = store::by_id(tx, id).await?.filter(|order| order.node == node) else { continue };
        let word = |text: &str| (!text.is_empty()).then(|| record::text(text));
        go(tx, at, &order, &build.state, word(&build.step), word(&build.detail)).await?;
    }
    Ok(())
}

/// Moves an order to what its node says, if that is news.
async fn go(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: &ImageRecord,
    word: &str,
    step: Option<String>,
    detail: Option<String>,
) -> Result<(), DbError> {
    let Some(next) = order.state.told(word) else { return Ok(()) };
    if next.is_final() {
        return end(tx, at, order, next, &detail.unwrap_or_default()).await;
    }
    if next == order.state && (step.is_none() || step == order.step) {
        return Ok(());
    }
    store::set(tx, at, order.id, next, step.or_else(|| order.step.clone()), None).await
}

/// The end of an order: written down, and an operator hears of a bad one.
async fn end(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: &ImageRecord,
    next: ImageState,
    detail: &str,
) -> Result<(), DbError> {
    store::set(tx, at, order.id, next, order.step.clone(), Some(detail.to_owned())).await?;
    let subject = format!("{} {}", order.image, order.node);
    if next == ImageState::Ready {
        alarms::clear(tx, at, "image_failed", &subject).await?;
    } else {
        let detail = format!("Image {} was not built on a node: {detail}", order.image);
        let alarm = New {
            kind: "image_failed",
            subject: &subject,
            severity: Severity::Warning,
            node: Some(order.node),
            detail: &detail,
        };
        alarms::raise(tx, at, alarm).await?;
    }
    let entry = audit::Entry {
        actor: if next == ImageState::Expired { "system".to_owned() } else { format!("node:{}", order.node) },
        action: format!("image_order.{next}"),
        subject_kind: "image_order".to_owned(),
        subject_id: order.id.to_string(),
        detail: json!({ "before": order.state, "image": order.image }),
    };
    audit::record(tx, at, entry).await
}

/// Ends image orders that no node took in time.
pub(super) async fn expire(tx: &mut AnyConnection, at: UnixMillis) -> Result<(), DbError> {
    for order in store::overdue(tx, at).await? {
        end(tx, at, &order, ImageState::Expired, "no answer came in time").await?;
    }
    Ok(())
}

/// A node in service by its name or id, for [`order`].
///
/// # Errors
/// The node is not known.
pub async fn node(conn: &mut AnyConnection, name: &str) -> Result<NodeRow, fleet::nodes::NodeError> {
    fleet::nodes::find(conn, name).await
}
