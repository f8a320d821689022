//! Mails before a charge: it is coming, or the card will have expired by then.

use std::time::Duration;

use ez_protocol::{OrderId, UnixMillis};
use serde_json::json;
use sqlx::AnyConnection;
use time::{Date, Month};

use super::{
    CardExpiring, RenewalSoon, ServerLapses,
    standing::{self, Judgement, Stand, Status, Step},
    store,
};
use crate::{
    app::App,
    billing::{
        BillingError, change,
        model::CallState,
        outbox::{self, Call},
        stripe::{self, PreviewView},
    },
    config::Config,
    db::{self, DbError},
    jobs::{self, JobError, JobRun},
    notify, web,
};

/// Writes the mail before a charge; the key is the order's id.
pub(in crate::billing) const REMIND: &str = "billing.remind";
/// After so many attempts to ask Stripe for the sum, the mail is written without.
const ASK_SO_OFTEN: u32 = 3;
/// Where our key does not open Stripe, a person may mend it within this time …
const KEY_MENDED_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);
/// … and it is tried this often.
const TRY_THE_KEY: Duration = Duration::from_secs(5 * 60);

/// Writes the mail that is due before the next charge, or before an end that nobody asked for; gives when the next one is.
///
/// After a time of silence only the latest is written: nobody needs two at once.
pub(super) async fn remind(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    known: &store::Known,
    judged: &Judgement,
) -> Result<Option<UnixMillis>, DbError> {
    match judged.next.filter(|_| judged.stand == Stand::Run) {
        Some((Step::Charge, charge)) => before_charge(tx, config, now, known, charge).await,
        // Who cancelled was told so then; this one paid late, when Stripe had given up.
        Some((Step::End, end)) if known.facts.status != Status::Active => {
            before_lapse(tx, config, now, known, end).await
        }
        _ => Ok(None),
    }
}

/// Nothing renews what was paid: said as early as a charge is, and once more with the notice that ending takes.
async fn before_lapse(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    known: &store::Known,
    end: UnixMillis,
) -> Result<Option<UnixMillis>, DbError> {
    let mut times = config.billing.remind.clone();
    times.push(config.billing.notice);
    let next = times.iter().map(|before| end.minus(*before)).filter(|at| *at > now).min();
    let due = times.iter().copied().filter(|before| end.minus(*before) <= now && now < end).min();
    let Some(before) = due else { return Ok(next) };
    let key = format!("lapses:{}:{}:{}", known.subscription, end.0, before.as_secs() / 3_600);
    if store::first_time(tx, now, known.order, &key).await? {
        let (server, on) = (known.description.clone(), web::written_date(end));
        let letter = ServerLapses { server, on, link: config.http.page("/servers/new") };
        notify::send(tx, now, &known.email, &letter).await?;
    }
    Ok(next)
}

/// What is due before a charge is written by a job of its own, which asks Stripe what will be charged.
async fn before_charge(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    known: &store::Known,
    charge: UnixMillis,
) -> Result<Option<UnixMillis>, DbError> {
    let next = config.billing.remind.iter().map(|before| charge.minus(*before)).find(|at| *at > now);
    if let Some((_, key)) = due(config, now, known, charge)
        && !store::is_done(tx, &key).await?
    {
        jobs::enqueue(tx, REMIND, &known.order.to_string(), &json!({}), now).await?;
    }
    Ok(next)
}

/// The mail that is due before a charge: how long before it, and the mail's key.
fn due(
    config: &Config,
    now: UnixMillis,
    known: &store::Known,
    charge: UnixMillis,
) -> Option<(Duration, String)> {
    let times = config.billing.remind.iter().copied();
    let before = times.filter(|before| charge.minus(*before) <= now && now < charge).min()?;
    let key = format!("remind:{}:{}:{}", known.subscription, charge.0, before.as_secs() / 86_400);
    Some((before, key))
}

/// Whether the mail has time until our key opens Stripe again: no longer than half of what is left for it, so that it comes
/// before the charge in any case.
fn waits_for_key(now: UnixMillis, charge: UnixMillis, before: Duration) -> bool {
    now < charge.minus(before).plus(KEY_MENDED_WITHIN.min(before / 2))
}

/// The job; the key is the order's id.
pub(in crate::billing) async fn run(app: App, run: JobRun) -> Result<(), JobError> {
    let order: OrderId = run.key.parse().map_err(JobError::fail)?;
    let known = {
        let mut connection = app.db.read().await?;
        store::known(&mut connection, order).await?
    };
    let Some((known, charge)) = known.and_then(|known| charged(&app.config, app.clock.now(), known)) else {
        return Ok(());
    };
    let now = app.clock.now();
    let Some((before, key)) = due(&app.config, now, &known, charge) else { return Ok(()) };
    let amount = match known.card.as_ref().is_some_and(|card| expired_by(card, charge)) {
        true => None,
        false => match foresee(&app, &known.subscription).await {
            Ok(amount) => Some(amount),
            Err(BillingError::Db(error)) => return Err(error.into()),
            Err(error) if error.is_passing() && run.attempt < ASK_SO_OFTEN => {
                return Err(JobError::retry(error));
            }
            // That rings, and a person mends it.
            Err(error) if error.is_locked_out() && waits_for_key(now, charge, before) => {
                return Ok(ask_later(&app, order).await?);
            }
            Err(error) => {
                tracing::warn!(order.id = %order, %error, "what will be charged is not known; the list price is told");
                None
            }
        },
    };
    let (now, config) = (app.clock.now(), app.config.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "checkout", order).await?;
                // It may have been cancelled, paid or told while Stripe was asked.
                let Some(known) = store::known(tx, order).await? else { return Ok(()) };
                let Some((known, at)) = charged(&config, now, known) else { return Ok(()) };
                if at == charge && store::first_time(tx, now, order, &key).await? {
                    write(tx, &config, now, &known, charge, amount).await?;
                }
                Ok::<_, DbError>(())
            })
        })
        .await?;
    Ok(())
}

/// Has the job come back once somebody may have mended our key.
async fn ask_later(app: &App, order: OrderId) -> Result<(), DbError> {
    let at = app.clock.now().plus(TRY_THE_KEY);
    app.db
        .write(move |tx| {
            Box::pin(async move { jobs::enqueue(tx, REMIND, &order.to_string(), &json!({}), at).await })
        })
        .await
}

/// When a server that runs is charged next.
fn charged(config: &Config, now: UnixMillis, known: store::Known) -> Option<(store::Known, UnixMillis)> {
    let judged = standing::judge(&known.facts, &config.billing, now);
    match judged.next.filter(|_| judged.stand == Stand::Run) {
        Some((Step::Charge, charge)) => Some((known, charge)),
        _ => None,
    }
}

/// What Stripe will charge next: minor units and currency.
async fn foresee(app: &App, subscription: &str) -> Result<(i64, String), BillingError> {
    // Nothing is made by it, so each question is a call of its own.
    let call = Call::new("foresee", subscription, app.clock.now().0, stripe::preview_next(subscription));
    let answer = outbox::send(app, &call).await;
    outbox::close(app, &call, CallState::Replaced, None, None).await?;
    let seen = PreviewView::read(&answer?).ok_or(BillingError::Incomplete("the sum of a preview"))?;
    Ok((seen.amount_due, seen.currency))
}

async fn write(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    known: &store::Known,
    charge: UnixMillis,
    amount: Option<(i64, String)>,
) -> Result<(), DbError> {
    let (server, on) = (known.description.clone(), web::written_date(charge));
    let link = config.http.page("/billing");
    if let Some(card) = known.card.as_ref().filter(|card| expired_by(card, charge)) {
        let letter = CardExpiring { server, last4: card.last4.clone(), on, link };
        return notify::send(tx, now, &known.email, &letter).await;
    }
    let about = amount.is_none();
    // What is booked for that day has its price then.
    let booked = change::open_change(tx, known.order).await?.filter(|open| open.due_at == Some(charge));
    let booked = booked.and_then(|open| open.quote).map(|quote| (quote.next_minor, quote.currency));
    let Some((minor, currency)) = amount.or(booked).or_else(|| known.charge.clone()) else { return Ok(()) };
    let letter = RenewalSoon { server, amount: web::written_money(minor, &currency), about, on, link };
    notify::send(tx, now, &known.email, &letter).await
}

/// Whether a card's last month is over by then.
fn expired_by(card: &store::Card, at: UnixMillis) -> bool {
    let month = u8::try_from(card.exp_month).ok().and_then(|month| Month::try_from(month).ok());
    let (Some(month), Ok(year)) = (month, i32::try_from(card.exp_year)) else { return false };
    let (year, month) =
        if month == Month::December { (year + 1, Month::January) } else { (year, month.next()) };
    Date::from_calendar_date(year, month, 1)
        .is_ok_and(|first| UnixMillis::from_secs(first.midnight().assume_utc().unix_timestamp()) <= at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_good_to_the_end_of_its_month() {
        let card = |exp_month, exp_year| store::Card {
            id: "pm_1".into(),
            brand: "visa".into(),
            last4: "4242".into(),
            exp_month,
            exp_year,
        };
        // 2027-01-01T00:00:00Z
        let new_year = UnixMillis::from_secs(1_798_761_600);
        assert!(expired_by(&card(12, 2026), new_year));
        assert!(!expired_by(&card(12, 2026), new_year.minus(Duration::from_secs(1))));
        assert!(!expired_by(&card(1, 2027), new_year));
        assert!(!expired_by(&card(13, 2020), new_year), "not a month: nothing is said");
    }
}
