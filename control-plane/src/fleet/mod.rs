//! Fleet: locations, nodes, capacity, addresses, enrolment.

mod api;
mod pages;

pub(crate) use api::routes as api_routes;
pub(crate) use pages::routes as page_routes;

use crate::jobs::JobRegistry;

/// Names this slice's job handlers.
pub(crate) fn register_jobs(_registry: &mut JobRegistry) {}
