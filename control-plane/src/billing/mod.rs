//! Money.
pub mod stripe;
pub use stripe::StripeGate;
