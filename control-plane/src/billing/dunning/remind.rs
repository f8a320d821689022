//! Mails before a charge: it is coming, or the card will have expired by then.

use std::time::Duration;

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;
use time::{Date, Month};

use super::{
    CardExpiring, RenewalSoon,
    standing::{Judgement, Stand, Step},
    store,
};
use crate::{billing::change, config::Config, db::DbError, notify, web};

/// Writes the mail that is due before the next charge; gives when the next one is.
///
/// After a time of silence only the latest is written: nobody needs two at once.
pub(super) async fn remind(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    known: &store::Known,
    judged: &Judgement,
) -> Result<Option<UnixMillis>, DbError> {
    let Some((Step::Charge, charge)) = judged.next.filter(|_| judged.stand == Stand::Run) else {
        return Ok(None);
    };
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
