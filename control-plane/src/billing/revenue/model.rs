//! Sums over steps. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ez_protocol::{Month, UnixMillis};
use serde::Serialize;
use serde_json::Value;

use crate::billing::usage;

/// What a subscription brings a month, from a time on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) currency: String,
    /// Minor units.
    pub(super) monthly_minor: i64,
    pub(super) life: Life,
}

/// Whether a subscription is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It is, or will be.
    Live,
    /// It is not, and may be again: it is paused, or Stripe has left it unpaid.
    Rests,
    /// It has ended for good.
    Over,
}

/// A step of a subscription, as it is stored.
#[derive(Debug, Clone)]
pub(super) struct Charge {
    pub(super) subscription: String,
    pub(super) account: String,
    pub(super) since: UnixMillis,
    pub(super) step: Step,
}

/// A charge that did not work at first.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) currency: String,
    pub(super) at: UnixMillis,
    pub(super) minor: i64,
    /// It was paid later.
    pub(super) recovered: bool,
}

/// What a subscription says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) began: Option<UnixMillis>,
    pub(super) ended: Option<UnixMillis>,
    pub(super) step: Step,
}

/// What is charged each so often, for a month, rounded half up. Days and weeks by those of a year.
pub(super) fn monthly(amount: i64, interval: &str, count: i64) -> i64 {
    let count = i128::from(count.max(1));
    let (times, months) = match interval {
        "day" => (365, 12 * count),
        "week" => (52, 12 * count),
        "year" => (1, 12 * count),
        _ => (1, count),
    };
    let amount = i128::from(amount) * times;
    i64::try_from((2 * amount + months).div_euclid(2 * months)).unwrap_or(i64::MAX)
}

/// What is left of a price after the discounts that a subscription has for more than one invoice. Minor units a month.
fn discounted(monthly_minor: i64, price: &Value, discounts: &Value, now: UnixMillis) -> i64 {
    let mut left = monthly_minor;
    for discount in discounts.as_array().into_iter().flatten() {
        let coupon = &discount["source"]["coupon"];
        let over = discount["end"].as_i64().is_some_and(|end| UnixMillis::from_secs(end) <= now);
        let products = coupon["applies_to"]["products"].as_array().filter(|products| !products.is_empty());
        let good = products.is_none_or(|products| products.contains(&price["product"]));
        if over || !good || coupon["duration"] == "once" {
            continue;
        }
        let off = match (coupon["percent_off"].as_f64(), coupon["amount_off"].as_i64()) {
            (Some(percent), _) => share(left, percent),
            (None, Some(amount)) if coupon["currency"] == price["currency"] => each_month(amount, price),
            _ => 0,
        };
        left = left.saturating_sub(off).max(0);
    }
    left
}

/// Stripe's percentages have at most two decimals; half up.
#[allow(clippy::cast_possible_truncation, reason = "0 to 10,000")]
fn share(amount: i64, percent: f64) -> i64 {
    let hundredths = i128::from((percent * 100.0).round() as i64).clamp(0, 10_000);
    i64::try_from((i128::from(amount) * hundredths + 5_000).div_euclid(10_000)).unwrap_or(amount)
}

/// What is charged, or taken off, with each invoice of a price, for a month.
fn each_month(amount: i64, price: &Value) -> i64 {
    let (interval, count) = (&price["recurring"]["interval"], &price["recurring"]["interval_count"]);
    monthly(amount, interval.as_str().unwrap_or("month"), count.as_i64().unwrap_or(1))
}

/// Reads a subscription; nothing before it was paid for the first time, or if it has no price.
pub(super) fn read(value: &Value, now: UnixMillis) -> Option<Read> {
    let status = value["status"].as_str()?;
    if matches!(status, "incomplete" | "incomplete_expired") {
        return None;
    }
    let life = match status {
        "active" | "past_due" | "trialing" => Life::Live,
        "canceled" => Life::Over,
        // Only what is over has left.
        _ => Life::Rests,
    };
    let (mut sum, mut currency) = (0_i64, None);
    for item in value["items"]["data"].as_array()? {
        let price = &item["price"];
        let Some(amount) = price["unit_amount"].as_i64() else { continue };
        let quantity = item["quantity"].as_i64().unwrap_or(1);
        let each = each_month(amount.saturating_mul(quantity), price);
        sum = sum.saturating_add(discounted(each, price, &value["discounts"], now));
        currency = price["currency"].as_str().or(currency);
    }
    let time = |key: &str| value[key].as_i64().map(UnixMillis::from_secs);
    // What is made void is never charged; what is only left uncollected may be.
    let is_void = value["pause_collection"]["behavior"] == "void";
    let brings = life == Life::Live && status != "trialing" && !is_void;
    Some(Read {
        began: time("start_date").or_else(|| time("created")),
        ended: time("ended_at").or_else(|| time("canceled_at")),
        step: Step { currency: currency?.to_owned(), monthly_minor: if brings { sum } else { 0 }, life },
    })
}

/// The steps that a reading adds to what was known last.
pub(super) fn steps(
    last: Option<&(UnixMillis, Step)>,
    read: &Read,
    now: UnixMillis,
) -> Vec<(UnixMillis, Step)> {
    let later = |at: UnixMillis, than: UnixMillis| at.max(UnixMillis(than.0.saturating_add(1)));
    // Of one that rests it is the day of a wish, if anything.
    let ended = read.ended.filter(|_| read.step.life == Life::Over).unwrap_or(now).min(now);
    match last {
        Some((_, known)) if *known == read.step => Vec::new(),
        Some((since, _)) => vec![(later(ended, *since), read.step.clone())],
        None => {
            let began = read.began.unwrap_or(now).min(now);
            if read.step.life == Life::Live {
                return vec![(began, read.step.clone())];
            }
            // It had ended, or rested, before it was seen for the first time; what it brought is not known.
            let was = Step { monthly_minor: 0, life: Life::Live, ..read.step.clone() };
            vec![(began, was), (later(ended, began), read.step.clone())]
        }
    }
}

/// A month of one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MonthRevenue {
    /// Which.
    pub month: Month,
    /// What a month brought at its end, or brings now. Minor units.
    pub monthly_minor: i64,
    /// Subscriptions that were charged then.
    pub live: i64,
    /// Subscriptions that were charged nothing then and may be again: paused, or left unpaid by Stripe.
    pub paused: i64,
    /// Subscriptions that began in it.
    pub begun: i64,
    /// Subscriptions that ended in it, also those that were paused before.
    pub ended: i64,
    /// Of a thousand that were there or began, how many ended.
    pub churn_permille: i64,
    /// Accounts that had a subscription at its end, be it paused, and had none at its begin.
    pub new_customers: i64,
    /// Accounts that had one at its begin and have none at its end.
    pub lost_customers: i64,
    /// Charges that did not work at first.
    pub failed: i64,
    /// How much they were. Minor units.
    pub failed_minor: i64,
    /// How many of those were paid later.
    pub recovered: i64,
}

/// One currency's months.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct History {
    /// Lower-case ISO code.
    pub currency: String,
    /// The oldest first.
    pub months: Vec<MonthRevenue>,
}

/// The last so many months with their begin and their end, or now.
pub(super) fn months(now: UnixMillis, many: usize) -> Vec<(Month, UnixMillis, UnixMillis)> {
    let mut all: Vec<_> = std::iter::successors(Some(Month::of(now)), |month| Some(month.before()))
        .take(many)
        .map(|month| (month, usage::month_begins(month), usage::month_ends(month).min(UnixMillis(now.0 + 1))))
        .collect();
    all.reverse();
    all
}

/// A subscription's steps, the oldest first.
struct Line<'a> {
    account: &'a str,
    steps: Vec<(UnixMillis, &'a Step)>,
}

impl Line<'_> {
    /// What held just before a time.
    fn before(&self, at: UnixMillis) -> Option<&Step> {
        self.steps.iter().take_while(|(since, _)| *since < at).last().map(|(_, step)| *step)
    }

    fn life_before(&self, at: UnixMillis) -> Option<Life> {
        self.before(at).map(|step| step.life)
    }

    /// Whether it had begun and was not over.
    fn is_there_before(&self, at: UnixMillis) -> bool {
        self.life_before(at).is_some_and(|life| life != Life::Over)
    }
}

/// Sums everything up.
pub(super) fn history(
    charges: &[Charge],
    failed: &[Failed],
    months: &[(Month, UnixMillis, UnixMillis)],
) -> Vec<History> {
    let mut lines: BTreeMap<&str, BTreeMap<&str, Line<'_>>> = BTreeMap::new();
    for charge in charges {
        let line = lines
            .entry(charge.step.currency.as_str())
            .or_default()
            .entry(charge.subscription.as_str())
            .or_insert_with(|| Line { account: charge.account.as_str(), steps: Vec::new() });
        line.steps.push((charge.since, &charge.step));
    }
    for line in lines.values_mut().flat_map(BTreeMap::values_mut) {
        line.steps.sort_by_key(|(since, _)| *since);
    }
    for one in failed {
        lines.entry(one.currency.as_str()).or_default();
    }
    lines
        .into_iter()
        .map(|(currency, lines)| History {
            currency: currency.to_owned(),
            months: months.iter().map(|month| summed(*month, currency, &lines, failed)).collect(),
        })
        .collect()
}

fn summed(
    (month, from, to): (Month, UnixMillis, UnixMillis),
    currency: &str,
    lines: &BTreeMap<&str, Line<'_>>,
    failed: &[Failed],
) -> MonthRevenue {
    let count = |many: usize| i64::try_from(many).unwrap_or(i64::MAX);
    let customers = |at: UnixMillis| -> BTreeSet<&str> {
        lines.values().filter(|line| line.is_there_before(at)).map(|line| line.account).collect()
    };
    let (mut monthly_minor, mut live, mut paused) = (0_i64, 0, 0);
    let (mut begun, mut ended, mut there) = (0, 0, 0);
    for line in lines.values() {
        let (was, is) = (line.is_there_before(from), line.is_there_before(to));
        if let Some(step) = line.before(to) {
            monthly_minor = monthly_minor.saturating_add(step.monthly_minor);
        }
        let here =
            line.steps.iter().any(|(since, step)| *since >= from && *since < to && step.life != Life::Over);
        live += i64::from(line.life_before(to) == Some(Life::Live));
        paused += i64::from(line.life_before(to) == Some(Life::Rests));
        there += i64::from(was || here);
        begun += i64::from(!was && here);
        ended += i64::from((was || here) && !is);
    }
    let (before, after) = (customers(from), customers(to));
    let mine = || failed.iter().filter(|one| one.currency == currency && one.at >= from && one.at < to);
    MonthRevenue {
        month,
        monthly_minor,
        live,
        paused,
        begun,
        ended,
        churn_permille: if there == 0 { 0 } else { ended * 1_000 / there },
        new_customers: count(after.difference(&before).count()),
        lost_customers: count(before.difference(&after).count()),
        failed: count(mine().count()),
        failed_minor: mine().map(|one| one.minor).sum(),
        recovered: count(mine().filter(|one| one.recovered).count()),
    }
}
