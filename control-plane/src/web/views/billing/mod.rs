//! Money: what an account pays, and what its operators see of it. Invoices are mirrored from Stripe.

mod invoices;
mod operated;
mod revenue;
mod server;

pub use invoices::{Card, Invoice, Invoices, Subscription, TrafficMonth};
pub use operated::{Difference, Dispute, Event, Operated, Queued, Revenue};
pub use revenue::{RevenueCurrency, RevenueMonth, RevenuePage};
pub use server::{Given, PaidInvoice, ServerMoney};
