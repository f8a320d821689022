//! Outside worlds that run anywhere: Stripe and a mail server, and what starts them. The programs under
//! test reach them over sockets and cannot tell them from the real thing.

// `json!` expands by recursion, and Stripe's objects are wide.
#![recursion_limit = "256"]

pub mod config;
mod html;
pub mod serve;
pub mod stripe;
pub mod wall;
