//! Control plane.

pub mod placement;
