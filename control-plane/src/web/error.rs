//! Why a page could not be shown. A handler returns an [`Error`]; the gate around all pages turns it
//! into a page of its own with the request's id, and logs what is our fault, once.

use std::{any::Any, error::Error as StdError, fmt, sync::Arc};

use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::{db::DbError, web::views::errors::Failure};

/// What a page handler answers.
pub type Result = std::result::Result<Response, Error>;

/// Why a page could not be shown.
#[derive(Clone)]
pub enum Error {
    /// It does not exist, or it belongs to another account: the two look the same.
    NotFound,
    /// The request did not come from our own pages.
    Forbidden,
    /// The form was too large.
    TooLarge,
    /// Too many requests; whole seconds to wait.
    TooMany(u64),
    /// It took too long.
    TimedOut,
    /// Our fault.
    Internal(Arc<dyn StdError + Send + Sync>),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internal(source) => write!(f, "Internal({source:?})"),
            other => f.write_str(other.failure().code),
        }
    }
}

/// Everything that is an error is our fault, except a row that is not there. (`Error` itself is not a
/// `std::error::Error`, which is what makes this conversion possible.)
impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        match (&error as &dyn Any).downcast_ref::<DbError>() {
            Some(DbError::NotFound) => Self::NotFound,
            _ => Self::Internal(Arc::new(error)),
        }
    }
}

impl Error {
    /// What its page shows.
    pub(super) fn failure(&self) -> Failure {
        let (code, status, retry_after) = match self {
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, None),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN, None),
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, None),
            Self::TooMany(wait) => ("too-many", StatusCode::TOO_MANY_REQUESTS, Some(*wait)),
            Self::TimedOut => ("timed-out", StatusCode::SERVICE_UNAVAILABLE, Some(5)),
            Self::Internal(_) => ("internal", StatusCode::INTERNAL_SERVER_ERROR, None),
        };
        Failure { code, status: status.as_u16(), retry_after }
    }

    /// What an answer with this status and without a page of its own means.
    pub(super) fn of_status(status: StatusCode) -> Option<Self> {
        match status.as_u16() {
            400..=412 | 414..=428 => Some(Self::NotFound),
            413 => Some(Self::TooLarge),
            503 => Some(Self::TimedOut),
            500..=599 => Some(Self::Internal(Arc::new(Unexplained(status)))),
            _ => None,
        }
    }
}

/// A server error that came without a cause.
#[derive(Debug, thiserror::Error)]
#[error("a handler answered {0} without saying why")]
struct Unexplained(StatusCode);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.failure().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_row_is_a_missing_page_and_everything_else_our_fault() {
        assert!(matches!(Error::from(DbError::NotFound), Error::NotFound));
        assert!(matches!(Error::from(std::fmt::Error), Error::Internal(_)));
    }
}
