//! Live regions: the server says "changed", the browser fetches the block again.
//!
//! A slice gives a closure that reads something small and comparable (a version, a state with its
//! time). It is asked twice a second as long as the page is open, so every process of the control
//! plane sees what any other wrote; nothing is pushed but the word that something changed.

use std::{convert::Infallible, sync::LazyLock, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use ez_protocol::AccountId;
use futures::{Stream, stream};
use tokio_util::sync::CancellationToken;

use crate::{
    shares::{Share, Shares},
    web::error::{Error, Result},
};

/// How often a page's state is looked at.
const EVERY: Duration = Duration::from_millis(500);

/// A stream ends after this; the browser opens another one. Bounds what a forgotten tab costs, and
/// checks the session again.
const LIFETIME: Duration = Duration::from_secs(600);

/// Open streams per process, and of these per account: as many as people have tabs. Beyond, a page falls back to
/// fetching every few seconds by itself.
static PLACES: LazyLock<Shares<AccountId>> = LazyLock::new(|| Shares::new(4096, 16));

/// Set once, when the process is about to end.
static CLOSING: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);

/// Ends all streams, so that a server that stops does not wait for open pages; browsers come back by
/// themselves.
pub(crate) fn close_streams() {
    CLOSING.cancel();
}

/// Waits until the process is about to end.
pub(crate) async fn closing() {
    CLOSING.cancelled().await;
}

struct Watch<F, T> {
    look: F,
    last: Option<T>,
    every: Duration,
    until: tokio::time::Instant,
    _place: Share<AccountId>,
}

/// An event stream that says `changed` whenever `look` answers something else than before; a look
/// that fails ends the stream, and the browser tries again.
///
/// # Errors
/// [`Error::TooMany`] when too many streams are open, or too many of this account.
pub fn live<F, Fut, T, E>(account: AccountId, look: F) -> Result
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = std::result::Result<T, E>> + Send + 'static,
    T: PartialEq + Send + 'static,
    E: Send + 'static,
{
    let place = PLACES.take(account).ok_or(Error::TooMany(5))?;
    let until = tokio::time::Instant::now() + LIFETIME;
    let events = changes(Watch { look, last: None, every: EVERY, until, _place: place });
    let events = stream_of_events(events);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response())
}

fn changes<F, Fut, T, E>(watch: Watch<F, T>) -> impl Stream<Item = ()> + Send + 'static
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = std::result::Result<T, E>> + Send + 'static,
    T: PartialEq + Send + 'static,
    E: Send + 'static,
{
    stream::unfold(watch, |mut watch| async move {
        while tokio::time::Instant::now() < watch.until {
            let seen = (watch.look)().await.ok()?;
            let changed = watch.last.as_ref() != Some(&seen);
            watch.last = Some(seen);
            // The first look counts as a change: the page may have been rendered before it.
            if changed {
                return Some(((), watch));
            }
            tokio::select! {
                () = tokio::time::sleep(watch.every) => {}
                () = CLOSING.cancelled() => return None,
            }
        }
        None
    })
}

fn stream_of_events(
    changes: impl Stream<Item = ()> + Send + 'static,
) -> impl Stream<Item = std::result::Result<Event, Infallible>> + Send + 'static {
    use futures::StreamExt as _;
    // An event without data is not delivered to scripts.
    changes.map(|()| Ok(Event::default().event("changed").data("1")))
}

/// An event stream of a page that has ended: answers "nothing more", and the browser stops asking.
pub fn ended() -> Response {
    http::StatusCode::NO_CONTENT.into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use ez_protocol::UnixMillis;
    use futures::StreamExt as _;

    use super::*;

    fn somebody(random: u8) -> AccountId {
        AccountId::generate(UnixMillis(1_700_000_000_000), [random; 10])
    }

    fn watch<F, T>(look: F, lifetime: Duration) -> Watch<F, T> {
        let place = PLACES.take(somebody(1)).unwrap();
        let until = tokio::time::Instant::now() + lifetime;
        Watch { look, last: None, every: Duration::from_millis(1), until, _place: place }
    }

    #[tokio::test]
    async fn each_new_value_is_one_change() {
        static LOOKS: AtomicU32 = AtomicU32::new(0);
        let look = || async {
            match LOOKS.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => Ok("building"),
                2..5 => Ok("running"),
                _ => Err(()),
            }
        };
        let seen = changes(watch(look, LIFETIME)).count().await;
        assert_eq!(seen, 2);
        assert_eq!(LOOKS.load(Ordering::Relaxed), 6, "a failed look ends the stream");
    }

    #[tokio::test]
    async fn a_forgotten_tab_does_not_keep_its_stream() {
        let look = || async { Ok::<_, ()>(1) };
        assert_eq!(changes(watch(look, Duration::from_millis(5))).count().await, 1);
    }
    #[tokio::test]
    async fn one_account_leaves_the_streams_of_others_alone() {
        let open = |account| live(account, || async { Ok::<_, ()>(1) });
        let tabs: Vec<_> = (0..16).map(|_| open(somebody(2)).unwrap()).collect();
        assert!(matches!(open(somebody(2)), Err(Error::TooMany(_))));
        assert!(open(somebody(3)).is_ok());
        drop(tabs);
        assert!(open(somebody(2)).is_ok(), "a closed tab gives its stream back");
    }
}
