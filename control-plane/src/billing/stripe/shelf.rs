//! The calls that keep Stripe's catalogue: products, prices, coupons and promotion codes.

use stripe_product::{
    PriceTaxBehavior,
    price::{CreatePrice, CreatePriceRecurring, CreatePriceRecurringInterval, ListPrice, UpdatePrice},
    product::{CreateProduct, UpdateProduct},
};

use super::request::{Metadata, Method, PAGE, Prepared, posted, retrieve};
use crate::config::Tax;

/// Most lookup keys that one list of prices takes.
pub(crate) const KEYS_AT_ONCE: usize = 10;

/// Says in Stripe's dashboard whose something is. The same for every installation: two that share an account share
/// what they sell.
fn managed() -> Metadata {
    Metadata::from([("managed_by".to_owned(), "ez".to_owned())])
}

pub(crate) fn retrieve_product(id: &str) -> Prepared {
    retrieve("products", id)
}

pub(crate) fn create_product(id: &str, name: &str) -> Prepared {
    Prepared::of(&CreateProduct::new(name).id(id).metadata(managed()))
}

pub(crate) fn rename_product(id: &str, name: &str) -> Prepared {
    Prepared::of(&UpdateProduct::new(id).name(name))
}

pub(crate) fn restore_product(id: &str) -> Prepared {
    Prepared::of(&UpdateProduct::new(id).active(true))
}

/// How often a price is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Every {
    Month,
    Quarter,
    Year,
}

impl Every {
    /// The period of so many months; `None` for one that nothing is sold by.
    pub(crate) const fn of_months(months: i64) -> Option<Self> {
        match months {
            1 => Some(Self::Month),
            3 => Some(Self::Quarter),
            12 => Some(Self::Year),
            _ => None,
        }
    }

    fn recurring(self) -> CreatePriceRecurring {
        use CreatePriceRecurringInterval::{Month, Year};
        match self {
            Self::Month => CreatePriceRecurring::new(Month),
            Self::Quarter => {
                CreatePriceRecurring { interval_count: Some(3), ..CreatePriceRecurring::new(Month) }
            }
            Self::Year => CreatePriceRecurring::new(Year),
        }
    }
}

/// What a price is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PriceParts<'a> {
    pub(crate) product: &'a str,
    pub(crate) lookup_key: &'a str,
    /// None: paid once.
    pub(crate) every: Option<Every>,
    pub(crate) currency: &'a str,
    pub(crate) amount_minor: i64,
    pub(crate) tax: Tax,
}

/// `None` when the currency is not one Stripe knows.
pub(crate) fn create_price(parts: PriceParts<'_>) -> Option<Prepared> {
    let currency: stripe_types::Currency = parts.currency.parse().ok()?;
    if matches!(currency, stripe_types::Currency::Unknown(_)) {
        return None;
    }
    let mut request = CreatePrice::new(currency)
        .product(parts.product)
        .unit_amount(parts.amount_minor)
        .lookup_key(parts.lookup_key)
        .metadata(managed());
    if let Some(every) = parts.every {
        request = request.recurring(every.recurring());
    }
    request = match parts.tax {
        Tax::Off => request,
        Tax::Inclusive => request.tax_behavior(PriceTaxBehavior::Inclusive),
        Tax::Exclusive => request.tax_behavior(PriceTaxBehavior::Exclusive),
    };
    Some(Prepared::of(&request))
}

/// Offers a price again, or no longer; subscriptions that have it keep it.
pub(crate) fn activate_price(id: &str, active: bool) -> Prepared {
    Prepared::of(&UpdatePrice::new(id).active(active))
}

/// Says how a price relates to taxes; Stripe lets that be said once. `None` where there is nothing to say.
pub(crate) fn tax_price(id: &str, tax: Tax) -> Option<Prepared> {
    let behavior = match tax {
        Tax::Off => return None,
        Tax::Inclusive => PriceTaxBehavior::Inclusive,
        Tax::Exclusive => PriceTaxBehavior::Exclusive,
    };
    Some(Prepared::of(&UpdatePrice::new(id).tax_behavior(behavior)))
}

/// The prices of some lookup keys, archived ones too; at most [`KEYS_AT_ONCE`].
pub(crate) fn list_prices_by_keys(keys: &[String]) -> Prepared {
    Prepared::of(&ListPrice::new().lookup_keys(keys.to_vec()).limit(PAGE))
}

pub(crate) fn retrieve_coupon(id: &str) -> Prepared {
    // Which products it is good for is told only when asked for.
    Prepared { query: Some("expand[]=applies_to".to_owned()), ..retrieve("coupons", id) }
}

/// What a coupon is made from.
#[derive(Debug, Clone)]
pub(crate) struct CouponParts<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) percent_off: Option<u32>,
    /// Minor units and currency.
    pub(crate) amount_off: Option<(i64, &'a str)>,
    /// Stripe's word, and the months where it is `repeating`.
    pub(crate) duration: (&'a str, Option<u32>),
    pub(crate) products: &'a [String],
}

pub(crate) fn create_coupon(parts: &CouponParts<'_>) -> Prepared {
    let mut pairs = vec![
        ("id", parts.id.to_owned()),
        ("name", parts.name.to_owned()),
        ("duration", parts.duration.0.to_owned()),
        ("metadata[managed_by]", "ez".to_owned()),
    ];
    pairs.extend(parts.percent_off.map(|percent| ("percent_off", percent.to_string())));
    if let Some((minor, currency)) = parts.amount_off {
        pairs.extend([("amount_off", minor.to_string()), ("currency", currency.to_owned())]);
    }
    pairs.extend(parts.duration.1.map(|months| ("duration_in_months", months.to_string())));
    pairs.extend(parts.products.iter().map(|product| ("applies_to[products][]", product.clone())));
    posted("/coupons".to_owned(), pairs)
}

pub(crate) fn rename_coupon(id: &str, name: &str) -> Prepared {
    posted(format!("/coupons/{id}"), [("name", name.to_owned())])
}

/// The promotion codes of this text, over ones too, newest first.
pub(crate) fn list_promotion_codes(code: &str) -> Prepared {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("code", code).append_pair("limit", &PAGE.to_string());
    Prepared {
        method: Method::Get,
        path: "/promotion_codes".to_owned(),
        query: Some(query.finish()),
        body: None,
    }
}

/// What a promotion code is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CodeParts<'a> {
    pub(crate) code: &'a str,
    pub(crate) coupon: &'a str,
    pub(crate) first_purchase: bool,
    pub(crate) max_uses: Option<i64>,
    /// Unix seconds.
    pub(crate) expires_at: Option<i64>,
}

pub(crate) fn create_promotion_code(parts: CodeParts<'_>) -> Prepared {
    let mut pairs = vec![
        ("code", parts.code.to_owned()),
        ("promotion[type]", "coupon".to_owned()),
        ("promotion[coupon]", parts.coupon.to_owned()),
        ("metadata[managed_by]", "ez".to_owned()),
    ];
    if parts.first_purchase {
        pairs.push(("restrictions[first_time_transaction]", "true".to_owned()));
    }
    pairs.extend(parts.max_uses.map(|most| ("max_redemptions", most.to_string())));
    pairs.extend(parts.expires_at.map(|at| ("expires_at", at.to_string())));
    posted("/promotion_codes".to_owned(), pairs)
}

pub(crate) fn activate_promotion_code(id: &str, active: bool) -> Prepared {
    posted(format!("/promotion_codes/{id}"), [("active", active.to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(currency: &str) -> PriceParts<'_> {
        PriceParts {
            product: "p",
            lookup_key: "k",
            every: Some(Every::Quarter),
            currency,
            amount_minor: 1,
            tax: Tax::Exclusive,
        }
    }

    #[test]
    fn a_currency_nobody_knows_is_refused() {
        assert!(create_price(parts("zzz")).is_none());
        assert!(create_price(parts("eur")).is_some());
    }

    #[test]
    fn a_quarter_is_three_months_and_a_fee_is_paid_once() {
        let body = create_price(parts("eur")).unwrap().body.unwrap();
        for part in ["recurring[interval]=month", "recurring[interval_count]=3", "tax_behavior=exclusive"] {
            let decoded: Vec<String> = url::form_urlencoded::parse(body.as_bytes())
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            assert!(decoded.contains(&part.to_owned()), "{part} is missing from {decoded:?}");
        }
        let once = create_price(PriceParts { every: None, tax: Tax::Off, ..parts("eur") }).unwrap();
        let body = once.body.unwrap();
        assert!(!body.contains("recurring") && !body.contains("tax_behavior"), "{body}");
    }
}
