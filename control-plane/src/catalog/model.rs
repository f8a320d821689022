//! Plain types of the catalogue and of its file.

use ez_protocol::{
    image::ImageUrl,
    order::{MAX_BACKUPS, OsFamily, Recipe},
};
use serde::{Deserialize, Serialize};

use super::{
    coupons::CouponEntry,
    traffic::{self, TrafficPriceEntry},
};
use crate::{
    currency,
    db::{DbError, text_enum},
};

/// Most snapshots of one server: each one slows its disk down.
const MOST_SNAPSHOTS: u32 = 20;
/// A million, in minor units: more is a slip of the pen.
const MOST_MINOR: i64 = 100_000_000;
/// Stripe takes no longer trials.
const MOST_TRIAL_DAYS: u32 = 730;

text_enum! {
    /// How often a price is charged.
    pub enum Interval {
        /// Every month.
        Month = "month",
        /// Every three months.
        Quarter = "quarter",
        /// Every year.
        Year = "year",
    }
}

impl Interval {
    /// How many months a period has.
    pub const fn months(self) -> i64 {
        match self {
            Self::Month => 1,
            Self::Quarter => 3,
            Self::Year => 12,
        }
    }
}

/// A size of server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Short code, such as `s`.
    pub code: String,
    /// Name for people.
    pub name: String,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disk in GiB.
    pub disk_gib: u32,
    /// Traffic per month in GiB.
    pub traffic_gib: u64,
    /// How many snapshots a server may have.
    pub snapshots: u32,
    /// How many backups of a server are kept; 0 means none are sold.
    pub backups: u32,
    /// Whether new servers can have it.
    pub on_sale: bool,
    /// Stripe's product.
    #[serde(skip)]
    pub stripe_product_id: Option<String>,
}

/// What a plan costs for one interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Price {
    /// `<plan>:<interval>:<currency>:v<version>`, also the lookup key at Stripe.
    pub id: String,
    /// Code of the plan.
    pub plan_code: String,
    /// How often it is charged.
    pub interval: Interval,
    /// Lower-case ISO code.
    pub currency: String,
    /// Minor units.
    pub amount_minor: i64,
    /// What is paid once, with the first payment; minor units, 0 for nothing.
    pub setup_minor: i64,
    /// For so many days a first server costs nothing; 0 for no trial.
    pub trial_days: u32,
    /// Whether new servers can have it.
    pub on_sale: bool,
    /// Stripe's price.
    #[serde(skip)]
    pub stripe_price_id: Option<String>,
    /// Stripe's one-time price of the set-up fee.
    #[serde(skip)]
    pub stripe_setup_price_id: Option<String>,
}

impl Price {
    /// What is due at the purchase, before discounts and taxes; minor units. `trial`: whether the buyer has one.
    pub const fn due_today(&self, trial: bool) -> i64 {
        if trial && self.trial_days > 0 { self.setup_minor } else { self.setup_minor + self.amount_minor }
    }

    /// Which version of its amount it is, as its id says.
    pub fn version(&self) -> u32 {
        self.id.rsplit_once(":v").and_then(|(_, version)| version.parse().ok()).unwrap_or(1)
    }

    /// The lookup key of its set-up fee at Stripe.
    pub fn setup_key(&self) -> String {
        format!("{}:setup", self.id)
    }
}

/// An operating system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Image {
    /// Short code, such as `debian-13`; the name a node's template carries.
    pub code: String,
    /// Name for people.
    pub name: String,
    /// Version of the image.
    pub version: String,
    /// `sha256:…` of the image that templates are made from.
    pub digest: String,
    /// Who logs in.
    pub login_user: String,
    /// Whether it is a rescue system: booted beside a server's own disk, never sold as a server's own.
    pub rescue: bool,
    /// Whether servers can have it.
    pub on_sale: bool,
    /// Where nodes get it from, if they may.
    pub url: Option<String>,
    /// Which distribution it is.
    pub family: Option<OsFamily>,
    /// What may be set up on it at the first boot.
    pub recipes: Vec<Recipe>,
}

/// A medium for a server's CD drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Iso {
    /// Its file name on the nodes' ISO storage.
    pub file: String,
    /// Name for people.
    pub name: String,
    /// Whether it may be put in.
    pub on_sale: bool,
}

/// A choice a customer made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteRequest {
    /// Code of the plan.
    pub plan: String,
    /// How often it is charged.
    pub interval: Interval,
    /// Code of the image.
    pub image: String,
    /// Lower-case ISO code; `None` takes the catalogue's first.
    pub currency: Option<String>,
}

/// What the choice is and costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// The plan.
    pub plan: Plan,
    /// The image.
    pub image: Image,
    /// The price.
    pub price: Price,
}

/// Why there is no quote.
#[derive(Debug, thiserror::Error)]
pub enum QuoteError {
    /// No such plan on sale.
    #[error("this plan is not on sale")]
    UnknownPlan,
    /// No such image on sale.
    #[error("this image is not on sale")]
    UnknownImage,
    /// The plan has no such price.
    #[error("this plan has no price for that interval and currency")]
    NoPrice,
    /// The catalogue could not be read.
    #[error("reading the catalogue failed")]
    Read(#[from] DbError),
}

/// The lookup key of a price.
pub fn price_id(plan: &str, interval: Interval, currency: &str, version: u32) -> String {
    format!("{plan}:{interval}:{currency}:v{version}")
}

/// The whole file that is applied.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogFile {
    /// `[[locations]]`; `fleet` reads what is in them.
    #[serde(default)]
    pub locations: Vec<toml::Value>,
    /// `[[address_pools]]`; `fleet` reads what is in them.
    #[serde(default)]
    pub address_pools: Vec<toml::Value>,
    /// `[[images]]`
    #[serde(default)]
    pub images: Vec<ImageEntry>,
    /// `[[isos]]`
    #[serde(default)]
    pub isos: Vec<IsoEntry>,
    /// `[[plans]]`
    #[serde(default)]
    pub plans: Vec<PlanEntry>,
    /// `[[coupons]]`
    #[serde(default)]
    pub coupons: Vec<CouponEntry>,
}

/// One `[[isos]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IsoEntry {
    /// File name on the nodes' ISO storage.
    pub file: String,
    /// Name for people.
    pub name: String,
    /// `false` takes it out of the customers' hands.
    #[serde(default = "yes")]
    pub on_sale: bool,
}

/// One `[[images]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEntry {
    /// Short code.
    pub code: String,
    /// Name for people.
    pub name: String,
    /// Version.
    pub version: String,
    /// `sha256:…`
    pub digest: String,
    /// Who logs in; `root` if not given.
    #[serde(default = "root")]
    pub login_user: String,
    /// `true` makes it a rescue system.
    #[serde(default)]
    pub rescue: bool,
    /// `false` takes it off sale.
    #[serde(default = "yes")]
    pub on_sale: bool,
    /// Where nodes get it from; `image build` needs it.
    #[serde(default)]
    pub url: Option<ImageUrl>,
    /// Which distribution it is; recipes need it.
    #[serde(default)]
    pub family: Option<OsFamily>,
    /// What customers may have set up on it.
    #[serde(default)]
    pub recipes: Vec<Recipe>,
}

/// One `[[plans]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanEntry {
    /// Short code.
    pub code: String,
    /// Name for people.
    pub name: String,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disk in GiB.
    pub disk_gib: u32,
    /// Traffic per month in GiB.
    pub traffic_gib: u64,
    /// How many snapshots a server may have; 5 if not given.
    #[serde(default = "five")]
    pub snapshots: u32,
    /// How many backups of a server are kept; none if not given.
    #[serde(default)]
    pub backups: u32,
    /// `false` takes it off sale.
    #[serde(default = "yes")]
    pub on_sale: bool,
    /// `[[plans.traffic_prices]]`: what traffic above `traffic_gib` costs; without one nothing is charged.
    #[serde(default)]
    pub traffic_prices: Vec<TrafficPriceEntry>,
    /// `[[plans.prices]]`
    pub prices: Vec<PriceEntry>,
}

/// One `[[plans.prices]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceEntry {
    /// How often it is charged: `month`, `quarter` or `year`.
    pub interval: Interval,
    /// Lower-case ISO code.
    pub currency: String,
    /// Minor units.
    pub amount_minor: i64,
    /// Paid once, with the first payment; nothing if not given.
    #[serde(default)]
    pub setup_minor: i64,
    /// Days that an account's first server costs nothing; none if not given.
    #[serde(default)]
    pub trial_days: u32,
    /// Which version it is. If not given, another amount or set-up fee makes the next one.
    #[serde(default)]
    pub version: Option<u32>,
}

fn root() -> String {
    "root".to_owned()
}

const fn yes() -> bool {
    true
}

const fn five() -> u32 {
    5
}

impl CatalogFile {
    /// Finds what types alone do not: bad codes, doubles, prices nobody could pay.
    ///
    /// # Errors
    /// One sentence that names the entry.
    pub fn check(&self) -> Result<(), String> {
        let mut codes = std::collections::BTreeSet::new();
        for image in &self.images {
            check_code("image", &image.code)?;
            if !codes.insert(("image", &image.code)) {
                return Err(format!("image {} is there twice", image.code));
            }
            ez_protocol::order::ImageDigest::parse(&image.digest)
                .map_err(|error| format!("image {}: the digest is {error}", image.code))?;
            if !image.recipes.is_empty() && image.family.is_none() {
                return Err(format!("image {}: recipes need to know its family", image.code));
            }
        }
        for iso in &self.isos {
            ez_protocol::order::IsoName::parse(&iso.file)
                .map_err(|error| format!("iso {:?} is {error}", iso.file))?;
            if !codes.insert(("iso", &iso.file)) {
                return Err(format!("iso {} is there twice", iso.file));
            }
        }
        for plan in &self.plans {
            check_code("plan", &plan.code)?;
            if !codes.insert(("plan", &plan.code)) {
                return Err(format!("plan {} is there twice", plan.code));
            }
            plan.check()?;
        }
        let mut texts = std::collections::BTreeSet::new();
        for coupon in &self.coupons {
            check_code("coupon", &coupon.code)?;
            if !codes.insert(("coupon", &coupon.code)) {
                return Err(format!("coupon {} is there twice", coupon.code));
            }
            coupon.check()?;
            if let Some(double) = coupon.codes.iter().find(|code| !texts.insert(code.code.to_uppercase())) {
                return Err(format!("the promotion code {} is there twice", double.code));
            }
        }
        Ok(())
    }
}

impl PlanEntry {
    fn check(&self) -> Result<(), String> {
        let code = &self.code;
        if !(1..=128).contains(&self.vcpu) || self.memory_mib < 128 || self.disk_gib == 0 {
            return Err(format!("plan {code}: vcpu 1 to 128, memory_mib from 128, disk_gib from 1"));
        }
        if self.snapshots > MOST_SNAPSHOTS || self.backups > MAX_BACKUPS {
            return Err(format!(
                "plan {code}: at most {MOST_SNAPSHOTS} snapshots and {MAX_BACKUPS} backups of a server"
            ));
        }
        traffic::check(code, self.traffic_gib, &self.traffic_prices)?;
        let mut prices = std::collections::BTreeSet::new();
        for price in &self.prices {
            for amount_minor in [price.amount_minor, price.setup_minor] {
                currency::check(amount_minor, &price.currency)
                    .map_err(|why| format!("plan {code}: {why}"))?;
            }
            if !(1..=MOST_MINOR).contains(&price.amount_minor) || price.version == Some(0) {
                return Err(format!("plan {code}: a price needs an amount and a version from 1"));
            }
            if !(0..=MOST_MINOR).contains(&price.setup_minor) || price.trial_days > MOST_TRIAL_DAYS {
                return Err(format!(
                    "plan {code}: a set-up fee is an amount, and a trial is at most {MOST_TRIAL_DAYS} days"
                ));
            }
            if !prices.insert((price.interval, &price.currency)) {
                return Err(format!("plan {code} has two prices for {} {}", price.interval, price.currency));
            }
        }
        Ok(())
    }
}

/// A code is what URLs, template markers and lookup keys are made from.
fn check_code(what: &str, code: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    if (1..=40).contains(&code.len()) && code.bytes().all(plain) && !code.starts_with(['-', '.']) {
        Ok(())
    } else {
        Err(format!("{what} code {code:?}: a-z, 0-9, '-' and '.', at most 40 characters"))
    }
}
