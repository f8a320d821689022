//! The retry loop: one request, one key, again only where that is safe and useful.
//!
//! Under an idempotency key a finished call is replayed, so "I do not know what happened" is
//! answered by sending the same bytes again. A 5xx may be the *stored* answer of the first attempt,
//! which no repetition changes: three tries, then the caller looks the object up.

use std::{future::Future, time::Duration};

use super::{FaultKind, StripeFault};

/// The first pause; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Tries where the call was not done, or where that is not known.
const TRIES_BUSY: u32 = 6;
/// Tries where Stripe's side failed.
const TRIES_SERVER: u32 = 3;
/// Tries without any answer: each costs up to a time-out, so the job takes over earlier.
const TRIES_UNKNOWN: u32 = 3;

/// How long to wait before try number `made + 1`; `None` means stop. `unit` is random in `0.0..1.0`.
fn pause(kind: FaultKind, made: u32, unit: f64) -> Option<Duration> {
    let limit = match kind {
        FaultKind::Busy => TRIES_BUSY,
        FaultKind::ServerFailed => TRIES_SERVER,
        FaultKind::OutcomeUnknown => TRIES_UNKNOWN,
        FaultKind::Refused
        | FaultKind::NotFound
        | FaultKind::Unauthorised
        | FaultKind::OurMistake
        | FaultKind::Configuration => return None,
    };
    if made >= limit {
        return None;
    }
    let full = FIRST_PAUSE.saturating_mul(1 << made.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    // Half fixed, half random: callers that failed together do not come back together.
    Some(full.mul_f64(0.5 + 0.5 * unit.clamp(0.0, 1.0)))
}

/// Sends until it is done, refused, or the tries are used up.
pub(super) async fn run<T, F, S>(
    mut send: impl FnMut() -> F,
    sleep: impl Fn(Duration) -> S,
    unit: impl Fn() -> f64,
) -> Result<T, StripeFault>
where
    F: Future<Output = Result<T, StripeFault>>,
    S: Future<Output = ()>,
{
    let mut made = 0;
    loop {
        made += 1;
        let fault = match send().await {
            Ok(answer) => return Ok(answer),
            Err(fault) => fault,
        };
        let Some(wait) = pause(fault.kind, made, unit()) else {
            return Err(fault);
        };
        tracing::info!(stripe.fault = %fault, stripe.tries = made, "stripe call did not work out, sending it again");
        sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// Runs against a script of faults (then success) and says how often it sent and what it slept.
    fn play(script: &[FaultKind]) -> (Result<u32, StripeFault>, u32, Vec<Duration>) {
        let sent = Cell::new(0_u32);
        let slept = RefCell::new(Vec::new());
        let result = futures::executor::block_on(run(
            || {
                let n = sent.get();
                sent.set(n + 1);
                let answer = script.get(n as usize).map_or(Ok(n), |kind| Err(StripeFault::of(*kind)));
                async move { answer }
            },
            |wait| {
                slept.borrow_mut().push(wait);
                async {}
            },
            || 1.0,
        ));
        (result, sent.get(), slept.into_inner())
    }

    #[test]
    fn busy_is_tried_six_times_with_doubling_pauses() {
        let (result, sent, slept) = play(&[FaultKind::Busy; 10]);
        assert_eq!(result.unwrap_err().kind, FaultKind::Busy);
        assert_eq!(sent, 6);
        let millis: Vec<u128> = slept.iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [500, 1_000, 2_000, 4_000, 8_000]);
    }

    #[test]
    fn a_failed_server_is_tried_three_times_and_recovers() {
        assert_eq!(play(&[FaultKind::ServerFailed; 5]).1, 3);
        assert_eq!(play(&[FaultKind::ServerFailed, FaultKind::OutcomeUnknown]).0, Ok(2));
    }

    #[test]
    fn a_refusal_is_never_repeated() {
        for kind in [
            FaultKind::Refused,
            FaultKind::NotFound,
            FaultKind::Unauthorised,
            FaultKind::OurMistake,
            FaultKind::Configuration,
        ] {
            let (result, sent, slept) = play(&[kind]);
            assert_eq!((result.unwrap_err().kind, sent, slept.len()), (kind, 1, 0));
        }
    }

    #[test]
    fn pauses_are_jittered_and_capped() {
        assert_eq!(pause(FaultKind::Busy, 1, 0.0), Some(Duration::from_millis(250)));
        assert!(pause(FaultKind::Busy, 5, 0.5).unwrap() < LONGEST_PAUSE);
    }
}
