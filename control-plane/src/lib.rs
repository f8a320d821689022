//! The control plane: web portal, billing, REST API, fleet view; signs provisioning orders.
//!
//! Slices, not layers: everything about billing is in [`billing`]. A slice is used through its `mod.rs`;
//! its tables belong to it alone. `docs/ARCHITECTURE.md` has the map and the invariants A1–A8, which
//! `tests/architecture.rs` checks.

pub mod accounts;
pub mod agents;
pub mod api;
pub mod app;
pub mod audit;
pub mod billing;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
mod currency;
pub mod db;
pub mod dispatch;
pub mod entropy;
pub mod fleet;
pub mod instances;
pub mod jobs;
pub mod keys;
pub mod link;
pub mod metrics;
pub mod notify;
pub mod orders;
pub mod placement;
pub mod replan;
mod shares;
pub mod telemetry;
pub mod web;
