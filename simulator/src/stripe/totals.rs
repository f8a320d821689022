//! What lines come to: discounts and taxes, to the cent.
//!
//! The tax rates by country are this stand-in's own rule, as is that a tax id of another country than the seller's
//! makes it 0 (reverse charge); a real account has what its registrations say. Rounding is half up per line.

use serde_json::{Value, json};

use super::world::{World, int, text};

/// The countries that the hosted page offers, and the rate in percent.
pub(crate) const COUNTRIES: [(&str, &str, i64); 6] = [
    ("DE", "Germany", 19),
    ("AT", "Austria", 20),
    ("FR", "France", 20),
    ("NL", "Netherlands", 21),
    ("CH", "Switzerland", 0),
    ("US", "United States", 0),
];
/// Where the simulated seller sits.
const HOME: &str = "DE";

/// One line before anything is taken off or added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) amount: i64,
    pub(crate) product: String,
    /// Whether taxes are in the amount already.
    pub(crate) inclusive: bool,
}

/// What it comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) subtotal: i64,
    pub(crate) discount: i64,
    pub(crate) tax: i64,
    pub(crate) inclusive: bool,
}

impl Sum {
    /// What is to be paid.
    pub(crate) fn total(self) -> i64 {
        self.subtotal - self.discount + if self.inclusive { 0 } else { self.tax }
    }

    fn and(self, other: Self) -> Self {
        Self {
            subtotal: self.subtotal + other.subtotal,
            discount: self.discount + other.discount,
            tax: self.tax + other.tax,
            inclusive: self.inclusive || other.inclusive,
        }
    }
}

/// The rate for a buyer in percent; `None` without automatic taxes.
pub(crate) fn rate(automatic: bool, country: &str, tax_id: &str) -> Option<i64> {
    let known = COUNTRIES.iter().find(|(code, ..)| *code == country).map_or(0, |(.., rate)| *rate);
    automatic.then_some(if tax_id.is_empty() || country == HOME { known } else { 0 })
}

/// Rounds half up.
fn share(amount: i64, part: i64, whole: i64) -> i64 {
    if whole == 0 { 0 } else { (2 * amount * part + whole).div_euclid(2 * whole) }
}

/// Each line with its discount and tax. A coupon of an amount is spread over the lines it is good for.
pub(crate) fn of(lines: &[Line], coupon: Option<&Value>, rate: Option<i64>) -> Vec<Sum> {
    let products: Vec<&str> = coupon
        .and_then(|coupon| coupon.pointer("/applies_to/products"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let good =
        |line: &Line| line.amount > 0 && (products.is_empty() || products.contains(&line.product.as_str()));
    let base: i64 = lines.iter().filter(|line| good(line)).map(|line| line.amount).sum();
    let mut left = coupon.map_or(0, |coupon| match coupon["percent_off"].as_i64() {
        Some(percent) => share(base, percent, 100),
        None => int(coupon, "amount_off").min(base),
    });
    let (mut whole, off) = (base, left);
    lines
        .iter()
        .map(|line| {
            // What is left is spread over what is left of the lines: the cents add up.
            let discount = if good(line) { share(left, line.amount, whole).min(line.amount) } else { 0 };
            if good(line) {
                (left, whole) = (left - discount, whole - line.amount);
            }
            debug_assert!(discount <= off);
            let net = line.amount - discount;
            let tax = match rate {
                None => 0,
                Some(rate) if line.inclusive => net - share(net, 100, 100 + rate),
                Some(rate) => share(net, rate, 100),
            };
            Sum { subtotal: line.amount, discount, tax, inclusive: line.inclusive && rate.is_some() }
        })
        .collect()
}

/// Everything together.
pub(crate) fn together(sums: &[Sum]) -> Sum {
    sums.iter().fold(Sum::default(), |all, one| all.and(*one))
}

/// Whether taxes are in a price already.
pub(crate) fn is_inclusive(price: &Value) -> bool {
    text(price, "tax_behavior") == "inclusive"
}

/// Puts a subscription's discount and taxes on an invoice's lines; gives its figures and the members that tell of them.
pub(crate) fn on_invoice(world: &World, subscription: &Value, lines: &mut [Value]) -> (Sum, Value) {
    let discount = current_discount(world, subscription);
    let buyer = &subscription["_sim"]["buyer"];
    let automatic = subscription.pointer("/automatic_tax/enabled").and_then(Value::as_bool) == Some(true);
    let rate = rate(automatic, text(buyer, "country"), text(buyer, "tax_id"));
    let plain: Vec<Line> = lines
        .iter()
        .map(|line| {
            let details = line.pointer("/pricing/price_details").cloned().unwrap_or_default();
            let price = world.get("price", text(&details, "price"));
            Line {
                amount: int(line, "amount"),
                product: text(&details, "product").to_owned(),
                inclusive: price.is_some_and(is_inclusive),
            }
        })
        .collect();
    let sums = of(&plain, discount.as_ref().map(|discount| &discount["_sim"]["coupon"]), rate);
    let id = discount.as_ref().map_or(Value::Null, |discount| discount["id"].clone());
    for (line, sum) in lines.iter_mut().zip(&sums) {
        if sum.discount > 0 {
            line["discount_amounts"] = json!([{ "amount": sum.discount, "discount": id }]);
        }
        if rate.is_some() {
            line["taxes"] = taxes(*sum, rate);
        }
    }
    let all = together(&sums);
    let told = json!({
        "discounts": if all.discount > 0 { json!([id]) } else { json!([]) },
        "total_discount_amounts": if all.discount > 0 { json!([{ "amount": all.discount, "discount": id }]) } else { json!([]) },
        "total_taxes": if rate.is_some() { taxes(all, rate) } else { json!([]) },
        "automatic_tax": {
            "disabled_reason": null, "enabled": rate.is_some(), "liability": null, "provider": null,
            "status": if rate.is_some() { "complete".into() } else { Value::Null },
        },
    });
    (all, told)
}

fn taxes(sum: Sum, rate: Option<i64>) -> Value {
    json!([{
        "amount": sum.tax, "tax_behavior": if sum.inclusive { "inclusive" } else { "exclusive" }, "tax_rate_details": null,
        "taxability_reason": if rate == Some(0) { "not_collecting" } else { "standard_rated" },
        "taxable_amount": sum.subtotal - sum.discount, "type": "tax_rate_details",
    }])
}

/// The discount that a subscription's next invoice has.
fn current_discount(world: &World, subscription: &Value) -> Option<Value> {
    let discount = world.get("discount", subscription.pointer("/_sim/discount")?.as_str()?)?;
    let over = discount["end"].as_i64().is_some_and(|end| end <= world.now);
    (!over).then(|| discount.clone())
}

/// What an invoice took off the price of a subscription's item: minor units, of how many. Credit for unused time is as
/// much smaller (flexible billing with `proration_discounts` `included`).
pub(crate) fn taken_off(invoice: &Value, price: &str) -> Value {
    let of_price = |line: &&Value| {
        line.pointer("/pricing/price_details/price").and_then(Value::as_str) == Some(price)
            && int(line, "amount") > 0
    };
    let lines = invoice.pointer("/lines/data").and_then(Value::as_array);
    let Some(line) = lines.into_iter().flatten().rfind(of_price) else { return json!([0, 1]) };
    let off: i64 =
        line["discount_amounts"].as_array().into_iter().flatten().map(|one| int(one, "amount")).sum();
    json!([off, int(line, "amount")])
}

/// An amount after what [`taken_off`] says.
pub(crate) fn after_discount(amount: i64, taken_off: &Value) -> i64 {
    let (off, of) = (taken_off[0].as_i64().unwrap_or(0), taken_off[1].as_i64().unwrap_or(1));
    amount - share(amount, off, of)
}

/// An invoice was drafted: a discount that is good once was good, if the invoice costs anything, and one whose months
/// are over goes.
pub(crate) fn use_up(world: &mut World, subscription: &str, invoice: &Value) {
    let Some(known) = world.get("subscription", subscription).cloned() else { return };
    let taken_off = taken_off(invoice, text(&known["items"]["data"][0]["price"], "id"));
    world.change("subscription", subscription, None, |subscription| {
        subscription["_sim"]["taken_off"] = taken_off;
    });
    let Some(id) = known.pointer("/_sim/discount").and_then(Value::as_str).map(str::to_owned) else { return };
    let discount = world.get("discount", &id).cloned().unwrap_or_default();
    let once = text(&discount["_sim"]["coupon"], "duration") == "once" && int(invoice, "subtotal") > 0;
    let over = discount["end"].as_i64().is_some_and(|end| end <= world.now);
    if once || over {
        world.change("subscription", subscription, None, |subscription| {
            subscription["discounts"] = json!([]);
            subscription["_sim"]["discount"] = Value::Null;
        });
        super::events::emit(world, "customer.discount.deleted", &discount, None);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(amount: i64, product: &str) -> Line {
        Line { amount, product: product.into(), inclusive: false }
    }

    #[test]
    fn twenty_percent_off_with_taxes_added_or_in_it() {
        let coupon = json!({ "percent_off": 20 });
        let sum = together(&of(&[line(9_000, "p"), line(500, "f")], Some(&coupon), Some(19)));
        assert_eq!((sum.subtotal, sum.discount, sum.tax, sum.total()), (9_500, 1_900, 1_444, 9_044));
        let inside = Line { inclusive: true, ..line(9_000, "p") };
        let sum = together(&of(&[inside], Some(&coupon), Some(19)));
        assert_eq!((sum.discount, sum.tax, sum.total()), (1_800, 1_150, 7_200));
    }

    #[test]
    fn a_coupon_of_some_products_leaves_the_others() {
        let coupon = json!({ "amount_off": 1_000, "applies_to": { "products": ["p"] } });
        let sums = of(&[line(900, "p"), line(500, "f")], Some(&coupon), None);
        assert_eq!((sums[0].discount, sums[1].discount), (900, 0), "never more than it costs");
    }

    proptest! {
        /// Whatever the lines, the parts add up to the whole, and nothing is paid below zero.
        #[test]
        fn the_cents_add_up(amounts in prop::collection::vec(0..50_000_i64, 1..5), percent in 1..=100_i64, off: bool) {
            let coupon = if off { json!({ "amount_off": percent * 37 }) } else { json!({ "percent_off": percent }) };
            let lines: Vec<Line> = amounts.iter().map(|amount| line(*amount, "p")).collect();
            let sum = together(&of(&lines, Some(&coupon), Some(19)));
            let base: i64 = amounts.iter().sum();
            let wanted = if off { (percent * 37).min(base) } else { (2 * base * percent + 100).div_euclid(200) };
            prop_assert_eq!(sum.discount, wanted);
            prop_assert!(sum.total() >= 0);
        }
    }
}
