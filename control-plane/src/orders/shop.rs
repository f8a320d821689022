//! What the create page shows: the catalogue against the fleet's room, with sensible choices made.

use ez_protocol::{UnixMillis, order::Recipe};
use sqlx::AnyConnection;
use time::{Date, Month, OffsetDateTime, UtcDateTime};

use crate::{
    accounts::{self, Principal, SshKey, TERMS_VERSION},
    catalog::{self, Image, Interval, Plan, Price},
    db::DbError,
    fleet::{self, Location},
    instances,
    placement::{self, FleetSnapshot, Need},
    web::{
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
    fleet: FleetSnapshot,
    keys: Vec<SshKey>,
    name: String,
}

async fn read(connection: &mut AnyConnection, at: UnixMillis, who: &Principal) -> Result<Shelf, DbError> {
    Ok(Shelf {
        locations: fleet::locations(connection).await?,
        images: catalog::images(connection).await?,
        plans: catalog::plans(connection).await?,
        prices: catalog::prices(connection).await?,
        traffic_prices: catalog::traffic_prices(connection).await?,
        fleet: fleet::snapshot(connection, at, None).await?,
        keys: accounts::ssh_keys(connection, who.account_id).await?,
        name: instances::suggest_name(connection, who.account_id).await?,
    })
}

impl Shelf {
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
    form: FormState,
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
    let interval = chosen("interval").parse().unwrap_or(Interval::Month);
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
    let price =
        shelf.prices.iter().find(|p| Some(&p.plan_code) == plan.map(|p| &p.code) && p.interval == interval);
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
        intervals: vec![Interval::Month.as_str(), Interval::Year.as_str()],
        interval: interval.as_str(),
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
            today: price.map_or(Money::new(0, "eur"), |p| Money::new(p.amount_minor, p.currency.clone())),
            next_date: next_charge(at, interval),
            tax: "included",
        },
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
        traffic_price: shelf
            .traffic_prices
            .iter()
            .find(|(code, currency, _)| {
                *code == plan.code
                    && shelf.prices.iter().any(|p| p.plan_code == plan.code && p.currency == *currency)
            })
            .map(|(_, currency, minor)| Money::new(*minor, currency.clone())),
        prices: shelf
            .prices
            .iter()
            .filter(|price| price.plan_code == plan.code)
            .map(|price| PriceChoice {
                interval: price.interval.to_string(),
                amount: Money::new(price.amount_minor, price.currency.clone()),
                next_date: next_charge(at, price.interval),
            })
            .collect(),
        full: sold_out.len() == shelf.locations.len(),
        sold_out_in: sold_out.iter().map(|location| location.code.clone()).collect(),
        sold_out_names: sold_out.iter().map(|location| location.name.clone()).collect(),
        selected,
    }
}

/// The day of the charge after the first, in words: one month or year on, the last day of a shorter month.
fn next_charge(now: UnixMillis, interval: Interval) -> String {
    let Ok(today) = OffsetDateTime::from_unix_timestamp(now.as_secs()).map(UtcDateTime::from) else {
        return String::new();
    };
    let (year, month) = match (interval, today.month()) {
        (Interval::Year, month) => (today.year() + 1, month),
        (Interval::Month, Month::December) => (today.year() + 1, Month::January),
        (Interval::Month, month) => (today.year(), month.next()),
    };
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
            ("2027-01-31T20:00:00Z", Interval::Month, "28 Feb 2027"),
            ("2028-02-29T20:00:00Z", Interval::Year, "28 Feb 2029"),
        ] {
            assert_eq!(next_charge(at(now), interval), next);
        }
    }
}
