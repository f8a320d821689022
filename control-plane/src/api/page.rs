//! Lists: a page at a time, by cursor.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// One page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The things, newest first unless the endpoint says otherwise.
    pub data: Vec<T>,
    /// Pass it as `cursor` to get the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A list that always fits one page.
    pub fn whole(data: Vec<T>) -> Self {
        Self { data, next_cursor: None }
    }

    /// Cuts a list that was read with one row more than the limit; `cursor` names a row.
    ///
    /// ```
    /// use ez_control_plane::api::Page;
    ///
    /// let page = Page::cut(vec![3, 2, 1], 2, ToString::to_string);
    /// assert_eq!((page.data, page.next_cursor), (vec![3, 2], Some("2".to_owned())));
    /// ```
    pub fn cut(mut data: Vec<T>, limit: usize, cursor: impl Fn(&T) -> String) -> Self {
        let more = data.len() > limit;
        data.truncate(limit);
        let next_cursor = data.last().filter(|_| more).map(cursor);
        Self { data, next_cursor }
    }
}

/// Which page is asked for.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// How many at most: 1 to 100, 25 if not given.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl PageQuery {
    /// The limit within its bounds.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(25).clamp(1, 100) as usize
    }
}
