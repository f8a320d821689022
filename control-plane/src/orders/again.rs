//! Ordering the same once more: from the page of an order that ended unpaid, in one click.

use ez_protocol::input::{Hostname, SshPublicKey};

use super::{
    PlaceError, PlaceRequest, Setup,
    model::{Order, OrderState},
    place::place,
};
use crate::{
    accounts::{Principal, TERMS_VERSION},
    app::Services,
    db::DbError,
    instances,
};

/// Whether the page of an order offers to order the same again.
pub(super) fn is_offered(order: &Order) -> bool {
    matches!(order.state, OrderState::Expired | OrderState::Cancelled)
}

/// Places the same order again, with its SSH keys; pressing twice is pressing once. `None` when it cannot be ordered
/// as it was: sold out, another price, other terms, too many unpaid orders. Then the customer has to choose.
///
/// # Errors
/// Those of the database.
pub(super) async fn again(app: &Services, ended: &Order, me: &Principal) -> Result<Option<Order>, DbError> {
    if !is_offered(ended) || ended.terms_version != TERMS_VERSION {
        return Ok(None);
    }
    let instance = {
        let mut connection = app.db.read().await?;
        instances::get(&mut connection, ended.instance).await?.ok_or(DbError::NotFound)?
    };
    let keys = instance.ssh_keys.iter().map(|key| SshPublicKey::parse(key)).collect::<Result<_, _>>();
    let (Ok(hostname), Ok(ssh_keys)) = (Hostname::parse(&ended.hostname), keys) else { return Ok(None) };
    let request = PlaceRequest {
        account: me.account_id,
        user: me.user_id,
        email: me.email.clone(),
        location: ended.location.clone(),
        plan: ended.plan_code.clone(),
        interval: ended.interval,
        image: ended.image_code.clone(),
        hostname,
        ssh_keys,
        setup: Setup {
            recipes: instance.first_boot.recipes,
            locale: instance.first_boot.locale,
            timezone: instance.first_boot.timezone,
            user_data: instance.first_boot.user_data,
        },
        terms_version: ended.terms_version.clone(),
        currency: Some(ended.currency.clone()),
        quoted_minor: Some(ended.due_today()),
        quoted_then: Some(ended.amount_minor),
        again_of: Some(ended.id),
        claim: None,
    };
    match place(app, request).await {
        Ok(order) => Ok(Some(order)),
        Err(PlaceError::Db(error)) => Err(error),
        Err(refused) => {
            tracing::info!(order.id = %ended.id, %refused, "the same cannot be ordered again as it was");
            Ok(None)
        }
    }
}
