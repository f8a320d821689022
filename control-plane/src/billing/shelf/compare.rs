//! Reading Stripe's catalogue and naming what differs. Writes nothing, here or there.

use serde_json::Value;

use super::{Act, Kind, Lasts, Off, Shelf, Step, Verb, WantedCode, WantedCoupon, WantedPrice, WantedProduct};
use crate::{
    app::Services,
    billing::{
        BillingError, store,
        stripe::{
            self, CodeParts, CouponParts, CouponView, Every, FaultKind, Prepared, PriceParts, PriceView,
            ProductView, PromotionCodeView, StripeFault, page_of,
        },
        sync::view,
    },
    config::Tax,
    web::written_money,
};

fn step(verb: Verb, kind: Kind, key: &str, detail: impl Into<String>, act: Act) -> Step {
    Step { verb, kind, key: key.to_owned(), detail: detail.into(), act }
}

/// The id of something that was asked for by it, if it is there.
pub(super) fn is_there(answer: Result<Value, StripeFault>, id: &str) -> Result<Option<String>, BillingError> {
    match answer {
        Ok(object) if object.get("deleted").and_then(Value::as_bool) == Some(true) => Ok(None),
        Ok(_) => Ok(Some(id.to_owned())),
        Err(fault) if fault.kind == FaultKind::NotFound => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}

/// Whether a request to make a code names this coupon.
pub(super) fn names(request: &Prepared, coupon: &str) -> bool {
    let body = request.body.as_deref().unwrap_or_default();
    url::form_urlencoded::parse(body.as_bytes())
        .any(|(key, value)| key == "promotion[coupon]" && value == coupon)
}

/// What Stripe has otherwise than it shall be, in the order in which it is to be mended.
///
/// # Errors
/// What Stripe or the database said.
pub async fn differences(app: &Services, shelf: &Shelf) -> Result<Vec<Step>, BillingError> {
    let mut steps = Vec::new();
    for wanted in &shelf.products {
        let found = read(app, &stripe::retrieve_product(&wanted.id)).await?;
        product(wanted, found.map(|value| view(&value)).transpose()?, &mut steps);
    }
    for some in shelf.prices.chunks(stripe::KEYS_AT_ONCE) {
        let keys: Vec<String> = some.iter().map(|wanted| wanted.key.clone()).collect();
        let list = app.stripe.get(app.entropy.as_ref(), &stripe::list_prices_by_keys(&keys)).await?;
        let found = page_of::<PriceView>(&list);
        for wanted in some {
            let held = found.iter().find(|price| price.lookup_key.as_deref() == Some(wanted.key.as_str()));
            price(wanted, held, app.config.stripe.tax, &mut steps)?;
        }
    }
    for wanted in &shelf.coupons {
        let found = read(app, &stripe::retrieve_coupon(&wanted.id)).await?;
        coupon(wanted, found.map(|value| view(&value)).transpose()?, &mut steps);
    }
    for wanted in &shelf.codes {
        let list = app.stripe.get(app.entropy.as_ref(), &stripe::list_promotion_codes(&wanted.code)).await?;
        let found = page_of::<PromotionCodeView>(&list);
        let known = {
            let mut connection = app.db.read().await?;
            store::promotion_codes(&mut connection).await?
        };
        code(wanted, &found, &known, app.clock.now().as_secs(), &mut steps);
    }
    Ok(steps)
}

/// What is there, if it is.
async fn read(app: &Services, request: &Prepared) -> Result<Option<Value>, BillingError> {
    match app.stripe.get(app.entropy.as_ref(), request).await {
        Ok(object) if object.get("deleted").and_then(Value::as_bool) == Some(true) => Ok(None),
        Ok(object) => Ok(Some(object)),
        Err(fault) if fault.kind == FaultKind::NotFound => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}

fn product(wanted: &WantedProduct, found: Option<ProductView>, steps: &mut Vec<Step>) {
    let (id, name) = (&wanted.id, &wanted.name);
    let Some(found) = found else {
        let request = stripe::create_product(id, name);
        steps.push(step(Verb::Make, Kind::Product, id, format!("“{name}”"), Act::Make(request)));
        return;
    };
    let before = steps.len();
    if found.name.as_deref() != Some(name) {
        let request = stripe::rename_product(id, name);
        let detail = format!("“{}” becomes “{name}”", found.name.as_deref().unwrap_or_default());
        steps.push(step(Verb::Change, Kind::Product, id, detail, Act::Change { id: id.clone(), request }));
    }
    if found.active == Some(false) {
        let request = stripe::restore_product(id);
        let detail = format!("“{name}” is archived at Stripe and on sale here");
        steps.push(step(Verb::Restore, Kind::Product, id, detail, Act::Change { id: id.clone(), request }));
    }
    if steps.len() == before && !wanted.known {
        let act = Act::Nothing { id: Some(id.clone()) };
        steps.push(step(Verb::Adopt, Kind::Product, id, format!("“{name}”"), act));
    }
}

/// “9.00 € per quarter”
fn costs(amount_minor: i64, currency: &str, months: Option<i64>) -> String {
    let every = match months {
        Some(1) => " per month".to_owned(),
        Some(3) => " per quarter".to_owned(),
        Some(12) => " per year".to_owned(),
        Some(months) => format!(" every {months} months"),
        None => " once".to_owned(),
    };
    format!("{}{every}", written_money(amount_minor, currency))
}

fn price(
    wanted: &WantedPrice,
    found: Option<&PriceView>,
    tax: Tax,
    steps: &mut Vec<Step>,
) -> Result<(), BillingError> {
    let (kind, key) = (wanted.kind, &wanted.key);
    let says = costs(wanted.amount_minor, &wanted.currency, wanted.months);
    let Some(found) = found else {
        if wanted.on_sale {
            let every = match wanted.months {
                None => None,
                Some(months) => {
                    Some(Every::of_months(months).ok_or(BillingError::Unknown("period of this length"))?)
                }
            };
            let request = stripe::create_price(PriceParts {
                product: &wanted.product,
                lookup_key: key,
                every,
                currency: &wanted.currency,
                amount_minor: wanted.amount_minor,
                tax,
            });
            let request = request.ok_or(BillingError::Unknown("currency of this name"))?;
            steps.push(step(Verb::Make, kind, key, says, Act::Make(request)));
        }
        return Ok(());
    };
    let id = found.id.clone();
    let same = found.unit_amount == Some(wanted.amount_minor)
        && found.currency.as_deref() == Some(wanted.currency.as_str())
        && found.months() == wanted.months
        && found.product.as_ref().is_none_or(|product| *product == wanted.product);
    if !same {
        let theirs =
            costs(found.unit_amount.unwrap_or(0), found.currency.as_deref().unwrap_or(""), found.months());
        let detail =
            format!("Stripe has {theirs} under this name, the file says {says}: give it another version");
        steps.push(step(Verb::Conflict, kind, key, detail, Act::Nothing { id: None }));
        return Ok(());
    }
    let before = steps.len();
    if wanted.on_sale {
        let said = found.tax_behavior.as_deref().unwrap_or("unspecified");
        match stripe::tax_price(&id, tax) {
            Some(request) if said == "unspecified" => {
                let detail = format!("{says}: taxes are {tax}");
                steps.push(step(Verb::Change, kind, key, detail, Act::Change { id: id.clone(), request }));
            }
            Some(_) if said != tax.as_str() => {
                let detail = format!("its taxes are {said} at Stripe for ever: give it another version");
                steps.push(step(Verb::Conflict, kind, key, detail, Act::Nothing { id: None }));
            }
            _ => {}
        }
    }
    if found.active.is_some_and(|active| active != wanted.on_sale) {
        let (verb, detail) = if wanted.on_sale {
            (Verb::Restore, format!("{says}: archived at Stripe and on sale here"))
        } else {
            (Verb::Archive, format!("{says}: servers that were sold at it keep it"))
        };
        let request = stripe::activate_price(&id, wanted.on_sale);
        steps.push(step(verb, kind, key, detail, Act::Change { id: id.clone(), request }));
    }
    if steps.len() == before && wanted.known.as_ref() != Some(&id) {
        steps.push(step(Verb::Adopt, kind, key, says, Act::Nothing { id: Some(id) }));
    }
    Ok(())
}

impl Lasts {
    /// Stripe's word, and the months where it counts them.
    const fn told(self) -> (&'static str, Option<u32>) {
        match self {
            Self::Once => ("once", None),
            Self::Months(months) => ("repeating", Some(months)),
            Self::Forever => ("forever", None),
        }
    }
}

fn coupon(wanted: &WantedCoupon, found: Option<CouponView>, steps: &mut Vec<Step>) {
    let (id, name) = (&wanted.id, &wanted.name);
    let (word, months) = wanted.lasts.told();
    let (percent_off, amount_off) = match &wanted.off {
        Off::Percent(percent) => (Some(*percent), None),
        Off::Amount(minor, currency) => (None, Some((*minor, currency.as_str()))),
    };
    let off = match &wanted.off {
        Off::Percent(percent) => format!("{percent} % off"),
        Off::Amount(minor, currency) => format!("{} off", written_money(*minor, currency)),
    };
    let lasts = match wanted.lasts {
        Lasts::Once => "once".to_owned(),
        Lasts::Months(months) => format!("for {months} months"),
        Lasts::Forever => "for ever".to_owned(),
    };
    let Some(found) = found else {
        let request = stripe::create_coupon(&CouponParts {
            id,
            name,
            percent_off,
            amount_off,
            duration: (word, months),
            products: &wanted.products,
        });
        steps.push(step(
            Verb::Make,
            Kind::Coupon,
            id,
            format!("“{name}”: {off}, {lasts}"),
            Act::Make(request),
        ));
        return;
    };
    let percent = found.percent_off.as_ref().and_then(serde_json::Number::as_f64);
    let (mut theirs, mut ours) = (found.products().to_vec(), wanted.products.clone());
    theirs.sort_unstable();
    ours.sort_unstable();
    let same = percent == percent_off.map(f64::from)
        && found.amount_off == amount_off.map(|(minor, _)| minor)
        && found.currency.as_deref() == amount_off.map(|(_, currency)| currency)
        && found.duration.as_deref() == Some(word)
        && found.duration_in_months == months
        && theirs == ours;
    if !same {
        let detail =
            format!("Stripe has other terms under this name than {off}, {lasts}: give it another version");
        steps.push(step(Verb::Conflict, Kind::Coupon, id, detail, Act::Nothing { id: None }));
    } else if found.name.as_deref() != Some(name) {
        let request = stripe::rename_coupon(id, name);
        let detail = format!("“{}” becomes “{name}”", found.name.as_deref().unwrap_or_default());
        steps.push(step(Verb::Change, Kind::Coupon, id, detail, Act::Change { id: id.clone(), request }));
    }
}

fn code(
    wanted: &WantedCode,
    found: &[PromotionCodeView],
    known: &[(String, bool)],
    now: i64,
    steps: &mut Vec<Step>,
) {
    let (kind, key) = (Kind::PromotionCode, &wanted.code);
    let expires_at = wanted.expires_at.map(|at| at.as_secs());
    let same = |code: &&PromotionCodeView| {
        code.coupon() == Some(wanted.coupon.as_str())
            && code.first_purchase() == wanted.first_purchase
            && code.max_redemptions == wanted.max_uses
            && code.expires_at == expires_at
    };
    let coupon = || wanted.coupon.clone();
    let noted = |id: &str, live: bool| known.iter().any(|(known, was)| known == id && *was == live);
    // Of several with the same terms the one that is taken counts.
    let held = found.iter().filter(same).max_by_key(|code| (code.active, !code.is_used_up(now)));
    let kept = held.filter(|_| wanted.on_sale).map(|code| code.id.as_str());
    for other in found.iter().filter(|code| code.active && Some(code.id.as_str()) != kept) {
        if !other.is_managed() {
            if wanted.on_sale {
                let detail =
                    "somebody else's code at Stripe has this text and is taken: end it, or choose another";
                steps.push(step(Verb::Conflict, kind, key, detail, Act::Nothing { id: None }));
                return;
            }
            continue;
        }
        let request = Some(stripe::activate_promotion_code(&other.id, false));
        let coupon = other.coupon().unwrap_or_default().to_owned();
        let detail = if wanted.on_sale { "its terms have changed" } else { "not offered any more" };
        let act = Act::Code { coupon, id: Some(other.id.clone()), request, live: false };
        steps.push(step(Verb::Archive, kind, key, detail, act));
    }
    if !wanted.on_sale {
        return;
    }
    let terms = format!(
        "{}{}{}{}",
        wanted.coupon,
        if wanted.first_purchase { ", first purchase only" } else { "" },
        wanted.max_uses.map(|most| format!(", {most} times")).unwrap_or_default(),
        wanted.expires_at.map(|at| format!(", before {}", crate::web::written_date(at))).unwrap_or_default()
    );
    match held {
        None => {
            let request = Some(stripe::create_promotion_code(CodeParts {
                code: key,
                coupon: &wanted.coupon,
                first_purchase: wanted.first_purchase,
                max_uses: wanted.max_uses,
                expires_at,
            }));
            let over = expires_at.is_some_and(|end| end <= now);
            if !over {
                let act = Act::Code { coupon: coupon(), id: None, request, live: true };
                steps.push(step(Verb::Make, kind, key, terms, act));
            }
        }
        Some(code) if code.is_used_up(now) => {
            if !noted(&code.id, false) {
                let act =
                    Act::Code { coupon: coupon(), id: Some(code.id.clone()), request: None, live: false };
                steps.push(step(Verb::Adopt, kind, key, "used up or over", act));
            }
        }
        Some(code) if !code.active => {
            let request = Some(stripe::activate_promotion_code(&code.id, true));
            let act = Act::Code { coupon: coupon(), id: Some(code.id.clone()), request, live: true };
            steps.push(step(Verb::Restore, kind, key, terms, act));
        }
        Some(code) if !noted(&code.id, true) => {
            let act = Act::Code { coupon: coupon(), id: Some(code.id.clone()), request: None, live: true };
            steps.push(step(Verb::Adopt, kind, key, terms, act));
        }
        Some(_) => {}
    }
}
