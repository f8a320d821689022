//! Months are closed, and people are told before it costs them something.

use std::time::Duration;

use ez_protocol::{InstanceId, Month, UnixMillis};
use serde_json::Value;
use sqlx::AnyConnection;

use super::{
    BATCH, Bill, POST, TrafficNear, TrafficOver,
    model::{self, BillState, Deal, begins},
    note, store,
};
use crate::{
    app::Services,
    billing::dunning::{self, Stand},
    db::DbError,
    fleet, jobs, metrics, notify, web,
};

/// So many months back are looked at: we may have been down.
const MONTHS_BACK: usize = 3;
/// Months closed in one transaction.
const PIECE: usize = 32;

/// A month is closed so long after its end even if its node was not heard since.
const WAITS_FOR_NODE: Duration = Duration::from_secs(14 * 24 * 3_600);
/// With its first words a node that was away tells what it counted; they have arrived after so long.
const TELLS_WITHIN: Duration = Duration::from_secs(10 * 60);

/// Closes the months that are over and settled. Each server's month once, whatever is counted later. That of a server
/// whose node was not heard since waits for it.
pub(super) async fn close(app: &Services) -> Result<(), DbError> {
    let now = app.clock.now();
    let months = std::iter::successors(Some(model::last_closed(now)), |month| Some(month.before()));
    for month in months.take(MONTHS_BACK) {
        let mut after = String::new();
        loop {
            let found = {
                let mut connection = app.db.read().await?;
                store::unclosed(&mut connection, month, &after, BATCH).await?
            };
            for piece in found.chunks(PIECE) {
                let piece = piece.to_vec();
                app.db
                    .write(move |tx| {
                        Box::pin(async move {
                            for instance in &piece {
                                close_one(tx, now, *instance, month).await?;
                            }
                            Ok::<_, DbError>(())
                        })
                    })
                    .await?;
            }
            let full = i64::try_from(found.len()).is_ok_and(|many| many == BATCH);
            match found.last() {
                Some(last) if full => after = last.to_string(),
                _ => break,
            }
        }
    }
    Ok(())
}

/// Whether a server's node has told what it counted in a month that is over, or is waited for no longer. An agent keeps
/// counting while it is not connected, and tells it at once when it is again.
async fn told(
    tx: &mut AnyConnection,
    now: UnixMillis,
    instance: InstanceId,
    month: Month,
) -> Result<bool, DbError> {
    let ended = begins(model::after(month));
    if now >= ended.plus(WAITS_FOR_NODE) {
        return Ok(true);
    }
    let Some(place) = fleet::placement_of(tx, instance).await? else { return Ok(true) };
    let Some(node) = fleet::node(tx, place.node).await? else { return Ok(true) };
    if node.blind_since.is_some_and(|since| since < ended) {
        return Ok(false);
    }
    // A session may be the leftover of a process that died: its sign of life counts, not its row.
    let heard = node.last_seen_at.is_some_and(|seen| seen >= ended.plus(TELLS_WITHIN));
    Ok(heard && node.connected_at.is_none_or(|since| now.since(since) >= TELLS_WITHIN))
}

async fn close_one(
    tx: &mut AnyConnection,
    now: UnixMillis,
    instance: InstanceId,
    month: Month,
) -> Result<(), DbError> {
    if !told(tx, now, instance, month).await? {
        return Ok(());
    }
    let all = store::terms(tx, instance).await?;
    let (Some(deal), Some((_, terms))) = (model::deal(&all, month), all.last()) else { return Ok(()) };
    let counted = metrics::traffic(tx, instance, month).await?.counted();
    let over = deal.over(counted);
    let standing = dunning::standing_of(tx, terms.order).await?;
    let over_for_good = standing.is_none_or(|standing| standing.stand == Stand::End);
    let bill = Bill {
        instance,
        month,
        order: terms.order,
        account: terms.account,
        currency: deal.currency.clone(),
        counted,
        included_gib: deal.included_gib,
        units: over.units,
        unit_minor: deal.unit_minor.unwrap_or(0),
        amount_minor: over.amount_minor,
        state: match over.amount_minor {
            0 => BillState::Free,
            _ if over_for_good => BillState::Waived,
            _ => BillState::Wanted,
        },
        attempt: 1,
        invoice_attempt: 1,
        item: None,
        invoice: None,
    };
    if !store::close(tx, now, &bill).await? || bill.state == BillState::Free {
        return Ok(());
    }
    if bill.state == BillState::Waived {
        return note(tx, now, &bill, "waived").await;
    }
    note(tx, now, &bill, "billed").await?;
    jobs::enqueue(tx, POST, &bill.key(), &Value::Null, now).await
}

/// Tells those who have used four fifths, and those who have used all, of what is included. Once a month each, and only
/// where more would cost something.
pub(super) async fn warn(app: &Services) -> Result<(), DbError> {
    let now = app.clock.now();
    let month = Month::of(now);
    let mut after = String::new();
    loop {
        let mut connection = app.db.read().await?;
        let page = store::priced(&mut connection, &after, BATCH).await?;
        for instance in &page {
            let Some(deal) = super::traffic_deal(&mut connection, *instance, month).await? else { continue };
            let (Some(_), Some(included)) = (deal.unit_minor, deal.included()) else { continue };
            let counted = metrics::traffic(&mut connection, *instance, month).await?.counted();
            let Some(mark) = reached(counted, included) else { continue };
            if dunning::store::is_done(&mut connection, &cause(mark, *instance, month)).await? {
                continue;
            }
            tell(app, now, (*instance, month), deal, (counted, mark)).await?;
        }
        let full = i64::try_from(page.len()).is_ok_and(|many| many == BATCH);
        match page.last() {
            Some(last) if full => after = last.to_string(),
            _ => return Ok(()),
        }
    }
}

/// The highest mark that is reached, in per cent.
fn reached(counted: u64, included: u64) -> Option<u8> {
    let (counted, included) = (u128::from(counted), u128::from(included));
    [100_u8, 80].into_iter().find(|mark| counted * 100 >= included * u128::from(*mark) && included > 0)
}

fn cause(mark: u8, instance: InstanceId, month: Month) -> String {
    format!("traffic{mark}:{instance}:{}", month.number())
}

async fn tell(
    app: &Services,
    now: UnixMillis,
    (instance, month): (InstanceId, Month),
    deal: Deal,
    (counted, mark): (u64, u8),
) -> Result<(), DbError> {
    let link = app.config.http.page(&format!("/servers/{instance}/graphs"));
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let all = store::terms(tx, instance).await?;
                let Some((_, terms)) = all.last() else { return Ok(()) };
                let Some(known) = dunning::store::known(tx, terms.order).await? else { return Ok(()) };
                let first =
                    dunning::store::first_time(tx, now, terms.order, &cause(mark, instance, month)).await?;
                if !first {
                    return Ok(());
                }
                if mark == 100 {
                    // Whoever hears of the second need not hear of the first.
                    dunning::store::first_time(tx, now, terms.order, &cause(80, instance, month)).await?;
                }
                let server = known.description.clone();
                let price = web::written_money(deal.unit_minor.unwrap_or(0), &deal.currency);
                let (used, included) =
                    (web::written_bytes(counted), web::written_bytes(deal.included().unwrap_or(0)));
                if mark == 100 {
                    let letter =
                        TrafficOver { server, month: web::written_month(month), used, included, price, link };
                    notify::send(tx, now, &known.email, &letter).await
                } else {
                    let letter =
                        TrafficNear { server, month: web::written_month(month), used, included, price, link };
                    notify::send(tx, now, &known.email, &letter).await
                }
            })
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_highest_mark_is_told() {
        let of = |counted| reached(counted, 1_000);
        assert_eq!(
            (of(0), of(799), of(800), of(999), of(1_000), of(u64::MAX)),
            (None, None, Some(80), Some(80), Some(100), Some(100))
        );
        assert_eq!(reached(5, 0), None);
    }
}
