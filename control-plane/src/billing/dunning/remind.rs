//! Mails before a charge: it is coming, or the card will have expired by then.

use std::time::Duration;

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;
use time::{Date, Month};

use super::{
    CardExpiring, RenewalSoon, ServerLapses,
    standing::{Judgement, Stand, Status, Step},
    store,
};
use crate::{billing::change, config::Config, db::DbError, notify, web};

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

async fn before_charge(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    known: &store::Known,
    charge: UnixMillis,
) -> Result<Option<UnixMillis>, DbError> {
    let settings = &config.billing.remind;
    let next = settings.iter().map(|before| charge.minus(*before)).find(|at| *at > now);
    let due: Option<Duration> =
        settings.iter().copied().filter(|before| charge.minus(*before) <= now && now < charge).min();
    let Some(before) = due else { return Ok(next) };
    let key = format!("remind:{}:{}:{}", known.subscription, charge.0, before.as_secs() / 86_400);
    if !store::first_time(tx, now, known.order, &key).await? {
        return Ok(next);
    }
    let (server, on) = (known.description.clone(), web::written_date(charge));
    let link = config.http.page("/billing");
    match known.card.as_ref().filter(|card| expired_by(card, charge)) {
        Some(card) => {
            let letter = CardExpiring { server, last4: card.last4.clone(), on, link };
            notify::send(tx, now, &known.email, &letter).await?;
        }
        None => {
            // What is booked for that day is what is charged then.
            let booked =
                change::open_change(tx, known.order).await?.filter(|open| open.due_at == Some(charge));
            let booked = booked.and_then(|open| open.quote).map(|quote| (quote.next_minor, quote.currency));
            let Some((minor, currency)) = booked.or_else(|| known.charge.clone()) else { return Ok(next) };
            let letter = RenewalSoon { server, amount: web::written_money(minor, &currency), on, link };
            notify::send(tx, now, &known.email, &letter).await?;
        }
    }
    Ok(next)
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
