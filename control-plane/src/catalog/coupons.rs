//! Coupons and promotion codes: as they stand in the file, and as they are kept.

use ez_protocol::UnixMillis;
use serde::Deserialize;
use time::{Date, macros::format_description};

use crate::{currency, db::text_enum};

/// Longest name that Stripe prints on an invoice.
const LONGEST_NAME: usize = 40;

text_enum! {
    /// For how long a coupon takes something off.
    pub enum Duration {
        /// From the first invoice.
        Once = "once",
        /// From those of some months.
        Months = "months",
        /// From every one.
        Forever = "forever",
    }
}

/// One `[[coupons]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CouponEntry {
    /// Short code.
    pub code: String,
    /// Name for people, printed on invoices.
    pub name: String,
    /// Takes so many percent off.
    #[serde(default)]
    pub percent_off: Option<u32>,
    /// Takes an amount off, in minor units of `currency`.
    #[serde(default)]
    pub amount_off_minor: Option<i64>,
    /// Lower-case ISO code.
    #[serde(default)]
    pub currency: Option<String>,
    /// For how long; `once` if not given.
    #[serde(default = "once")]
    pub duration: Duration,
    /// Where it is `months`: of so many.
    #[serde(default)]
    pub months: Option<u32>,
    /// Codes of the plans it is good for; all if not given.
    #[serde(default)]
    pub plans: Vec<String>,
    /// Which version it is. If not given, other terms make the next one.
    #[serde(default)]
    pub version: Option<u32>,
    /// `false` ends its codes.
    #[serde(default = "yes")]
    pub on_sale: bool,
    /// `[[coupons.codes]]`
    #[serde(default)]
    pub codes: Vec<CodeEntry>,
}

/// One `[[coupons.codes]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeEntry {
    /// What customers type.
    pub code: String,
    /// Whether only an account's first purchase may use it; it may if not given.
    #[serde(default)]
    pub first_purchase: bool,
    /// How often it may be used; without end if not given.
    #[serde(default)]
    pub max_uses: Option<i64>,
    /// The last day it is good, such as `2027-03-31`, in UTC; without end if not given.
    #[serde(default)]
    pub last_day: Option<String>,
}

const fn once() -> Duration {
    Duration::Once
}

const fn yes() -> bool {
    true
}

impl CouponEntry {
    /// Finds what types alone do not.
    ///
    /// # Errors
    /// One sentence that names the coupon.
    pub fn check(&self) -> Result<(), String> {
        let refuse = |what: &str| Err(format!("coupon {}: {what}", self.code));
        if self.name.is_empty() || self.name.chars().count() > LONGEST_NAME {
            return refuse("its name is 1 to 40 characters");
        }
        match (self.percent_off, self.amount_off_minor, &self.currency) {
            (Some(1..=100), None, None) => {}
            (None, Some(amount_minor @ 1..=100_000_000), Some(currency)) => {
                currency::check(amount_minor, currency)
                    .map_err(|why| format!("coupon {}: {why}", self.code))?;
            }
            _ => {
                return refuse(
                    "it takes off `percent_off` from 1 to 100, or `amount_off_minor` with a `currency`",
                );
            }
        }
        if (self.duration == Duration::Months) != self.months.is_some() || self.months == Some(0) {
            return refuse("`months` belongs to `duration = \"months\"` and to nothing else");
        }
        if self.version == Some(0) {
            return refuse("versions begin at 1");
        }
        for code in &self.codes {
            let plain = code.code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if !(3..=50).contains(&code.code.len()) || !plain {
                return refuse("a promotion code is 3 to 50 letters, digits and hyphens");
            }
            if code.max_uses.is_some_and(|most| most < 1) {
                return refuse("`max_uses` begins at 1");
            }
            if code.last_day.is_some() && code.expires_at().is_none() {
                return refuse("`last_day` is a day such as 2027-03-31");
            }
        }
        Ok(())
    }
}

impl CodeEntry {
    /// When it is over: the end of its last day. `None` without one, or for what is no day.
    pub fn expires_at(&self) -> Option<UnixMillis> {
        let format = format_description!("[year]-[month]-[day]");
        let after = Date::parse(self.last_day.as_ref()?, format).ok()?.next_day()?;
        Some(UnixMillis::from_secs(after.midnight().assume_utc().unix_timestamp()))
    }
}

/// A coupon as it is kept: one version of its terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coupon {
    /// `<code>:v<version>`
    pub id: String,
    /// Short code.
    pub code: String,
    /// Name for people.
    pub name: String,
    /// Percent that it takes off, if it does.
    pub percent_off: Option<u32>,
    /// Minor units that it takes off, if it does.
    pub amount_off_minor: Option<i64>,
    /// Of the amount.
    pub currency: Option<String>,
    /// For how long.
    pub duration: Duration,
    /// Of how many months.
    pub months: Option<u32>,
    /// Codes of the plans it is good for; empty for all.
    pub plans: Vec<String>,
    /// Whether its codes are offered.
    pub on_sale: bool,
}

impl Coupon {
    /// A version of an entry.
    pub(super) fn of(entry: &CouponEntry, version: u32) -> Self {
        let mut plans = entry.plans.clone();
        plans.sort_unstable();
        plans.dedup();
        Self {
            id: format!("{}:v{version}", entry.code),
            code: entry.code.clone(),
            name: entry.name.clone(),
            percent_off: entry.percent_off,
            amount_off_minor: entry.amount_off_minor,
            currency: entry.currency.clone(),
            duration: entry.duration,
            months: entry.months,
            plans,
            on_sale: entry.on_sale,
        }
    }

    /// Whether nothing differs that Stripe keeps for ever; the name may.
    pub(super) fn has_terms_of(&self, other: &Self) -> bool {
        let terms =
            |coupon: &Self| Self { id: String::new(), name: String::new(), on_sale: true, ..coupon.clone() };
        terms(self) == terms(other)
    }

    /// Which version it is, as its id says.
    pub(super) fn version(&self) -> u32 {
        self.id.rsplit_once(":v").and_then(|(_, version)| version.parse().ok()).unwrap_or(1)
    }

    /// Its id at Stripe.
    pub(super) fn stripe_id(&self) -> String {
        format!("ez-coupon-{}-v{}", self.code, self.version())
    }
}

/// A promotion code as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromotionCode {
    /// What customers type.
    pub code: String,
    /// Id of its coupon.
    pub coupon_id: String,
    /// Whether only an account's first purchase may use it.
    pub first_purchase: bool,
    /// How often it may be used.
    pub max_uses: Option<i64>,
    /// It is over then.
    pub expires_at: Option<UnixMillis>,
    /// Whether it is offered.
    pub on_sale: bool,
}
