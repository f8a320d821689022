//! What a place holds of its node is changed where it is: a server grows, or gives something back.
//!
//! Both books move in one transaction, the node's by a guarded update (I10). What is held is said absolutely, so saying it
//! again changes nothing. The caller holds the server.

use ez_protocol::InstanceId;
use sqlx::AnyConnection;

use super::{Size, store};
use crate::db::DbError;

/// What a server takes from its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disk in GiB.
    pub disk_gib: u32,
}

impl Held {
    /// The larger of both, in each part.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            vcpu: self.vcpu.max(other.vcpu),
            memory_mib: self.memory_mib.max(other.memory_mib),
            disk_gib: self.disk_gib.max(other.disk_gib),
        }
    }

    /// Whether some part of it is more than the other has.
    pub fn exceeds(self, other: Self) -> bool {
        self.max(other) != other
    }
}

impl From<Held> for Size {
    fn from(held: Held) -> Self {
        Self {
            vcpu: i64::from(held.vcpu),
            memory_mib: i64::from(held.memory_mib),
            disk_gib: i64::from(held.disk_gib),
        }
    }
}

impl Size {
    fn minus(self, other: Self) -> Self {
        Self {
            vcpu: self.vcpu - other.vcpu,
            memory_mib: self.memory_mib - other.memory_mib,
            disk_gib: self.disk_gib - other.disk_gib,
        }
    }

    fn is_nothing(self) -> bool {
        (self.vcpu, self.memory_mib, self.disk_gib) == (0, 0, 0)
    }
}

/// What a server's place holds; none if it has no place.
///
/// # Errors
/// Those of the query.
pub async fn held(conn: &mut AnyConnection, instance: InstanceId) -> Result<Option<Held>, DbError> {
    let Some((_, size)) = store::held(conn, instance).await? else { return Ok(None) };
    let small = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(Some(Held {
        vcpu: small(size.vcpu),
        memory_mib: small(size.memory_mib),
        disk_gib: small(size.disk_gib),
    }))
}

/// Whether a server's node has room for it to hold so much. Nothing is promised.
///
/// # Errors
/// Those of the queries.
pub async fn can_hold(conn: &mut AnyConnection, instance: InstanceId, wanted: Held) -> Result<bool, DbError> {
    let Some((node, was)) = store::held(conn, instance).await? else { return Ok(false) };
    store::has_room(conn, node, Size::from(wanted).minus(was)).await
}

/// Has a server's place hold exactly so much. `false` where the node has no room for what it grows by, or where it has no
/// place; then nothing was changed.
///
/// # Errors
/// Those of the database.
pub async fn hold(tx: &mut AnyConnection, instance: InstanceId, wanted: Held) -> Result<bool, DbError> {
    let Some((node, was)) = store::held(tx, instance).await? else { return Ok(false) };
    let size = Size::from(wanted);
    let more = size.minus(was);
    if more.is_nothing() {
        return Ok(true);
    }
    if !store::change_room(tx, node, more).await? {
        return Ok(false);
    }
    store::set_size(tx, instance, was, size).await?;
    Ok(true)
}
