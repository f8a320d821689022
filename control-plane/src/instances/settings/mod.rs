//! What a server is like beyond what was sold, and what is being changed about it.
//!
//! [`Settings`] are what an `ensure` says beside sizes and place: which build of which image, rescue, medium, tags, another
//! name, a limit of its network, the customer's firewall rules and whether the host filters at all, suspension. For each server one row holds what the node carried out last
//! (`applied`) and the one order that is changing it; the settings that order carries stand beside it. So a wish is
//! never taken back by hand: when its order ends without success, what was applied last holds, as it always did. A
//! late report about an order that was given up finds the settings it was about, and the generation says whether
//! something newer has been applied since.

mod change;
pub(super) mod store;

use std::collections::BTreeMap;

use ez_protocol::{
    AccountId, InstanceId, ProvisioningOrderId, UnixMillis,
    input::Hostname,
    order::{FirewallRules, ImageDigest, ImageRef, IsoName, Tag},
};
use serde::{Deserialize, Serialize};
use sqlx::AnyConnection;

use super::{model::Instance, resize::Size};
use crate::{catalog, db::DbError};

pub(super) use change::{begin, came_to, disk_seen};
pub(super) use store::put;

/// An image as it was chosen: later changes of the catalogue do not touch it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageChoice {
    /// Its code in the catalogue.
    pub code: String,
    /// `sha256:…`
    pub digest: String,
    /// Who logs in.
    pub login_user: String,
}

impl From<catalog::Image> for ImageChoice {
    fn from(image: catalog::Image) -> Self {
        Self { code: image.code, digest: image.digest, login_user: image.login_user }
    }
}

impl ImageChoice {
    /// As an order names it; nothing when the stored digest is none, which is a defect of ours.
    pub(super) fn named(&self) -> Option<ImageRef> {
        Some(ImageRef {
            name: self.code.clone(),
            digest: ImageDigest::parse(&self.digest).ok()?,
            family: None,
        })
    }
}

/// The settings of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How often its disk was made anew.
    pub build: u32,
    /// What the disk is made from.
    pub image: ImageChoice,
    /// The rescue system it boots instead.
    pub rescue: Option<ImageChoice>,
    /// The medium in its CD drive.
    pub iso: Option<IsoName>,
    /// Tags for the eyes of the host's owner.
    pub tags: Vec<Tag>,
    /// The customer's firewall rules; none lets everything in and out.
    pub firewall: Option<FirewallRules>,
    /// Whether it is off because its service is not due.
    pub suspended: bool,
    /// Its size, if that was changed since it was sold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Its name, if that was changed since it was sold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
    /// An operator's limit of its network, Mbit/s each way. It holds until an operator takes it away, whatever its plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_mbit: Option<RateMbit>,
    /// Whether an operator took its card out of the host's filter: neither rules nor the binding to its own addresses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfiltered: bool,
}

/// A limit of a network card in Mbit/s, as large as an order can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct RateMbit(u32);

/// Not a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a limit is a whole number of Mbit/s from 1 to {}", RateMbit::MOST)]
pub struct NoRate;

impl RateMbit {
    /// The largest.
    pub const MOST: u32 = 100_000;

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for RateMbit {
    type Error = NoRate;

    fn try_from(mbit: u32) -> Result<Self, NoRate> {
        if (1..=Self::MOST).contains(&mbit) { Ok(Self(mbit)) } else { Err(NoRate) }
    }
}

impl From<RateMbit> for u32 {
    fn from(rate: RateMbit) -> Self {
        rate.0
    }
}

impl std::str::FromStr for RateMbit {
    type Err = NoRate;

    fn from_str(text: &str) -> Result<Self, NoRate> {
        text.trim().parse::<u32>().map_err(|_| NoRate)?.try_into()
    }
}

impl Settings {
    /// Those of a server that nobody has changed yet.
    pub fn as_sold(instance: &Instance) -> Self {
        Self {
            build: 0,
            image: ImageChoice {
                code: instance.image_code.clone(),
                digest: instance.image_digest.clone(),
                login_user: instance.login_user.clone(),
            },
            rescue: None,
            iso: None,
            tags: Vec::new(),
            firewall: None,
            suspended: false,
            size: None,
            hostname: None,
            rate_mbit: None,
            unfiltered: false,
        }
    }
}

/// Whether and why a server shall be suspended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// Whether it shall be; `false` remembers who ended the last one.
    pub suspended: bool,
    /// Why, one sentence that the customer reads.
    pub reason: String,
    /// Who wanted it so.
    pub by: String,
    /// Since when.
    pub at: UnixMillis,
}

/// What holds for a server, and what is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wishes {
    /// What its node carried out last.
    pub applied: Settings,
    /// The generation that carried it.
    pub(super) generation: u64,
    /// The order that is changing it.
    pub(super) under_way: Option<ProvisioningOrderId>,
    /// The highest number of a build that was ever ordered.
    pub(super) builds: u32,
    /// Whether a rebuild or a restore threw its disk away and did not come to an end: only another one helps.
    pub disk_lost: bool,
    /// Whether something that was changed takes effect only with the next cold start.
    pub restart_needed: bool,
    /// The wish about its suspension that was uttered last.
    pub(super) suspension: Option<Suspension>,
}

impl Wishes {
    fn as_sold(instance: &Instance) -> Self {
        Self {
            applied: Settings::as_sold(instance),
            generation: 0,
            under_way: None,
            builds: 0,
            disk_lost: false,
            restart_needed: false,
            suspension: None,
        }
    }

    /// The suspension that is wished, whether or not it is carried out yet.
    pub fn suspension(&self) -> Option<&Suspension> {
        self.suspension.as_ref().filter(|wish| wish.suspended)
    }

    /// Whether no order is changing it.
    pub fn nothing_under_way(&self) -> bool {
        self.under_way.is_none()
    }

    /// Whether the node has yet to be told that the server is, or is no longer, suspended.
    pub(super) fn suspension_is_due(&self) -> bool {
        self.applied.suspended != self.suspension().is_some()
    }
}

/// What holds for a server. Whoever changes something holds the server's lock.
///
/// # Errors
/// Those of the queries.
pub async fn wishes(connection: &mut AnyConnection, instance: &Instance) -> Result<Wishes, DbError> {
    let stored = store::get(connection, instance.id).await?;
    let suspension = store::suspension(connection, instance.id).await?;
    Ok(Wishes { suspension, ..stored.unwrap_or_else(|| Wishes::as_sold(instance)) })
}

/// What holds for the servers of an account that are not gone: two statements, however many there are.
#[derive(Debug)]
pub(super) struct AllWishes {
    stored: BTreeMap<InstanceId, Wishes>,
    suspensions: BTreeMap<InstanceId, Suspension>,
}

impl AllWishes {
    pub(super) async fn read(connection: &mut AnyConnection, account: AccountId) -> Result<Self, DbError> {
        let stored = store::of_account(connection, account).await?;
        let suspensions = store::suspensions_of_account(connection, account).await?;
        Ok(Self { stored, suspensions })
    }

    /// As [`wishes`]; once for each server.
    pub(super) fn take(&mut self, instance: &Instance) -> Wishes {
        let stored = self.stored.remove(&instance.id);
        let suspension = self.suspensions.remove(&instance.id);
        Wishes { suspension, ..stored.unwrap_or_else(|| Wishes::as_sold(instance)) }
    }
}
