//! Products and prices at Stripe, found or made.

use serde_json::Value;

use super::{
    BillingError,
    model::CallState,
    outbox::{self, Call},
    stripe::{self, Every, FaultKind, Metadata, PriceView, page_of},
};
use crate::app::Services;

/// A price that Stripe shall know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedPrice {
    /// Our id, the lookup key.
    pub id: String,
    /// Stripe's product.
    pub product: String,
    /// Charged every year; else every month.
    pub yearly: bool,
    /// Lower-case ISO code.
    pub currency: String,
    /// Minor units.
    pub amount_minor: i64,
}

/// Says in Stripe's dashboard whose a product or price is. The same for every installation: two that share an
/// account share what they sell.
fn managed() -> Metadata {
    Metadata::from([("managed_by".to_owned(), "ez".to_owned())])
}

/// Makes sure that Stripe has a product for a plan; gives its id.
///
/// # Errors
/// What Stripe said.
pub async fn ensure_product(app: &Services, plan: &str, name: &str) -> Result<String, BillingError> {
    let id = format!("ez-plan-{plan}");
    match app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_product(&id)).await {
        Ok(product) if product.get("name").and_then(Value::as_str) == Some(name) => return Ok(id),
        Ok(_) => {
            let request = stripe::rename_product(&id, name);
            // The name is in the key: renaming back and forth are different calls.
            let call =
                Call::new("product-name", format!("{id}:{}", request.hash()), app.clock.now().0, request);
            outbox::send(app, &call).await?;
            outbox::close(app, &call, CallState::Done, Some(id.clone()), None).await?;
            return Ok(id);
        }
        Err(fault) if fault.kind == FaultKind::NotFound => {}
        Err(fault) => return Err(fault.into()),
    }
    let call = Call::new("product", &id, 1, stripe::create_product(&id, name, managed()));
    outbox::send(app, &call).await?;
    outbox::close(app, &call, CallState::Replaced, Some(id.clone()), None).await?;
    Ok(id)
}

/// Makes sure that Stripe has a price; gives its id there.
///
/// # Errors
/// [`BillingError::Incomplete`] when Stripe has the lookup key with another amount or currency.
pub async fn ensure_price(app: &Services, wanted: &WantedPrice) -> Result<String, BillingError> {
    if let Some(found) = find(app, &wanted.id).await? {
        let same = found.unit_amount == Some(wanted.amount_minor)
            && found.currency.as_deref() == Some(wanted.currency.as_str());
        return if same {
            Ok(found.id)
        } else {
            Err(BillingError::Incomplete("the same amount under this lookup key"))
        };
    }
    let every = if wanted.yearly { Every::Year } else { Every::Month };
    let request = stripe::create_price(
        &wanted.product,
        &wanted.id,
        every,
        &wanted.currency,
        wanted.amount_minor,
        managed(),
    )
    .ok_or(BillingError::Unknown("currency of this name"))?;
    let call = Call::new("price", &wanted.id, 1, request);
    let answer = match outbox::send(app, &call).await {
        // A key that is already used up (another database, same Stripe account) is looked up once more.
        Err(BillingError::LookingUp) => None,
        other => Some(other?),
    };
    let id = match answer {
        Some(price) => price.get("id").and_then(Value::as_str).map(str::to_owned),
        None => find(app, &wanted.id).await?.map(|price| price.id),
    };
    let id = id.ok_or(BillingError::LookingUp)?;
    outbox::close(app, &call, CallState::Replaced, Some(id.clone()), None).await?;
    Ok(id)
}

async fn find(app: &Services, lookup_key: &str) -> Result<Option<PriceView>, BillingError> {
    let list = app.stripe.get(app.entropy.as_ref(), &stripe::list_prices_by_key(lookup_key)).await?;
    Ok(page_of::<PriceView>(&list).into_iter().next())
}
