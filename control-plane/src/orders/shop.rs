//! What the create page shows: the catalogue against the fleet's room, with sensible choices made.

use std::time::Duration;

use ez_protocol::{UnixMillis, order::Recipe};
use sqlx::AnyConnection;
use time::{Date, Month, OffsetDateTime, UtcDateTime};

use super::buyer::Buyer;
use crate::{
    accounts::{self, Principal, SshKey, TERMS_VERSION},
    billing,
    catalog::{self, Image, Interval, Plan, Price},
    config::Tax,
    db::DbError,
    fleet::{self, Location},
    instances,
    placement::{self, FleetSnapshot, Need},
    web::{
        self,
        forms::{FormState, Submission},
        views::{
            Money,
            orders::{
                ImageChoice, KeyChoice, LocationChoice, New, PlanChoice, PriceChoice, RecipeChoice, Summary,
            },
        },
    },
};

/// What was read for the page.
struct Shelf {
    locations: Vec<Location>,
    images: Vec<Image>,
    plans: Vec<Plan>,
    prices: Vec<Price>,
    traffic_prices: Vec<(String, String, i64)>,
    codes: bool,
    fleet: FleetSnapshot,
    keys: Vec<SshKey>,
    name: String,
    buyer: Buyer,
}

async fn read(connection: &mut AnyConnection, at: UnixMillis, who: &Principal) -> Result<Shelf, DbError> {
    Ok(Shelf {
        locations: fleet::locations(connection).await?,
        images: catalog::images(connection).await?,
        plans: catalog::plans(connection).await?,
        prices: catalog::prices(connection).await?,
        traffic_prices: catalog::traffic_prices(connection).await?,
        codes: billing::has_promotion_codes(connection).await?,
        fleet: fleet::snapshot(connection, at, None).await?,
        keys: accounts::ssh_keys(connection, who.account_id).await?,
        name: instances::suggest_name(connection, who.account_id).await?,
        buyer: Buyer::read(connection, who.account_id).await?,
    })
}

impl Shelf {
    /// What this account can pay in, as the catalogue's file has them.
    fn currencies(&self) -> Vec<String> {
        let mut found = catalog::currencies(&self.plans, &self.prices);
        found.retain(|currency| self.buyer.pays_in(currency));
        found
    }

    /// The price of a choice; where a plan is not sold so, the nearest one.
    fn price(
        &self,
        plan: Option<&Plan>,
        interval: Option<Interval>,
        currency: &str,
        currencies: &[String],
    ) -> Option<&Price> {
        let of_plan = || {
            let mine = move |price: &&Price| {
                plan.is_some_and(|plan| plan.code == price.plan_code) && self.buyer.pays_in(&price.currency)
            };
            self.prices.iter().filter(mine)
        };
        let first = currencies.first().map(String::as_str).unwrap_or_default();
        let currency = if currencies.iter().any(|offered| offered == currency) { currency } else { first };
        let interval = interval.unwrap_or(Interval::Month);
        of_plan()
            .find(|price| price.currency == currency && price.interval == interval)
            .or_else(|| of_plan().find(|price| price.currency == currency))
            .or_else(|| of_plan().next())
    }

    fn room(&self, plan: &Plan, image: Option<&Image>, location: &str) -> u64 {
        let Some(image) = image else { return 0 };
        let need = Need {
            location: location.to_owned(),
            vcpu: plan.vcpu,
            memory_mib: u64::from(plan.memory_mib),
            disk_gib: u64::from(plan.disk_gib),
            image_digest: image.digest.clone(),
        };
        placement::room_for(&self.fleet, &need)
    }
}

/// The create page for what was chosen so far; `form` carries the messages of a refusal.
pub(super) async fn page(
    connection: &mut AnyConnection,
    at: UnixMillis,
    who: &Principal,
    sent: &Submission,
    (form, tax): (FormState, Tax),
    fresh: bool,
) -> Result<New, DbError> {
    let shelf = read(connection, at, who).await?;
    let chosen = |field: &str| sent.text(field).to_owned();
    let wanted_image = chosen("image");
    let image = shelf.images.iter().find(|image| image.code == wanted_image).or(shelf.images.first());
    let full =
        |location: &Location| shelf.plans.iter().all(|plan| shelf.room(plan, image, &location.code) == 0);
    let wanted_location = chosen("location");
    let location = shelf
        .locations
        .iter()
        .find(|location| location.code == wanted_location)
        .or_else(|| shelf.locations.iter().find(|location| !full(location)))
        .or(shelf.locations.first());
    let code = location.map(|location| location.code.as_str()).unwrap_or_default();
    let wanted_plan = chosen("plan");
    let plan = shelf
        .plans
        .iter()
        .find(|plan| plan.code == wanted_plan)
        .or_else(|| shelf.plans.iter().find(|plan| shelf.room(plan, image, code) > 0))
        .or(shelf.plans.first());
    let plans: Vec<PlanChoice> =
        shelf.plans.iter().map(|each| plan_choice(&shelf, each, image, at, plan == Some(each))).collect();
    let currencies = shelf.currencies();
    let (wanted_interval, wanted_currency) = (chosen("interval").parse().ok(), chosen("currency"));
    let price = shelf.price(plan, wanted_interval, &wanted_currency, &currencies);
    let interval = price.map_or(Interval::Month, |price| price.interval);
    let currency = price.map(|price| price.currency.clone()).unwrap_or_default();
    let sent_keys: Vec<&str> = sent.all("ssh_key").collect();
    Ok(New {
        can_order: plans.iter().any(|plan| !plan.full) && !shelf.locations.is_empty() && price.is_some(),
        locations: shelf
            .locations
            .iter()
            .map(|each| LocationChoice {
                code: each.code.clone(),
                name: each.name.clone(),
                country: each.country.clone(),
                full: full(each),
                selected: location == Some(each),
            })
            .collect(),
        images: shelf
            .images
            .iter()
            .map(|each| ImageChoice {
                code: each.code.clone(),
                name: each.name.clone(),
                note: each.version.clone(),
                selected: image == Some(each),
            })
            .collect(),
        recipes: recipe_choices(&shelf.images, sent),
        intervals: Interval::ALL
            .iter()
            .filter(|each| {
                shelf
                    .prices
                    .iter()
                    .any(|price| price.interval == **each && currencies.contains(&price.currency))
            })
            .map(|each| each.as_str())
            .collect(),
        interval: interval.as_str(),
        currency_bound: shelf.buyer.currency.is_some(),
        currency,
        keys: shelf
            .keys
            .iter()
            .enumerate()
            .map(|(index, key)| {
                let value = key.id.to_string();
                // The newest key is chosen until somebody says otherwise.
                let newest = index + 1 == shelf.keys.len();
                KeyChoice {
                    selected: sent_keys.contains(&value.as_str()) || (fresh && newest),
                    value,
                    name: key.name.clone(),
                    fingerprint: key.fingerprint.clone(),
                }
            })
            .collect(),
        hostname: if sent.text("hostname").is_empty() { shelf.name.clone() } else { chosen("hostname") },
        summary: Summary {
            plan: plan.map(|plan| plan.name.clone()).unwrap_or_default(),
            location: location.map(|location| location.name.clone()).unwrap_or_default(),
            image: image.map(|image| image.name.clone()).unwrap_or_default(),
            price: price.map(|price| price_choice(&shelf, price, at)),
            tax: match tax {
                Tax::Off | Tax::Inclusive => "included",
                Tax::Exclusive => "added",
            },
            codes: shelf.codes,
        },
        currencies,
        terms_version: TERMS_VERSION,
        plans,
        form,
    })
}

/// Every recipe that an image on sale offers, in the order they are known.
fn recipe_choices(images: &[Image], sent: &Submission) -> Vec<RecipeChoice> {
    let choice = |recipe: &Recipe| {
        let offers: Vec<String> =
            images.iter().filter(|i| i.recipes.contains(recipe)).map(|i| i.name.clone()).collect();
        RecipeChoice {
            code: recipe.as_str(),
            everywhere: offers.len() == images.len(),
            images: offers,
            selected: sent.all("recipe").any(|given| given == recipe.as_str()),
        }
    };
    Recipe::ALL.iter().map(choice).filter(|choice| !choice.images.is_empty()).collect()
}

fn plan_choice(
    shelf: &Shelf,
    plan: &Plan,
    image: Option<&Image>,
    at: UnixMillis,
    selected: bool,
) -> PlanChoice {
    let sold_out: Vec<&Location> =
        shelf.locations.iter().filter(|location| shelf.room(plan, image, &location.code) == 0).collect();
    PlanChoice {
        code: plan.code.clone(),
        name: plan.name.clone(),
        vcpu: plan.vcpu,
        memory_mib: u64::from(plan.memory_mib),
        disk_gib: u64::from(plan.disk_gib),
        traffic_gib: plan.traffic_gib,
        traffic_prices: shelf
            .traffic_prices
            .iter()
            .filter(|(code, currency, _)| {
                *code == plan.code
                    && shelf.buyer.pays_in(currency)
                    && shelf.prices.iter().any(|p| p.plan_code == plan.code && p.currency == *currency)
            })
            .map(|(_, currency, minor)| Money::new(*minor, currency.clone()))
            .collect(),
        prices: shelf
            .prices
            .iter()
            .filter(|price| price.plan_code == plan.code)
            .filter(|price| shelf.buyer.pays_in(&price.currency))
            .map(|price| price_choice(shelf, price, at))
            .collect(),
        full: sold_out.len() == shelf.locations.len(),
        sold_out_in: sold_out.iter().map(|location| location.code.clone()).collect(),
        sold_out_names: sold_out.iter().map(|location| location.name.clone()).collect(),
        selected,
    }
}

fn price_choice(shelf: &Shelf, price: &Price, at: UnixMillis) -> PriceChoice {
    let trial_days = shelf.buyer.trial_days(price);
    let money = |minor: i64| Money::new(minor, price.currency.clone());
    PriceChoice {
        interval: price.interval.to_string(),
        amount: money(price.amount_minor),
        today: money(price.due_today(trial_days > 0)),
        setup: (price.setup_minor > 0).then(|| money(price.setup_minor)),
        trial_days,
        next_date: match trial_days {
            0 => next_charge(at, price.interval),
            days => web::written_date(at.plus(Duration::from_secs(u64::from(days) * 24 * 60 * 60))),
        },
    }
}

/// The day of the charge after the first, in words: one month or year on, the last day of a shorter month.
fn next_charge(now: UnixMillis, interval: Interval) -> String {
    let Ok(today) = OffsetDateTime::from_unix_timestamp(now.as_secs()).map(UtcDateTime::from) else {
        return String::new();
    };
    let months = i64::from(u8::from(today.month())) - 1 + interval.months();
    let year = today.year() + i32::try_from(months / 12).unwrap_or(0);
    let month = Month::January.nth_next(u8::try_from(months % 12).unwrap_or(0));
    let day = today.day().min(month.length(year));
    let Ok(date) = Date::from_calendar_date(year, month, day) else { return String::new() };
    let name = date.month().to_string();
    format!("{} {} {}", date.day(), name.get(..3).unwrap_or(&name), date.year())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_charge_is_one_interval_on_and_never_on_a_day_that_is_not() {
        let at = |text: &str| {
            let format = &time::format_description::well_known::Rfc3339;
            UnixMillis::from_secs(OffsetDateTime::parse(text, format).unwrap().unix_timestamp())
        };
        for (now, interval, next) in [
            ("2026-11-23T20:00:00Z", Interval::Month, "23 Dec 2026"),
            ("2026-12-31T20:00:00Z", Interval::Month, "31 Jan 2027"),
            ("2026-11-30T20:00:00Z", Interval::Quarter, "28 Feb 2027"),
            ("2026-09-30T20:00:00Z", Interval::Quarter, "30 Dec 2026"),
            ("2027-01-31T20:00:00Z", Interval::Month, "28 Feb 2027"),
            ("2028-02-29T20:00:00Z", Interval::Year, "28 Feb 2029"),
        ] {
            assert_eq!(next_charge(at(now), interval), next);
        }
    }
}
