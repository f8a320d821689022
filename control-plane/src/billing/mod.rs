//! Billing: Stripe customers, checkout, webhooks, the mirror of subscriptions and invoices.

mod api;
mod pages;
pub mod stripe;

pub(crate) use api::routes as api_routes;
pub(crate) use pages::routes as page_routes;
pub use stripe::StripeGate;

use crate::jobs::JobRegistry;

/// Names this slice's job handlers.
pub(crate) fn register_jobs(_registry: &mut JobRegistry) {}
