//! Control plane.

pub mod placement;
pub mod web;
