//! Rolls minutes up into five minutes and hours, and removes what is over its time.

use std::time::Duration;

use ez_protocol::{Month, UnixMillis};

use super::{
    KEPT,
    model::{self, FIVE, HOUR, MINUTE},
    store::{self, Key},
};
use crate::{
    app::App,
    db::{Db, DbError},
    jobs::{JobError, JobRegistry, JobRun},
};

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// How long averages of five minutes are kept.
const FIVES_KEPT: Duration = Duration::from_secs(14 * DAY.as_secs());
/// How long averages of an hour are kept.
const HOURS_KEPT: Duration = Duration::from_secs(396 * DAY.as_secs());
/// Months of traffic that are kept beside the present one.
const MONTHS_KEPT: u32 = 24;
/// Rows looked for at once.
const BATCH: i64 = 200;
/// Rows rolled up in one transaction.
const PIECE: usize = 16;

/// Names this slice's job handlers.
pub(crate) fn register_jobs(registry: &mut JobRegistry) {
    registry.every("metrics.roll_up", Duration::from_secs(300), roll_up);
}

async fn roll_up(app: App, run: JobRun) -> Result<(), JobError> {
    work(&app.db, run.at).await?;
    Ok(())
}

/// Rolls up every hour that is over, then removes. Each row is its own piece of work, so a run that dies goes on where it
/// was; what came late makes its hour due again.
pub(super) async fn work(db: &Db, at: UnixMillis) -> Result<(), DbError> {
    loop {
        let due = {
            let mut connection = db.read().await?;
            store::due(&mut connection, at, BATCH).await?
        };
        let more = i64::try_from(due.len()).is_ok_and(|n| n == BATCH);
        for piece in due.chunks(PIECE) {
            // In the order in which batches take rows, so that nobody waits in a circle.
            let mut piece = piece.to_vec();
            piece.sort();
            db.write(move |tx| {
                Box::pin(async move {
                    for hour in &piece {
                        roll(tx, hour).await?;
                    }
                    Ok::<_, DbError>(())
                })
            })
            .await?;
        }
        if !more {
            break;
        }
    }
    db.write(move |tx| {
        Box::pin(async move {
            store::remove(tx, MINUTE, at.minus(KEPT)).await?;
            store::remove(tx, FIVE, at.minus(FIVES_KEPT)).await?;
            store::remove(tx, HOUR, at.minus(HOURS_KEPT)).await?;
            let oldest = (0..MONTHS_KEPT).fold(Month::of(at), |month, _| month.before());
            store::forget_months(tx, oldest).await
        })
    })
    .await
}

/// Carries one hour of minutes over.
async fn roll(tx: &mut sqlx::AnyConnection, hour: &Key) -> Result<(), DbError> {
    let (minutes, version) = store::block_to_change(tx, hour).await?;
    let slots: Vec<_> =
        minutes.slots().map(|(slot, values)| (hour.begins() + i64::from(slot), values)).collect();
    for length in [FIVE, HOUR] {
        let row = model::row_minutes(length);
        let key =
            Key { subject: hour.subject.clone(), minutes: length, block: hour.begins().div_euclid(row) };
        let (mut block, version) = store::block_to_change(tx, &key).await?;
        let mut changed = false;
        for (minute, values) in model::averaged(&slots, length) {
            let slot = u16::try_from((minute - key.begins()) / length).unwrap_or(0);
            changed |= block.set(slot, values);
        }
        if changed {
            store::put(tx, &key, &block, version, false).await?;
        }
    }
    store::put(tx, hour, &minutes, version, false).await
}
