//! What Stripe's catalogue shall be, compared with what it is, and made so.
//!
//! [`differences`] only reads; each [`Step`] it gives carries the call that mends it, so what people are shown is what
//! is done. Nothing that was sold changes: a price or coupon is never altered but in its name and in whether it is on
//! offer, and subscriptions keep theirs when it is archived. Objects are found by names that we give them (the id of a
//! product or coupon, the lookup key of a price, the text of a code), so another database that shares the Stripe
//! account finds the same ones.

mod compare;
#[cfg(test)]
mod tests;

use ez_protocol::UnixMillis;
use serde::Serialize;
use serde_json::Value;

use super::{
    BillingError,
    model::CallState,
    outbox::{self, Call},
    store,
    stripe::{self, Prepared, PriceView, PromotionCodeView, page_of},
};
use crate::{app::Services, db::text_enum};

pub use compare::differences;

/// Attempts to make one thing whose earlier calls came to nothing.
const ATTEMPTS: i64 = 9;

text_enum! {
    /// What sort of thing.
    pub enum Kind {
        /// What is sold.
        Product = "product",
        /// What it costs.
        Price = "price",
        /// What is paid once with it.
        SetUpFee = "set-up fee",
        /// A discount.
        Coupon = "coupon",
        /// What customers type to have it.
        PromotionCode = "promotion code",
    }
}

text_enum! {
    /// What is to be done.
    pub enum Verb {
        /// Stripe does not have it.
        Make = "make",
        /// Stripe has it otherwise, and it can be changed.
        Change = "change",
        /// Stripe offers it, and we do not any more.
        Archive = "archive",
        /// We offer it, and somebody archived it at Stripe.
        Restore = "restore",
        /// Stripe has it, and this database does not know yet.
        Adopt = "adopt",
        /// Stripe has something else under its name: a person has to decide.
        Conflict = "conflict",
    }
}

/// A product that Stripe shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedProduct {
    /// Its id, which we choose.
    pub id: String,
    /// What customers read.
    pub name: String,
    /// Whether this database knows that Stripe has it.
    pub known: bool,
}

/// A price that Stripe shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedPrice {
    /// [`Kind::Price`] or [`Kind::SetUpFee`].
    pub kind: Kind,
    /// Our id, the lookup key.
    pub key: String,
    /// Stripe's product.
    pub product: String,
    /// Months of one period: 1, 3 or 12; none for what is paid once.
    pub months: Option<i64>,
    /// Lower-case ISO code.
    pub currency: String,
    /// Minor units.
    pub amount_minor: i64,
    /// Whether it is on offer; one that is not is only ever archived.
    pub on_sale: bool,
    /// Stripe's id, as far as this database knows it.
    pub known: Option<String>,
}

/// What a coupon takes off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Off {
    /// Percent of it.
    Percent(u32),
    /// An amount: minor units and lower-case ISO code.
    Amount(i64, String),
}

/// For how long a coupon takes it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasts {
    /// From the first invoice.
    Once,
    /// From those of so many months.
    Months(u32),
    /// From every one.
    Forever,
}

/// A coupon that Stripe shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedCoupon {
    /// Its id, which we choose.
    pub id: String,
    /// What customers read.
    pub name: String,
    /// What it takes off.
    pub off: Off,
    /// For how long.
    pub lasts: Lasts,
    /// Ids of the products it is good for; empty for all.
    pub products: Vec<String>,
}

/// A promotion code that Stripe shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedCode {
    /// What customers type.
    pub code: String,
    /// Id of its coupon.
    pub coupon: String,
    /// Whether only a first purchase may use it.
    pub first_purchase: bool,
    /// How often it may be used.
    pub max_uses: Option<i64>,
    /// It is over then.
    pub expires_at: Option<UnixMillis>,
    /// Whether it is on offer; one that is not is only ever archived.
    pub on_sale: bool,
}

/// Everything that Stripe shall have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shelf {
    /// Products on sale.
    pub products: Vec<WantedProduct>,
    /// Prices, those withdrawn too.
    pub prices: Vec<WantedPrice>,
    /// Coupons on offer.
    pub coupons: Vec<WantedCoupon>,
    /// Promotion codes, those withdrawn too.
    pub codes: Vec<WantedCode>,
}

/// One difference, and what mends it.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// What is to be done.
    pub verb: Verb,
    /// To what sort of thing.
    pub kind: Kind,
    /// Our name of it.
    pub key: String,
    /// What it is, or what differs, in words.
    pub detail: String,
    #[serde(skip)]
    act: Act,
}

#[derive(Debug, Clone)]
enum Act {
    /// Nothing can be done, or nothing is to be sent.
    Nothing { id: Option<String> },
    /// Make it. An earlier call may have made it: then it is found.
    Make(Prepared),
    /// Change what has this id.
    Change { id: String, request: Prepared },
    /// A code: as above, and whether it is taken afterwards is noted.
    Code { coupon: String, id: Option<String>, request: Option<Prepared>, live: bool },
}

/// Does what a step says; gives Stripe's id of the thing, where there is one. Safe to repeat.
///
/// # Errors
/// What Stripe or the database said.
pub async fn carry_out(app: &Services, step: &Step) -> Result<Option<String>, BillingError> {
    match &step.act {
        Act::Nothing { id } => Ok(id.clone()),
        Act::Make(request) => make(app, step, request).await.map(Some),
        Act::Change { id, request } => {
            change(app, step, id, request).await?;
            Ok(Some(id.clone()))
        }
        Act::Code { coupon, id, request, live } => {
            let id = match (id, request) {
                (Some(id), Some(request)) => {
                    change(app, step, id, request).await?;
                    id.clone()
                }
                (Some(id), None) => id.clone(),
                (None, Some(request)) => make(app, step, request).await?,
                (None, None) => return Ok(None),
            };
            let (at, id_too, code, coupon, live) =
                (app.clock.now(), id.clone(), step.key.clone(), coupon.clone(), *live);
            app.db
                .write(move |tx| {
                    Box::pin(async move {
                        store::put_promotion_code(tx, at, &id_too, (&code, &coupon), live).await
                    })
                })
                .await?;
            Ok(Some(id))
        }
    }
}

/// Makes something that is not there. A key that is used up (another database at the same account, something that was
/// deleted at Stripe, a call of unknown outcome) is followed by a look and the next one.
async fn make(app: &Services, step: &Step, request: &Prepared) -> Result<String, BillingError> {
    let subject = format!("{}:{}", step.key, request.hash().get(..16).unwrap_or_default());
    for attempt in 1..=ATTEMPTS {
        let call = Call::new(purpose(step.kind), &subject, attempt, request.clone());
        let made = match outbox::send(app, &call).await {
            Ok(answer) => answer.get("id").and_then(Value::as_str).map(str::to_owned),
            Err(BillingError::LookingUp) => None,
            Err(other) => return Err(other),
        };
        // The answer may be the stored one of what is there no more: what counts is what is found.
        let found = match made {
            Some(id) if attempt == 1 => Some(id),
            _ => find(app, step, request).await?,
        };
        outbox::close(app, &call, CallState::Replaced, found.clone(), None).await?;
        if let Some(id) = found {
            return Ok(id);
        }
    }
    Err(BillingError::LookingUp)
}

/// Sets something to how it shall be; that may be done twice, so an outcome that is not known is followed by the next key.
async fn change(app: &Services, step: &Step, id: &str, request: &Prepared) -> Result<(), BillingError> {
    // Archiving, restoring and archiving again are three calls.
    let subject = format!("{id}:{}", request.hash().get(..16).unwrap_or_default());
    let now = app.clock.now().0;
    for attempt in now..now + ATTEMPTS {
        let call = Call::new(purpose(step.kind), &subject, attempt, request.clone());
        let sent = outbox::send(app, &call).await;
        if let Err(other) = sent {
            match other {
                BillingError::LookingUp => outbox::close(app, &call, CallState::Replaced, None, None).await?,
                other => return Err(other),
            }
        } else {
            return outbox::close(app, &call, CallState::Replaced, Some(id.to_owned()), None).await;
        }
    }
    Err(BillingError::LookingUp)
}

const fn purpose(kind: Kind) -> &'static str {
    match kind {
        Kind::Product => "product",
        Kind::Price | Kind::SetUpFee => "price",
        Kind::Coupon => "coupon",
        Kind::PromotionCode => "promotion-code",
    }
}

/// Finds what a call may have made.
async fn find(app: &Services, step: &Step, request: &Prepared) -> Result<Option<String>, BillingError> {
    let get = async |request: &Prepared| app.stripe.get(app.entropy.as_ref(), request).await;
    match step.kind {
        Kind::Product => compare::is_there(get(&stripe::retrieve_product(&step.key)).await, &step.key),
        Kind::Coupon => compare::is_there(get(&stripe::retrieve_coupon(&step.key)).await, &step.key),
        Kind::Price | Kind::SetUpFee => {
            let list = get(&stripe::list_prices_by_keys(std::slice::from_ref(&step.key))).await?;
            Ok(page_of::<PriceView>(&list).into_iter().next().map(|price| price.id))
        }
        Kind::PromotionCode => {
            let list = get(&stripe::list_promotion_codes(&step.key)).await?;
            let same = |code: &PromotionCodeView| {
                code.active && code.coupon().is_some_and(|coupon| compare::names(request, coupon))
            };
            Ok(page_of::<PromotionCodeView>(&list).into_iter().find(same).map(|code| code.id))
        }
    }
}
