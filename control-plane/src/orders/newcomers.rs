//! What accounts that never paid hold together: an unpaid order holds a place, and accounts cost nothing. Without a bound on
//! all of them, a few dozen could keep a location sold out for everybody
//! (`docs/decisions/0014-what-newcomers-hold.md`).

use ez_protocol::{AccountId, UnixMillis};
use sqlx::AnyConnection;

use super::{PlaceError, store};
use crate::{
    config::Orders,
    fleet,
    placement::{self, Need},
};

/// Refuses an order of an account that never paid where such accounts hold as much of its location as they may. Whoever
/// has paid is not asked; what is sold out is said by whoever looks for a place.
pub(super) async fn admit(
    tx: &mut AnyConnection,
    at: UnixMillis,
    bounds: &Orders,
    account: AccountId,
    need: &Need,
) -> Result<(), PlaceError> {
    if store::has_paid(tx, account).await? {
        return Ok(());
    }
    // Until this order is written nobody else takes a place: many at one moment do not pass together.
    fleet::hold_places(tx).await?;
    let held = store::newcomers_hold_in(tx, &need.location).await?;
    if held < bounds.newcomers_hold {
        return Ok(());
    }
    let free = placement::room_for(&fleet::snapshot(tx, at, Some(&need.location)).await?, need);
    if free == 0 || held < bounds.newcomers_may_hold(free.saturating_add(held)) {
        return Ok(());
    }
    tracing::warn!(
        location = need.location,
        held,
        free,
        "new customers hold as much of a location as they may"
    );
    Err(PlaceError::NewcomersFull)
}
