//! The calls that change what a subscription costs, and what a preview says.

use serde::Deserialize;
use serde_json::Value;

use super::{Method, Prepared};

/// One price in the place of another, for one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Swap<'a> {
    /// `sub_…`
    pub(crate) subscription: &'a str,
    /// `si_…`: without it Stripe would add a second price.
    pub(crate) item: &'a str,
    /// `price_…`
    pub(crate) price: &'a str,
    /// Unix seconds: the same in the preview and in the change, so that both come to the same sum.
    pub(crate) at: i64,
}

fn form(path: String, pairs: &[(&str, &str)]) -> Prepared {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    Prepared { method: Method::Post, path, query: None, body: Some(body) }
}

/// What a change would be billed now.
pub(crate) fn preview_change(swap: Swap<'_>) -> Prepared {
    form(
        "/invoices/create_preview".to_owned(),
        &[
            ("subscription", swap.subscription),
            ("subscription_details[items][0][id]", swap.item),
            ("subscription_details[items][0][price]", swap.price),
            ("subscription_details[proration_behavior]", "always_invoice"),
            ("subscription_details[proration_date]", &swap.at.to_string()),
        ],
    )
}

/// What a subscription's next invoice comes to, with what waits for it, discounts, credit and taxes.
pub(crate) fn preview_next(subscription: &str) -> Prepared {
    form("/invoices/create_preview".to_owned(), &[("subscription", subscription)])
}

/// Changes the price now: billed at once, and applied only when that is paid.
pub(crate) fn change_price(swap: Swap<'_>) -> Prepared {
    form(
        format!("/subscriptions/{}", swap.subscription),
        &[
            ("items[0][id]", swap.item),
            ("items[0][price]", swap.price),
            ("proration_behavior", "always_invoice"),
            ("proration_date", &swap.at.to_string()),
            ("payment_behavior", "pending_if_incomplete"),
        ],
    )
}

/// A schedule that begins as the subscription is.
pub(crate) fn create_schedule(subscription: &str) -> Prepared {
    form("/subscription_schedules".to_owned(), &[("from_subscription", subscription)])
}

/// What a schedule shall do: the running period as it is, then another price, with what is taken off now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phases<'a> {
    /// `sub_sched_…`
    pub(crate) schedule: &'a str,
    /// The price of the running period.
    pub(crate) from: &'a str,
    /// The price afterwards.
    pub(crate) to: &'a str,
    /// The running period, unix seconds.
    pub(crate) period: (i64, i64),
    /// How many months the first period of the new price has.
    pub(crate) months: i64,
    /// How many of its price each phase charges.
    pub(crate) quantities: [i64; 2],
    /// What both phases say as the subscription has it.
    pub(crate) kept: &'a Kept,
}

/// What of a subscription a phase does not take from it by itself: one that names none of it has the schedule's or the
/// customer's, and the subscription has that from then on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// `di_…` of what its codes take off.
    pub(crate) discounts: Vec<String>,
    /// Whether Stripe works out its taxes, if it says so.
    pub(crate) automatic_tax: Option<bool>,
    /// `txr_…` that are put on it by hand.
    pub(crate) tax_rates: Vec<String>,
    /// `pm_…` that is charged; none is the customer's own.
    pub(crate) payment_method: Option<String>,
}

impl Kept {
    /// What one phase says of it.
    fn pairs(&self, phase: usize) -> Vec<(String, String)> {
        let key = |rest: &str| format!("phases[{phase}]{rest}");
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (at, id) in self.discounts.iter().enumerate() {
            pairs.push((key(&format!("[discounts][{at}][discount]")), id.clone()));
        }
        if let Some(enabled) = self.automatic_tax {
            pairs.push((key("[automatic_tax][enabled]"), enabled.to_string()));
        }
        for (at, id) in self.tax_rates.iter().enumerate() {
            pairs.push((key(&format!("[default_tax_rates][{at}]")), id.clone()));
        }
        if let Some(method) = &self.payment_method {
            pairs.push((key("[default_payment_method]"), method.clone()));
        }
        pairs
    }
}

/// Sets the phases of a schedule. Nothing is prorated: the running period is paid.
pub(crate) fn set_phases(phases: Phases<'_>) -> Prepared {
    let (interval, count) = match phases.months {
        months if months > 0 && months % 12 == 0 => ("year", months / 12),
        months => ("month", months.max(1)),
    };
    let (start, end, count) = (phases.period.0.to_string(), phases.period.1.to_string(), count.to_string());
    let quantities = phases.quantities.map(|quantity| quantity.to_string());
    let mut pairs = vec![
        ("end_behavior", "release"),
        ("phases[0][items][0][price]", phases.from),
        ("phases[0][items][0][quantity]", &quantities[0]),
        ("phases[0][start_date]", &start),
        ("phases[0][end_date]", &end),
        ("phases[0][proration_behavior]", "none"),
        ("phases[1][items][0][price]", phases.to),
        ("phases[1][items][0][quantity]", &quantities[1]),
        ("phases[1][start_date]", &end),
        ("phases[1][duration][interval]", interval),
        ("phases[1][duration][interval_count]", &count),
        ("phases[1][proration_behavior]", "none"),
    ];
    let kept: Vec<(String, String)> = (0..2).flat_map(|phase| phases.kept.pairs(phase)).collect();
    pairs.extend(kept.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    form(format!("/subscription_schedules/{}", phases.schedule), &pairs)
}

/// What both phases of a change charge as it is booked: one server.
pub(crate) const ONE_SERVER: [i64; 2] = [1, 1];

/// How many of its price the first and the last phase of a schedule charge; one where they do not say.
pub(crate) fn quantities_of(schedule: &Value) -> [i64; 2] {
    let phases = schedule["phases"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |phase: Option<&Value>| phase.and_then(|phase| phase["items"][0]["quantity"].as_i64());
    [phases.first(), phases.last()].map(|phase| of(phase).unwrap_or(1))
}

/// Whether the last phase of a schedule charges the card that the subscription is charged with now.
pub(crate) fn charges(schedule: &Value, kept: &Kept) -> bool {
    let last = schedule.get("phases").and_then(Value::as_array).and_then(|phases| phases.last());
    let method = last.and_then(|phase| phase.get("default_payment_method"));
    let method = method.and_then(|method| method.as_str().or_else(|| method.get("id")?.as_str()));
    method == kept.payment_method.as_deref()
}

/// The card that phases charge in the end, as they were sent; none is the customer's own.
pub(crate) fn card_of(phases: &Prepared) -> Option<String> {
    let body = phases.body.as_deref().unwrap_or_default();
    url::form_urlencoded::parse(body.as_bytes())
        .find(|(key, _)| key == "phases[1][default_payment_method]")
        .map(|(_, card)| card.into_owned())
}

/// The subscription goes on as it is, without its schedule.
pub(crate) fn release_schedule(schedule: &str) -> Prepared {
    form(format!("/subscription_schedules/{schedule}/release"), &[])
}

pub(crate) fn retrieve_schedule(schedule: &str) -> Prepared {
    Prepared {
        method: Method::Get,
        path: format!("/subscription_schedules/{schedule}"),
        query: None,
        body: None,
    }
}

/// Nobody has to pay an invoice any more.
pub(crate) fn void_invoice(invoice: &str) -> Prepared {
    form(format!("/invoices/{invoice}/void"), &[])
}

/// What a preview says. Everything that decides on money has to be there.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PreviewView {
    pub(crate) currency: String,
    pub(crate) total: i64,
    pub(crate) amount_due: i64,
    pub(crate) starting_balance: Option<i64>,
    pub(crate) ending_balance: Option<i64>,
    lines: Lines,
    total_taxes: Option<Vec<Amount>>,
    total_discount_amounts: Option<Vec<Amount>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Lines {
    data: Vec<LineView>,
}

/// One line of an invoice.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LineView {
    pub(crate) description: Option<String>,
    pub(crate) amount: i64,
    pub(crate) period: Option<PeriodView>,
}

/// What a line is for, unix seconds.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct PeriodView {
    pub(crate) start: Option<i64>,
    pub(crate) end: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
struct Amount {
    amount: Option<i64>,
    tax_behavior: Option<String>,
}

impl PreviewView {
    /// Reads an answer; `None` if it lacks what the decision needs.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        serde_json::from_value(value.clone()).ok()
    }

    /// Its lines.
    pub(crate) fn lines(&self) -> &[LineView] {
        &self.lines.data
    }

    /// Taxes that come on top.
    pub(crate) fn tax(&self) -> i64 {
        let taxes = self.total_taxes.as_deref().unwrap_or_default();
        taxes
            .iter()
            .filter(|tax| tax.tax_behavior.as_deref() != Some("inclusive"))
            .filter_map(|tax| tax.amount)
            .sum()
    }

    /// Discounts.
    pub(crate) fn discount(&self) -> i64 {
        let discounts = self.total_discount_amounts.as_deref().unwrap_or_default();
        discounts.iter().filter_map(|discount| discount.amount).sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn preview_and_change_name_the_same_item_price_and_moment() {
        let swap = Swap { subscription: "sub_1", item: "si_1", price: "price_2", at: 1_800_000_000 };
        let (preview, change) = (preview_change(swap).body.unwrap(), change_price(swap).body.unwrap());
        let pairs = |body: &str| -> Vec<(String, String)> {
            url::form_urlencoded::parse(body.as_bytes()).into_owned().collect()
        };
        for (key, value) in pairs(&change).into_iter().filter(|(key, _)| key != "payment_behavior") {
            let inside = match key.split_once('[') {
                Some((first, rest)) => format!("subscription_details[{first}][{rest}"),
                None => format!("subscription_details[{key}]"),
            };
            assert!(pairs(&preview).contains(&(inside.clone(), value)), "{inside}");
        }
    }

    #[test]
    fn phases_are_said_in_the_intervals_that_stripe_has() {
        let of = |months| {
            let phases = Phases {
                schedule: "s",
                from: "price_1",
                to: "price_2",
                period: (1, 2),
                months,
                quantities: ONE_SERVER,
                kept: &Kept::default(),
            };
            set_phases(phases).body.unwrap()
        };
        for (months, interval, count) in [(1, "month", 1), (3, "month", 3), (12, "year", 1), (24, "year", 2)]
        {
            let body = of(months);
            assert!(body.contains(&format!("interval%5D={interval}")), "{body}");
            assert!(body.contains(&format!("interval_count%5D={count}")), "{body}");
        }
    }

    #[test]
    fn both_phases_say_what_the_subscription_is_charged_with() {
        let kept = Kept {
            discounts: vec!["di_1".into(), "di_2".into()],
            automatic_tax: Some(true),
            tax_rates: vec!["txr_1".into()],
            payment_method: Some("pm_1".into()),
        };
        let sent = |kept: &Kept| {
            let phases = Phases {
                schedule: "s",
                from: "price_1",
                to: "price_2",
                period: (1, 2),
                months: 1,
                quantities: ONE_SERVER,
                kept,
            };
            set_phases(phases)
        };
        let said = |kept: &Kept| {
            let body = sent(kept).body.unwrap();
            url::form_urlencoded::parse(body.as_bytes()).into_owned().collect::<Vec<_>>()
        };
        for phase in 0..2 {
            for (key, value) in [
                ("[discounts][0][discount]", "di_1"),
                ("[discounts][1][discount]", "di_2"),
                ("[automatic_tax][enabled]", "true"),
                ("[default_tax_rates][0]", "txr_1"),
                ("[default_payment_method]", "pm_1"),
            ] {
                let pair = (format!("phases[{phase}]{key}"), value.to_owned());
                assert!(said(&kept).contains(&pair), "{pair:?}");
            }
        }
        let untaxed = said(&Kept { automatic_tax: Some(false), ..Kept::default() });
        let of = |word: &str| untaxed.iter().filter(|(key, _)| key.contains(word)).count();
        assert_eq!((of("automatic_tax"), of("default_")), (2, 0), "a card that it has not is not named");
        assert_eq!(card_of(&sent(&kept)).as_deref(), Some("pm_1"));
        assert_eq!(card_of(&sent(&Kept::default())), None);
    }

    #[test]
    fn a_schedule_that_says_nothing_of_quantities_is_of_one() {
        let phase = |quantity: Value| json!({"items": [{"price": "price_1", "quantity": quantity}]});
        assert_eq!(quantities_of(&json!({"phases": [phase(json!(2)), phase(json!(3))]})), [2, 3]);
        assert_eq!(quantities_of(&json!({"phases": [phase(Value::Null)]})), ONE_SERVER);
        assert_eq!(quantities_of(&json!({})), ONE_SERVER);
    }

    #[test]
    fn a_preview_without_its_sum_is_none() {
        let whole =
            json!({"currency": "eur", "total": 1, "amount_due": 1, "lines": {"data": [{"amount": 1}]}});
        assert_eq!(PreviewView::read(&whole).unwrap().lines()[0].amount, 1);
        for needed in ["currency", "total", "amount_due", "lines"] {
            let mut less = whole.clone();
            less.as_object_mut().unwrap().remove(needed);
            assert!(PreviewView::read(&less).is_none(), "{needed}");
        }
    }
}
