//! What customers do: they order, open pages, cancel, delete and change.

use ez_protocol::order::{FirewallRules, Verdict};

use super::{Broken, MOST_ORDERS, World, is_unpaid};
use crate::{
    accounts::Principal,
    billing,
    fleet::testing::read,
    instances::{self, ActError, EndError, Verb},
    orders::{
        PlaceError, again, cancel, pay, place,
        tests::{customer, request},
    },
};

impl World {
    pub(super) async fn orders_a_server(&mut self, who: usize) -> Result<(), Broken> {
        if self.orders.len() >= MOST_ORDERS {
            return Ok(());
        }
        let who = u8::try_from(who).unwrap() + 1;
        let request = request(who);
        match place(&self.app, request).await {
            Ok(order) => {
                self.orders.push(order.id);
                match pay(&self.app, &order).await {
                    Err(billing::BillingError::Db(error)) => Err(format!("opening a page: {error:?}")),
                    _ => Ok(()),
                }
            }
            Err(PlaceError::NoPlace(_) | PlaceError::TooManyUnpaid) => Ok(()),
            Err(error) => Err(format!("placing an order answered {error:?}")),
        }
    }

    pub(super) async fn orders_again(&mut self, n: usize) -> Result<(), Broken> {
        let ended = self.order(n, again::is_offered).await;
        let Some(order) = ended.filter(|_| self.orders.len() < MOST_ORDERS) else { return Ok(()) };
        let me = Principal { user_id: order.user, account_id: order.account, ..customer(0) };
        match again::again(&self.app, &order, &me).await {
            Ok(Some(next)) => {
                if !self.orders.contains(&next.id) {
                    self.orders.push(next.id);
                }
                let _page = pay(&self.app, &next).await;
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => Err(format!("ordering again answered {error:?}")),
        }
    }

    pub(super) async fn opens_page(&mut self, n: usize) -> Result<(), Broken> {
        let Some(order) = self.order(n, is_unpaid).await else { return Ok(()) };
        match pay(&self.app, &order).await {
            Err(billing::BillingError::Db(error)) => Err(format!("opening a page: {error:?}")),
            _ => Ok(()),
        }
    }

    pub(super) async fn cancels(&mut self, n: usize) -> Result<(), Broken> {
        let Some(order) = self.order(n, is_unpaid).await.filter(is_unpaid) else { return Ok(()) };
        match cancel(&self.app, &order).await {
            Err(billing::BillingError::Db(error)) => Err(format!("cancelling: {error:?}")),
            _ => Ok(()),
        }
    }

    pub(super) async fn deletes(&mut self, n: usize) -> Result<(), Broken> {
        let Some(server) = self.server(n).await else { return Ok(()) };
        match instances::delete(&self.app, server.id, "customer").await {
            Ok(_) | Err(EndError::DoesNotFit(_) | EndError::Billing(_)) => Ok(()),
            Err(error) => Err(format!("deleting answered {error:?}")),
        }
    }

    /// The customer changes the firewall of a server, or has its disk made anew.
    pub(super) async fn cares(&mut self, n: usize, rebuild: bool) -> Result<(), Broken> {
        let Some(server) = self.server(n).await else { return Ok(()) };
        let applied = read(&self.app, async |c| instances::wishes(c, &server).await).await.applied;
        let closed = FirewallRules { inbound: Verdict::Drop, rules: Vec::new() };
        let verb = match rebuild {
            true => Verb::Rebuild(applied.image),
            false => Verb::Firewall(applied.firewall.is_none().then_some(closed)),
        };
        match instances::act(&self.app, server.id, verb, "customer", None).await {
            Ok(_)
            | Err(
                ActError::DoesNotFit { .. }
                | ActError::Busy(_)
                | ActError::Issue(_)
                | ActError::Suspended
                | ActError::NeedsRebuild
                | ActError::ImageNotReady,
            ) => Ok(()),
            Err(error) => Err(format!("a change answered {error:?}")),
        }
    }
}
