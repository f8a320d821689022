//! Lists.

use serde::Serialize;
use utoipa::ToSchema;

/// A list. It comes whole: what an account holds is bounded.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The things, newest first unless the endpoint says otherwise.
    pub data: Vec<T>,
}

impl<T> Page<T> {
    /// A list with everything in it.
    pub fn whole(data: Vec<T>) -> Self {
        Self { data }
    }
}
