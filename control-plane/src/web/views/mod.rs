//! What pages show: plain data, one struct per template, no logic.
//!
//! A view is the template's other half. It stands here and not in the slice, so that a page, its
//! context, its samples and its texts can be designed and tested without the rest of the program;
//! the slice's `pages.rs` fills it. [`all`] lists every page, and a test refuses a template that is
//! not in it.

use ez_protocol::UnixMillis;
use minijinja::{Value, value::Serde};
use serde::Serialize;

use crate::web::templates::Page;

pub mod errors;

/// The time at which the samples are looked at: 2026-11-23T20:49:30Z.
pub const SAMPLE_NOW: UnixMillis = UnixMillis(1_795_466_970_000);

/// An amount of money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Money {
    /// Minor units (cents).
    pub minor: i64,
    /// ISO currency in lower case.
    pub currency: String,
}

impl Money {
    /// An amount in a currency.
    pub fn new(minor: i64, currency: impl Into<String>) -> Self {
        Self { minor, currency: currency.into() }
    }
}

/// One page of the registry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Path of the template.
    pub template: &'static str,
    /// Its samples with their names.
    pub samples: fn() -> Vec<(&'static str, Value)>,
}

fn entry<P: Page>() -> Entry {
    Entry {
        template: P::TEMPLATE,
        samples: || P::samples().into_iter().map(|(name, page)| (name, Value::from(Serde(page)))).collect(),
    }
}

/// Every page there is.
pub fn all() -> Vec<Entry> {
    vec![entry::<errors::Failure>()]
}
